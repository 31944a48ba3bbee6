"""What to do next about a call, decided from what is known of it. Pure.

The story of a call, as its claim tells it (`router.storage.claims`)

    claimed ─create─▶ dispatched ─audio heard─▶ ready ─agent lost─▶ dispatching (next round)
                       │     ▲
       late, or it left: dispatching (withdraw, create once more) ─late again─▶ missing

Dispatches are numbered through the call, in rounds of two: the first round brings the agent, each
further one replaces an agent that was lost while its caller was there. So the number alone says
whether there is one more try, also to a process that takes the call over.

Four things make it harder than it looks (all seen at the real LiveKit):
- An accepted dispatch is no agent. Only a participant of kind AGENT that publishes audio is.
- `create_dispatch` is not idempotent. Whenever it is not *certain* what became of an earlier one (a
  time-out, a crash, a claim taken over), LiveKit is asked first and what is found is adopted.
- What was created and never answered can appear after that question. So before a call of that kind
  is called ready, every dispatch but the recorded one is withdrawn.
- A dispatch that is withdrawn before its agent came brings it all the same, later. So agents are
  counted whenever one comes, and those that are too many are put out (`superfluous`).
And one rule over all: who can be heard stays. Between a look and what follows from it lie writes,
so the room is looked into again right before somebody is withdrawn, put out or turned away.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

import msgspec

from router.events.codec import stored_event
from router.events.ids import event_id
from router.events.model import Decision, Event, EventData
from router.events.types import EventType

if TYPE_CHECKING:  # pure: these modules bring LiveKit's SDK and SQLAlchemy with them
    from router.providers.livekit.client import Dispatch, Participant
    from router.storage.claims import Claim, ClaimState

ATTEMPTS: Final = 2
"""Dispatches of one round."""

MAX_ROUNDS: Final = 20
"""Of one call, however long: then something else than an agent is wrong."""


def has_another_try(attempt: int) -> bool:
    """Whether the round of this dispatch has one more."""
    return attempt % ATTEMPTS != 0


def rounds_before(attempt: int) -> int:
    """How many rounds were over when this dispatch was made: 0 for those that bring the agent."""
    return (max(1, attempt) - 1) // ATTEMPTS


def next_round(attempt: int) -> int:
    """The number of the first dispatch of the round after this one's."""
    return (rounds_before(attempt) + 1) * ATTEMPTS + 1


OURSELVES: Final = "switchboard"
LIVEKIT: Final = "livekit"
"""Sources of events."""


class Reaction(Enum):
    """What an event asks for."""

    START = auto()  # bring the agent
    HEAR = auto()  # the agent can be heard: whoever waits for it should know at once
    CHECK_LATE = auto()  # an agent came: is it the one that is waited for?
    CHECK_LOST = auto()  # an agent left: is somebody still there to be talked to?
    WITHDRAW = auto()  # no agent came: turn the caller away, see that none comes later
    TURN_AWAY = auto()  # a caller came: has the agent been given up?
    CHECK_EMPTY = auto()  # a SIP leg left: was it the last?
    CLOSE = auto()  # the call is over, or went elsewhere
    NONE = auto()


_REACTIONS: Final = {
    EventType.AGENT_READY: Reaction.HEAR,
    EventType.AGENT_JOINED: Reaction.CHECK_LATE,
    EventType.AGENT_LEFT: Reaction.CHECK_LOST,
    EventType.AGENT_MISSING: Reaction.WITHDRAW,
    EventType.SIP_JOINED: Reaction.TURN_AWAY,
    EventType.SIP_LEFT: Reaction.CHECK_EMPTY,
    EventType.LEG_ENDED: Reaction.CHECK_LOST,
    EventType.CALL_ENDED: Reaction.CLOSE,
    EventType.CALL_FORWARDED: Reaction.CLOSE,
}


def reaction(event: Event) -> Reaction:
    """What `event` asks for."""
    if event.type is EventType.CALL_INITIATED:
        decision = event.data.decision
        wanted = decision is not None and decision.action == "dispatch"
        return Reaction.START if wanted else Reaction.NONE
    if event.source == OURSELVES and event.type is EventType.CALL_FORWARDED:
        return Reaction.NONE  # the caller may hang on LiveKit's leg until the fallback answers
    if event.type is EventType.LEG_ENDED and event.source != LIVEKIT:
        return Reaction.NONE  # the carrier's word for the caller's own way into the room
    if event.type is EventType.PROVIDER_UNKNOWN and _somebody_left(event):
        return Reaction.CHECK_LOST
    return _REACTIONS.get(event.type, Reaction.NONE)


