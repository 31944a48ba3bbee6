"""YAML that means one thing only: what is written is what is read, or it is named as a mistake.

YAML reads `no` as false, `0155` as 109, `12:30` as 750 and `2026-03-01` as a date, keeps the last
of two equal keys, and lets one part of a file stand for another. Whoever writes a mapping by hand
means none of that, so all of it is refused, with its line; JSON is taken as it is.

The data is made from the parser's events in one pass: a file of a hundred thousand numbers takes a
second, and no second copy of it in memory. Where things stand in the text (`places`) is looked up
by another pass, and only when there is a mistake to report.
"""

import json
import math
import re
import stat
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from router.errors import ConfigError

_MAX_BYTES: Final = 64 * 1024 * 1024
_MAX_DEPTH: Final = 64
_MAX_KEY: Final = 256  # characters
_MAX_WHOLE: Final = 2**53  # beyond it, JSON's readers round
_SHOWN: Final = 60  # characters of a value

_resolve: Final[Callable[..., str]] = yaml.CSafeLoader("").resolve

BAD: Final = object()  # stands for a value that a problem was reported of
_NO_KEY: Final = object()

_WHOLE: Final = re.compile(r"-?(0|[1-9][0-9]*)")
_FRACTION: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_LOOKS_ODD: Final = re.compile(r"[-+]?0[0-9]+|0o[0-7]+|\+[0-9 ()-]+")
_NOT_JSON: Final = frozenset({"NaN", "Infinity", "-Infinity"})  # as many JSON writers write them
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # not tab, newline, return
# JSON writes a character beyond U+FFFF as a pair of escapes, which YAML does not know.
_PAIR: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})", re.I)
_MEANINGS: Final = {
    "bool": "is true or false to YAML: write true or false, or put the word in quotes",
    "timestamp": "is a date to YAML: put it in quotes",
    "int": "is a number to YAML, which would change it: write a plain decimal, or use quotes",
    "float": "is a number to YAML, which would change it: write a plain decimal, or use quotes",
    "merge": "a merge key is not taken: write the fields out",
}

Where = tuple[str | int, ...]
"""The way to a value from the root: keys and indices."""


class Place(NamedTuple):
    """Where a value and its key stand (both from 1), and the value as it was written."""

    line: int
    column: int
    key_line: int
    key_column: int
    written: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where, of which field, and what is wrong in words."""

    line: int
    column: int
    where: Where
    why: str
    written: str = ""  # "" where the value says nothing


@dataclass(slots=True)
class Document:
    """What a text says, if it is `whole`: else a problem kept the rest of it from being read."""

    data: Any = None
    problems: list[Problem] = field(default_factory=list)
    syntax: Problem | None = None  # where it is no YAML at all
    whole: bool = True
    empty: bool = True


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        ConfigError: it is no file, can't be read, is too large or not UTF-8.
    """
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise ConfigError(f"{path} is a folder: name the file in it")
        if not stat.S_ISREG(found.st_mode):  # reading a pipe could wait for ever
            raise ConfigError(f"{path} is not a regular file: save what it gives, and name that")
        if found.st_size > _MAX_BYTES:
            raise ConfigError(f"{path} is larger than {_MAX_BYTES >> 20} MiB")
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise ConfigError(f"{str(path)!r} is no file name") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        good = raw[: error.start]
        line, start = good.count(b"\n") + 1, good.rfind(b"\n") + 1
        column = len(good[start:].decode("utf-8", "replace")) + 1
        raise ConfigError(f"{path}:{line}:{column}: file: {path} is not UTF-8") from error
    if path.suffix.lower() == ".json":
        text = _PAIR.sub(lambda m: m[1] + _character(m[2], m[3]), text)
    return text


def _character(high: str, low: str) -> str:
    return bytes.fromhex(high + low).decode("utf-16-be")


def load(text: str) -> Document:
    """The data of a YAML text, with whatever is wrong in it as YAML."""
    return _Builder(text).run()


def places(text: str, wanted: Collection[Where]) -> Mapping[Where, Place]:
    """Where the values at `wanted` stand; what isn't there is left out."""
    builder = _Builder(text, frozenset(wanted))
    builder.run()
    return builder.places


