"""The mapping file (YAML or JSON) that `switchboard apply` takes (`numbers.export` writes it).

```yaml
agents:
  - name: anna
    livekit_agent_name: anna      # what the worker registered with; the name where it is absent
    metadata: {greeting: Hello}   # given to the job, beside the call's facts
    status: deployed              # deployed, paused or disabled
numbers:
  - number: "+14155550100"
    provider: twilio
    agent: anna
    fallback: "+14155550199"      # optional
```

All mistakes are told at once, each with line, column, field and the value as it was written: it is
the user's own file, so numbers are not masked.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, get_args

from router.errors import ConfigError
from router.events.phone import normalise
from router.numbers import regular_yaml
from router.numbers.strict_yaml import (
    BAD,
    Document,
    Place,
    Problem,
    Where,
    dotted,
    places,
    read_text,
)
from router.providers import numbers_at, takes_numbers
from router.routing.spec import (
    METADATA_LIMIT,
    AgentSpec,
    AgentStatus,
    MappingSpec,
    NumberSpec,
    fallback_loops,
    metadata_size,
    too_large,
)

_AGENT: Final = ("name", "livekit_agent_name", "metadata", "status")
_NUMBER: Final = ("number", "provider", "agent", "fallback")
_FILE: Final = ("agents", "numbers")
_STATUSES: Final = get_args(AgentStatus)
_MAX_NAME: Final = 256  # characters; LiveKit's own limit of a name
_SHOWN: Final = 200  # mistakes
_UNSEEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")

_Lines = Callable[[Where], int]


@dataclass(frozen=True, slots=True)
class Existing:
    """What is mapped already and stays, beside what the file says."""

    agents: Collection[str] = ()  # names
    fallbacks: Mapping[str, str] = field(default_factory=dict)  # number → number


@dataclass(frozen=True, slots=True)
class _Mistake:
    """A value that can't be taken. `why` may need the lines of other values."""

    where: Where
    why: str | Callable[[_Lines], str]
    others: tuple[Where, ...] = ()  # whose lines `why` names
    at_key: bool = False  # the field's name is what is wrong


def read_mapping(path: Path) -> MappingSpec:
    """The mapping in a file whose numbers may lead to any agent. Raises ConfigError."""
    return MappingFile(path).spec()


