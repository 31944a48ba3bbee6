"""The mapping file (YAML) that `switchboard apply` takes; errors name the line and the field.

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
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from router.errors import ConfigError
from router.events.phone import normalise
from router.providers import numbers_at
from router.routing.spec import AgentSpec, AgentStatus, MappingSpec, NumberSpec

_MAX_BYTES: Final = 64 * 1024 * 1024
# PyYAML's constructors check little of what a value looks like: 2026-16-28, !!int "".
_OF_VALUES: Final = (ValueError, LookupError, AttributeError, RecursionError)

Name = Annotated[str, Field(min_length=1, max_length=256)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Agent(_Entry):
    name: Name
    livekit_agent_name: str = ""
    metadata: dict[str, Any] = {}
    status: AgentStatus = "deployed"


class _Number(_Entry):
    number: str
    provider: str
    agent: Name | None = None
    fallback: str = ""

    @field_validator("number", "fallback", mode="before")
    @classmethod
    def _e164(cls, value: object) -> object:
        if isinstance(value, int):
            raise ValueError('write it in quotes: "+14155550100"')  # noqa: TRY004 - pydantic's way
        return normalise(value) if isinstance(value, str) and value else value

    @field_validator("provider")
    @classmethod
    def _known(cls, value: str) -> str:
        with_numbers = numbers_at()
        if value not in with_numbers:
            raise ValueError(f"there is no such provider; there are: {', '.join(with_numbers)}")
        return value


class _File(_Entry):
    agents: list[_Agent] = []
    numbers: list[_Number] = []


@dataclass(frozen=True, slots=True)
class _Problem:
    line: int
    field: str
    why: str


def read_mapping(path: Path) -> MappingSpec:
    """The mapping in a YAML file.

    Raises:
        ConfigError: one line a problem: `FILE:LINE: FIELD: what is wrong`.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path} is larger than {_MAX_BYTES >> 20} MiB")
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        data = yaml.CSafeLoader("").construct_document(root) if root is not None else None
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    except _OF_VALUES as error:
        raise ConfigError(
            f"{path} holds a date or number that is none ({error}): put it in quotes"
        ) from error
    if root is None:
        raise ConfigError(f"{path} is empty")
    try:
        parsed = _File.model_validate(data)
    except ValidationError as error:
        problems = [
            _Problem(_line(root, found["loc"]), _dotted(found["loc"]), _words(found))
            for found in error.errors()
        ]
        raise _refusal(path, problems) from None
    problems = _contradictions(parsed, root)
    if problems:
        raise _refusal(path, problems)
    return _spec(parsed)


def _spec(parsed: _File) -> MappingSpec:
    return MappingSpec(
        agents=tuple(
            AgentSpec(
                name=agent.name,
                livekit_agent_name=agent.livekit_agent_name or agent.name,
                metadata=agent.metadata,
                status=agent.status,
            )
            for agent in parsed.agents
        ),
        numbers=tuple(
            NumberSpec(
                number=number.number,
                provider=number.provider,
                agent=number.agent,
                fallback=number.fallback,
            )
            for number in parsed.numbers
        ),
    )


def _contradictions(parsed: _File, root: yaml.Node) -> list[_Problem]:
    """What each entry alone can't show: doubles and loops."""
    problems = []
    seen: set[str] = set()
    for index, agent in enumerate(parsed.agents):
        if agent.name in seen:
            where = ("agents", index, "name")
            problems.append(_Problem(_line(root, where), _dotted(where), "is listed twice"))
        seen.add(agent.name)
    numbers: set[str] = set()
    for index, number in enumerate(parsed.numbers):
        if number.number in numbers:
            where = ("numbers", index, "number")
            problems.append(_Problem(_line(root, where), _dotted(where), "is listed twice"))
        if number.fallback == number.number:
            where = ("numbers", index, "fallback")
            problems.append(_Problem(_line(root, where), _dotted(where), "is the number itself"))
        numbers.add(number.number)
    return problems


def _refusal(path: Path, problems: Sequence[_Problem]) -> ConfigError:
    return ConfigError("\n".join(f"{path}:{p.line}: {p.field}: {p.why}" for p in problems))


def _line(root: yaml.Node, where: Sequence[Any]) -> int:
    """The line of the node at a pydantic location, or of the nearest one above it."""
    node = root
    for step in where:
        below = _below(node, step)
        if below is None:
            break
        node = below
    return int(node.start_mark.line) + 1


def _below(node: yaml.Node, step: object) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        found: yaml.Node = node.value[step]
        return found
    return None


def _dotted(where: Sequence[Any]) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in where).lstrip(".") or "file"


def _words(found: Any) -> str:
    if found["type"] == "extra_forbidden":
        return "there is no such field"
    return str(found["msg"]).removeprefix("Value error, ")
