"""The calls consumer on both databases: batches, and what several processes make of one call."""

import asyncio
from pathlib import Path
from random import Random

from config import load
from consumers.calls.handler import Recorder
from consumers.calls.plan import TELLING
from consumers.calls.sweep import Sweeper
from consumers.consumer import Done
from router.clock import SystemClock
from router.events.ids import DEFAULT_ACCOUNT
from router.events.types import EventType as T
from router.storage import calls
from router.storage.engine import Database
from tests.support.call_histories import history
from tests.support.fake_events import event, fold, initiated, new_call
from tests.support.fake_log import FakeLog


async def test_an_event_that_the_database_refuses_keeps_no_other_one_out(
    db: Database, tmp_path: Path
) -> None:
    settings, clock = load(overrides={"data_dir": str(tmp_path)}), SystemClock()
    recorder = Recorder(db, clock, Sweeper(db, FakeLog(), {}, settings.calls, clock))
    storing = asyncio.create_task(recorder.run())
    # PostgreSQL's text holds no NUL; of another producer's event nobody has looked.
    told = [initiated(new_call("a")), event("a\0b", T.CALL_RINGING, 1.0), initiated(new_call("b"))]
    outcomes = await asyncio.gather(*map(recorder.handle, told), return_exceptions=True)
    storing.cancel()
    await asyncio.wait([storing])
    assert (outcomes[0], outcomes[2]) == (Done(), Done())
    for each in (told[0], told[2]):
        assert await calls.events(db, each.call_id) == [each]


async def test_calls_are_recorded_alike_in_whatever_pieces_two_processes_get_them(
    db: Database, other: Database
) -> None:
    """As in a rebalance: each of them reads everything, in another order, some of it twice."""
    told = [event for seed in range(12) for event in history(seed)[0]]

    async def read(database: Database, seed: int) -> None:
        random = Random(seed)
        delivered = told + random.choices(told, k=len(told) // 2)
        random.shuffle(delivered)
        while delivered:
            size = random.randint(1, 30)
            batch, delivered = delivered[:size], delivered[size:]
            await calls.record(database, batch, fold, telling=TELLING)

    await asyncio.gather(*(read(each, n) for n, each in enumerate((db, other, db, other))))
    for call in {each.call_id for each in told}:
        assert await calls.get(db, DEFAULT_ACCOUNT, call) == fold(
            [each for each in told if each.call_id == call]
        )
