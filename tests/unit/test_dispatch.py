"""The dispatch consumer in one process: the agent comes, comes late, or never. Virtual time."""

import asyncio
import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from router.events.model import Decision
from router.events.types import CALLS_TOPIC, dead_topic
from router.events.types import EventType as T
from router.providers.livekit.events import participant_event
from tests.support import fake_time
from tests.support.fake_dispatch import World, process
from tests.support.fake_events import event, initiated, new_call
from tests.support.fake_rooms import FakeRooms, Fate
from tests.support.fake_time import START
from tests.support.ingress import logged

CALL = new_call("one")


def _fates(*fates: Fate) -> FakeRooms:
    """LiveKit that treats the first dispatches so, and later ones well."""
    left = list(fates)
    return FakeRooms(fate=lambda: left.pop(0) if left else Fate.WELL)


def test_the_agent_comes_and_everything_is_told() -> None:
    async def scenario() -> None:
        world = World()
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(0.3)
            world.rooms.caller_joins(CALL)
            await asyncio.sleep(2.0)
            assert world.state(CALL) == "ready"
        assert world.told(CALL) == [
            T.CALL_INITIATED,
            T.AGENT_DISPATCHED,
            T.AGENT_JOINED,
            T.AGENT_READY,
            T.SIP_JOINED,
        ]
        (made,) = world.rooms.made
        assert (made.room, made.agent_name) == (CALL, "lk-anna")
        assert json.loads(made.metadata)["metadata"] == {"greeting": "hello"}
        assert json.loads(made.metadata)["dispatch"] == {"attempt": 1, "fence": 1}

    fake_time.run(scenario())


def test_a_webhook_settles_the_call_before_the_poll_and_with_the_same_events() -> None:
    async def scenario() -> None:
        world = World(FakeRooms(join_after=0.1, speak_after=0.05))
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(0.25)
            assert world.state(CALL) == "dispatched"  # the poll's next look is at half a second
            (agent,) = await world.rooms.participants(CALL)
            for kind in (T.AGENT_JOINED, T.AGENT_READY):
                await world.tell(participant_event(kind, CALL, agent, time=START))
            await asyncio.sleep(0.1)
            assert world.state(CALL) == "ready"
            await asyncio.sleep(5.0)
        assert world.told(CALL).count(T.AGENT_JOINED) == 1
        assert world.told(CALL).count(T.AGENT_READY) == 1

    fake_time.run(scenario())


@pytest.mark.parametrize("fate", [Fate.SWALLOWED, Fate.TARDY])
def test_no_agent_by_the_deadline_is_dispatched_once_more(fate: Fate) -> None:
    async def scenario() -> None:
        world = World(_fates(fate))
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(4.4)
            assert world.state(CALL) == "dispatched"
            await asyncio.sleep(2.0)
            assert world.state(CALL) == "ready"
            await asyncio.sleep(10.0)
        first, second = world.rooms.made
        assert first.deleted
        assert not second.deleted
        assert json.loads(second.metadata)["dispatch"]["attempt"] == 2
        assert world.told(CALL).count(T.AGENT_DISPATCHED) == 2
        assert T.AGENT_MISSING not in world.told(CALL)

    fake_time.run(scenario())


@pytest.mark.parametrize(
    ("join_after", "speak_after"),
    [(0.6, 0.3), (3.5, 0.3), (3.5, 1.5)],  # with the last, it is not known at once which one stays
)
@pytest.mark.parametrize("webhooks", [True, False])
def test_an_agent_that_comes_although_it_was_withdrawn_is_not_a_second_one(
    join_after: float, speak_after: float, webhooks: bool
) -> None:
    """As with livekit-agents 1.8.9 in threads: who was told to stop while joining, joins."""

    async def scenario() -> None:
        world = World(_fates(Fate.STUBBORN))
        world.rooms.join_after, world.rooms.speak_after = join_after, speak_after
        if webhooks:
            world.webhooks()
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(0.3)
            world.rooms.caller_joins(CALL)
            await asyncio.sleep(20.0)
            assert world.state(CALL) == "ready"
            assert world.rooms.agents(CALL) == 1
            first, second = world.rooms.made
            assert (first.gone, second.gone) == (True, False)

    with logged():
        fake_time.run(scenario())


