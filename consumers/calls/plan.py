"""The record of a call, recomputed from all of its events each time one arrives. Pure.

Events come late, twice, in any order and from several sources (the carrier's callbacks and its
event stream, LiveKit's webhooks, the poll, ourselves). A record that is *updated* by each would
depend on their order; one that is a function of the set of events does not. So there is no
transition to forbid and nothing to repair: a late event simply makes the record more complete, and
the state goes only one way, because every state asks for events that *are* there and none for one
that is not.
"""

from collections.abc import Iterable
from typing import Final

from consumers.calls.story import DISTANCE, IN_A_ROOM, Story
from router.events.call import CallRecord
from router.events.model import Event
from router.events.types import EventType

TELLING: Final = frozenset(DISTANCE)
"""The types of events that records are made of; `fold` does not look at others."""


def fold(events: Iterable[Event]) -> CallRecord | None:
    """What all events of one call together say; the same for every order and repetition.

    None where nothing says that somebody phones: an agent may be in a room for other reasons.
    """
    telling = [
        (distance, event) for event in events if (distance := DISTANCE.get(event.type)) is not None
    ]
    if all(distance == IN_A_ROOM for distance, _ in telling):
        return None
    story = Story(telling)
    return CallRecord(
        call_id=story.call_id,
        provider=story.provider,
        provider_call_id=story.fact(lambda data: data.provider_call_id) or "",
        account=story.fact(lambda data: data.account) or "",
        direction=story.party(lambda data: data.direction),
        from_number=story.party(lambda data: data.from_number) or "",
        to_number=story.party(lambda data: data.to_number) or "",
        state=story.state(),
        disposition=story.disposition(),
        agent=story.decided(lambda decision: decision.agent),
        agent_ready=story.first(EventType.AGENT_READY) is not None,
        reason=story.reason(),
        initiated_at=story.initiated_at(),
        ringing_at=story.first(EventType.CALL_RINGING, EventType.LEG_RINGING),
        agent_ready_at=story.first(EventType.AGENT_READY),
        answered_at=story.answered_at,
        ended_at=story.ended_at,
        duration=story.duration(),
    )
