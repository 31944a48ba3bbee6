"""Telnyx's stand-in with our client of its API, and APIs that answer whatever a test likes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web as http

from config import load
from router.clock import Clock
from router.errors import EffectError
from router.events.model import Decision, Event
from router.provider import Carrier, ProviderContext, SipTarget
from router.providers.telnyx.api import open_carrier
from router.providers.telnyx.events import parse_event
from router.sandbox.serve import serve
from router.sandbox.telnyx import Call, TelnyxStandIn
from tests.support.sandbox_clock import START, FakeClock
from tests.support.sandbox_livekit import eventually
from tests.support.sandbox_telnyx import API_KEY, CALLED, CALLER, OTHER, SEED, Server, server
from tests.support.sandbox_twilio import Switch

TARGET = SipTarget("sip.example", "tls", "switchboard", "Correct-horse-1")
DISPATCH = Decision(action="dispatch", reason="mapped", table_version=1, agent="anna")
FORWARD = Decision(action="forward", reason="nobody", table_version=1, fallback=OTHER)
REJECT = Decision(action="reject", reason="not mapped", table_version=1)


def context(api_url: str, clock: Clock, api_key: str = API_KEY) -> ProviderContext:
    telnyx = {"api_key": api_key, "api_url": api_url, "dial_timeout": 20}
    return ProviderContext(load(overrides={"providers": {"telnyx": telnyx}}), TARGET, clock)


@dataclass
class World:
    """Telnyx and a client of it."""

    standin: TelnyxStandIn
    web: Server
    switch: Switch
    clock: FakeClock
    carrier: Carrier

    async def calls(self, **more: Any) -> tuple[Call, Event]:
        """A call, and its first event as the webhook told it."""
        call = self.standin.place_call(CALLED, CALLER, **more)
        await eventually(lambda: self.told(call, "call.initiated") is not None)
        event = self.told(call, "call.initiated")
        assert event is not None
        return call, event

    def told(self, call: Call, kind: str, leg: str = "") -> Event | None:
        """The (last) event of a kind about a leg of a call, the caller's unless told."""
        found = [
            request.data
            for request in self.web.of(kind)
            if request.payload["call_leg_id"] == (leg or call.caller.leg_id)
        ]
        return parse_event(found[-1], self.clock.now())[0] if found else None

    async def carry_out(self, event: Event, decision: Decision) -> None:
        assert self.carrier.carry_out is not None
        await self.carrier.carry_out(decided(event, decision))

    async def missed(self, since: int = START) -> list[Event]:
        assert self.carrier.missed is not None
        return [event async for event in self.carrier.missed(since)]


def decided(event: Event, decision: Decision) -> Event:
    return msgspec.structs.replace(
        event, data=msgspec.structs.replace(event.data, decision=decision)
    )


@asynccontextmanager
async def opened() -> AsyncIterator[World]:
    """Telnyx, a switch for its SIP calls, and a server for its webhooks."""
    clock, switch = FakeClock(), Switch()
    async with (
        server() as web,
        TelnyxStandIn(
            api_key=API_KEY, seed=SEED, webhook_base=web.url, dial_sip=switch.dial, clock=clock
        ) as standin,
        open_carrier(context(standin.url, clock)) as carrier,
    ):
        web.key = standin.public_key
        yield World(standin, web, switch, clock, carrier)


@asynccontextmanager
async def answering(
    handle: Callable[[http.Request], Awaitable[http.Response]], clock: Clock | None = None
) -> AsyncIterator[Carrier]:
    """A client of an API that answers with `handle`, whatever is asked."""
    app = http.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with serve(app, 0) as url, open_carrier(context(url, clock or FakeClock())) as carrier:
        yield carrier


def says(status: int, text: str = "", **headers: str) -> Callable[..., Awaitable[http.Response]]:
    async def handle(_: http.Request) -> http.Response:
        return http.Response(
            status=status, text=text, content_type="application/json", headers=headers
        )

    return handle


async def until_the_end(carrier: Carrier) -> tuple[list[Event], EffectError | None]:
    """What was missed, and what kept the rest back."""
    assert carrier.missed is not None
    found: list[Event] = []
    try:
        async for event in carrier.missed(START):
            found.append(event)  # noqa: PERF401 - it may break off
    except EffectError as error:
        return found, error
    return found, None


def listing(items: Mapping[str, Sequence[object]]) -> Callable[..., Awaitable[http.Response]]:
    async def handle(request: http.Request) -> http.Response:
        data = items.get(request.path, ())
        return http.json_response({"data": list(data), "meta": {"total_pages": 1}})

    return handle