def test_of_two_agents_one_stays_although_livekit_never_says_whose_they_are() -> None:
    async def scenario() -> None:
        world = World(_fates(Fate.STUBBORN))
        world.rooms.names_jobs = False
        world.rooms.join_after, world.rooms.speak_after = 2.5, 1.0
        world.webhooks()
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(0.3)
            world.rooms.caller_joins(CALL)
            await asyncio.sleep(20.0)
            assert world.state(CALL) == "ready"
            await asyncio.sleep(40.0)
            assert world.rooms.agents(CALL) == 1

    with logged():
        fake_time.run(scenario())


def test_of_two_agents_that_come_although_the_call_is_given_up_one_stays() -> None:
    async def scenario() -> None:
        world = World(_fates(Fate.STUBBORN, Fate.STUBBORN))
        world.rooms.tardy = 9.0
        world.webhooks()
        world.rooms.caller_joins(CALL)
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(8.5)
            assert world.state(CALL) == "missing"
            await asyncio.sleep(10.0)
        assert [made.gone for made in world.rooms.made] == [False, True]

    with logged():
        fake_time.run(scenario())


def test_the_first_agents_late_webhook_does_not_stand_for_the_second() -> None:
    async def scenario() -> None:
        world = World(_fates(Fate.SWALLOWED))
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(4.3)
            assert len(world.rooms.made) == 2
            await world.tell(event(CALL, T.AGENT_READY, 4.3, "livekit"))
            await asyncio.sleep(0.2)
            assert world.state(CALL) == "dispatched"
            await asyncio.sleep(1.0)
            assert world.state(CALL) == "ready"

    fake_time.run(scenario())


def test_the_audio_of_another_agent_does_not_stand_for_the_calls() -> None:
    """A track's webhook does not name its agent, and the room may have others."""

    async def scenario() -> None:
        world = World(_fates(Fate.SWALLOWED))
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(0.3)
            await world.tell(event(CALL, T.AGENT_READY, 0.3, "livekit", leg_id="PA_another"))
            await asyncio.sleep(1.0)
            assert world.state(CALL) == "dispatched"
            await asyncio.sleep(5.0)
            assert world.state(CALL) == "ready"
        assert len(world.rooms.made) == 2

    fake_time.run(scenario())


def test_two_silent_attempts_are_a_missing_agent() -> None:
    async def scenario() -> None:
        world = World(_fates(Fate.SWALLOWED, Fate.SWALLOWED))
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(7.5)
            assert world.state(CALL) == "dispatched"
            await asyncio.sleep(2.0)
            assert world.state(CALL) == "missing"
            await asyncio.sleep(60.0)
        assert len(world.rooms.made) == 2
        assert world.rooms.agents(CALL) == 0
        assert world.told(CALL).count(T.AGENT_MISSING) == 1

    fake_time.run(scenario())


@pytest.mark.parametrize(("status", "stays"), [("ringing", False), ("active", True)])
def test_a_caller_without_an_agent_rings_no_longer_unless_somebody_answered(
    status: str, stays: bool
) -> None:
    async def scenario() -> None:
        world = World(_fates(Fate.SWALLOWED, Fate.SWALLOWED))
        world.rooms.caller_joins(CALL, **{"sip.callStatus": status})
        if stays:
            world.rooms.person_joins(CALL)
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(7.5)
            assert world.rooms.sip[CALL]
            await asyncio.sleep(2.0)
            assert world.state(CALL) == "missing"
            assert bool(world.rooms.sip[CALL]) is stays

    fake_time.run(scenario())


