"""The dispatch consumer in several processes: crashes, stops, stuck ones. In virtual time."""

import asyncio

import msgspec
import pytest

from router.events.types import EventType as T
from tests.support import fake_time
from tests.support.fake_dispatch import Process, World, process
from tests.support.fake_events import initiated, new_call
from tests.support.fake_rooms import FakeRooms, Fate

CALL = new_call("shared")


def _first(fate: Fate) -> FakeRooms:
    left = [fate]
    return FakeRooms(fate=lambda: left.pop() if left else Fate.WELL)


@pytest.mark.parametrize(
    "at", [0.002, 0.006, 0.012, 0.018, 0.022, 0.03, 0.3, 0.7, 1.0, 3.9, 4.02, 4.05, 4.1]
)
@pytest.mark.parametrize("fate", [Fate.WELL, Fate.SWALLOWED, Fate.LOST])
def test_a_crash_at_any_moment_leaves_the_call_to_another_process(fate: Fate, at: float) -> None:
    async def scenario() -> None:
        world = World(_first(fate))
        world.rooms.caller_joins(CALL)
        doomed = Process(world, "doomed")
        await world.tell(initiated(CALL))
        await asyncio.sleep(at)
        await doomed.crash()
        async with process(world, "heir"):
            await asyncio.sleep(30.0)
            assert world.state(CALL) == "ready"
        assert world.rooms.agents(CALL) == 1
        assert world.settled[0][1] == 1
        assert world.told(CALL).count(T.CALL_INITIATED) == 1

    fake_time.run(scenario())


@pytest.mark.parametrize("at", [0.012, 0.018, 0.3, 0.7])
def test_a_process_that_stops_hands_its_calls_over_at_once(at: float) -> None:
    async def scenario() -> None:
        world = World()
        async with process(world, "stays"):
            leaving = Process(world, "leaving")
            await asyncio.sleep(1.0)
            before = asyncio.get_running_loop().time()
            await asyncio.gather(*(world.tell(initiated(_call(n), before)) for n in range(8)))
            await asyncio.sleep(at)
            await leaving.stop()
            await asyncio.sleep(before + 7.0 - asyncio.get_running_loop().time())
            assert {world.state(_call(n)) for n in range(8)} == {"ready"}
        assert all(world.rooms.agents(_call(n)) == 1 for n in range(8))
        assert len(world.rooms.made) <= 8 + 1  # what was under way is found, not made again

    fake_time.run(scenario())


def _call(number: int) -> str:
    return new_call(f"handed-{number}")


def test_a_dispatch_that_outlasts_the_lease_is_given_back() -> None:
    async def scenario() -> None:
        world = World(_first(Fate.SLOW))
        world.rooms.caller_joins(CALL)
        sleeper = Process(world, "sleeper")
        await world.tell(initiated(CALL))
        await asyncio.sleep(0.1)
        assert world.claims.rows[CALL].owner == "sleeper"
        sleeper._tasks[1].cancel()  # it does not take over what it let go itself
        async with process(world, "awake"):
            await asyncio.sleep(16.9)
            assert world.state(CALL) == "ready"
            assert world.rooms.agents(CALL) == 1
            await asyncio.sleep(0.5)  # the sleeper's dispatch arrives, and goes
            assert len(world.rooms.made) == 2
            assert world.rooms.agents(CALL) == 1
            assert not world.rooms.made[0].deleted
        await sleeper.crash()

    fake_time.run(scenario())


def test_the_same_event_read_by_two_processes_starts_one_agent() -> None:
    async def scenario() -> None:
        world = World()
        async with process(world, "p1") as one, process(world, "p2") as two:
            await asyncio.gather(
                *(each.consumer.handle(initiated(CALL)) for each in (one, two, one, two))
            )
            await world.tell(initiated(CALL))
            await asyncio.sleep(3.0)
            assert world.state(CALL) == "ready"
        assert len(world.rooms.made) == 1

    fake_time.run(scenario())


def test_a_late_copy_of_a_call_that_was_served_does_not_expire_it() -> None:
    async def scenario() -> None:
        world = World()
        world.rooms.caller_joins(CALL)
        async with process(world) as running:
            await running.consumer.handle(initiated(CALL))  # from the journal: Kafka is away
            await asyncio.sleep(300.0)
            await world.tell(initiated(CALL))  # Kafka is back
            await asyncio.sleep(2.0)
            assert world.state(CALL) == "ready"
        assert T.CALL_EXPIRED not in world.told(CALL)
        assert len(world.rooms.made) == 1

    fake_time.run(scenario())


def test_a_claim_left_over_for_longer_than_the_ring_window_expires() -> None:
    async def scenario() -> None:
        world = World()
        doomed = Process(world, "doomed")
        await world.tell(initiated(CALL))
        await asyncio.sleep(0.012)
        await doomed.crash()
        assert world.state(CALL) == "claimed"
        await asyncio.sleep(100.0)
        async with process(world, "heir"):
            await asyncio.sleep(3.0)
            assert world.state(CALL) == "expired"
            await asyncio.sleep(2.0)
        assert world.rooms.agents(CALL) == 0

    fake_time.run(scenario())


def test_a_call_left_over_for_long_whose_people_are_talking_is_not_cut() -> None:
    async def scenario() -> None:
        world = World()
        doomed = Process(world, "doomed")
        await world.tell(initiated(CALL))
        await asyncio.sleep(0.025)
        await doomed.crash()  # the dispatch was made, and not written down
        assert (world.state(CALL), len(world.rooms.made)) == ("claimed", 1)
        world.rooms.caller_joins(CALL)
        await asyncio.sleep(100.0)
        async with process(world, "heir"):
            await asyncio.sleep(5.0)
            assert world.state(CALL) == "ready"
        assert world.rooms.closed == []
        assert world.rooms.agents(CALL) == 1

    fake_time.run(scenario())


def test_a_claim_that_can_not_be_read_is_left_to_the_version_that_wrote_it() -> None:
    async def scenario() -> None:
        world = World()
        strange, plain = _call(1), _call(2)
        for call, initial in (
            (strange, b'{"type": 5}'),
            (plain, msgspec.json.encode(initiated(plain))),
        ):
            await world.claims.claim(
                call,
                owner="gone",
                lease=0.0,
                agent="anna",
                livekit_agent_name="lk-anna",
                initiated=initial,
            )
        async with process(world, "heir") as heir:
            await asyncio.sleep(20.0)
            assert (world.state(strange), world.state(plain)) == ("claimed", "ready")
            assert not heir.active._slots.locked()

    fake_time.run(scenario())
