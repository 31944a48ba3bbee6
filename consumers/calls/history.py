"""What the events of one call say together, question by question. Pure.

Whose word counts is decided by kind and by source, never by a provider's name
- the carrier of a call is who began it (`call.initiated`), be it LiveKit, where calls come over a
  trunk; where that event is missing, who tells most directly of it: of the call, of its legs, of
  who is in its room;
- who called whom: what is said of the call, never of a leg, whose ends are others;
- when it was answered: the call, else its leg, else two legs that were connected, else the moment
  when the agent could be heard and the caller was in the room, unless the end says otherwise: an
  agent often comes a moment after the caller gave up;
- when it ended: the carrier, of the call rather than of a dial, after which the caller may hear an
  apology; else what it said when it was asked (consumers/calls/sweep.py), else the moment when the
  caller of an answered call left the room, else when it was given up as lost;
- how it ended: a failure of the call, then of a dial, then that it was forwarded, then that it was
  answered. A carrier calls "completed" whatever was connected: a fallback, or our own apology,
  which is a failed call;
- how each leg ended: whoever tells that it did, of each fact the first who says it. The end of a
  dial comes as what followed from it (`router.routing.decide`): the call's end, or its forwarding.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from router.events.call import CallState, Leg
from router.events.ids import DEFAULT_ACCOUNT
from router.events.model import Decision, Disposition, Event, EventData
from router.events.types import EventType

T = TypeVar("T")

SOURCE: Final = "switchboard"
"""Of what we tell ourselves."""

_OF_THE_CALL: Final = 1
_OF_A_LEG: Final = 2
_OF_THE_CALLER: Final = 3
IN_A_ROOM: Final = 4
"""The distance of who is in a room; there may be no call."""

DISTANCE: Final = {
    EventType.AGENT_READY: IN_A_ROOM,
    EventType.AGENT_MISSING: IN_A_ROOM,
    EventType.SIP_JOINED: _OF_THE_CALLER,
    EventType.SIP_LEFT: _OF_THE_CALLER,
    **{kind: _OF_A_LEG for kind in EventType if kind.startswith(("call.", "leg."))},
    EventType.CALL_RINGING: _OF_THE_CALL,
    EventType.CALL_ANSWERED: _OF_THE_CALL,
    EventType.CALL_FORWARDED: _OF_THE_CALL,
    EventType.CALL_ENDED: _OF_THE_CALL,
    EventType.CALL_INITIATED: 0,
}
"""How directly a type of event tells of the call, 0 most. Those that are not here tell nothing that
a record holds: recordings, transcripts, keys, rooms, dispatches."""

_LEG_ENDS: Final = (EventType.LEG_ENDED, EventType.CALL_FORWARDED, EventType.CALL_ENDED)
_MOST_LEGS: Final = 100
"""Of a call's record: an agent may dial as many as it likes."""

Telling = tuple[int, Event]
"""An event with its distance."""


