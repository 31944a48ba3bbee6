"""Targets for carriers' APIs: what they answer is read, or is one of the three EffectErrors.

The first byte says the status; a Retry-After and the body follow. Nothing is sent: an answer is
what `router.rest.Rest` reads after it has arrived.
"""

import json
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, cast

import aiohttp
import msgspec
from typing_extensions import override

from config import load
from router.errors import BadPayload, EffectError
from router.events.model import Decision, Event
from router.provider import CallRef, SipTarget
from router.providers.telnyx import api as telnyx
from router.providers.telnyx.envelope import open_envelope
from router.providers.telnyx.events import parse_event
from router.providers.telnyx.missed import missed
from router.providers.twilio import api as twilio
from router.rest import Rest
from tests.fuzz.chain import store
from tests.fuzz.target import Target, joined, text
from tests.fuzz.words import nasty
from tests.providers.found import Payload, StillClock, payloads

_STATUSES: Final = (200, 201, 204, 302, 400, 404, 422, 429, 500, 503)
_NOW: Final = 1_780_000_000_000_000
_REF: Final = CallRef("id", "CA" + "0f" * 16, "AC" + "a1" * 16, "v3:control")
_COMMANDS: Final = telnyx._Commands(
    SipTarget("sip.example.com", "tls", "user", "password"), load().providers.telnyx
)
_DECISIONS: Final = (
    Decision(action="dispatch", reason="", table_version=1, fallback="+14155550111"),
    Decision(action="forward", reason="", table_version=1, fallback="+14155550111"),
    Decision(action="reject", reason="", table_version=1),
)

_TWILIO: Final = (
    b'{"status":"completed","end_time":"Thu, 28 May 2026 20:26:40 +0000","duration":"63"}',
    b'{"status":"in-progress","end_time":null,"duration":null}',
    b'{"code":20404,"message":"not found","status":404}',
)
_TELNYX: Final = (
    b'{"data":{"is_alive":false,"call_duration":63,"end_time":"2026-05-28T20:26:40.1Z"}}',
    b'{"data":{"is_alive":true}}',
    b'{"errors":[{"code":"90018","title":"Call has already ended"}]}',
)

Ask = Callable[[Rest], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class _Answer:
    """As much of `aiohttp.ClientResponse` as is read of it."""

    status: int
    headers: Mapping[str, str]

    @property
    def ok(self) -> bool:
        return self.status < 400


class _Told(Rest):
    """An API that gives one answer, whatever it is asked."""

    def __init__(self, data: bytes, code_of: Callable[[Any], str]) -> None:
        nobody = cast("aiohttp.ClientSession", None)
        super().__init__(nobody, name="API", url="", timeout=1.0, code_of=code_of, headers={})
        after, _, self._said = data[1:].partition(b"\0")
        status = _STATUSES[data[0] % len(_STATUSES)] if data else 200
        self._answer = _Answer(status, {"Retry-After": text(after)})

    @override
    async def _request(self, method: str, path: str, **how: Any) -> Any:
        json.dumps(how.get("json")).encode()  # as aiohttp sends it
        found = self._read(cast("aiohttp.ClientResponse", self._answer), self._said)
        assert found is None or self._answer.status < 300, "what was refused is taken for done"
        return found


def targets() -> Iterator[Target]:
    yield _target("twilio-answer", twilio._code, _twilio_standing, _TWILIO)
    yield _target("telnyx-answer", telnyx._code, _telnyx, _TELNYX)
    yield _target("telnyx-missed", telnyx._code, _telnyx_missed, list(_lists()))
    yield _command()


def _target(name: str, code_of: Callable[[Any], str], ask: Ask, bodies: Sequence[bytes]) -> Target:
    def run(data: bytes) -> None:
        with suppress(EffectError):
            _driven(ask(_Told(data, code_of)))

    whole = [joined(b"\0", body) for body in bodies]
    refused = [joined(b"%c9" % status, bodies[-1]) for status in range(len(_STATUSES))]
    return Target(name, run, [*whole, *refused, *(joined(b"\0", value) for value in nasty())])


async def _twilio_standing(rest: Rest) -> object:
    return await twilio._standing(rest, _REF)


def _command() -> Target:
    """The commands that may follow from a webhook, with the headers of the caller's INVITE."""

    def run(data: bytes) -> None:
        rest = _Told(b"\0\0{}", telnyx._code)
        with suppress(BadPayload):
            for event in parse_event(open_envelope(data), _NOW):
                for decision in _DECISIONS:
                    _driven(telnyx._carry_out(rest, _COMMANDS, _with(event, decision)))

    return Target("telnyx-command", run, [*(p.raw.body for p in _calls()), *nasty()])


async def _telnyx(rest: Rest) -> object:
    await telnyx._carry_out(rest, _COMMANDS, _with(_INCOMING, _DECISIONS[0]))
    return await telnyx._standing(rest, _REF)


async def _telnyx_missed(rest: Rest) -> None:
    async for event in missed(rest, StillClock(_NOW), 0):
        with suppress(BadPayload):
            store(event)


def _calls() -> Iterator[Payload]:
    return (p for p in payloads() if p.provider == "telnyx" and p.endpoint.kind == "events")


def _lists() -> Iterator[bytes]:
    """Telnyx's two lists, of one event each."""
    for payload in _calls():
        if payload.is_readable:
            event = msgspec.json.decode(payload.raw.body).get("data")
            for item in ({"webhook": event}, {"metadata": event}, {"metadata": {"raw": event}}):
                yield msgspec.json.encode({"data": [item], "meta": {"total_pages": 1}})


_INCOMING: Final = next(
    event for one in _calls() if one.is_readable for event in one.events() if event.data.stage
)


def _with(event: Event, decision: Decision) -> Event:
    data = msgspec.structs.replace(event.data, decision=decision)
    return msgspec.structs.replace(event, data=data)


def _driven(work: Awaitable[object]) -> None:
    """Run what waits for nothing."""
    try:
        cast("Coroutine[Any, Any, object]", work).send(None)
    except StopIteration:
        return
    raise RuntimeError("it waits for something")