def test_a_caller_who_comes_when_the_agent_is_given_up_does_not_ring_either() -> None:
    async def scenario() -> None:
        world = World(_fates(Fate.REFUSED))
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(0.5)
            assert world.state(CALL) == "missing"
            caller = world.rooms.caller_joins(CALL, **{"sip.callStatus": "ringing"})
            time = world.clock.now()
            await world.tell(participant_event(T.SIP_JOINED, CALL, caller, time=time))
            await asyncio.sleep(0.5)
            assert not world.rooms.sip[CALL]

    fake_time.run(scenario())


def test_whom_a_person_in_the_agents_stead_is_dialling_is_not_turned_away() -> None:
    async def scenario() -> None:
        world = World(_fates(Fate.SWALLOWED, Fate.SWALLOWED))
        world.rooms.caller_joins(CALL, **{"sip.callStatus": "active", "sip.ruleID": "SDR_1"})
        dialled = {"sip.callStatus": "ringing", "sip.callID": "SCL_2"}
        world.rooms.caller_joins(CALL, "PA_colleague", **dialled)
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(10.0)
            assert world.state(CALL) == "missing"
            assert set(world.rooms.sip[CALL]) == {"PA_caller", "PA_colleague"}

    fake_time.run(scenario())


def test_livekit_that_never_answers_does_not_keep_a_call_from_being_given_up() -> None:
    async def scenario() -> None:
        world = World(_fates(Fate.SWALLOWED))
        world.rooms.caller_joins(CALL, **{"sip.callStatus": "ringing"})
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(3.0)
            world.rooms.silent = True
            await asyncio.sleep(65.0)
            assert world.state(CALL) == "missing"
            world.rooms.silent = False
            await asyncio.sleep(10.0)
            assert not world.rooms.sip[CALL]
            assert world.rooms.agents(CALL) == 0

    with logged():
        fake_time.run(scenario())


def test_an_agent_that_is_ready_at_the_last_look_is_kept() -> None:
    async def scenario() -> None:
        world = World(FakeRooms(join_after=3.8, speak_after=0.15))
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(6.0)
            assert world.state(CALL) == "ready"
        assert len(world.rooms.made) == 1

    fake_time.run(scenario())


@pytest.mark.parametrize(
    ("fates", "made"),
    [
        ([Fate.BUSY, Fate.BUSY, Fate.BUSY], 1),
        ([Fate.LOST], 1),
        ([Fate.BUSY, Fate.LOST], 1),
        ([Fate.SWALLOWED, Fate.LOST], 2),
    ],
)
def test_a_failed_call_of_livekit_never_makes_a_second_agent(fates: list[Fate], made: int) -> None:
    async def scenario() -> None:
        world = World(_fates(*fates))
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(9.0)
            assert world.state(CALL) == "ready"
        assert len(world.rooms.made) == made
        assert world.rooms.agents(CALL) == 1
        assert world.settled[0][1] == 1

    fake_time.run(scenario())


def test_a_dispatch_that_appears_after_it_was_asked_for_is_withdrawn_before_ready() -> None:
    async def scenario() -> None:
        world = World(_fates(Fate.LATE_LOST))  # done three seconds after its time-out
        world.rooms.join_after = 3.5
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(8.0)
            assert world.state(CALL) == "ready"
            assert len(world.rooms.made) == 2
            assert world.settled[0][1] == 1
            assert world.rooms.agents(CALL) == 1

    fake_time.run(scenario())


def test_a_dispatch_that_appears_after_ready_is_withdrawn_soon() -> None:
    async def scenario() -> None:
        world = World(_fates(Fate.LATE_LOST))
        world.rooms.caller_joins(CALL)
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(2.0)
            assert world.state(CALL) == "ready"
            await asyncio.sleep(12.0)
            assert len(world.rooms.made) == 2
            assert world.rooms.agents(CALL) == 1

    fake_time.run(scenario())


def test_a_refused_dispatch_is_a_missing_agent_at_once() -> None:
    async def scenario() -> None:
        world = World(_fates(Fate.REFUSED))
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(0.5)
            assert world.state(CALL) == "missing"
        reason = world.log.events(CALLS_TOPIC)[-1].data.reason
        assert reason == "LiveKit refused the dispatch: invalid_argument"

    fake_time.run(scenario())


