"""What to do next about a call, decided from what is known of it. Pure.

The story of a call, as its claim tells it (`router.storage.claims`)

    claimed ─create─▶ dispatched ─audio heard─▶ ready
                       │     ▲
             late: dispatching (withdraw, create once more) ─late again─▶ missing

Four things make it harder than it looks (all seen at the real LiveKit):
- An accepted dispatch is no agent. Only a participant of kind AGENT that publishes audio is.
- `create_dispatch` is not idempotent. Whenever it is not *certain* what became of an earlier one (a
  time-out, a crash, a claim taken over), LiveKit is asked first and what is found is adopted.
- What was created and never answered can appear after that question. So before a call of that kind
  is called ready, every dispatch but the recorded one is withdrawn.
- A dispatch that is withdrawn before its agent came brings it all the same, later. So agents are
  counted whenever one comes, and those that are too many are put out (`superfluous`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

import msgspec

from router.events.ids import event_id
from router.events.model import Event, EventData
from router.events.types import EventType

if TYPE_CHECKING:  # pure: these modules bring LiveKit's SDK and SQLAlchemy with them
    from router.providers.livekit.client import Participant
    from router.storage.claims import Claim, ClaimState

ATTEMPTS: Final = 2  # dispatches of one call


class Reaction(Enum):
    """What an event asks for."""

    START = auto()  # bring the agent
    HEAR = auto()  # the agent can be heard: whoever waits for it should know at once
    CHECK_LATE = auto()  # an agent came: is it the one that is waited for?
    WITHDRAW = auto()  # no agent came: turn the caller away, see that none comes later
    TURN_AWAY = auto()  # a caller came: has the agent been given up?
    CHECK_EMPTY = auto()  # a SIP leg left: was it the last?
    CLOSE = auto()  # the call is over, or went elsewhere
    SWEEP = auto()  # nothing was started: see that there is no room either
    NONE = auto()


_REACTIONS: Final = {
    EventType.AGENT_READY: Reaction.HEAR,
    EventType.AGENT_JOINED: Reaction.CHECK_LATE,
    EventType.AGENT_MISSING: Reaction.WITHDRAW,
    EventType.SIP_JOINED: Reaction.TURN_AWAY,
    EventType.SIP_LEFT: Reaction.CHECK_EMPTY,
    EventType.CALL_ENDED: Reaction.CLOSE,
    EventType.CALL_FORWARDED: Reaction.CLOSE,
    EventType.CALL_EXPIRED: Reaction.SWEEP,
}


def reaction(event: Event) -> Reaction:
    """What `event` asks for."""
    if event.type is EventType.CALL_INITIATED:
        decision = event.data.decision
        wanted = decision is not None and decision.action == "dispatch"
        return Reaction.START if wanted else Reaction.NONE
    return _REACTIONS.get(event.type, Reaction.NONE)


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

    @property
    def ready(self) -> bool:
        """Whether an agent can be heard."""
        return any(agent.publishes_audio for agent in self.agents)

    @property
    def doubled(self) -> bool:
        """Whether more than one agent is there."""
        return len(self.agents) > 1


def presence(participants: Sequence["Participant"], agent_name: str) -> Presence:
    """Sort a room's participants."""
    return Presence(
        [p for p in participants if p.kind == "AGENT" and p.agent_name in (agent_name, "")],
        [p for p in participants if p.kind == "SIP"],
    )


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a call that waits for its agent."""

    state: "ClaimState"
    attempt: int
    certain: bool  # whether LiveKit holds just what the claim says, as far as we know
    old: bool  # it came in longer ago than the ring window
    late: bool  # the agent's deadline is over
    deaf: bool  # LiveKit gave no answer several times in a row
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
        if not facts.certain and not (facts.old and facts.deaf):
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
    if not facts.late:
        return Step.WAIT
    return Step.AGAIN if facts.attempt < ATTEMPTS and not facts.old else Step.MISSING


def is_carried(claim: "Claim") -> bool:
    """Whether the provider carries the caller's audio itself: then no SIP leg is the caller's."""
    try:
        initiated = msgspec.json.decode(claim.initiated, type=Event)
    except msgspec.MsgspecError:  # of a newer version, or none was kept
        return False
    return initiated.data.media == "provider"


def job_metadata(claim: "Claim", initiated: Event, attempt: int) -> dict[str, Any]:
    """What the agent finds in `ctx.job.metadata`, as JSON.

    `metadata` is the agent's own from the mapping; the rest is about this call. `dispatch` tells
    jobs of one call apart: the higher (`fence`, `attempt`) is the one that counts.
    """
    data = initiated.data
    decision = data.decision
    return {
        "metadata": dict(decision.metadata) if decision is not None else {},
        "call": {
            "call_id": claim.call_id,
            "provider": initiated.source,
            "provider_call_id": data.provider_call_id,
            "from": data.from_number,
            "to": data.to_number,
            "direction": data.direction or "inbound",
        },
        "agent": {"name": claim.agent, "livekit_agent_name": claim.livekit_agent_name},
        "dispatch": {"attempt": attempt, "fence": claim.fence},
    }


def own_event(
    claim: "Claim", initiated: Event, kind: EventType, *, time: int, attempt: int = 0, reason: str
) -> Event:
    """An event that we tell about a call; telling it again gives the same id."""
    return Event(
        id=event_id("switchboard", claim.call_id, kind.value, str(attempt)),
        type=kind,
        source="switchboard",
        time=time,
        key=claim.call_id,
        data=EventData(
            call_id=claim.call_id,
            provider_call_id=initiated.data.provider_call_id,
            account=initiated.data.account,
            agent=claim.livekit_agent_name,
            reason=reason,
        ),
    )
