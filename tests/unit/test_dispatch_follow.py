"""Connected calls are looked after until their caller is gone, without any webhook."""

import asyncio

import msgspec
import pytest

from router.events.types import CALLS_TOPIC
from router.events.types import EventType as T
from router.providers.livekit.events import participant_event
from tests.support import fake_time
from tests.support.fake_dispatch import World, process
from tests.support.fake_events import event, initiated, new_call
from tests.support.fake_time import START

CALL = new_call("followed")


@pytest.mark.parametrize("joined_after", [0.1, 8.0])
def test_a_caller_who_left_unheard_is_noticed_and_the_room_closed(joined_after: float) -> None:
    async def scenario() -> None:
        world = World()
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(joined_after)
            caller = world.rooms.caller_joins(CALL)
            await asyncio.sleep(20.0)
            assert world.state(CALL) == "ready"
            world.rooms.caller_leaves(CALL)
            await asyncio.sleep(12.0)
            assert world.state(CALL) == "over"
            assert world.rooms.agents(CALL) == 0
        webhook = participant_event(T.SIP_LEFT, CALL, caller, time=START)
        told = [e.id for e in world.log.events(CALLS_TOPIC) if e.type is T.SIP_LEFT]
        assert told == [webhook.id]

    fake_time.run(scenario())


@pytest.mark.parametrize("told", [True, False])
def test_the_last_leg_of_a_transfer_is_the_end_although_the_callers_was_told_before(
    told: bool,
) -> None:
    """LiveKit's webhook closes nothing while somebody who was dialled is there, and comes once."""

    async def scenario() -> None:
        world = World()
        async with process(world):
            await world.tell(initiated(CALL))
            caller = world.rooms.caller_joins(CALL)
            human = world.rooms.caller_joins(CALL, "PA_human", **{"sip.callID": "SCL_2"})
            await asyncio.sleep(12.0)
            world.rooms.caller_leaves(CALL)
            await world.tell(participant_event(T.SIP_LEFT, CALL, caller, time=START))
            await asyncio.sleep(12.0)
            assert (world.state(CALL), world.rooms.agents(CALL)) == ("ready", 1)
            world.rooms.caller_leaves(CALL, "PA_human")
            if told:
                await world.tell(participant_event(T.SIP_LEFT, CALL, human, time=START))
            await asyncio.sleep(12.0)
            assert (world.state(CALL), world.rooms.agents(CALL)) == ("over", 0)

    fake_time.run(scenario())


def test_a_room_that_is_gone_with_its_caller_is_the_end_too() -> None:
    async def scenario() -> None:
        world = World()
        world.rooms.caller_joins(CALL)
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(3.0)
            await world.rooms.delete_room(CALL)
            await asyncio.sleep(12.0)
            assert world.state(CALL) == "over"

    fake_time.run(scenario())


def test_an_agent_whose_caller_never_came_is_not_kept_for_ever() -> None:
    async def scenario() -> None:
        world = World()
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(50.0)
            assert world.rooms.agents(CALL) == 1
            await asyncio.sleep(25.0)
            assert world.rooms.agents(CALL) == 0
            assert world.state(CALL) == "over"

    fake_time.run(scenario())


def test_where_the_provider_carries_the_audio_no_caller_is_waited_for() -> None:
    async def scenario() -> None:
        world = World()
        given = initiated(CALL)
        data = msgspec.structs.replace(given.data, media="provider")
        async with process(world):
            await world.tell(msgspec.structs.replace(given, data=data))
            await asyncio.sleep(500.0)
            assert world.state(CALL) == "ready"
            assert world.rooms.agents(CALL) == 1

    fake_time.run(scenario())


def test_livekit_away_says_nothing_about_the_caller() -> None:
    async def scenario() -> None:
        world = World()
        world.rooms.caller_joins(CALL)
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(3.0)
            world.rooms.down = True
            await asyncio.sleep(100.0)
            world.rooms.down = False
            await asyncio.sleep(20.0)
            assert world.state(CALL) == "ready"
        assert T.SIP_LEFT not in world.told(CALL)

    fake_time.run(scenario())


def test_calls_that_go_on_cost_one_request_for_all_of_them() -> None:
    async def scenario() -> None:
        world = World()
        calls = [new_call(f"goes-on-{n}") for n in range(100)]
        async with process(world):
            for call in calls:
                world.rooms.caller_joins(call)
                await world.tell(initiated(call))
            await asyncio.sleep(60.0)
            asked = world.rooms.asked
            await asyncio.sleep(600.0)
            assert world.rooms.asked - asked <= 70
            assert {world.state(call) for call in calls} == {"ready"}
            world.rooms.caller_leaves(calls[50])
            await asyncio.sleep(15.0)
            assert world.state(calls[50]) == "over"

    fake_time.run(scenario())


def test_many_rooms_whose_callers_vanished_are_looked_into_at_a_pace() -> None:
    async def scenario() -> None:
        world = World()
        calls = [new_call(f"vanished-{n}") for n in range(300)]
        async with process(world):
            for call in calls:
                world.rooms.caller_joins(call)
                await world.tell(initiated(call))
            await asyncio.sleep(120.0)
            world.rooms.sip.clear()
            asked = world.rooms.asked
            await asyncio.sleep(12.0)
            assert world.rooms.asked - asked < 400
            await asyncio.sleep(120.0)
            assert {world.state(call) for call in calls} == {"over"}

    fake_time.run(scenario())


def test_a_call_that_ended_is_not_asked_about_any_more() -> None:
    async def scenario() -> None:
        world = World()
        world.rooms.caller_joins(CALL)
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(3.0)
            await world.tell(event(CALL, T.CALL_ENDED, 3.0))
            await asyncio.sleep(1.0)
            asked = world.rooms.asked
            await asyncio.sleep(60.0)
            assert world.rooms.asked == asked

    fake_time.run(scenario())
