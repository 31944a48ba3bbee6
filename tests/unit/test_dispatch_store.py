"""The dispatch consumer on the real database (SQLite), in real time."""

import asyncio
from pathlib import Path

from config import load
from consumers.dispatch.store import StoredClaims
from router.events.types import EventType as T
from router.storage.engine import open_database
from router.storage.migrate import migrate
from tests.support.fake_dispatch import World, process
from tests.support.fake_events import event, initiated, new_call
from tests.support.fake_rooms import FakeRooms


async def test_many_calls_come_and_go(tmp_path: Path) -> None:
    settings = load(overrides={"data_dir": str(tmp_path)})
    await migrate(settings)
    async with open_database(settings) as database:
        world = World(FakeRooms(join_after=0.05, speak_after=0.02, latency=0.001))
        world.webhooks()
        store = world.store = StoredClaims(database)
        calls = [new_call(f"stored-{n}") for n in range(20)]
        now = asyncio.get_running_loop().time()
        async with process(world):
            for call in calls:
                world.rooms.caller_joins(call)
            await world.tell(*(initiated(call, now) for call in calls))
            await _until(store, calls, "ready")
            assert all(world.rooms.agents(call) == 1 for call in calls)
            await world.tell(*(event(call, T.CALL_ENDED, now) for call in calls))
            await _until(store, calls, "over")
        assert all(world.rooms.agents(call) == 0 for call in calls)
        assert len(world.rooms.made) == 20
        assert all(world.told(call).count(T.AGENT_READY) == 1 for call in calls)


async def _until(store: StoredClaims, calls: list[str], state: str) -> None:
    async with asyncio.timeout(20.0):
        for call in calls:
            # Another thread, the database's, decides when.
            while (claim := await store.get(call)) is None or claim.state != state:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
