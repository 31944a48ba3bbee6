"""Requests as no provider sends them, for Hypothesis: what must never become a 500.

A value of the payload is replaced by JSON, text or something nasty, taken away or doubled; or the
bytes are cut and changed. Whoever sends the result signs it first, so that parsers are reached.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import reduce
from operator import getitem
from typing import Any, Final
from urllib.parse import parse_qsl, quote_from_bytes, urlencode

from hypothesis import strategies as st

from tests.providers.case import Raw

Path = tuple[str | int, ...]

_HOLE: Final = "\ue000hole"  # where a value is put in as it is written

TEXT: Final = st.text(max_size=30) | st.sampled_from(
    ["", "\0", "\x1b[2J", "+", "+1" * 9, "sip:x@y", "9" * 400, "completed", "\u202e", "a\r\nb: c"]
)
JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
NASTY: Final[Sequence[bytes]] = (
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    b"[" * 900 + b"]" * 900,
    b"9" * 5000,
    b"-" + b"9" * 30,
    b"18446744073709551616",
    b"1e400",
    b"NaN",
    b"-Infinity",
    b'"\\ud800"',
    b'"\\u0000"',
    b'"\xff"',
    b'"\x01"',
    b'{"id":1,"id":2}',
    b'{"__class__":[]}',
)
"""Values that JSON readers differ on, or fall over."""

_TYPES: Final = (
    *("", "text/plain", "application/json", "application/x-www-form-urlencoded"),
    *("multipart/form-data; boundary=x", "application/cloudevents+avro", "a" * 300),
)


def mutated(raw: Raw) -> st.SearchStrategy[Raw]:
    """The request with other contents of the same kind, another query or another content type."""
    path, _, query = raw.target.partition("?")
    queries = _forms(query).map(lambda found: replace(raw, target=f"{path}?{found}"))
    if not raw.body:
        return queries
    types = st.sampled_from(_TYPES).map(lambda found: raw.with_header("Content-Type", found))
    found = bodies(raw).map(lambda body: replace(raw, body=body))
    return found | found | found | queries | types


def bodies(raw: Raw) -> st.SearchStrategy[bytes]:
    """Other bodies for the request."""
    try:
        message = json.loads(raw.body)
    except ValueError:
        return _forms(raw.body.decode()).map(str.encode) | _bytes(raw.body)
    return _messages(message) | _bytes(raw.body)


def _messages(message: Any) -> st.SearchStrategy[bytes]:
    value = JSON.map(lambda found: json.dumps(found).encode()) | st.sampled_from(NASTY)
    places = st.sampled_from(list(paths(message)))

    def put(at: Path, written: bytes) -> bytes:
        holed = json.dumps(_with(message, at, _HOLE), ensure_ascii=False)
        return holed.encode().replace(json.dumps(_HOLE, ensure_ascii=False).encode(), written)

    removed = places.filter(bool).map(lambda at: json.dumps(_without(message, at)).encode())
    return st.builds(put, places, value) | removed


def _forms(form: str) -> st.SearchStrategy[str]:
    pairs = parse_qsl(form, keep_blank_values=True)
    changes: list[Callable[[int, str], list[tuple[str, str]]]] = [
        lambda index, value: [*pairs[:index], (pairs[index][0], value), *pairs[index + 1 :]],
        lambda index, value: [*pairs, (pairs[index][0], value)],
        lambda index, value: [*pairs, (value, pairs[index][1])],
        lambda index, _: [*pairs[:index], *pairs[index + 1 :]],
    ]

    def change(how: int, index: int, value: str) -> str:
        return urlencode(changes[how](index, value), errors="surrogatepass")

    raw = st.binary(max_size=60).map(quote_from_bytes)
    if not pairs:
        return raw
    return (
        st.builds(change, st.integers(0, len(changes) - 1), st.integers(0, len(pairs) - 1), TEXT)
        | raw
    )


def shifted(raw: Raw) -> Iterator[Raw]:
    """The form with each boundary moved by a byte, either way: `From=+1` → `Fro=m+1`, `From+=1`."""
    for found in re.finditer(b"[^=&]=[^=&]", raw.body):
        before, mark, after = (bytes([byte]) for byte in found[0])
        for moved in (mark + before + after, before + after + mark):
            yield replace(raw, body=raw.body[: found.start()] + moved + raw.body[found.end() :])


def _bytes(body: bytes) -> st.SearchStrategy[bytes]:
    cut = st.integers(0, len(body)).map(lambda at: body[:at])
    joined = st.sampled_from(
        [b"\xef\xbb\xbf" + body, body + body, body + b"\0", b"[" + body + b"]"]
    )
    changed = st.builds(
        lambda at, put: body[:at] + put + body[at + len(put) :],
        st.integers(0, len(body)),
        st.binary(min_size=1, max_size=4),
    )
    return cut | joined | changed | st.sampled_from(NASTY) | st.binary(max_size=200)


def paths(value: Any, at: Path = ()) -> Sequence[Path]:
    """Where in a JSON value there are values; () is the whole."""
    members: Any = ()
    if isinstance(value, dict):
        members = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    return [at, *(path for name, inner in members for path in paths(inner, (*at, name)))]


def _with(value: Any, at: Path, new: Any) -> Any:
    if not at:
        return new
    changed = deepcopy(value)
    reduce(getitem, at[:-1], changed)[at[-1]] = new
    return changed


def _without(value: Any, at: Path) -> Any:
    changed = deepcopy(value)
    del reduce(getitem, at[:-1], changed)[at[-1]]
    return changed
