"""The providers with their cases and payload files: for the suite, the fuzzer and the benchmark."""

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from multidict import CIMultiDict
from pydantic import BaseModel, SecretStr
from typing_extensions import override

from config import load
from router.events.model import Event
from router.events.phone import is_e164
from router.provider import Endpoint, ProviderContext, SipTarget, WebhookRequest, WebhookSource
from router.providers import providers
from tests.providers.case import PUBLIC_URL, Case, Raw, read
from tests.support.settings import merged

_TARGET = SipTarget("sip.example.com", "tcp", "sip-user", "sip-password")

FOLDER = Path(__file__).parent

_BASE = {
    "public_url": PUBLIC_URL,
    "livekit": {"url": "http://127.0.0.1:1", "sip_host": "sip.example.com"},
}


class Unrouted(Exception):
    """No endpoint takes the request: the ingress answers 404 or 405."""


@dataclass(frozen=True, slots=True)
class StillClock:
    """`router.clock.Clock` that stands still at `at` (µs since epoch)."""

    at: int

    def now(self) -> int:
        return self.at

    def monotonic(self) -> float:
        return self.at / 1_000_000

    async def sleep(self, seconds: float) -> None:
        raise RuntimeError("time stands still")


@dataclass(frozen=True, slots=True, repr=False)
class Payload:
    """One payload file, its provider's case and source, and what must come of it."""

    provider: str
    name: str
    case: Case
    source: WebhookSource
    raw: Raw
    golden: Mapping[str, Any]

    @override
    def __repr__(self) -> str:
        return f"{self.provider}/{self.name}"

    @property
    def is_readable(self) -> bool:
        """Whether it is taken; there are payloads that must be refused, signed as they are."""
        return bool(self.golden["status"] < 400)

    @property
    def endpoint(self) -> Endpoint:
        return endpoint_of(self.source, self.raw)

    def signs_body(self) -> bool:
        """Whether a signature covers the body; of some providers only where there is a header."""
        return self.case.body_is_signed or bool(self.signatures())

    def signatures(self) -> Sequence[str]:
        """The names of the signed headers that it has."""
        return [name for name in self.case.signed_headers if self.raw.header(name)]

    def parties(self) -> set[tuple[str, str]]:
        """Who calls whom, where all its events tell of the same two numbers; else empty."""
        told = [event["data"] for event in self.golden["events"]]
        found = {(data.get("from_number", ""), data.get("to_number", "")) for data in told}
        return found if len(found) == 1 and all(map(_are_two, found)) else set()

    def request(self, raw: Raw | None = None, *, later: float = 0.0) -> WebhookRequest:
        """The request, or `raw` instead of it, `later` seconds later than it was received.

        Raises:
            Unrouted: no endpoint of the provider takes it.
        """
        raw = raw or self.raw
        received_at = self.case.received_at + round(later * 1_000_000)
        return request_of(endpoint_of(self.source, raw), raw, received_at)

    def events(self, raw: Raw | None = None) -> Sequence[Event]:
        """What the source makes of it. Raises BadSignature, BadPayload, Unrouted."""
        return self.source.parse(self.source.verify(self.request(raw)))

    def resigned(self, body: bytes) -> Raw:
        """The request with another body, signed with the newest key."""
        return self.case.resign(replace(self.raw, body=body))


def _are_two(parties: tuple[str, str]) -> bool:
    return parties[0] != parties[1] and all(map(is_e164, parties))


def endpoint_of(source: WebhookSource, raw: Raw) -> Endpoint:
    """The endpoint that a request goes to. Raises Unrouted."""
    path = raw.target.partition("?")[0]
    for endpoint in source.endpoints:
        if raw.method in endpoint.methods and _pattern(source.name, endpoint.path).fullmatch(path):
            return endpoint
    raise Unrouted(f"{source.name} has no such webhook")


@cache
def _pattern(provider: str, path: str) -> re.Pattern[str]:
    parts = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))
    return re.compile(f"/webhooks/{provider}{parts}")


def request_of(endpoint: Endpoint, raw: Raw, received_at: int) -> WebhookRequest:
    """What the ingress hands to a source."""
    return WebhookRequest(
        endpoint.kind, raw.target, CIMultiDict(raw.headers), raw.body, received_at, raw.method
    )


def builtins(events: Sequence[Event]) -> Any:
    """Events as a golden file has them."""
    return msgspec.json.decode(msgspec.json.encode(events))


def overrides(case: Case) -> dict[str, Any]:
    """The settings under which a case's payloads are right."""
    return merged(_BASE, case.settings)


def source_of(name: str, case: Case, settings: Mapping[str, Any] | None = None) -> WebhookSource:
    """A provider's source, with the case's settings or others. Raises ConfigProblem."""
    provider = next(provider for provider in providers() if provider.name == name)
    found = load(overrides=overrides(case) if settings is None else settings)
    return provider.source(ProviderContext(found, _TARGET, StillClock(case.received_at)))


def secrets_in(value: object) -> Iterator[str]:
    """All that are set in settings, at whatever depth."""
    if isinstance(value, SecretStr):
        yield from filter(None, [value.get_secret_value()])
    elif isinstance(value, BaseModel):
        yield from secrets_in(dict(value))
    elif isinstance(value, Mapping | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from secrets_in(inner)


def files(provider: str) -> Sequence[Path]:
    """A provider's payload files."""
    return sorted((FOLDER / provider / "payloads").glob("*.http"))


@cache
def cases() -> Mapping[str, Case]:
    """Of the providers that have one: tests/providers/test_suite.py misses the others."""
    return {
        provider.name: importlib.import_module(f"tests.providers.{provider.name}.case").CASE
        for provider in providers()
        if (FOLDER / provider.name / "case.py").is_file()
    }


@cache
def payloads() -> Sequence[Payload]:
    """All payload files of all cases."""
    return list(_payloads())


def _payloads() -> Iterator[Payload]:
    for provider, case in cases().items():
        source = source_of(provider, case)
        for path in files(provider):
            golden = msgspec.json.decode(path.with_suffix(".json").read_bytes())
            if "events" not in golden:
                raise LookupError(
                    f"{provider}/{path.stem}.json has no events yet: let the provider write them, "
                    f"python -m tests.providers.write {provider}"
                )
            yield Payload(provider, path.stem, case, source, read(path), golden)
