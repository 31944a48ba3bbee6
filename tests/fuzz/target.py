"""What the fuzzer is given, and how it reads an input that is more than one text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """`run` takes any bytes and raises nothing; `seeds` are the inputs to begin with.

    Inputs are split at NUL bytes where they are more than one text.
    """

    name: str
    run: Callable[[bytes], None]
    seeds: Sequence[bytes]


def text(value: bytes) -> str:
    """Of a request's head, as aiohttp reads it."""
    return value.decode("utf-8", "surrogateescape")


def joined(*parts: str | bytes) -> bytes:
    """An input of these parts."""
    return b"\0".join(part.encode() if isinstance(part, str) else part for part in parts)
