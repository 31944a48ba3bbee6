"""Connected calls are looked after until their caller is gone: the caller, and the agent.

The first part needs no webhook; the second loses the agent in the middle of a call.
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from consumers.dispatch.plan import presence
from router.errors import Ambiguous, EffectError, Permanent
from router.events.model import Event
from router.events.types import CALLS_TOPIC
from router.events.types import EventType as T
from router.observability.metrics import CALLERS_IN_SILENCE, SILENT_CALLERS
from router.provider import Carrier
from router.providers.livekit.events import participant_event
from tests.support import fake_time
from tests.support.fake_dispatch import Process, World, process
from tests.support.fake_events import event, initiated, new_call
from tests.support.fake_rooms import FakeRooms, Fate
from tests.support.fake_time import START
from tests.support.ingress import logged

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


@dataclass
class FakeCarrier:
    """Takes callers whose agent was lost, unless `error`; they leave LiveKit's room."""

    world: World
    error: EffectError | None = None
    taken: list[tuple[str, str]] = field(default_factory=list)  # call_id, number

    async def redirect(self, call: Event, fallback: str) -> None:
        if self.error is not None:
            raise self.error
        self.taken.append((call.call_id, fallback))
        self.world.rooms.caller_leaves(call.call_id)


def lost_world(**rooms: Any) -> tuple[World, FakeCarrier]:
    """A call whose caller is there and whose carrier takes him back; LiveKit tells everything."""
    world = World(FakeRooms(**rooms))
    carrier = FakeCarrier(world)
    world.carriers["twilio"] = Carrier(redirect=carrier.redirect)
    world.all_webhooks()
    world.rooms.caller_joins(CALL, **{"sip.callStatus": "active", "sip.ruleID": "SDR_1"})
    return world, carrier


async def connected(world: World, *, without_fallback: bool = False) -> None:
    given = initiated(CALL)
    if without_fallback and given.data.decision is not None:
        decision = msgspec.structs.replace(given.data.decision, fallback="")
        data = msgspec.structs.replace(given.data, decision=decision)
        given = msgspec.structs.replace(given, data=data)
    await world.tell(given)
    await asyncio.sleep(5.0)
    assert world.state(CALL) == "ready"


async def heard_again(world: World, within: float) -> float:
    """Seconds until the caller hears an agent."""
    began = world.clock.monotonic()
    while world.clock.monotonic() - began < within:
        if presence(await world.rooms.participants(CALL), "lk-anna").ready and not any(
            made.killed and not made.gone for made in world.rooms.made
        ):
            return world.clock.monotonic() - began
        await asyncio.sleep(0.05)
    raise AssertionError(f"nobody was heard for {within} s: {world.told(CALL)}")


@pytest.mark.parametrize("reason", ["CONNECTION_TIMEOUT", "SIGNAL_CLOSE", "CLIENT_INITIATED", ""])
def test_an_agent_that_leaves_its_caller_is_replaced(reason: str) -> None:
    async def scenario() -> None:
        world, carrier = lost_world()
        async with process(world):
            await connected(world)
            world.rooms.agents_leave(CALL, reason)
            assert await heard_again(world, within=3.0)
            await asyncio.sleep(10.0)
            assert (world.state(CALL), world.rooms.inside(CALL)) == ("ready", 1)
            assert [
                json.loads(made.metadata)["dispatch"]["attempt"] for made in world.rooms.made
            ] == [1, 3]
        assert carrier.taken == []
        assert T.AGENT_MISSING not in world.told(CALL)
        assert world.told(CALL).count(T.AGENT_DISPATCHED) == 2
        assert world.told(CALL).count(T.AGENT_READY) == 2

    fake_time.run(scenario())


@pytest.mark.parametrize(("knows_rpc", "within"), [(True, 3.0), (False, 23.0)])
def test_an_agent_whose_process_is_killed_is_found_out(knows_rpc: bool, within: float) -> None:
    """LiveKit lists it for 21 s, publishing; asked, it does not answer. Old SDKs never do."""

    async def scenario() -> None:
        world, _ = lost_world(knows_rpc=knows_rpc)
        async with process(world):
            await connected(world)
            await asyncio.sleep(30.0)
            assert len(world.rooms.made) == 1  # who can't answer is not taken for dead
            world.rooms.kill_agents(CALL)
            taken = await heard_again(world, within=within)
            assert knows_rpc or taken > 20.0
            await asyncio.sleep(30.0)
            assert (world.state(CALL), world.rooms.inside(CALL)) == ("ready", 1)

    fake_time.run(scenario())


