"""The record of a call, recomputed from all of its events each time one arrives. Pure.

Events come late, twice, in any order and from several sources (the carrier's callbacks, LiveKit's
webhooks, the poll). A record that is *updated* by each would depend on their order; one that is a
function of the set of events does not. So there is no transition to forbid and nothing to repair: a
late event simply makes the record more complete.

Whose word counts
- who called whom: the event that began the call, else the carrier's, else anybody's;
- when it was answered: the carrier's `call.answered`, else its leg to LiveKit, else the moment
  when the agent could be heard and the caller was in the room;
- how it ended: the carrier's last word on a call that was not answered, then that it was forwarded,
  then that it was answered. A carrier calls "completed" whatever was connected: a fallback, or our
  own apology, which is a failed call.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from router.events.call import CallRecord, CallState
from router.events.model import Disposition, Event, EventData
from router.events.types import EventType

T = TypeVar("T")

_CARRIES_NO_CALLS: Final = ("livekit", "switchboard")  # sources that only tell about others' calls


def fold(events: Sequence[Event]) -> CallRecord:
    """What all events of one call together say; the same for every order and repetition.

    Raises:
        ValueError: there are no events.
    """
    if not events:
        raise ValueError("a call without events has no record")
    story = _Story(events)
    answered_at = story.answered_at()
    ended_at = story.ended_at(answered_at)
    disposition = story.disposition(answered_at) if ended_at is not None else None
    return CallRecord(
        call_id=story.fact(lambda data: data.call_id) or events[0].key,
        provider=story.provider(),
        provider_call_id=story.fact(lambda data: data.provider_call_id),
        account=story.fact(lambda data: data.account),
        direction=story.fact(lambda data: data.direction) or None,
        from_number=story.fact(lambda data: data.from_number),
        to_number=story.fact(lambda data: data.to_number),
        state=story.state(answered_at, ended_at),
        disposition=disposition,
        agent=story.agent(),
        agent_ready=story.first(EventType.AGENT_READY) is not None,
        reason=story.reason(disposition),
        initiated_at=story.first(EventType.CALL_INITIATED) or story.events[0].time,
        ringing_at=story.first(EventType.CALL_RINGING, EventType.LEG_RINGING),
        agent_ready_at=story.first(EventType.AGENT_READY),
        answered_at=answered_at,
        ended_at=ended_at,
        duration=story.duration(answered_at, ended_at),
    )


class _Story:
    """A call's events in order of time, each once, and questions about them."""

    def __init__(self, events: Iterable[Event]) -> None:
        unique: dict[str, Event] = {}
        for event in sorted(events, key=lambda event: (event.time, event.id)):
            unique.setdefault(event.id, event)  # webhook and poll may differ in the time
        self.events = list(unique.values())
        # For facts about the call: who knows them best comes first.
        self._by_authority = sorted(self.events, key=_authority)

    def of(self, *types: EventType) -> list[Event]:
        return [event for event in self.events if event.type in types]

    def first(self, *types: EventType) -> int | None:
        return min((event.time for event in self.of(*types)), default=None)

    def fact(self, get: Callable[[EventData], T]) -> T:
        values = [get(event.data) for event in self._by_authority]
        return next((value for value in values if value), values[0])

    def provider(self) -> str:
        return self._by_authority[0].source

    def agent(self) -> str:
        decisions = [event.data.decision for event in self._by_authority if event.data.decision]
        return decisions[0].agent if decisions else ""

    def answered_at(self) -> int | None:
        answered = self.first(EventType.CALL_ANSWERED) or self.first(EventType.LEG_ANSWERED)
        if answered is not None:
            return answered
        ready, caller = self.first(EventType.AGENT_READY), self.first(EventType.SIP_JOINED)
        return max(ready, caller) if ready is not None and caller is not None else None

    def ended_at(self, answered_at: int | None) -> int | None:
        ended = self.first(EventType.CALL_ENDED)
        if ended is not None:
            return ended
        left = [event.time for event in self.of(EventType.SIP_LEFT)]
        if answered_at is not None and left and left[-1] >= answered_at:
            return left[-1]
        return self.first(EventType.CALL_EXPIRED) if answered_at is None else None

    def state(self, answered_at: int | None, ended_at: int | None) -> CallState:
        if ended_at is not None:
            return "ended"
        if self.of(EventType.CALL_FORWARDED):
            return "forwarded"
        if answered_at is not None:
            return "answered"
        ringing = self.of(EventType.CALL_RINGING, EventType.LEG_RINGING)
        return "ringing" if ringing else "initiated"

    def disposition(self, answered_at: int | None) -> Disposition:
        ends = [event.data.disposition for event in self.of(EventType.CALL_ENDED)]
        said = [word for word in ends if word is not None]
        failures = [word for word in said if word not in ("answered", "forwarded")]
        if failures:
            return failures[-1]
        if self.of(EventType.CALL_FORWARDED) or "forwarded" in said:
            return "forwarded"
        if self._rejected():
            return "failed"
        if answered_at is not None or "answered" in said:
            return "answered"
        return "lost" if self.of(EventType.CALL_EXPIRED) else "no_answer"

    def _rejected(self) -> bool:
        decisions = [event.data.decision for event in self.events if event.data.decision]
        return bool(decisions) and all(decision.action == "reject" for decision in decisions)

    def duration(self, answered_at: int | None, ended_at: int | None) -> float | None:
        said = [event.data.duration for event in self.of(EventType.CALL_ENDED)]
        measured = [seconds for seconds in said if seconds is not None]
        if measured:
            return measured[-1]
        if answered_at is None or ended_at is None:
            return None
        return max(0, ended_at - answered_at) / 1_000_000

    def reason(self, disposition: Disposition | None) -> str:
        if disposition != "answered":
            told = self.of(EventType.AGENT_MISSING, EventType.CALL_EXPIRED, EventType.CALL_ENDED)
            why = [event.data.reason for event in told if event.data.reason]
            if why:
                return why[-1]
        routed = [event.data.decision.reason for event in self.events if event.data.decision]
        return routed[0] if routed else ""


def _authority(event: Event) -> int:
    if event.type is EventType.CALL_INITIATED:
        return 0
    return 2 if event.source in _CARRIES_NO_CALLS else 1