def is_left_by(event: Event) -> bool:
    """Whether the caller is gone or was sent on: then nothing is begun for them any more."""
    by_us = event.source == OURSELVES and event.type is EventType.CALL_FORWARDED
    return by_us or reaction(event) is Reaction.CLOSE


def _somebody_left(event: Event) -> bool:
    """Whether somebody else than agents and callers left the room of a call."""
    left = ("participant_left", "participant_connection_aborted")
    return event.source == LIVEKIT and bool(event.call_id) and event.data.raw.get("event") in left


def is_webhook(event: Event) -> bool:
    """Whether LiveKit's webhook tells it, and not a poll of ours: so webhooks of the call come."""
    return event.source == LIVEKIT and bool(event.data.raw)


def is_command(event: Event) -> bool:
    """Whether the carrier waits to be told what the event's decision says.

    The others have it in the document that answered their webhook, and no `control_id`.
    """
    return bool(event.data.control_id) and event.data.decision is not None


@dataclass(frozen=True, slots=True)
class Presence:
    """Who of a call is in its room."""

    agents: Sequence["Participant"]  # those with our agent's name, or with none (old servers)
    callers: Sequence["Participant"]  # SIP legs
    others: Sequence["Participant"] = ()  # who else can be heard: people, agents of other names

    @property
    def ready(self) -> bool:
        """Whether an agent can be heard."""
        return any(agent.publishes_audio for agent in self.agents)

    @property
    def waiting(self) -> Sequence["Participant"]:
        """SIP legs that called in; the others were dialled by somebody in the room."""
        return [who for who in self.callers if not who.is_dialled]

    @property
    def alone(self) -> bool:
        """Whether a caller is there, and nobody whom they could talk to.

        An agent that is there and mute is not gone: it may have muted itself. Whom an agent brought
        in before it left, by telephone or browser, talks to the caller in its stead.
        """
        has_company = self.agents or self.others or len(self.waiting) < len(self.callers)
        return bool(self.waiting) and not has_company

    @property
    def silent(self) -> bool:
        """Whether a caller who was answered hears nobody."""
        heard = self.ready or self.others or len(self.waiting) < len(self.callers)
        return not heard and any(not who.is_ringing for who in self.waiting)

    @property
    def doubled(self) -> bool:
        """Whether more than one agent is there."""
        return len(self.agents) > 1


def presence(participants: Sequence["Participant"], agent_name: str) -> Presence:
    """Sort a room's participants."""
    agents = [p for p in participants if p.kind == "AGENT" and p.agent_name in (agent_name, "")]
    others = [
        p
        for p in participants
        if p.publishes_audio and p.kind in ("STANDARD", "AGENT") and p not in agents
    ]
    return Presence(agents, [p for p in participants if p.kind == "SIP"], others)


def superfluous(
    agents: Sequence["Participant"], own: Collection[str] | None
) -> Sequence["Participant"] | None:
    """Who of several agents must go; None: it is not known yet who stays.

    The recorded dispatch's agent stays, once it can be heard: others may be about to leave, as
    theirs was withdrawn. Where it has none in the room, the one that could be heard first stays.
    Agents without a name are nobody's dispatch.

    Args:
        agents: those that are in the room.
        own: identities of the recorded dispatch's agents; None while LiveKit does not tell them.
    """
    # Every process must choose the same one, whatever order LiveKit lists them in.
    named = sorted(
        (each for each in agents if each.agent_name),
        key=lambda each: (each.joined_at, each.identity),
    )
    ours = [each for each in named if own is not None and each.identity in own]
    heard = [each for each in ours or named if each.publishes_audio]
    if own is None or not heard:
        return None if len(named) > 1 else ()
    stays = ours or heard[:1]
    return [each for each in named if each not in stays]


