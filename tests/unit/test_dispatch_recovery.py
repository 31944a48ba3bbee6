"""After an outage or with a backlog: live callers are served, callers who left are not.

In virtual time; with the claims and LiveKit that count what they are asked.
"""

import asyncio

import pytest

from router.events.types import CALLS_TOPIC, dead_topic
from router.events.types import EventType as T
from tests.support import fake_time
from tests.support.fake_dispatch import Process, World, process
from tests.support.fake_events import event, initiated, new_call

CALL = new_call("waiting")
DEAD = dead_topic(CALLS_TOPIC)


def _call(number: int) -> str:
    return new_call(f"backlog-{number}")


def test_a_backlog_costs_nothing_and_holds_up_no_live_call() -> None:
    async def scenario() -> None:
        world = World()
        for number in range(3000):
            await world.tell(initiated(_call(number), -300.0))
            await world.tell(event(_call(number), T.CALL_ENDED, -270.0))
        async with process(world):
            for number in range(20):
                now = asyncio.get_running_loop().time()
                await world.tell(initiated(new_call(f"live-{number}"), now))
                await asyncio.sleep(0.1)
            await asyncio.sleep(3.0)
            live = {world.state(new_call(f"live-{number}")) for number in range(20)}
        assert live == {"ready"}
        told = [each.type for each in world.log.events(CALLS_TOPIC)]
        assert told.count(T.CALL_EXPIRED) == 3000
        assert len(world.rooms.made) == 20
        assert world.claims.questions < 1000  # most of them of the 20
        assert world.log.all(DEAD) == []

    fake_time.run(scenario())


def test_the_newest_caller_is_served_first() -> None:
    async def scenario() -> None:
        world = World()
        world.claims.unavailable = True
        async with process(world):
            for number in range(200):
                await world.tell(initiated(_call(number), number / 10))
            await asyncio.sleep(19.0)
            world.claims.unavailable = False
            await world.tell(initiated(CALL, 19.0))
            await asyncio.sleep(1.0)
            assert world.state(CALL) in ("dispatched", "ready")

    fake_time.run(scenario())


@pytest.mark.parametrize("end", [T.CALL_FORWARDED, T.CALL_ENDED])
@pytest.mark.parametrize("claimed", [False, True], ids=["before-the-claim", "after-the-claim"])
def test_who_left_during_an_outage_of_the_database_gets_no_agent(end: T, claimed: bool) -> None:
    async def scenario() -> None:
        world = World()
        world.claims.unavailable = not claimed
        async with process(world):
            world.rooms.down = claimed
            await world.tell(initiated(CALL))
            await asyncio.sleep(0.5)
            world.claims.unavailable = True
            await asyncio.sleep(9.5)
            await world.tell(event(CALL, end, 10.0))
            await asyncio.sleep(11.0)
            world.claims.unavailable = world.rooms.down = False
            await asyncio.sleep(20.0)
            assert world.state(CALL) == "over"
        assert world.rooms.made == []
        assert world.log.all(DEAD) == []

    fake_time.run(scenario())


def test_who_left_before_the_process_was_started_again_gets_no_agent() -> None:
    """Also where what tells of it is far behind the call's beginning in the log."""

    async def scenario() -> None:
        world = World()
        await world.tell(initiated(CALL))
        for number in range(1000):
            await world.tell(event(_call(number), T.CALL_RINGING, 1.0))
        await world.tell(event(CALL, T.CALL_ENDED, 5.0))
        await asyncio.sleep(10.0)
        async with process(world):
            await asyncio.sleep(2.0)
            assert world.state(CALL) == "over"
        assert world.rooms.made == []

    fake_time.run(scenario())


def test_what_the_process_left_that_was_killed_is_taken_at_once() -> None:
    async def scenario() -> None:
        world = World()
        killed = Process(world, "seat-0/killed", seat="seat-0")
        world.rooms.down = True
        await world.tell(*(initiated(_call(number)) for number in range(30)))
        await asyncio.sleep(1.0)
        await killed.crash()
        world.rooms.down = False
        other = Process(world, "seat-1/other", seat="seat-1")
        await asyncio.sleep(3.0)
        assert {world.state(_call(number)) for number in range(30)} == {"claimed"}
        heir = Process(world, "seat-0/heir", seat="seat-0")
        await asyncio.sleep(1.5)
        assert {world.state(_call(number)) for number in range(30)} == {"ready"}
        assert all(world.rooms.agents(_call(number)) == 1 for number in range(30))
        await other.stop()
        await heir.stop()

    fake_time.run(scenario())