class MappingFile:
    """A mapping file that was read; `spec` tells its mistakes.

    Raises:
        ConfigError: it can't be read, or says nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text = read_text(path)
        self._document = regular_yaml.load(self._text, "numbers", _NUMBER)
        if self._document.empty and self._document.whole:
            raise ConfigError(f"{path}:1:1: file: {path} is empty; `agents: []` says no agents")
        self._checked = _Checked()
        if self._document.whole:
            self._checked.check(self._document.data)
        self._document.data = None  # of a large file, half of the memory

    def outside(self) -> set[str]:
        """The numbers that calls are forwarded to and that the file does not list."""
        found = {number.fallback for number in self._checked.numbers}
        return found - self._checked.listed.keys() - {""}

    def spec(self, existing: Existing | None = None) -> MappingSpec:
        """The mapping.

        Args:
            existing: what numbers may lead to besides the file's own agents. None: not known, so
                a number may name any agent.

        Raises:
            ConfigError: a line a mistake: `FILE:LINE:COLUMN: FIELD: what is wrong (value …)`.
        """
        checked, document = self._checked, self._document
        mistakes = [*checked.mistakes, *checked.against(existing)]
        if document.problems or document.syntax or mistakes:
            raise ConfigError(_refusal(self._path, self._text, document, mistakes))
        return MappingSpec(agents=tuple(checked.agents), numbers=tuple(checked.numbers))


class _Checked:
    """The agents and numbers of a file, and every mistake in them."""

    def __init__(self) -> None:
        self.agents: list[AgentSpec] = []
        self.numbers: list[NumberSpec] = []
        self.mistakes: list[_Mistake] = []
        self._named: dict[str, int] = {}  # agent → its index
        self.listed: dict[str, int] = {}  # number → its index
        self._leads: dict[str, list[int]] = {}  # agent → indices of its numbers

    def check(self, data: Any) -> None:
        """Take the file's data, whatever it is."""
        if data is BAD or not self._fields((), data, _FILE, ()):
            return
        for index, entry in self._list("agents", data):
            self._agent(("agents", index), index, entry)
        for index, entry in self._list("numbers", data):
            self._number(("numbers", index), index, entry)

    def against(self, existing: Existing | None) -> Iterator[_Mistake]:
        """What shows only beside what is mapped already."""
        if existing is not None:
            yield from self._lost(existing.agents)
        yield from self._loops(existing.fallbacks if existing is not None else {})

    def _agent(self, where: Where, index: int, entry: Any) -> None:
        if not self._fields(where, entry, _AGENT, ("name",)):
            return
        before = len(self.mistakes)
        name = self._name(where, entry, "name")
        worker = self._name(where, entry, "livekit_agent_name", absent="")
        status = entry.get("status", "deployed")
        if status is not BAD and status not in _STATUSES:
            self._wrong((*where, "status"), f"is {_one_of(status, _STATUSES)}")
        metadata = entry.get("metadata", {})
        if metadata is not BAD:
            self._metadata((*where, "metadata"), metadata)
        first = self._named.setdefault(name, index) if name else index
        if first != index:
            self._again((*where, "name"), "agent", ("agents", first, "name"))
        elif len(self.mistakes) == before and name and status is not BAD and metadata is not BAD:
            self.agents.append(
                AgentSpec(
                    name=name,
                    livekit_agent_name=worker or name,
                    metadata=metadata,
                    status=status,
                )
            )

    def _number(self, where: Where, index: int, entry: Any) -> None:
        if not self._fields(where, entry, _NUMBER, ("number", "provider")):
            return
        before = len(self.mistakes)
        number = self._e164(where, entry, "number")
        fallback = self._e164(where, entry, "fallback") if "fallback" in entry else ""
        provider = entry.get("provider", BAD)
        if provider is not BAD and not (type(provider) is str and takes_numbers(provider)):
            self._wrong((*where, "provider"), f"is {_one_of(provider, numbers_at())}")
        agent = entry.get("agent")
        if agent is not None and (type(agent) is not str or agent not in self._leads):
            agent = self._name(where, entry, "agent")
        if agent:
            self._leads.setdefault(agent, []).append(index)
        first = self.listed.setdefault(number, index) if number else index
        if first != index:
            self._again((*where, "number"), "number", ("numbers", first, "number"))
        elif number and number == fallback:
            self._wrong((*where, "fallback"), "is the number itself")
        elif len(self.mistakes) == before and number and provider is not BAD:
            self.numbers.append(
                NumberSpec(number=number, provider=provider, agent=agent, fallback=fallback)
            )

    def _fields(
        self, where: Where, entry: Any, known: Sequence[str], required: Sequence[str]
    ) -> bool:
        """Whether an entry is a mapping; its fields are the `known` ones, with the `required`."""
        if entry is BAD:
            return False
        if type(entry) is not dict:
            self._wrong(where, f"must be fields ({', '.join(known)}), not {_kind(entry)}")
            return False
        for name in entry:
            if name not in known:
                close = get_close_matches(name, known, 1)
                hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
                why = f"there is no such field: {hint}"
                self.mistakes.append(_Mistake((*where, name), why, at_key=True))
        for name in required:
            if name not in entry:
                self._wrong((*where, name), "is required")
        return True

    def _list(self, name: str, data: dict[str, Any]) -> Iterator[tuple[int, Any]]:
        found = data.get(name, [])
        if type(found) is list:
            yield from enumerate(found)
        elif found is None:
            self._wrong((name,), "has nothing below it: list something, or write [] for none")
        elif found is not BAD:
            self._wrong((name,), f"must be a list (- …), not {_kind(found)}")

    def _name(
        self, where: Where, entry: dict[str, Any], name: str, *, absent: str | None = None
    ) -> str:
        """A name, "" where it can't be taken."""
        value = entry.get(name, absent)
        if type(value) is str and value and value == value.strip() and not _UNSEEN.search(value):
            if len(value) <= _MAX_NAME:
                return value
            self._wrong((*where, name), f"is longer than {_MAX_NAME} characters")
        elif name not in entry or value is BAD:
            return ""  # it was said already that it is required, or what is wrong with it
        elif type(value) is not str:
            self._wrong((*where, name), f"must be text, not {_kind(value)}: put it in quotes")
        elif not value.strip():
            self._wrong((*where, name), "is empty: give it a name, or leave the field out")
        elif _UNSEEN.search(value):
            self._wrong((*where, name), "has a character that can't be seen")
        else:
            self._wrong((*where, name), "begins or ends with a space")
        return ""

    def _e164(self, where: Where, entry: dict[str, Any], name: str) -> str:
        """A phone number, "" where it can't be taken."""
        value = entry.get(name)
        if type(value) is str and value:
            found, why = _normalised(value)
            if found:
                return found
            self._wrong((*where, name), why)
        elif name not in entry or value is BAD or (value == "" and name == "fallback"):
            return ""
        elif type(value) is int:
            found, _ = _normalised(f"+{value}")
            self._wrong((*where, name), f'write it in quotes: "{found or "+14155550100"}"')
        elif value is None or value == "":
            self._wrong((*where, name), "is empty: give a number, or leave the field out")
        else:
            why = f'must be a number in quotes, "+14155550100", not {_kind(value)}'
            self._wrong((*where, name), why)
        return ""

    def _metadata(self, where: Where, value: Any) -> None:
        if type(value) is not dict:
            self._wrong(where, f"must be fields, as {{greeting: Hello}}, not {_kind(value)}")
        elif value and not _holds_bad(value) and (size := metadata_size(value)) > METADATA_LIMIT:
            self._wrong(where, too_large(size))

    def _lost(self, others: Collection[str]) -> Iterator[_Mistake]:
        """Numbers whose agent is neither in the file nor mapped already."""
        known = self._named.keys() | set(others)
        for agent, indices in self._leads.items():
            if agent in known:
                continue
            close = get_close_matches(agent, known, 1)
            hint = f"did you mean {close[0]}?" if close else "add it under agents"
            for index in indices:
                where: Where = ("numbers", index, "agent")
                yield _Mistake(where, f"there is no such agent: {hint}")

    def _loops(self, others: Mapping[str, str]) -> Iterator[_Mistake]:
        """Fallbacks that lead back to where they began; a number's own was said already."""
        chains = dict(others)
        chains.update((each.number, each.fallback) for each in self.numbers)
        for loop in fallback_loops(chains):
            here = [number for number in loop if number in self.listed]
            if not here or len(loop) == 1:
                continue
            places: dict[str, Where] = {n: ("numbers", self.listed[n], "fallback") for n in here}
            start = loop.index(here[0])
            why = _loop_in_words((*loop[start:], *loop[:start]), places)
            yield _Mistake(places[here[0]], why, tuple(places.values()))

    def _again(self, where: Where, what: str, first: Where) -> None:
        def why(line: _Lines) -> str:
            return f"this {what} is listed twice, first on line {line(first)}"

        self.mistakes.append(_Mistake(where, why, (first,)))

    def _wrong(self, where: Where, why: str) -> None:
        self.mistakes.append(_Mistake(where, why))