def dispatch_to_keep(
    dispatches: Sequence["Dispatch"], recorded: str, heard: Collection[str]
) -> Collection[str]:
    """The ids of a call's dispatches that must stay: one, or all where that is not known yet.

    Args:
        dispatches: those of the call's agent.
        recorded: the id that the claim names, "" for none.
        heard: identities of the agents that can be heard.
    """
    talking = [each.id for each in dispatches if any(who in heard for who in each.agents)]
    if not heard or recorded in talking:
        return (recorded or next((each.id for each in dispatches), ""),)
    if talking:
        return talking[:1]
    # Somebody talks whom no dispatch names: LiveKit lists the jobs of a new room seconds late.
    unnamed = [each.id for each in dispatches if not each.agents]
    return unnamed or (recorded,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a call that waits for its agent."""

    state: "ClaimState"
    attempt: int
    certain: bool  # whether LiveKit holds just what the claim says, as far as we know
    old: bool  # it came in too long ago, or was lost too long ago, to begin anything
    late: bool  # the agent's deadline is over
    left: bool  # this dispatch's agent was there and is not any more
    unreachable: bool  # LiveKit gave no answer several times in a row
    heard: bool  # LiveKit's webhook said that an agent can be heard
    presence: Presence | None  # None: not asked, or LiveKit didn't answer


class Step(Enum):
    """What to do next."""

    FIND = auto()  # ask LiveKit which dispatch it has, adopt it
    CREATE = auto()
    WAIT = auto()  # look again soon
    TIDY = auto()  # withdraw every dispatch but the recorded one
    READY = auto()
    AGAIN = auto()  # withdraw, and dispatch once more
    MISSING = auto()
    EXPIRE = auto()


def next_step(facts: Facts) -> Step:
    """The next step of a call in one of the open states."""
    if facts.state != "dispatched":
        if not facts.certain and not (facts.old and facts.unreachable):
            return Step.FIND  # also of an old call: caller and agent may be talking
        if facts.old:
            return Step.EXPIRE if facts.state == "claimed" else Step.MISSING
        return Step.CREATE
    seen = facts.presence
    # A track's webhook does not name its agent: it may be another one's than the call's.
    if facts.heard and (seen is None or (facts.certain and seen.agents)):
        return Step.READY
    if seen is None:  # LiveKit can't be asked: it can't be dispatched to either
        return Step.MISSING if facts.old else Step.WAIT
    if seen.ready:
        return Step.READY if facts.certain else Step.TIDY
    another = has_another_try(facts.attempt) and not facts.old
    if facts.left and another:
        return Step.AGAIN
    if not facts.late:
        return Step.WAIT
    return Step.AGAIN if another else Step.MISSING


def is_carried(claim: "Claim") -> bool:
    """Whether the provider carries the caller's audio itself: then no SIP leg is the caller's."""
    try:
        initiated = stored_event(claim.initiated)
    except msgspec.MsgspecError:  # of a newer version, or none was kept
        return False
    return initiated.data.media == "provider"


def own_event(
    claim: "Claim",
    initiated: Event,
    kind: EventType,
    *,
    time: int,
    attempt: int = 0,
    reason: str,
    decision: Decision | None = None,
) -> Event:
    """An event that we tell about a call; telling it again gives the same id."""
    return Event(
        id=event_id(OURSELVES, claim.call_id, kind.value, str(attempt)),
        type=kind,
        source=OURSELVES,
        time=time,
        key=claim.call_id,
        data=EventData(
            call_id=claim.call_id,
            provider_call_id=initiated.data.provider_call_id,
            provider_account=initiated.data.provider_account,
            account_id=initiated.data.account_id,
            connection_id=initiated.data.connection_id,
            agent_id=initiated.data.agent_id,
            agent=claim.livekit_agent_name,
            reason=reason,
            decision=decision,
        ),
    )


def too_late(event: Event, age: float) -> Event:
    """What a carrier is told that still holds the caller of an event `age` seconds old.

    The fallback, or a refusal, where its decision was an agent.
    """
    decision = event.data.decision
    if decision is None or decision.action != "dispatch":
        return event
    late = msgspec.structs.replace(
        decision,
        action="forward" if decision.fallback else "reject",
        reason=f"the call was read {age:.0f} s late, and its caller still waits: no agent any more",
    )
    return msgspec.structs.replace(event, data=msgspec.structs.replace(event.data, decision=late))


def put_through(initiated: Event) -> Decision | None:
    """Where an answered caller goes for whom no agent is left; None: there is no such number."""
    decided = initiated.data.decision
    if decided is None or not decided.fallback:
        return None
    return Decision(
        action="forward",
        reason="the agent was lost and no other came: to the fallback",
        table_version=decided.table_version,
        fallback=decided.fallback,
    )