def test_metadata_that_is_too_large_is_refused_before_it_is_sent() -> None:
    async def scenario() -> None:
        world = World()
        big: Any = {"text": "x" * 70_000}
        decision = Decision(
            action="dispatch",
            reason="",
            table_version=1,
            agent="anna",
            livekit_agent_name="lk-anna",
            metadata=big,
        )
        async with process(world):
            await world.tell(initiated(CALL, decision=decision))
            await asyncio.sleep(0.5)
            assert world.state(CALL) == "missing"
        assert world.rooms.made == []

    fake_time.run(scenario())


def test_livekit_away_for_a_while_costs_only_the_while() -> None:
    async def scenario() -> None:
        world = World(FakeRooms(down=True))
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(25.0)
            assert world.state(CALL) == "claimed"
            world.rooms.down = False
            await asyncio.sleep(4.0)
            assert world.state(CALL) == "ready"
        assert len(world.rooms.made) == 1

    with capture_logs() as lines:
        fake_time.run(scenario())
    assert 1 <= sum(line["event"] == "dispatch.failed" for line in lines) <= 3  # not one per try


def test_livekit_away_beyond_the_ring_window_expires_the_call() -> None:
    async def scenario() -> None:
        world = World(FakeRooms(down=True))
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(70.0)
            assert world.state(CALL) == "expired"
            assert world.told(CALL) == [T.CALL_INITIATED, T.CALL_EXPIRED]
            world.rooms.down = False
            await asyncio.sleep(70.0)
        assert world.rooms.made == []

    fake_time.run(scenario())


def test_an_agent_that_was_heard_counts_although_livekit_cannot_be_asked() -> None:
    async def scenario() -> None:
        world = World()
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(0.2)
            world.rooms.down = True
            await world.tell(event(CALL, T.AGENT_READY, 1.0, "livekit"))
            await asyncio.sleep(0.2)
            assert world.state(CALL) == "ready"

    fake_time.run(scenario())


def test_a_call_from_a_backlog_starts_nothing() -> None:
    async def scenario() -> None:
        world = World()
        await world.tell(initiated(CALL, at=-61.0))
        async with process(world):
            await asyncio.sleep(2.0)
        assert world.state(CALL) == "none"  # not even claimed
        assert world.told(CALL) == [T.CALL_INITIATED, T.CALL_EXPIRED]
        assert world.rooms.made == []

    fake_time.run(scenario())


def test_a_rejected_call_is_none_of_ours() -> None:
    async def scenario() -> None:
        world = World()
        rejected = Decision(action="reject", reason="unknown number", table_version=1)
        async with process(world):
            await world.tell(initiated(CALL, decision=rejected), event(CALL, T.CALL_ENDED, 1.0))
            await asyncio.sleep(2.0)
        assert world.rooms.asked == 0

    fake_time.run(scenario())


@pytest.mark.parametrize("at", [0.005, 0.02, 0.1, 0.6, 0.95, 3.0])
@pytest.mark.parametrize("kind", [T.CALL_ENDED, T.CALL_FORWARDED, T.SIP_LEFT])
def test_the_end_of_the_call_leaves_no_agent_and_no_room(at: float, kind: T) -> None:
    async def scenario() -> None:
        world = World()
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(at)
            await world.tell(event(CALL, kind, at))
            await asyncio.sleep(3.0)
            assert world.state(CALL) == "over"
            assert world.rooms.agents(CALL) == 0
            assert CALL in world.rooms.closed
            await asyncio.sleep(30.0)
        assert T.AGENT_MISSING not in world.told(CALL)

    fake_time.run(scenario())


def test_an_initiated_that_comes_after_the_end_starts_nothing() -> None:
    async def scenario() -> None:
        world = World()
        async with process(world):
            await world.tell(event(CALL, T.CALL_ENDED, 0.1), initiated(CALL))
            await asyncio.sleep(5.0)
        assert world.state(CALL) == "over"
        assert world.rooms.made == []

    fake_time.run(scenario())