def test_a_goodbye_is_no_loss() -> None:
    async def scenario() -> None:
        world, carrier = lost_world()
        async with process(world):
            await connected(world)
            world.rooms.agents_leave(CALL, "CLIENT_INITIATED")
            await asyncio.sleep(1.0)
            world.rooms.caller_leaves(CALL)
            await asyncio.sleep(20.0)
            assert world.state(CALL) == "over"
        assert (len(world.rooms.made), carrier.taken) == (1, [])

    fake_time.run(scenario())


@pytest.mark.parametrize("who", ["phone", "browser"])
def test_an_agent_that_brought_somebody_in_is_replaced_when_they_have_left(who: str) -> None:
    async def scenario() -> None:
        world, _ = lost_world()
        async with process(world):
            await connected(world)
            if who == "phone":
                human = world.rooms.caller_joins(CALL, "PA_human", **{"sip.callID": "SCL_2"})
            else:
                human = world.rooms.person_joins(CALL)
            world.rooms.agents_leave(CALL)
            await asyncio.sleep(30.0)
            assert len(world.rooms.made) == 1
            world.rooms.caller_leaves(CALL, "PA_human")
            world.rooms.people.clear()
            kind = T.SIP_LEFT if who == "phone" else T.PROVIDER_UNKNOWN
            raw = {"event": "participant_left"}
            left = participant_event(kind, CALL, human, time=world.clock.now(), raw=raw)
            await world.tell(left)
            assert await heard_again(world, within=3.0)

    fake_time.run(scenario())


@pytest.mark.parametrize("fallback", [True, False])
def test_where_nobody_comes_the_caller_is_put_through_or_told(fallback: bool) -> None:
    async def scenario() -> None:
        fates = [Fate.WELL]
        world, carrier = lost_world(fate=lambda: fates.pop() if fates else Fate.SWALLOWED)
        async with process(world):
            await connected(world, without_fallback=not fallback)
            world.rooms.agents_leave(CALL, "CONNECTION_TIMEOUT")
            await asyncio.sleep(7.5)
            assert carrier.taken == []
            await asyncio.sleep(2.0)
            assert carrier.taken == [(CALL, "+14155550111" if fallback else "")]
            assert world.state(CALL) == "missing"
            await asyncio.sleep(60.0)
            assert world.rooms.agents(CALL) == 0
        assert len(carrier.taken) == 1
        assert world.told(CALL).count(T.CALL_FORWARDED) == fallback
        assert len(world.rooms.made) == 3  # the one that was heard, and two tries

    fake_time.run(scenario())


def test_an_agent_that_dies_again_and_again_is_not_brought_for_ever() -> None:
    async def scenario() -> None:
        world, carrier = lost_world()
        async with process(world):
            await connected(world)
            for _ in range(10):
                world.rooms.agents_leave(CALL, "CONNECTION_TIMEOUT")
                await asyncio.sleep(2.0)
            assert carrier.taken == [(CALL, "+14155550111")]
            assert len(world.rooms.made) == 4

    fake_time.run(scenario())


@pytest.mark.parametrize("error", [Permanent("no token"), Ambiguous("away"), None])
@pytest.mark.parametrize("transfers", [True, False])
def test_a_carrier_that_can_not_be_told_leaves_nobody_in_silence(
    error: EffectError | None, transfers: bool
) -> None:
    async def scenario() -> None:
        fates = [Fate.WELL]
        world, carrier = lost_world(fate=lambda: fates.pop() if fates else Fate.SWALLOWED)
        world.rooms.transfers = transfers
        carrier.error = error
        if error is None:
            world.carriers.clear()
        async with process(world):
            await connected(world)
            world.rooms.agents_leave(CALL, "CONNECTION_TIMEOUT")
            await asyncio.sleep(25.0)
            assert not world.rooms.sip[CALL]
            to = [(CALL, "sip_caller", "tel:+14155550111")]
            assert world.rooms.transferred == (to if transfers else [])

    with logged():
        fake_time.run(scenario())


@pytest.mark.parametrize("joined_for", [0.05, 0.2])
def test_an_agent_that_leaves_before_it_was_heard_is_replaced_at_once(joined_for: float) -> None:
    async def scenario() -> None:
        world, _ = lost_world()
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(0.6 + joined_for)
            world.rooms.agents_leave(CALL, "SIGNAL_CLOSE")
            assert await heard_again(world, within=1.2)
            await asyncio.sleep(5.0)
            assert (world.state(CALL), len(world.rooms.made)) == ("ready", 2)

    fake_time.run(scenario())


