"""Of several processes on one PostgreSQL, one sweeps; when it is gone, another one does."""

import asyncio
from pathlib import Path

import pytest

from config import load
from consumers.calls.plan import TELLING, fold
from consumers.calls.sweep import Sweeper
from router.clock import SystemClock
from router.provider import CallRef, Carrier, Standing
from router.storage import calls
from router.storage.engine import open_database
from router.storage.migrate import migrate
from tests.support.fake_events import initiated, new_call
from tests.support.fake_log import FakeLog
from tests.support.nodes import eventually
from tests.support.servers.postgres import Postgres


@pytest.mark.postgres
async def test_one_process_sweeps_and_another_one_takes_over(
    tmp_path: Path, postgres: Postgres
) -> None:
    overrides = {
        "data_dir": str(tmp_path),
        "database": {"url": postgres.create_database("sweep")},
        "calls": {"sweep_after": 0.05},
    }
    settings = load(overrides=overrides)
    patient = settings.calls.model_copy(update={"max_duration": 1e9})  # the calls are of the past
    await migrate(settings)
    asked: list[tuple[int, str]] = []

    def carrier(process: int) -> Carrier:
        async def standing(ref: CallRef) -> Standing:
            asked.append((process, ref.call_id))
            return Standing(over=False)

        return Carrier(standing=standing)

    async with open_database(settings) as database:
        first, second = [
            asyncio.create_task(
                Sweeper(database, FakeLog(), {"twilio": carrier(n)}, patient, SystemClock()).run()
            )
            for n in range(2)
        ]
        await calls.record(database, [initiated(new_call("a"))], fold, telling=TELLING)
        await eventually(lambda: bool(asked))
        await calls.record(database, [initiated(new_call("b"))], fold, telling=TELLING)
        await eventually(lambda: new_call("b") in [call for _, call in asked])
        [leads] = {process for process, _ in asked}
        (first, second)[leads].cancel()
        await eventually(lambda: len({process for process, _ in asked}) == 2)
        first.cancel()
        second.cancel()
        await asyncio.wait([first, second])
