"""Calls whose end nobody told: their carrier is asked. On a real database, with a clock by hand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs
from typing_extensions import override

from config import Settings, load
from consumers.calls import sweep
from consumers.calls.plan import TELLING, fold
from consumers.calls.sweep import Sweeper
from router.errors import LogFailed, Permanent, Transient
from router.eventlog.base import Appended
from router.events.call import CallRecord
from router.events.ids import DEFAULT_ACCOUNT
from router.events.model import Event
from router.events.types import CALLS_TOPIC
from router.events.types import EventType as T
from router.provider import CallRef, Carrier, Standing
from router.storage import calls
from router.storage.engine import Database, open_database
from router.storage.migrate import migrate
from router.storage.schema import call_events
from tests.support import fake_time
from tests.support.fake_events import event, initiated, new_call
from tests.support.fake_log import FakeLog
from tests.support.nodes import eventually
from tests.support.sandbox_clock import START, FakeClock

# The hand-moved clock begins where it is not the events' START.
ZERO = (START - fake_time.START) / 1_000_000
GOES_ON = Standing(over=False)
OVER = Standing(True, "answered", START + 95_000_000, 94.0)

Answer = Standing | Exception | None


class FakeCarrier:
    """Answers as told, and keeps what it was asked and when."""

    def __init__(self, clock: FakeClock, answer: Answer = GOES_ON) -> None:
        self.answer = answer
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[float, CallRef]] = []
        self.hold: asyncio.Event | None = None
        self.at_once = self.most_at_once = 0
        self._clock = clock

    async def standing(self, ref: CallRef) -> Standing | None:
        self.asked.append((self._clock.monotonic(), ref))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        if self.hold is not None:
            await self.hold.wait()
        self.at_once -= 1
        answer = self.answers.get(ref.call_id, self.answer)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def times(self) -> list[float]:
        return [time for time, _ in self.asked]


class World:
    """A sweeper with what is around it."""

    def __init__(self, database: Database, settings: Settings, log: FakeLog) -> None:
        self.clock = FakeClock()
        self.log = log
        self.twilio, self.telnyx = FakeCarrier(self.clock), FakeCarrier(self.clock)
        self.livekit = FakeCarrier(self.clock, Standing(over=True))  # nobody is in any room
        self.database = database
        carriers = {
            "twilio": Carrier(standing=self.twilio.standing),
            "telnyx": Carrier(standing=self.telnyx.standing),
            "livekit": Carrier(standing=self.livekit.standing),
            "silent": Carrier(),
        }
        self.sweeper = Sweeper(database, log, carriers, settings.calls, self.clock)

    async def told(self, *events: Event) -> None:
        """The events are in the database."""
        await calls.record(self.database, events, fold, telling=TELLING)

    async def record(self, call: str) -> CallRecord:
        """The call's record once the events of the log are folded, too."""
        await self.told(*self.log.events(CALLS_TOPIC))
        record = await calls.get(self.database, DEFAULT_ACCOUNT, call)
        assert record is not None
        return record

    async def after(self, seconds: float) -> None:
        """Let so much time pass, half a minute at a time, and the sweeper do its work in each."""
        until = self.clock.monotonic() + seconds
        while self.clock.monotonic() < until:
            await eventually(self._rests)
            await self.clock.advance(min(30.0, until - self.clock.monotonic()))
        await eventually(self._rests)

    def _rests(self) -> bool:
        desks = [*self.sweeper._desks.values(), self.sweeper._no_desk]
        busy = any(desk.queue for desk in desks if desk.ask is None or not self._held(desk))
        return bool(self.clock._sleepers) and not busy

    def _held(self, desk: Any) -> bool:
        return any(
            each.hold is not None and not each.hold.is_set() and desk.ask == each.standing
            for each in (self.twilio, self.telnyx, self.livekit)
        )


@asynccontextmanager
async def world(tmp_path: Path, log: FakeLog | None = None, **calls: float) -> AsyncIterator[World]:
    settings = load(overrides={"data_dir": str(tmp_path), "calls": calls})
    await migrate(settings)
    async with open_database(settings) as database:
        it = World(database, settings, log or FakeLog())
        sweeping = asyncio.create_task(it.sweeper.run())
        try:
            yield it
        finally:
            sweeping.cancel()
            await asyncio.wait([sweeping])


def begun(name: str, at: float = 0.0, source: str = "twilio", **data: Any) -> Event:
    data = {"provider_call_id": f"id-{name}", "provider_account": "AC1", **data}
    return event(new_call(name), T.CALL_INITIATED, ZERO + at, source, **data)


def later(name: str, kind: T, at: float, source: str = "twilio", **data: Any) -> Event:
    return event(new_call(name), kind, ZERO + at, source, **data)