@pytest.mark.parametrize("latency", [0.004, 0.2, 0.6])
@pytest.mark.parametrize("heard_at", [3.7, 3.9, 3.98, 4.0, 4.02, 4.1, 4.3, 4.6, 8.0, 8.2, 8.5])
def test_an_agent_heard_at_the_edge_of_the_deadline_is_not_taken_from_its_caller(
    heard_at: float, latency: float
) -> None:
    """Between the look and the withdrawal lie writes of the database; the caller must not care."""

    async def scenario() -> None:
        first = [Fate.STUBBORN] if heard_at > 6 else []
        world, carrier = lost_world(fate=lambda: first.pop() if first else Fate.WELL)
        world.rooms.tardy = world.rooms.join_after = heard_at - 0.3
        world.claims._latency = latency
        async with process(world):
            await world.tell(initiated(CALL))
            alone = 0.0
            was_heard = False
            for _ in range(2500):
                await asyncio.sleep(0.01)
                if not world.rooms.sip[CALL]:
                    break  # turned away, or put through
                seen = presence(await world.rooms.participants(CALL), "lk-anna")
                was_heard = was_heard or seen.ready
                alone = 0.0 if seen.ready or not was_heard else alone + 0.02
                assert alone < 5.0, world.told(CALL)
            assert carrier.taken or was_heard
            if world.rooms.sip[CALL]:
                assert world.rooms.inside(CALL) == 1

    with logged():
        fake_time.run(scenario())


def test_a_process_that_dies_while_it_replaces_an_agent_leaves_it_to_another() -> None:
    async def scenario() -> None:
        world, _ = lost_world()
        doomed = Process(world, "doomed")
        await connected(world)
        world.rooms.agents_leave(CALL, "CONNECTION_TIMEOUT")
        while world.state(CALL) != "dispatching":  # noqa: ASYNC110 - of a database there is no event
            await asyncio.sleep(0.001)
        await doomed.crash()
        async with process(world, "heir"):
            assert await heard_again(world, within=20.0)
            await asyncio.sleep(10.0)
            assert (world.state(CALL), world.rooms.inside(CALL)) == ("ready", 1)

    fake_time.run(scenario())


def test_the_room_is_deleted_once_however_often_the_end_is_told() -> None:
    async def scenario() -> None:
        world, _ = lost_world()
        async with process(world):
            await connected(world)
            caller = world.rooms.sip[CALL]["PA_caller"]
            world.rooms.caller_leaves(CALL)
            await world.tell(participant_event(T.SIP_LEFT, CALL, caller, time=world.clock.now()))
            for n in range(3):
                await world.tell(event(CALL, T.CALL_ENDED, 5.0 + n))
            await asyncio.sleep(3.0)
            assert world.rooms.closed == [CALL]

    fake_time.run(scenario())


@pytest.mark.parametrize(("webhooks", "each"), [(True, 3.2), (False, 6.0)])
def test_requests_of_many_calls_fit_a_budget(webhooks: bool, each: float) -> None:
    """Two hundred calls in twenty seconds; their polls and pings take what is left over."""

    async def scenario() -> None:
        world = World()
        if webhooks:
            world.all_webhooks()
        calls = [new_call(f"many-{n}") for n in range(200)]
        async with process(world):
            for call in calls:
                world.rooms.caller_joins(call)
                await world.tell(initiated(call))
                await asyncio.sleep(0.1)
            await asyncio.sleep(6.0)
            assert {world.state(call) for call in calls} == {"ready"}
            assert world.rooms.asked <= each * len(calls)
            assert world.rooms.pinged <= 50 + 26 * 5

    fake_time.run(scenario())


def test_a_caller_in_silence_is_counted() -> None:
    async def scenario() -> None:
        before = SILENT_CALLERS._value.get()
        fates = [Fate.WELL]
        world, carrier = lost_world(fate=lambda: fates.pop() if fates else Fate.SWALLOWED)
        async with process(world):
            await connected(world)
            world.rooms.agents_leave(CALL, "CONNECTION_TIMEOUT")
            await asyncio.sleep(4.0)
            assert CALLERS_IN_SILENCE._value.get() == 0
            await asyncio.sleep(3.0)
            assert CALLERS_IN_SILENCE._value.get() == 1
            await asyncio.sleep(5.0)
            assert carrier.taken
            assert CALLERS_IN_SILENCE._value.get() == 0
        assert SILENT_CALLERS._value.get() - before == 1

    with logged():
        fake_time.run(scenario())


def test_a_caller_whose_agent_is_lost_does_not_wait_for_the_database() -> None:
    async def scenario() -> None:
        world, carrier = lost_world()
        async with process(world):
            await connected(world)
            world.claims.unavailable = True
            await asyncio.sleep(1.0)
            world.rooms.kill_agents(CALL)
            await asyncio.sleep(12.0)
            assert carrier.taken == [(CALL, "+14155550111")]
            world.claims.unavailable = False
            await asyncio.sleep(20.0)
            assert world.state(CALL) == "over"
            assert len(carrier.taken) == len(world.rooms.made) == 1

    with logged():
        fake_time.run(scenario())
