"""What is left over of calls is closed; what is not ours, or still talks, is not."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import msgspec
import pytest

from consumers.dispatch.cleanup import RoomCleanup
from router.errors import EffectError, Permanent, StorageUnavailable, Transient
from router.events.ids import call_id
from router.events.model import Event, EventData
from router.events.types import EventType as T
from router.providers.livekit.client import Participant, PollBudget, Room
from router.storage.claims import ClaimState
from tests.support import fake_time
from tests.support.fake_events import event, new_call
from tests.support.fake_time import START, FakeClock
from tests.support.ingress import logged

CALL = new_call("left-over")
MINUTES = 60.0


def someone(kind: str, **attributes: str) -> Participant:
    return Participant(
        sid=f"PA_{kind}",
        identity=kind,
        kind=kind,
        agent_name="lk-anna" if kind == "AGENT" else "",
        publishes_audio=True,
        attributes=attributes,
        joined_at=0,
    )


AGENT, CALLER = someone("AGENT"), someone("SIP")


@dataclass
class Project:
    """LiveKit and the claims of a test; also the `lead` and the log."""

    inside: dict[str, list[Participant]] = field(default_factory=dict)
    claims: dict[str, ClaimState] = field(default_factory=dict)
    created: dict[str, float] = field(default_factory=dict)  # seconds
    failing: dict[str, Exception] = field(default_factory=dict)  # by room, "" for all
    leads: bool = True
    lost: Exception | None = None
    lists: int = 0
    asked: list[str] = field(default_factory=list)
    told: list[Event] = field(default_factory=list)
    polls: PollBudget = field(default_factory=lambda: PollBudget(float("inf"), lambda: 0.0))

    async def rooms(self) -> Sequence[Room]:
        self.lists += 1
        self._fail("")
        return [
            Room(name, "RM_1", START + round(self.created.get(name, 0.0) * 1e6), len(inside))
            for name, inside in self.inside.items()
        ]

    async def participants(self, room: str) -> Sequence[Participant]:
        self.asked.append(room)
        self._fail(room)
        return list(self.inside.get(room, ()))

    async def delete_room(self, room: str) -> None:
        self._fail(room)
        self.inside.pop(room, None)

    async def states(self, call_ids: Sequence[str]) -> Mapping[str, ClaimState]:
        if "claims" in self.failing:
            raise self.failing["claims"]
        return {name: self.claims[name] for name in call_ids if name in self.claims}

    @asynccontextmanager
    async def lead(self) -> AsyncIterator[bool]:
        if self.lost is not None:
            raise self.lost
        yield self.leads

    async def tell(self, told: Event) -> None:
        self.told.append(told)

    def _fail(self, room: str) -> None:
        if room in self.failing:
            raise self.failing[room]


def made(project: Project) -> RoomCleanup:
    clock = FakeClock()
    return RoomCleanup(
        project, clock, Random(7), lead=project.lead, states=project.states, tell=project.tell
    )


def after(project: Project, seconds: float) -> None:
    """Run the poll for so long."""

    async def scenario() -> None:
        task = asyncio.create_task(made(project).run())
        await asyncio.sleep(seconds)
        assert not task.done()
        task.cancel()

    fake_time.run(scenario())


@pytest.mark.parametrize("state", ["over", "expired", "missing"])
def test_the_room_of_a_call_that_is_over_is_closed_with_its_agent(state: ClaimState) -> None:
    project = Project(inside={CALL: [AGENT]}, claims={CALL: state})
    with logged() as lines:
        after(project, 2 * MINUTES)
    assert project.inside == {}
    [line] = lines.of("room.closed")
    assert line["call_id"] == CALL


@pytest.mark.parametrize("state", ["claimed", "dispatching", "dispatched", "ready"])
def test_the_room_of_a_call_that_goes_on_is_not_closed(state: ClaimState) -> None:
    project = Project(inside={CALL: [AGENT]}, claims={CALL: state})
    after(project, 10 * MINUTES)
    assert CALL in project.inside


def test_a_room_with_a_phone_in_it_is_not_closed_until_it_is_gone() -> None:
    project = Project(inside={CALL: [AGENT, CALLER]}, claims={CALL: "over"})
    after(project, 2 * MINUTES)
    assert CALL in project.inside
    project.inside[CALL].remove(CALLER)
    after(project, 2 * MINUTES)
    assert project.inside == {}


def test_rooms_that_nobody_here_claimed_are_not_even_looked_into() -> None:
    names = ("standup", "call_+12125550123_x", new_call("of-another-deployment"))
    project = Project(inside={name: [AGENT] for name in names}, claims={"standup": "over"})
    after(project, 5 * MINUTES)
    assert set(project.inside) == set(names)
    assert project.asked == []


def test_a_young_room_may_still_get_its_caller() -> None:
    project = Project(inside={CALL: []}, claims={CALL: "missing"}, created={CALL: 60.0})
    after(project, 85.0)
    assert CALL in project.inside
    after(project, 3 * MINUTES)
    assert project.inside == {}


def test_a_list_of_all_rooms_is_asked_for_every_half_minute_and_not_more() -> None:
    project = Project(inside={new_call(f"n-{n}"): [AGENT] for n in range(5000)})
    after(project, 10 * MINUTES)
    assert 20 <= project.lists <= 40
    assert project.asked == []


def test_many_rooms_that_are_left_over_are_closed_at_a_pace() -> None:
    """LiveKit Cloud allows a project 1,000 requests a minute, and calls that come in need them."""
    names = [new_call(f"n-{n}") for n in range(1000)]
    busy = [new_call(f"busy-{n}") for n in range(150)]
    project = Project(
        inside={name: [AGENT] for name in names} | {name: [AGENT, CALLER] for name in busy},
        claims=dict.fromkeys((*names, *busy), "over"),
    )
    with logged():
        after(project, 2 * MINUTES)
        assert 200 <= len(project.asked) <= 500
        after(project, 10 * MINUTES)
    assert set(project.inside) == set(busy)


def test_one_room_in_trouble_does_not_keep_the_others_open() -> None:
    others = [new_call(f"n-{n}") for n in range(30)]
    project = Project(
        inside={name: [AGENT] for name in (CALL, *others)},
        claims=dict.fromkeys((CALL, *others), "over"),
        failing={CALL: Permanent("refused")},
    )
    after(project, 2 * MINUTES)
    assert set(project.inside) == {CALL}


@pytest.mark.parametrize(
    ("where", "error"),
    [("", Transient("can't be reached")), ("claims", StorageUnavailable("the database is away"))],
)
def test_an_outage_is_waited_out(where: str, error: EffectError | StorageUnavailable) -> None:
    project = Project(inside={CALL: [AGENT]}, claims={CALL: "over"}, failing={where: error})
    with logged() as lines:
        after(project, 5 * MINUTES)
    assert CALL in project.inside
    assert lines.of("rooms.failed")
    project.failing.clear()
    after(project, 2 * MINUTES)
    assert project.inside == {}


def test_a_process_that_does_not_lead_leaves_it_to_the_one_that_does() -> None:
    project = Project(inside={CALL: [AGENT]}, claims={CALL: "over"}, leads=False)
    after(project, 5 * MINUTES)
    assert project.lists == 0
    project.leads, project.lost = True, StorageUnavailable("leads no longer")
    after(project, 5 * MINUTES)
    assert project.lists == 0


ROOM = "call_+12125550123_x"
CALLER_OVER_A_TRUNK = someone(
    "SIP",
    **{
        "sip.callStatus": "ringing",
        "sip.ruleID": "SDR_1",
        "sip.twilio.accountSid": "AC1",
        "sip.twilio.callSid": "CA1",
    },
)


def of_agent(webhook: str, room: str = ROOM) -> Event:
    """What an agent's webhook becomes in a room of trunk mode."""
    data = EventData(room=room, leg_id="PA_AGENT", raw={"event": webhook})
    return msgspec.structs.replace(event("", T.PROVIDER_UNKNOWN, 0.0, "livekit"), data=data)


