"""A call of which nothing more is told: a whole node asks Twilio, and cleans up after it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from config import Settings
from router.clock import SystemClock
from router.events.call import CallRecord, CallState
from router.events.ids import DEFAULT_ACCOUNT, call_id
from router.events.model import Event
from router.events.types import EventType as T
from router.sandbox.livekit.standin import LiveKitStandIn
from router.sandbox.twilio.call import Call
from router.sandbox.twilio.standin import TwilioStandIn
from router.storage import calls, claims
from router.storage.engine import Database, open_database
from tests.support.kafka_proxy import Proxy
from tests.support.nodes import (
    ACCOUNT,
    KEY,
    SECRET,
    TOKEN,
    apply_text,
    eventually,
    free_port,
    node_settings,
    running,
)

SWEEP_AFTER = 60.0


class LeapingClock(SystemClock):
    """The machine's, which a test can put forward: who sleeps then wakes up at once."""

    def __init__(self) -> None:
        self._leapt = 0.0
        self._woken = asyncio.Event()

    @override
    def now(self) -> int:
        return super().now() + round(self._leapt * 1_000_000)

    @override
    def monotonic(self) -> float:
        return super().monotonic() + self._leapt

    @override
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        until = self.monotonic() + seconds
        while (left := until - self.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._woken.wait()

    def leap(self, seconds: float) -> None:
        """It is so much later now."""
        self._leapt += seconds
        self._woken.set()
        self._woken = asyncio.Event()


@dataclass
class World:
    """A node, and Twilio, which reaches it through `public` alone."""

    settings: Settings
    database: Database
    clock: LeapingClock
    public: Proxy
    twilio: TwilioStandIn
    livekit: LiveKitStandIn

    async def connected(self) -> Call:
        """A call that talks to its agent."""
        call = self.twilio.place_call("+14155550100", "+12125550123")
        await call.answered()
        await self._until(call, "answered")
        return call

    async def record(self, call: Call) -> CallRecord | None:
        return await calls.get(self.database, DEFAULT_ACCOUNT, _id(call))

    async def claim(self, call: Call) -> str:
        found = await claims.get(self.database, _id(call))
        return found.state if found is not None else "none"

    async def ends(self, call: Call) -> list[Event]:
        told = await calls.events(self.database, _id(call))
        return [event for event in told if event.type is T.CALL_ENDED]

    async def over(self, call: Call) -> CallRecord:
        """The record once it is over: so much time passes as that takes."""
        return await self._until(call, "ended", SWEEP_AFTER)

    async def _until(self, call: Call, state: CallState, leap: float = 0.0) -> CallRecord:
        async with asyncio.timeout(60.0):
            while True:
                found = await self.record(call)
                if found is not None and found.state == state:
                    return found
                self.clock.leap(leap)
                await asyncio.sleep(0.05)


def _id(call: Call) -> str:
    return call_id("twilio", ACCOUNT, call.sid)


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    port = free_port()
    public = await Proxy(port).start()
    base = f"http://127.0.0.1:{public.port}"
    async with (
        LiveKitStandIn(api_key=KEY, api_secret=SECRET, webhook_url=None) as livekit,
        TwilioStandIn(
            account_sid=ACCOUNT, auth_token=TOKEN, webhook_base=base, dial_sip=livekit.invite
        ) as twilio,
    ):
        settings = node_settings(
            folder,
            port=port,
            livekit_url=livekit.url,
            public_url=base,
            calls={"sweep_after": SWEEP_AFTER},
            providers={"twilio": {"api_url": twilio.url}},
        )
        routes, clock = await apply_text(settings), LeapingClock()
        async with (
            running(settings, routes=routes, clock=clock) as node,
            open_database(settings) as database,
        ):
            await eventually(lambda: node.health()[1]["livekit"] == "ok")
            livekit.register_worker("anna")
            yield World(settings, database, clock, public, twilio, livekit)
    await public.close()


async def test_a_call_whose_end_got_lost_is_ended_and_its_room_is_closed(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        call = await w.connected()
        await w.public.close()  # nothing that Twilio tells arrives any more
        call.end("completed")  # and the SIP leg is never hung up
        ended = call.end_time  # once more when the room is closed
        assert w.livekit.rooms.get(_id(call))
        record = await w.over(call)
        assert (record.state, record.disposition, record.agent) == ("ended", "answered", "anna")
        assert ended is not None
        assert record.ended_at == max(ended // 1_000_000 * 1_000_000, record.initiated_at)
        assert record.duration == float(call.duration)
        [end] = await w.ends(call)
        assert end.source == "switchboard"
        await eventually(lambda: not w.livekit.rooms.get(_id(call)))
        assert await w.claim(call) == "over"


async def test_a_call_that_goes_on_is_left_alone_however_long_it_takes(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        call = await w.connected()
        for _ in range(20):
            w.clock.leap(SWEEP_AFTER)
            await asyncio.sleep(0.05)
        record = await w.record(call)
        assert record is not None
        assert record.state == "answered"
        assert w.livekit.rooms.get(_id(call))
        assert await w.claim(call) == "ready"
        call.hangup()  # which Twilio tells
        assert (await w.over(call)).disposition == "answered"
        assert {end.source for end in await w.ends(call)} == {"twilio"}


async def test_a_call_that_the_carrier_does_not_know_lasts_while_its_caller_is_in_the_room(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        call = await w.connected()
        await w.public.close()
        del w.twilio._calls[call.sid]
        for _ in range(20):
            w.clock.leap(SWEEP_AFTER)
            await asyncio.sleep(0.05)
        assert await w.ends(call) == []
        assert w.livekit.rooms.get(_id(call))
        assert await w.claim(call) == "ready"
        call.hangup()
        assert (await w.over(call)).disposition == "answered"
        await eventually(lambda: not w.livekit.rooms.get(_id(call)))
        assert await w.claim(call) == "over"