async def test_the_end_of_a_call_is_asked_for_and_told(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.told(begun("a"), later("a", T.CALL_ANSWERED, 1.0))
        await w.after(90.0)
        assert w.twilio.asked == []
        w.twilio.answer = OVER
        await w.after(60.0)
        [(_, ref)] = w.twilio.asked
        assert ref == CallRef(new_call("a"), "id-a", "AC1")
        [ended] = w.log.events(CALLS_TOPIC)
        assert (ended.type, ended.source, ended.key) == (T.CALL_ENDED, "switchboard", ref.call_id)
        record = await w.record(ref.call_id)
        assert (record.state, record.disposition) == ("ended", "answered")
        assert (record.ended_at, record.duration) == (START + 95_000_000, 94.0)
        await w.after(3600.0)
        assert len(w.twilio.asked) == 1


async def test_a_call_that_goes_on_is_asked_about_less_and_less(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.told(begun("a"))
        await w.after(3000.0)
        times = w.twilio.times()
        pauses = [after - before for before, after in pairwise(times)]
        assert 120.0 <= times[0] <= 180.0
        assert pauses[:5] == [60.0, 120.0, 240.0, 480.0, 480.0]
        assert w.log.events(CALLS_TOPIC) == []


async def test_a_call_that_the_carrier_does_not_know_is_lost(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.twilio.answer = None
        await w.told(begun("a"), later("a", T.CALL_ANSWERED, 1.0), later("a", T.ROOM_STARTED, 7.0))
        await w.after(180.0)
        record = await w.record(new_call("a"))
        assert (record.state, record.disposition, record.duration) == ("ended", "lost", None)
        assert record.ended_at == START + 7_000_000  # it was last heard of
        assert "knows no such call" in record.reason
        assert [ref for _, ref in w.livekit.asked] == [CallRef(new_call("a"), "id-a", "AC1")]


@pytest.mark.parametrize("seen", [GOES_ON, Transient("away")])
async def test_a_call_that_the_carrier_does_not_know_goes_on_unless_its_caller_is_gone(
    tmp_path: Path, seen: Answer
) -> None:
    async with world(tmp_path) as w:
        w.twilio.answer, w.livekit.answer = None, seen
        await w.told(begun("a"), later("a", T.CALL_ANSWERED, 1.0))
        with capture_logs() as lines:
            await w.after(1800.0)
        assert len(w.livekit.asked) == len(w.twilio.asked) > 2
        assert w.log.events(CALLS_TOPIC) == []
        whys = {line["why"] for line in lines if line["event"] == "sweep.failed"}
        assert any("providers.twilio" in why for why in whys) == (seen is GOES_ON)
        w.livekit.answer = Standing(over=True)
        await w.after(540.0)
        assert (await w.record(new_call("a"))).disposition == "lost"


async def test_where_livekit_can_not_be_asked_the_carriers_word_is_enough(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        del w.sweeper._desks["livekit"]
        w.twilio.answer = None
        await w.told(begun("a"))
        await w.after(180.0)
        assert (await w.record(new_call("a"))).disposition == "lost"


async def test_a_call_whose_end_is_told_while_it_waits_for_its_turn_is_not_asked_about(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        w.telnyx.hold, w.telnyx.answer = asyncio.Event(), OVER
        names = [f"call-{n}" for n in range(12)]
        await w.told(*(begun(name, source="telnyx") for name in names))
        await w.after(150.0)
        await eventually(lambda: len(w.telnyx.asked) == 8)
        asked = {ref.call_id for _, ref in w.telnyx.asked}
        waiting = [name for name in names if new_call(name) not in asked]
        await w.told(*(later(name, T.CALL_ENDED, 150.0, "telnyx") for name in waiting))
        w.telnyx.hold.set()
        await w.after(600.0)
        assert {ref.call_id for _, ref in w.telnyx.asked} == asked
        assert {event.key for event in w.log.events(CALLS_TOPIC)} == asked


async def test_a_call_with_an_event_of_a_newer_version_is_asked_about_too(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.told(begun("a"), later("a", T.DTMF_RECEIVED, 1.0))
        async with w.database.write() as connection:
            keys = call_events.c.type == T.DTMF_RECEIVED.value
            await connection.execute(update(call_events).where(keys).values(type="dtmf.sung"))
        kept = {event.type for event in await calls.events(w.database, new_call("a"))}
        assert kept == {T.CALL_INITIATED, T.PROVIDER_UNKNOWN}
        await w.after(180.0)
        assert len(w.twilio.asked) == 1


@pytest.mark.parametrize("error", [Transient("away"), Permanent("401"), KeyError("a foreign one")])
async def test_a_carrier_that_fails_is_asked_again_until_the_call_is_too_old(
    tmp_path: Path, error: Exception
) -> None:
    async with world(tmp_path, max_duration=7200.0) as w:
        w.twilio.answer = error
        await w.told(begun("a"))
        await w.after(600.0)
        assert len(w.twilio.asked) == 4
        assert w.log.events(CALLS_TOPIC) == []
        await w.after(7200.0)
        record = await w.record(new_call("a"))
        assert (record.state, record.disposition) == ("ended", "lost")
        assert "max_duration" in record.reason


async def test_an_outage_of_a_carrier_is_one_line_in_ten_seconds(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.twilio.answer = Transient("can't be reached")
        await w.told(*(begun(f"call-{n}") for n in range(30)))
        with capture_logs() as lines:
            await w.after(150.0)
        assert len(w.twilio.asked) == 30
        [line] = [line for line in lines if line["event"] == "sweep.failed"]
        assert (line["error"], line["why"]) == ("Transient", "can't be reached")


@pytest.mark.parametrize("source", ["silent", "vocode"])
async def test_who_can_not_be_asked_is_not_and_its_calls_are_lost_in_the_end(
    tmp_path: Path, source: str
) -> None:
    async with world(tmp_path, max_duration=3600.0) as w:
        await w.told(begun("a", source=source))
        await w.after(3500.0)
        assert w.log.events(CALLS_TOPIC) == []
        await w.after(240.0)
        assert (await w.record(new_call("a"))).disposition == "lost"


async def test_a_call_older_than_any_may_be_is_over_whatever_is_said(tmp_path: Path) -> None:
    async with world(tmp_path, max_duration=3600.0) as w:
        w.twilio.answers = {new_call("known"): OVER}
        await w.told(begun("a", -3700.0), begun("known", -3700.0))
        await w.after(30.0)
        assert (await w.record(new_call("a"))).disposition == "lost"
        assert (await w.record(new_call("known"))).disposition == "answered"


async def test_a_slow_carrier_holds_up_its_own_calls_alone(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.telnyx.hold = asyncio.Event()
        w.twilio.answer = w.telnyx.answer = OVER
        await w.told(*(begun(f"slow-{n}", source="telnyx") for n in range(120)))
        await w.told(*(begun(f"call-{n}", 1.0) for n in range(20)))
        await w.after(150.0)
        assert len({ref.call_id for _, ref in w.twilio.asked}) == 20
        assert (len(w.telnyx.asked), w.telnyx.most_at_once) == (8, 8)
        assert w.twilio.most_at_once <= 8
        w.telnyx.hold.set()
        await w.after(60.0)  # those that the queue had no room for are found again
        assert {ref.call_id for _, ref in w.telnyx.asked} == {
            new_call(f"slow-{n}") for n in range(120)
        }


async def test_a_call_that_is_being_asked_about_is_not_asked_about_beside(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.telnyx.hold = asyncio.Event()
        await w.told(*(begun(f"slow-{n}", source="telnyx") for n in range(12)))
        await w.after(600.0)
        w.telnyx.hold.set()
        await w.after(30.0)
        assert len(w.telnyx.asked) == 12


async def test_only_calls_that_should_be_over_are_asked_about(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.told(begun("over"), later("over", T.CALL_ENDED, 5.0, disposition="busy"))
        await w.told(begun("young", 100.0), begun("old"))
        await w.told(later("nobody-phones", T.AGENT_READY, 1.0, "livekit"))
        await w.after(150.0)
        assert [ref.call_id for _, ref in w.twilio.asked] == [new_call("old")]


async def test_all_pages_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_PAGE", 4)
    async with world(tmp_path) as w:
        await w.told(*(begun(f"call-{n}", n // 2) for n in range(12)))
        await w.after(300.0)
        assert {ref.call_id for _, ref in w.twilio.asked} == {
            new_call(f"call-{n}") for n in range(12)
        }


async def test_a_call_is_named_as_its_carrier_knows_it(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        leg = later("a", T.LEG_ANSWERED, -1.0, "telnyx", control_id="of the leg")
        room = later("a", T.SIP_JOINED, -2.0, "livekit", room="a-room", provider_call_id="other")
        await w.told(leg, room, begun("a", source="telnyx", control_id="of the call"))
        await w.after(180.0)
        [(_, ref)] = w.telnyx.asked[:1]
        assert ref == CallRef(new_call("a"), "id-a", "AC1", "of the call", "a-room")


async def test_what_the_log_can_not_take_is_told_later_and_once(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.twilio.answer, w.log.unavailable = OVER, True
        await w.told(begun("a"))
        await w.after(180.0)
        assert w.log.all(CALLS_TOPIC) == []
        w.log.unavailable = False
        await w.after(600.0)  # the record learns nothing here, so it is told more than once
        assert len(w.twilio.asked) > 2
        assert len(w.log.all(CALLS_TOPIC)) == 1


class _BrokenDisk(FakeLog):
    @override
    async def append(self, *args: Any) -> Appended:
        raise LogFailed("fsync")


async def test_a_failed_disk_ends_the_process(tmp_path: Path) -> None:
    settings = load(overrides={"data_dir": str(tmp_path)})
    await migrate(settings)
    async with open_database(settings) as database:
        w = World(database, settings, _BrokenDisk())
        w.twilio.answer = OVER
        await w.told(initiated(new_call("a"), ZERO - 200.0))
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.gather(w.sweeper.run(), w.clock.advance(40.0))
        assert caught.group_contains(LogFailed)
