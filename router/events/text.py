"""The one rule for text that comes from outside, before it reaches the log, a database or an agent.

Webhooks and APIs repeat what strangers wrote: callers choose their SIP URIs, names and headers.
JSON allows what PostgreSQL's text, CloudEvents' attributes, a terminal or a header do not. So in
every text of an event (`plain`), each of these is replaced by U+FFFD, one for one:

- control characters (C0 but tab, line feed and carriage return; DEL; C1), NUL above all;
- code points that are never characters;
- what makes a terminal show text in another order than it has: bidirectional embeddings, overrides
  and isolates (U+202A-202E, U+2066-2069). Marks that scripts need (U+200E, U+200F, joiners) stay.

Halves of surrogate pairs, which have no UTF-8, become `?`, as Python encodes them.

What is a line by its nature (all but `text`, `reason` and `raw`: numbers, ids, names) has no tab
and no end of a line either, and at most `LINE` characters, of which an index of PostgreSQL takes
every one; a URL may be longer. Replaced and never removed: what is left can't become a number or a
name that it was not. A webhook is never refused for its text.
"""

import json
import math
import re
from collections.abc import Iterator
from operator import attrgetter
from typing import Any, Final

import msgspec

from router.events.model import Event, EventData

LINE: Final = 512
"""Characters of a text that is a line by its nature; more are cut off, and `…` says so."""

_URL: Final = 4096
_DIGITS: Final = 18  # of an integer in JSON that msgspec does not take; a longer one stays text
_REPLACEMENT: Final = "\ufffd"
_LAST_OF_PLANES: Final = "".join(chr(p << 16 | end) for p in range(17) for end in (0xFFFE, 0xFFFF))
_NEVER: Final = (
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufdd0-\ufdef" + _LAST_OF_PLANES
)
_IN_A_TEXT: Final = re.compile(f"[{_NEVER}]")
_IN_A_LINE: Final = re.compile(f"[{_NEVER}\t\n\r\u2028\u2029]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
# The bytes of JSON that one of them may be in: an escape other than of a quote, the first bytes of
# their UTF-8. Most events have none of these, and it costs a fiftieth of a walk to find that out.
_MAY_BE_ODD: Final = re.compile(
    rb"\\[^\"\\/]|\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]|\xe2\x81[\xa6-\xa9]|\xef\xb7[\x90-\xaf]"
    rb"|\xef\xbf[\xbe\xbf]|[\xf0-\xf4].\xbf[\xbe\xbf]",
    re.DOTALL,
)
_TEXTS: Final = frozenset({"text", "reason"})
_LINES: Final = tuple(
    field.name
    for field in msgspec.structs.fields(EventData)
    if field.type is str and field.name not in _TEXTS
)
_lines_of: Final = attrgetter(*_LINES)
_encoder: Final = msgspec.json.Encoder()


def line(text: str, limit: int = LINE) -> str:
    """`text` as a number, an id or a name may be: one line, at most `limit` characters."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():  # nothing of what is replaced is
        return text
    return _IN_A_LINE.sub(_REPLACEMENT, _encodable(text))


def _text(text: str) -> str:
    if text.isprintable():
        return text
    return _IN_A_TEXT.sub(_REPLACEMENT, _encodable(text))


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def plain(event: Event) -> Event:
    """The event with the rule applied to all its text; itself where that changes nothing.

    For each event that a provider's code has made, before anything is decided by it: so its
    decision and its answer follow from what is stored.
    """
    try:
        odd = _may_be_odd(_encoder.encode(event))
    except UnicodeEncodeError:
        odd = True
    return _rewritten(event) if odd or _is_long(event) else event


def _may_be_odd(encoded: bytes) -> bool:
    """Whether JSON, as msgspec writes it, may hold a character that the rule replaces."""
    if encoded.isascii() and b"\\" not in encoded and b"\x7f" not in encoded:
        return False
    return _MAY_BE_ODD.search(encoded) is not None


def _is_long(event: Event) -> bool:
    return max(len(event.id), len(event.key), *map(len, _lines_of(event.data))) > LINE


def _rewritten(event: Event) -> Event:
    data = event.data
    changes: dict[str, Any] = dict(_changed_lines(data))
    changes |= {name: _text(getattr(data, name)) for name in _TEXTS}
    changes |= {"raw": _value(data.raw), "sip_headers": _value(data.sip_headers)}
    data = msgspec.structs.replace(data, **changes)
    return msgspec.structs.replace(event, id=line(event.id), key=line(event.key), data=data)


def _changed_lines(data: EventData) -> Iterator[tuple[str, str]]:
    for name in _LINES:
        before = getattr(data, name)
        after = line(before, _URL if name == "recording_url" else LINE)
        if after != before:
            yield name, after


def _value(value: Any) -> Any:
    match value:
        case str():
            return _text(value)
        case dict():
            return _table(value)
        case list() | tuple():
            return [_value(each) for each in value]
        case _:
            return value


def _table(table: dict[Any, Any]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for name, value in table.items():
        name = _text(name)
        while name in found:  # two names that differed in such a character alone: both are kept
            name += _REPLACEMENT
        found[name] = _value(value)
    return found


def read_json(body: bytes) -> Any:
    """A provider's JSON, whatever is odd about its text and numbers.

    One lone surrogate, byte that is no UTF-8, control character or number out of range in any part
    of it must not cost the rest: the signature has proven that the provider sent it. msgspec, which
    is strict, reads what is proper.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply to be read.
    """
    try:
        return msgspec.json.decode(body)
    except ValueError:  # msgspec's errors and those of UTF-8 are
        return read_odd_json(body.decode("utf-8-sig", "replace"))


def read_odd_json(text: str) -> Any:
    """As `read_json`, from text.

    Integers longer than 18 digits stay text; NaN, infinities and what is as large are null.
    """
    found = json.loads(
        text,
        strict=False,
        parse_int=lambda digits: int(digits) if len(digits) <= _DIGITS else digits,
        parse_float=_float,
        parse_constant=lambda _: None,
    )
    # An escape may stand for half of a pair alone; a pair of escapes has become one character.
    return _without_surrogates(found) if "\\u" in text or _SURROGATE.search(text) else found


def _float(digits: str) -> float | None:
    found = float(digits)
    return found if math.isfinite(found) else None


def _without_surrogates(value: Any) -> Any:
    match value:
        case str():
            return _encodable(value)
        case dict():
            return {_encodable(name): _without_surrogates(each) for name, each in value.items()}
        case list():
            return [_without_surrogates(each) for each in value]
        case _:
            return value