def _loop_in_words(loop: Sequence[str], places: Mapping[str, Where]) -> Callable[[_Lines], str]:
    def why(line: _Lines) -> str:
        steps = [
            f"{number} ({f'line {line(places[number])}' if number in places else 'mapped already'})"
            for number in loop
        ]
        return f"leads back to its own number: {' → '.join(steps)} → {loop[0]}"

    return why


def _normalised(text: str) -> tuple[str, str]:
    """The number, or why it is none."""
    try:
        return normalise(text), ""
    except ValueError as error:
        return "", str(error)


def _holds_bad(value: Any) -> bool:
    if type(value) is dict:
        return any(map(_holds_bad, value.values()))
    return any(map(_holds_bad, value)) if type(value) is list else value is BAD


def _one_of(value: Any, known: Sequence[str]) -> str:
    words = f"none of {', '.join(known)}"
    close = get_close_matches(value, known, 1) if type(value) is str else ()
    return f"{words}: did you mean {close[0]}?" if close else words


def _kind(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "fields"


def _refusal(path: Path, text: str, document: Document, mistakes: Sequence[_Mistake]) -> str:
    """All mistakes in the order of the file; beyond the first ones only their count."""
    shown = [*document.problems, *_placed(text, mistakes)]
    if (syntax := document.syntax) is not None:
        shown.append(replace(syntax, why=f"{path} is not YAML: {syntax.why}"))
    shown.sort(key=lambda problem: (problem.line, problem.column))
    lines = [_line(path, problem) for problem in shown[:_SHOWN]]
    if len(shown) > _SHOWN:
        lines.append(f"{path}: and {len(shown) - _SHOWN} more mistakes")
    return "\n".join(dict.fromkeys(lines))


def _placed(text: str, mistakes: Sequence[_Mistake]) -> Iterator[Problem]:
    if not mistakes:
        return
    wanted = {where for m in mistakes for where in (m.where, *m.others)}
    above = {where[:count] for where in wanted for count in range(len(where))}
    found = places(text, wanted | above)

    def place(where: Where) -> Place:
        while where and where not in found:
            where = where[:-1]
        return found[where]

    for mistake in mistakes:
        here = place(mistake.where)
        why = mistake.why if isinstance(mistake.why, str) else mistake.why(lambda w: place(w).line)
        there = mistake.where in found
        if there and not mistake.at_key:
            yield Problem(here.line, here.column, mistake.where, why, here.written)
        elif there:
            yield Problem(here.key_line, here.key_column, mistake.where, why)
        else:
            yield Problem(here.line, here.column, mistake.where, why)


def _line(path: Path, problem: Problem) -> str:
    value = f" (value {problem.written})" if problem.written else ""
    at = f"{path}:{problem.line}:{problem.column}"
    return f"{at}: {dotted(problem.where)}: {problem.why}{value}"
