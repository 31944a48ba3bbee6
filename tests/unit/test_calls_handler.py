"""The calls consumer on the real database (SQLite): shuffled events, and all of them twice."""

import asyncio
from pathlib import Path
from random import Random

from config import load
from consumers.calls import CONSUMER
from consumers.calls.handler import Recorder
from consumers.calls.sweep import Sweeper
from consumers.runner import Limits, Runner
from router.clock import SystemClock
from router.events.ids import DEFAULT_ACCOUNT, event_id
from router.events.model import Event, EventData
from router.events.types import CALLS_TOPIC
from router.events.types import EventType as T
from router.storage import calls
from router.storage.engine import open_database
from router.storage.migrate import migrate
from tests.support.fake_events import event, fold, initiated, new_call
from tests.support.fake_log import FakeLog
from tests.support.fake_time import START

LIMITS = Limits(in_flight=16, time_limit=10.0, grace=5.0)


def _events(call: str) -> list[Event]:
    return [
        initiated(call),
        event(call, T.CALL_RINGING, 0.2),
        event(call, T.CALL_ANSWERED, 1.0),
        event(call, T.CALL_ENDED, 9.0, disposition="answered", duration=8.0),
    ]


async def test_records_are_what_their_events_say(tmp_path: Path) -> None:
    settings = load(overrides={"data_dir": str(tmp_path)})
    await migrate(settings)
    names = [new_call(f"record-{n}") for n in range(10)]
    about_no_call = Event(
        id=event_id("x"),
        type=T.PROVIDER_UNKNOWN,
        source="livekit",
        time=START,
        key="x",
        data=EventData(),
    )
    told = [about_no_call, *(each for call in names for each in _events(call))]
    Random(5).shuffle(told)
    log, clock = FakeLog(), SystemClock()
    async with open_database(settings) as database:
        for each in told:
            await log.add(CALLS_TOPIC, each)
        stop = asyncio.Event()
        recorder = Recorder(database, clock, Sweeper(database, log, {}, settings.calls, clock))
        storing = asyncio.create_task(recorder.run())
        runner = Runner(
            CONSUMER,
            recorder,
            lambda on_revoke: log.reader((CALLS_TOPIC,), group="calls", on_revoke=on_revoke),
            log,
            clock,
            LIMITS,
        )
        running = asyncio.create_task(runner.run(stop))
        await _all_committed(log)
        log.groups["calls"].committed.clear()
        log.rewind("calls")  # read again: nothing may change
        await _all_committed(log)
        stop.set()
        await running
        storing.cancel()
        for call in names:
            assert await calls.get(database, DEFAULT_ACCOUNT, call) == fold(_events(call))
    assert log.all(f"{CALLS_TOPIC}.dead") == []


async def _all_committed(log: FakeLog) -> None:
    ends = {pair: entries[-1].position.offset for pair, entries in log.records.items()}
    async with asyncio.timeout(20.0):
        # Another thread, the database's, decides when.
        while "calls" not in log.groups or log.groups["calls"].committed != ends:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