class History:
    """A call's telling events, and what follows from them. Times are µs, None while unknown.

    Args:
        telling: in any order, repeated or not; at least one.
    """

    def __init__(self, telling: Iterable[Telling]) -> None:
        unique: dict[str, Telling] = {}
        self._of: dict[EventType, list[Event]] = {}
        for each in sorted(telling, key=lambda each: (each[1].time, each[1].id)):
            event = each[1]
            if event.id not in unique:  # webhook and poll may differ in the time
                unique[event.id] = each
                self._of.setdefault(event.type, []).append(event)
        self._telling = list(unique.values())  # by time
        self.call_id = self._telling[0][1].key
        self.provider = provider = self._carrier()
        # For facts about the call: who knows them best comes first.
        self._witnesses = sorted(
            self._telling, key=lambda each: (each[1].source != provider, each[0])
        )
        self._told = self._told_answers()
        self._answers = [*self._told, *self._met()]
        self._ends = self._best_ends()
        self._left = self._last_leaving()
        self.ended_at = self._end()
        self.answered_at = self._answer()

    def first(self, *kinds: EventType) -> int | None:
        """When the first event of these types happened."""
        return min((self._of[kind][0].time for kind in kinds if kind in self._of), default=None)

    def fact(self, get: Callable[[EventData], T | None], *, distance: int = IN_A_ROOM) -> T | None:
        """What the best of those who say it says, of events no farther than `distance`."""
        for their_distance, event in self._witnesses:
            if their_distance <= distance and (value := get(event.data)):
                return value
        return None

    def party(self, get: Callable[[EventData], T | None]) -> T | None:
        """A fact about who called whom."""
        return self.fact(get, distance=_OF_THE_CALL)

    def decided(self, get: Callable[[Decision], str]) -> str:
        """A fact of the decision where the call goes."""
        return self.fact(lambda data: get(data.decision) if data.decision else "") or ""

    def owner(self) -> tuple[str, str]:
        """Whose call it is, and the connection that carries it.

        They are those of the number that it was routed by; where nothing decided, of who tells.
        """
        decided = self.fact(lambda data: data if data.decision and data.account_id else None)
        told = decided or self.fact(lambda data: data if data.account_id else None)
        return (told.account_id, told.connection_id) if told else (DEFAULT_ACCOUNT, "")

    def initiated_at(self) -> int:
        """When it began, as far as anybody says."""
        began = self.first(EventType.CALL_INITIATED)
        if began is not None:
            return began
        return next(event.time for distance, event in self._telling if distance < IN_A_ROOM)

    def state(self) -> CallState:
        """The furthest that the call came."""
        if self.ended_at is not None:
            return "ended"
        if self._all(EventType.CALL_FORWARDED):
            return "forwarded"
        if self._answers:
            return "answered"
        rang = self.first(EventType.CALL_RINGING, EventType.LEG_RINGING)
        return "ringing" if rang is not None else "initiated"

    def disposition(self) -> Disposition | None:
        """How it ended; None while it goes on."""
        if self.ended_at is None:
            return None
        if self._is_lost():
            return "lost"
        said = self._said()
        failures = _failures(said)
        if failures:
            return failures[0]
        if self._all(EventType.CALL_FORWARDED) or "forwarded" in said:
            return "forwarded"
        if self._is_rejected():
            return "failed"
        if self.answered_at is not None or "answered" in said:
            return "answered"
        return "lost" if self._all(EventType.CALL_EXPIRED) else "no_answer"

    def duration(self) -> float | None:
        """Seconds: as the carrier measured, else from the answer to the end."""
        for event in self._ends:
            if event.data.duration is not None:
                return event.data.duration
        if self.answered_at is None or self.ended_at is None or self._is_lost():
            return None
        return (self.ended_at - self.answered_at) / 1_000_000

    def reason(self) -> str:
        """Why it failed, else why it was routed as it was."""
        if self.disposition() != "answered":
            missing, expired = self._all(EventType.AGENT_MISSING), self._all(EventType.CALL_EXPIRED)
            for event in (*missing, *expired, *(self._ends or self._all(EventType.CALL_ENDED))):
                if event.data.reason:
                    return event.data.reason
        return self.decided(lambda decision: decision.reason)

    def legs(self) -> tuple[Leg, ...]:
        """How each leg ended that did, the caller's own among them; by the time of their ends."""
        ends: dict[tuple[str, str], list[Event]] = {}
        for _, event in self._telling:
            if event.type in _LEG_ENDS and event.source != SOURCE:
                ends.setdefault((event.source, _leg_id(event)), []).append(event)
        return tuple(_leg(leg_id, told) for (_, leg_id), told in ends.items())[:_MOST_LEGS]

    def _all(self, kind: EventType) -> Sequence[Event]:
        return self._of.get(kind, ())

    def _carrier(self) -> str:
        others = [each for each in self._telling if each[1].source != SOURCE] or self._telling
        return min(others, key=lambda each: each[0])[1].source

    def _end(self) -> int | None:
        of_the_call = [event.time for event in self._ends if not event.data.stage]
        known = of_the_call or [event.time for event in self._ends] or self._left
        given_up = [event.time for event in self._ended()]
        ended = min(known or given_up, default=None)
        # Providers' times are whole seconds, by which a call could end before it began.
        return None if ended is None else max(ended, self.initiated_at())

    def _answer(self) -> int | None:
        """The best answer; of a call that is over, one that does not contradict its end."""
        ended_at = self.ended_at
        if ended_at is None:
            return next(iter(self._answers), None)
        answers = self._told if _failures(self._said()) else self._answers
        in_time = (time for time in answers if time <= ended_at)
        return next(in_time, ended_at if self._told else None)

    def _said(self) -> Sequence[Disposition]:
        """How it ended, in the words of those who know; the best first."""
        return [word for event in self._ends if (word := event.data.disposition) is not None]

    def _is_lost(self) -> bool:
        return not self._ends and not self._left

    def _is_rejected(self) -> bool:
        decisions = [event.data.decision for _, event in self._telling if event.data.decision]
        return bool(decisions) and all(decision.action == "reject" for decision in decisions)

    def _ended(self) -> Sequence[Event]:
        """What is said of the call's end: the end of the agent's dial is none once it went on."""
        said = self._all(EventType.CALL_ENDED)
        return [event for event in said if event.data.stage != "agent" or not self._is_forwarded()]

    def _is_forwarded(self) -> bool:
        return EventType.CALL_FORWARDED in self._of

    def _best_ends(self) -> Sequence[Event]:
        """Who knows best that the call is over; words about the call before those about a dial."""
        known = [event for event in self._ended() if event.data.disposition != "lost"]
        best = [event for event in known if event.source == self.provider] or known
        return sorted(best, key=lambda event: event.data.stage != "")

    def _told_answers(self) -> Sequence[int]:
        """When it was answered, by each who says so; the best first."""
        told = (
            self.first(EventType.CALL_ANSWERED),
            self.first(EventType.LEG_ANSWERED),
            self.first(EventType.CALL_BRIDGED),
        )
        return [time for time in told if time is not None]

    def _met(self) -> Sequence[int]:
        """When agent and caller had both come to the room."""
        ready, caller = self.first(EventType.AGENT_READY), self.first(EventType.SIP_JOINED)
        return [max(ready, caller)] if ready is not None and caller is not None else ()

    def _last_leaving(self) -> Sequence[int]:
        """When the caller of an answered call left the room for good; empty while they are there.

        Answered by whoever's word: more words can only make that earlier, and the leaving later.
        """
        if self._is_forwarded():  # they left it for the fallback
            return ()
        left = [event.time for event in self._all(EventType.SIP_LEFT)][-1:]
        return left if any(answered <= time for time in left for answered in self._answers) else ()


def _failures(said: Iterable[Disposition]) -> Sequence[Disposition]:
    return [word for word in said if word not in ("answered", "forwarded")]


def _leg_id(event: Event) -> str:
    """The leg whose end an event tells; what is said of the call itself is of its caller's leg."""
    data = event.data
    return data.leg_id or data.stage or data.provider_call_id


def _leg(leg_id: str, told: Sequence[Event]) -> Leg:
    """A leg's end, of the first who says each fact of it. `told`: by time, at least one."""

    def first(get: Callable[[EventData], T]) -> T:
        said = [get(event.data) for event in told]
        return next((value for value in said if value), said[0])

    disposition = first(lambda data: data.disposition)
    return Leg(
        leg_id=leg_id,
        provider=told[0].source,
        dialled=first(lambda data: data.stage),
        # Of the call it is said that it was forwarded; whom it was forwarded to answered.
        disposition="answered" if disposition == "forwarded" else disposition,
        sip_status=first(lambda data: data.sip_status),
        reason=first(lambda data: data.reason) or first(lambda data: data.status),
        ended_at=told[0].time,
    )
