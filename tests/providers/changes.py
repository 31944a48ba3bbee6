"""Changes to requests and settings that the suite makes to see what becomes of them."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tests.providers.case import Raw
from tests.providers.found import Payload


def flips(data: bytes, bits: int = 8) -> Iterator[bytes]:
    """`data` with each of its bytes changed in turn, in each or so many of its bits."""
    for index, byte in enumerate(data):
        for bit in range(bits):
            changed = byte ^ 1 << (index + bit) % 8
            yield b"%b%c%b" % (data[:index], changed, data[index + 1 :])


def resized(data: bytes) -> Iterator[bytes]:
    """`data` with a byte more or less at its end, and one more before it."""
    yield from (data[:-1], data + b"x", b"x" + data)


def text(value: bytes) -> str:
    """Of the request's head, as aiohttp reads it."""
    return value.decode("utf-8", "surrogateescape")


def unsigned(payload: Payload) -> Raw:
    """The request without its signature."""
    names = {name.lower() for name in payload.signatures()}
    kept = [(name, value) for name, value in payload.raw.headers if name.lower() not in names]
    return replace(payload.raw, headers=kept)


def spoilt(payload: Payload) -> Iterator[Raw]:
    """The request in ways that must be refused, each for another reason, or read as another one."""
    raw = payload.raw
    yield unsigned(payload)
    yield from (raw.with_header(name, raw.header(name) + "x") for name in payload.signatures())
    path, mark, query = raw.target.partition("?")
    yield replace(raw, target=f"{path}x{mark}{query}")
    yield from (payload.resigned(body) for body in (raw.body[:-1], b"{", b"{" + raw.body))


def exchanged(raw: Raw, one: str, other: str) -> Raw:
    """Two numbers exchanged wherever they are: digits look alike in JSON, forms and queries."""
    swap = {one: other, other: one}

    def exchange(part: str) -> str:
        return re.sub(f"{one}|{other}", lambda found: swap[found[0]], part)

    return replace(raw, target=exchange(raw.target), body=exchange(raw.body.decode()).encode())


def with_field(raw: Raw) -> Raw:
    """The request with one field more: in its JSON, its form or its query."""
    if not raw.body:
        return replace(raw, target=f"{raw.target}&switchboard_test=1")
    try:
        message = json.loads(raw.body)
    except ValueError:
        return replace(raw, body=raw.body + b"&SwitchboardTest=1")
    for each in message if isinstance(message, list) else [message]:
        each["switchboard_test"] = 1
    return replace(raw, body=json.dumps(message).encode())


def less(value: Any) -> Iterator[Any]:
    """`value` (tables and lists of settings) without one of its members, at whatever depth."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield {key: kept for key, kept in value.items() if key != name}
            yield from ({**value, name: rest} for rest in less(inner))
    elif isinstance(value, list | tuple):
        for index in range(len(value)):
            yield [*value[:index], *value[index + 1 :]]
