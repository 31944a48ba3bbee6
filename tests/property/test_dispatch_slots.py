"""However calls end, and whatever fails or is cancelled on the way, every place is free again.

A place that is lost is lost until the process ends: after `dispatch.concurrency` of them it would
serve nobody, and say nothing.
"""

import asyncio
from random import Random

import msgspec
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from router.events.types import EventType as T
from tests.support import fake_time
from tests.support.fake_dispatch import SETTINGS, Process, World
from tests.support.fake_events import event, initiated, new_call
from tests.support.fake_rooms import FakeRooms, Fate

PLACES = 3  # fewer than calls
_TROUBLE = 30.0  # seconds


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_after_all_calls_every_place_is_free(seed: int) -> None:
    note(f"seed {seed}")
    fake_time.run(_history(Random(seed)))


async def _history(random: Random) -> None:
    calls = [new_call(f"slots-{n}") for n in range(random.randint(1, 6))]

    def fate() -> Fate:
        in_trouble = asyncio.get_running_loop().time() < _TROUBLE and random.random() < 0.6
        return random.choice(list(Fate)) if in_trouble else Fate.WELL

    world = World(
        FakeRooms(fate=fate), settings=SETTINGS.model_copy(update={"concurrency": PLACES})
    )
    process = Process(world, "p1", random.randrange(99))
    beside: set[asyncio.Task[object]] = set()
    while asyncio.get_running_loop().time() < _TROUBLE:
        await asyncio.sleep(random.choice([0.0, 0.001, 0.004, 0.01, 0.3, 1.0, 4.0]))
        await _disturb(world, process, random.choice(calls), random, beside)
    world.rooms.down = world.claims.unavailable = world.claims.lose_answers = False
    await asyncio.sleep(40.0)  # longer than any lease
    for call in calls:
        await world.tell(event(call, T.CALL_ENDED, asyncio.get_running_loop().time()))
    await asyncio.sleep(100.0)  # and than the ring window
    for task in beside:
        task.cancel()
    await asyncio.gather(*beside, return_exceptions=True)
    await _assert_free(process)
    await process.stop()


async def _disturb(
    world: World,
    process: Process,
    call: str,
    random: Random,
    beside: set[asyncio.Task[object]],
) -> None:
    now = asyncio.get_running_loop().time()
    match random.randrange(8):
        case 0 | 1:
            await world.tell(initiated(call, now))
        case 2:
            world.rooms.caller_joins(call)
        case 3:
            world.rooms.down = random.random() < 0.4
        case 4:
            world.claims.unavailable = random.random() < 0.3
        case 5:
            world.claims.lose_answers = random.random() < 0.3
        case 6:
            world.log.rewind("dispatch")
        case _:  # a handler whose time is up, as the runner's are, or that is about to end
            kind = random.choice([T.CALL_INITIATED, T.CALL_ENDED, T.SIP_LEFT, T.AGENT_READY])
            told = initiated(call, now) if kind is T.CALL_INITIATED else event(call, kind, now)
            handling: asyncio.Task[object] = asyncio.create_task(process.consumer.handle(told))
            beside.add(handling)
            await asyncio.sleep(random.choice([0.0, 0.002, 0.006, 5.0]))
            if random.random() < 0.7:
                handling.cancel()


async def _assert_free(process: Process) -> None:
    """As many places can be had as there are, and no more: none was given back twice."""
    async with asyncio.timeout(1.0):
        for _ in range(PLACES):
            await process.active.reserve()
    assert process.active._slots.locked()
    for _ in range(PLACES):
        process.active.free()


def test_a_claim_that_can_not_be_read_costs_no_place() -> None:
    """Written by a newer version, say: the event is tried again and again, for a minute."""

    async def scenario() -> None:
        world = World(settings=SETTINGS.model_copy(update={"concurrency": PLACES}))
        call = new_call("unreadable")
        await world.claims.claim(
            call, owner="dead", lease=0.0, agent="", livekit_agent_name="", initiated=b"{}"
        )
        process = Process(world, "p1")
        for _ in range(PLACES + 1):
            with pytest.raises(msgspec.ValidationError):
                await asyncio.wait_for(process.consumer.handle(initiated(call)), 5.0)
        await _assert_free(process)
        await process.stop()

    fake_time.run(scenario())


def test_a_connection_that_is_replaced_before_it_began_gives_its_place_back() -> None:
    async def scenario() -> None:
        world = World(settings=SETTINGS.model_copy(update={"concurrency": PLACES}))
        call = new_call("replaced")
        claim = await world.claims.claim(
            call,
            owner="p1",
            lease=15.0,
            agent="anna",
            livekit_agent_name="lk-anna",
            initiated=msgspec.json.encode(initiated(call)),
        )
        assert claim is not None
        process = Process(world, "p1")
        for _ in range(2):
            await process.active.reserve()
            process.active.begin(claim, fresh=True)
        await asyncio.sleep(30.0)
        await _assert_free(process)
        await process.stop()

    fake_time.run(scenario())