@pytest.mark.parametrize("webhook", ["participant_joined", "track_published"])
def test_an_agent_that_came_is_told_of_with_its_call(webhook: str) -> None:
    project = Project(inside={ROOM: [AGENT, CALLER_OVER_A_TRUNK]})
    fake_time.run(made(project).after(of_agent(webhook)))
    kinds = [told.type for told in project.told]
    assert kinds == [T.CALL_INITIATED, T.CALL_ANSWERED, T.AGENT_JOINED, T.AGENT_READY]
    assert {told.call_id for told in project.told} == {call_id("twilio", "AC1", "CA1")}


@pytest.mark.parametrize(
    "other",
    [
        of_agent("participant_left"),
        of_agent("track_unpublished"),
        of_agent("participant_joined", room=""),
        event(CALL, T.AGENT_JOINED, 0.0, "livekit"),
        event(CALL, T.PROVIDER_UNKNOWN, 0.0, "twilio"),
    ],
)
def test_nothing_else_costs_a_request(other: Event) -> None:
    project = Project(inside={ROOM: [AGENT, CALLER_OVER_A_TRUNK]})
    fake_time.run(made(project).after(other))
    assert (project.asked, project.told) == ([], [])


def test_an_agent_whose_room_is_gone_or_has_no_phone_tells_nothing() -> None:
    project = Project(inside={"web": [AGENT]})
    for room in ("gone", "web"):
        fake_time.run(made(project).after(of_agent("track_published", room)))
    assert project.told == []


def test_what_livekit_did_not_say_is_asked_again() -> None:
    project = Project(failing={ROOM: Transient("can't be reached")})
    with pytest.raises(Transient):
        fake_time.run(made(project).after(of_agent("track_published")))
