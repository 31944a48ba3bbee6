"""Whether this process brings agents at the moment: known without any caller who rings for it."""

import asyncio

import pytest

from router.dispatch_health import DATABASE, DispatchHealth
from router.errors import Permanent, StorageUnavailable, Transient
from tests.support import fake_time
from tests.support.fake_dispatch import Process, World
from tests.support.fake_events import initiated, new_call
from tests.support.fake_time import FakeClock


def _fail(health: DispatchHealth, error: Exception) -> None:
    with pytest.raises(type(error)), health.trying(DATABASE):
        raise error


def _works(health: DispatchHealth) -> None:
    with health.trying(DATABASE):
        pass


def test_two_failures_in_a_row_count_and_a_refusal_is_an_answer() -> None:
    async def scenario() -> None:
        health = DispatchHealth(FakeClock())
        _fail(health, StorageUnavailable("away"))
        assert health.trouble() == ""
        _works(health)
        _fail(health, StorageUnavailable("away"))
        _fail(health, Permanent("the agent's metadata is too large"))
        _fail(health, Transient("away"))
        assert health.trouble() == ""
        _fail(health, Transient("away"))
        assert health.trouble() == "the database can't be used"

    fake_time.run(scenario())


def test_it_is_over_a_moment_after_the_last_sign() -> None:
    async def scenario() -> None:
        health = DispatchHealth(FakeClock())
        _fail(health, Transient("away"))
        _fail(health, Transient("away"))
        assert health.trouble()
        _works(health)
        await asyncio.sleep(2.0)
        assert health.trouble()
        await asyncio.sleep(1.5)
        assert health.trouble() == ""

    fake_time.run(scenario())


def test_a_try_without_an_answer_and_no_try_at_all() -> None:
    async def scenario() -> None:
        health = DispatchHealth(FakeClock())
        with health.trying(DATABASE):
            await asyncio.sleep(2.0)
            assert health.trouble() == ""
            await asyncio.sleep(1.5)
            assert health.trouble() == "the database gives no answer"
        await asyncio.sleep(3.5)
        assert health.trouble() == ""
        await asyncio.sleep(5.1)
        assert health.trouble() == "the dispatch consumer does not run"

    fake_time.run(scenario())


@pytest.mark.parametrize("away", ["database", "livekit", "livekit-silent"])
def test_an_outage_and_its_end_are_noticed_without_a_call(away: str) -> None:
    async def scenario() -> None:
        world = World()
        running = Process(world, "p1", ingress=True)
        health = running.health
        assert health is not None
        await asyncio.sleep(20.0)
        assert health.trouble() == ""
        _switch(world, away, off=True)
        began = world.clock.monotonic()
        while not health.trouble():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.1)
        assert world.clock.monotonic() - began < 10.0
        await asyncio.sleep(30.0)
        assert health.trouble()
        _switch(world, away, off=False)
        began = world.clock.monotonic()
        while health.trouble():  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        assert 3.0 < world.clock.monotonic() - began < 12.0
        await running.stop()

    fake_time.run(scenario())


def _switch(world: World, away: str, *, off: bool) -> None:
    match away:
        case "database":
            world.claims.unavailable = off
        case "livekit":
            world.rooms.down = off
        case _:
            world.rooms.silent = off


def test_no_place_for_one_more_call_is_no_promise() -> None:
    async def scenario() -> None:
        world = World()
        world.rooms.silent = True
        running = Process(world, "p1", ingress=True)
        for number in range(world.settings.concurrency):
            await world.tell(initiated(new_call(f"stuck-{number}")))
        await asyncio.sleep(8.0)
        assert running.health is not None
        assert running.health.trouble()
        await running.stop()

    fake_time.run(scenario())
