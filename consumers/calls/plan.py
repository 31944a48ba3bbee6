"""The record of a call, recomputed from all of its events each time one arrives. Pure.

Events come late, twice, in any order and from several sources (the carrier's callbacks and its
event stream, LiveKit's webhooks, the poll, ourselves). A record that is *updated* by each would
depend on their order; one that is a function of the set of events does not. So there is no
transition to forbid and nothing to repair: a late event simply makes the record more complete, and
the state goes only one way, because every state asks for events that *are* there and none for one
that is not. With one exception: a caller who left the room is gone, unless it is told that they
were sent on to the fallback; where that is told later, the call goes on.
"""

from collections.abc import Iterable
from typing import Final

from consumers.calls.history import DISTANCE, IN_A_ROOM, History
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
    history = History(telling)
    account_id, connection_id = history.owner()
    return CallRecord(
        call_id=history.call_id,
        provider=history.provider,
        provider_call_id=history.fact(lambda data: data.provider_call_id) or "",
        provider_account=history.fact(lambda data: data.provider_account) or "",
        account_id=account_id,
        connection_id=connection_id,
        direction=history.party(lambda data: data.direction),
        from_number=history.party(lambda data: data.from_number) or "",
        to_number=history.party(lambda data: data.to_number) or "",
        state=history.state(),
        disposition=history.disposition(),
        agent=history.decided(lambda decision: decision.agent),
        agent_id=history.decided(lambda decision: decision.agent_id),
        agent_ready=history.first(EventType.AGENT_READY) is not None,
        reason=history.reason(),
        initiated_at=history.initiated_at(),
        ringing_at=history.first(EventType.CALL_RINGING, EventType.LEG_RINGING),
        agent_ready_at=history.first(EventType.AGENT_READY),
        answered_at=history.answered_at,
        ended_at=history.ended_at,
        duration=history.duration(),
        legs=history.legs(),
    )
