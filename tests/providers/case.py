"""What the shared provider suite (tests/providers/test_suite.py) is told about each provider.

`tests/providers/<name>/case.py` exports one `CASE`; `tests/providers/<name>/payloads/*.http` are
its webhooks, byte for byte: request line, headers, an empty line, body; lines end with CRLF. They
were captured, or built from the provider's own specification, and signed with the keys in `CASE`.
`<payload>.json` beside it is what must come of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from multidict import CIMultiDict

PUBLIC_URL = "https://calls.example.com"


@dataclass(frozen=True, slots=True)
class Raw:
    """A request as its bytes say it."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        return CIMultiDict(self.headers).get(name, "")

    def with_header(self, name: str, value: str) -> "Raw":
        others = [pair for pair in self.headers if pair[0].lower() != name.lower()]
        return replace(self, headers=(*others, (name, value)))

    def encode(self) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def read(path: Path) -> Raw:
    """The request in a payload file."""
    head, _, body = path.read_bytes().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, target, _ = first.split(" ")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return Raw(method, target, headers, body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How to test a provider."""

    settings: Mapping[str, Any]  # overrides over the defaults; the keys and secrets of the payloads
    resign: Callable[[Raw], Raw]  # the same request, signed anew with the newest key
    sign_with_second: Callable[[Raw], Raw]  # signed with the other key of a rotation
    secrets: Sequence[str]  # must never be seen in a repr, a log line or an error
    received_at: int  # µs since epoch at which the payloads are fresh
    signed_headers: Sequence[str]  # a changed byte in them must be refused
    body_is_signed: bool = True
    tolerance: float | None = None  # seconds, where old requests are refused
    unknown: Callable[[Raw], Raw] | None = None  # to an unheard-of event, unsigned