def test_a_second_sip_leg_that_leaves_does_not_close_the_room() -> None:
    async def scenario() -> None:
        world = World()
        world.rooms.caller_joins(CALL)
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(2.0)
            await world.tell(event(CALL, T.SIP_LEFT, 1.9, "livekit", leg_id="PA_human"))
            await asyncio.sleep(2.0)
            assert world.state(CALL) == "ready"
            assert world.rooms.closed == []
            world.rooms.caller_leaves(CALL)
            await world.tell(event(CALL, T.SIP_LEFT, 4.0, "livekit", leg_id="PA_caller"))
            await asyncio.sleep(1.0)
            assert world.state(CALL) == "over"
            assert world.rooms.closed == [CALL]

    fake_time.run(scenario())


def test_an_agent_that_joins_when_the_call_is_over_is_put_out() -> None:
    async def scenario() -> None:
        world = World()
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(2.0)
            await world.tell(event(CALL, T.CALL_ENDED, 2.0))
            await asyncio.sleep(1.0)
            await world.rooms.create_dispatch(room=CALL, agent_name="lk-anna", metadata="")
            await world.tell(event(CALL, T.AGENT_JOINED, 3.5, "livekit"))
            await asyncio.sleep(1.0)
        assert world.rooms.agents(CALL) == 0

    fake_time.run(scenario())


def test_one_slow_room_does_not_hold_up_the_others() -> None:
    async def scenario() -> None:
        calls = [new_call(f"slow-{n}") for n in range(20)]
        world = World(_fates(Fate.SLOW))
        async with process(world):
            await world.tell(*(initiated(call) for call in calls))
            await asyncio.sleep(2.5)
            assert sum(world.state(call) == "ready" for call in calls) == 19
            await asyncio.sleep(30.0)
            assert all(world.state(call) == "ready" for call in calls)
        assert len(world.rooms.made) == 20

    fake_time.run(scenario())


def test_no_more_calls_at_once_than_set() -> None:
    async def scenario() -> None:
        world = World(FakeRooms(fate=lambda: Fate.SWALLOWED))
        calls = [new_call(f"many-{n}") for n in range(50)]
        async with process(world) as running:
            await world.tell(*(initiated(call) for call in calls))
            await asyncio.sleep(3.0)
            assert len(running.active._waiting) == world.settings.concurrency
            await asyncio.sleep(40.0)
        assert {world.state(call) for call in calls} == {"missing"}
        assert world.log.all(dead_topic(CALLS_TOPIC)) == []

    fake_time.run(scenario())


def test_the_database_away_for_a_while_costs_only_the_while() -> None:
    async def scenario() -> None:
        world = World()
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(0.1)
            world.claims.unavailable = True
            other = new_call("other")
            await world.tell(initiated(other))
            await asyncio.sleep(10.0)
            world.claims.unavailable = False
            await asyncio.sleep(5.0)
            assert (world.state(CALL), world.state(other)) == ("ready", "ready")
        assert len(world.rooms.made) == 2

    fake_time.run(scenario())


def test_a_claim_whose_answer_was_lost_is_found_again() -> None:
    async def scenario() -> None:
        world = World()
        world.claims.lose_answers = True
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(0.03)
            assert world.state(CALL) == "claimed"
            world.claims.lose_answers = False
            await asyncio.sleep(2.0)  # well before its lease is over
            assert world.state(CALL) == "ready"
        assert len(world.rooms.made) == 1

    fake_time.run(scenario())


def test_a_log_that_takes_nothing_delays_the_call_and_no_more() -> None:
    async def scenario() -> None:
        world = World()
        async with process(world):
            await world.tell(initiated(CALL))
            await asyncio.sleep(0.02)
            world.log.unavailable = True
            await asyncio.sleep(8.0)
            assert world.state(CALL) == "ready"
            world.log.unavailable = False
        assert world.rooms.agents(CALL) == 1

    fake_time.run(scenario())