def dotted(where: Where) -> str:
    """`numbers[3].agent`; `file` for the root."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in where)
    return visible(text.lstrip(".")) or "file"


def visible(text: str) -> str:
    """`text` in one line, what can't be seen escaped, a long one cut."""
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


class _Frame:
    """A mapping or sequence that is being read."""

    __slots__ = ("key", "key_mark", "keys", "mark", "value")

    def __init__(self, value: dict[str, Any] | list[Any], mark: Any) -> None:
        self.value = value
        self.mark = mark
        self.key: Any = _NO_KEY  # of a mapping: the one whose value comes next
        self.key_mark: Any = mark
        self.keys: dict[str, Any] = {}  # key → its mark


class _Builder:
    def __init__(self, text: str, wanted: frozenset[Where] = frozenset()) -> None:
        self.places: dict[Where, Place] = {}
        self._wanted = wanted
        self._text = text
        self._document = Document()
        self._stack: list[_Frame] = []

    def run(self) -> Document:
        try:
            self._read(yaml.CSafeLoader(self._text))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line, mark.column) if mark else (0, 0)
            self._not_yaml(line + 1, column + 1, self._words(error, line, column))
        except yaml.reader.ReaderError as error:
            before = self._text.encode()[: error.position].decode("utf-8", "replace")
            self._not_yaml(
                before.count("\n") + 1,
                len(before) - before.rfind("\n"),
                f"{error.reason}: U+{error.character:04X}; write it as an escape in double quotes",
            )
        except yaml.YAMLError as error:
            self._not_yaml(1, 1, str(error))
        return self._document

    def _words(self, error: yaml.MarkedYAMLError, line: int, column: int) -> str:
        lines = self._text.split("\n", line + 1)[line : line + 1]
        if lines and lines[0][column:].startswith("\t"):
            return "indent with spaces, not with a tab"
        return f"{error.context}, {error.problem}" if error.context else str(error.problem)

    def _not_yaml(self, line: int, column: int, why: str) -> None:
        self._document.whole = False
        self._document.syntax = Problem(line, column, self._where(), why)

    def _read(self, parser: Any) -> None:
        get, put = parser.get_event, self._put
        while True:
            event = get()
            kind = type(event)
            if kind is yaml.ScalarEvent:
                put(self._scalar(event), event)
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                put(self._stack.pop().value, None)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                if not self._begin(event):
                    return
            elif kind is yaml.AliasEvent:
                why = f"an alias (*{event.anchor}) is not taken: write the value itself"
                put(self._bad(event, why), event)
            elif kind is yaml.DocumentStartEvent and not self._document.empty:
                self._bad(event, "a second document (---) is not taken: one file, one mapping")
                return
            elif kind is yaml.StreamEndEvent:
                return

    def _begin(self, event: Any) -> bool:
        """A mapping or sequence begins; False where it is too deep in others to read on."""
        if len(self._stack) >= _MAX_DEPTH:
            self._bad(event, f"is nested deeper than {_MAX_DEPTH} levels")
            self._document.whole = False
            return False
        if event.tag is not None or event.anchor is not None:
            self._refuse_extras(event)
        if self._wanted:
            self._note(event)
        self._stack.append(self._frame(event))
        return True

    def _put(self, value: Any, event: Any) -> None:
        """Put a value where it belongs: it is a key, a key's value, an item, or all there is.

        `event` None: the end of a mapping or sequence, whose place was noted at its beginning.
        """
        frame = self._stack[-1] if self._stack else None
        if frame is not None and frame.key is _NO_KEY and type(frame.value) is dict:
            self._key(frame, value, event)
            return
        if self._wanted and event is not None:
            self._note(event)
        if frame is None:
            self._document.data = value
            self._document.empty = False
        elif type(frame.value) is list:
            frame.value.append(value)
        else:
            if frame.key is not BAD:
                frame.value[frame.key] = value
            frame.key = _NO_KEY

    def _key(self, frame: _Frame, value: Any, event: Any) -> None:
        if type(value) is str and event is not None and len(value) <= _MAX_KEY:
            frame.key_mark = mark = event.start_mark
            frame.key = value
            first = frame.keys.setdefault(value, mark)
            if first is not mark:
                why = f"is there twice, first on line {first.line + 1}: keep one of them"
                self._add(mark, why)
            return
        frame.key = BAD
        mark = frame.mark if event is None else event.start_mark
        if value is BAD:
            return
        if type(value) is str:
            self._add(mark, f"a key is longer than {_MAX_KEY} characters", written=visible(value))
        else:
            why = "a key must be text: put it in quotes"
            self._add(mark, why, written="" if event is None else _written(event))

    def _scalar(self, event: Any) -> Any:
        if event.tag is not None or event.anchor is not None:
            return self._refuse_extras(event)
        text: str = event.value
        if event.style:
            if event.style == '"' and _CONTROL.search(text):
                return self._bad(event, "has a control character, which is taken nowhere")
            return text
        value, why = plain(text)
        return self._bad(event, why) if why else value

    def _refuse_extras(self, event: Any) -> Any:
        if event.anchor is not None:
            self._bad(event, f"an anchor (&{event.anchor}) is not taken: write the value out")
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._bad(event, f"a tag ({visible(tag)}) is not taken: write text in quotes instead")
        return BAD

    def _bad(self, event: Any, why: str) -> Any:
        written = _written(event) if type(event) is yaml.ScalarEvent else ""
        self._add(event.start_mark, why, written=written)
        return BAD

    def _add(self, mark: Any, why: str, *, written: str = "") -> None:
        problem = Problem(mark.line + 1, mark.column + 1, self._where(), why, written)
        self._document.problems.append(problem)

    def _where(self) -> Where:
        """The way to what is being read."""
        way: list[str | int] = []
        for frame in self._stack:
            if type(frame.value) is list:
                way.append(len(frame.value))
            elif isinstance(frame.key, str):
                way.append(frame.key)
        return tuple(way)

    def _frame(self, event: Any) -> _Frame:
        """For what begins here. The items of a list that is there twice are read as one list's."""
        if type(event) is yaml.MappingStartEvent:
            return _Frame({}, event.start_mark)
        above = self._stack[-1] if self._stack else None
        first = above.value.get(above.key) if above and type(above.value) is dict else None
        return _Frame(first if type(first) is list else [], event.start_mark)

    def _note(self, event: Any) -> None:
        """Remember the place of a value that is wanted."""
        where = self._where()
        if where not in self._wanted:
            return
        above = self._stack[-1] if self._stack else None
        key = above.key_mark if above and type(above.value) is dict else event.start_mark
        at = event.start_mark
        self.places[where] = Place(
            at.line + 1, at.column + 1, key.line + 1, key.column + 1, _written(event)
        )


@lru_cache(10_000)
def plain(text: str) -> tuple[Any, str]:
    """What a scalar without quotes means (or BAD), and what is wrong with it, "" for nothing."""
    if _FRACTION.fullmatch(text):
        return _number(text)
    if _LOOKS_ODD.fullmatch(text):
        return BAD, "is a number to YAML, which would change it: put it in quotes"
    tag = _resolve(yaml.ScalarNode, text, (True, False)).removeprefix("tag:yaml.org,2002:")
    if text in _NOT_JSON:
        return BAD, "is no number that JSON has: leave it out, or put it in quotes"
    if tag == "str":
        return text, ""
    if tag == "null":
        return None, ""
    if text.lower() in ("true", "false"):
        return text.lower() == "true", ""
    if text.lower().lstrip("+-") in (".inf", ".nan"):
        return BAD, "is no number that JSON has: leave it out, or put it in quotes"
    return BAD, _MEANINGS.get(tag, "has a meaning of its own in YAML: put it in quotes")


def _number(text: str) -> tuple[Any, str]:
    if not _WHOLE.fullmatch(text):
        value = float(text)
        return (value, "") if math.isfinite(value) else (BAD, "is too large a number")
    if len(text) > 17 or abs(int(text)) > _MAX_WHOLE:
        return BAD, "is a number beyond 2^53, which JSON's readers round: put it in quotes"
    return int(text), ""


def _written(event: Any) -> str:
    """A scalar as it stands in the file, or nearly so."""
    if type(event) is not yaml.ScalarEvent:
        return ""
    if event.style in ("'", '"'):
        return visible(json.dumps(event.value, ensure_ascii=False))
    return visible(event.value)
