"""Calls as they happen and as providers tell of them, made up by a seed.

What really happened is decided first; then each party tells what it saw, through the provider's own
parser: late, in whole seconds, or without saying when. So the truth is known beside the events.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from random import Random
from typing import Any, Final
from uuid import UUID

from router.events.codec import to_rfc3339
from router.events.ids import call_id, event_id
from router.events.model import Disposition, Event, EventData
from router.events.types import EventType as T
from router.provider import happened_at
from router.providers.livekit import rooms
from router.providers.livekit.client import Participant
from router.providers.livekit.events import participant_event
from router.providers.telnyx.api import leg_state
from router.providers.telnyx.events import parse_event
from router.providers.twilio import events as twilio
from router.providers.vocode.events import from_message
from router.providers.vocode.message import Message
from router.routing.decide import decide
from router.routing.table import Route, RouteTable, Target

SECOND: Final = 1_000_000
CALLER, CALLED, FALLBACK = "+12125550123", "+14155550100", "+14155550111"
_ACCOUNT: Final = "AC" + "a1" * 16
_BEGAN: Final = 1_780_000_000_123_456
_DIAL: Final = 20.0  # seconds that an agent's dial may ring
_AGENT: Final = Target(agent="anna", livekit_agent_name="lk-anna")


@dataclass(frozen=True, slots=True)
class Truth:
    """What really happened; times in seconds from the beginning."""

    provider: str
    dispositions: frozenset[Disposition]
    answered: bool | None  # None: the caller heard an apology, which carriers call an answer
    ended: float
    outbound: bool = False
    is_timed: bool = True  # whether the provider says when something happened


@dataclass
class _Teller:
    """Collects what is told of one call."""

    random: Random
    provider: str
    fallback: str = ""
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = f"{self.random.getrandbits(128):032x}"
        self._table = RouteTable()
        self._table.put(
            Route(
                number=CALLED,
                provider=self.provider,
                rev=1,
                targets=(_AGENT,),
                fallback=self.fallback,
            )
        )

    def tell(self, *events: Event) -> Event:
        self.events += [decide(event, self._table) for event in events]
        return self.events[-1]

    def at(self, seconds: float) -> int:
        return _BEGAN + round(seconds * SECOND)

    def arrives(self, seconds: float) -> int:
        """When the webhook about something of then is received."""
        slow = self.random.choices([(0.01, 0.3), (0.3, 2.4), (2.4, 40.0)], [75, 17, 8])[0]
        return self.at(seconds + self.random.uniform(*slow))

    def whole(self, seconds: float) -> int:
        """As LiveKit says when: in whole seconds."""
        claimed = self.at(seconds) // SECOND * SECOND
        return happened_at(claimed, self.arrives(seconds))

    # Twilio

    def form(self, **fields: str) -> dict[str, str]:
        whose = {"CallSid": f"CA{self.name}", "AccountSid": _ACCOUNT, "Direction": "inbound"}
        return {**whose, "From": CALLER, "To": CALLED, **fields}

    def status(self, at: float, word: str, sequence: int, **fields: str) -> None:
        when = {"Timestamp": formatdate(self.at(at) // SECOND), "SequenceNumber": str(sequence)}
        form = self.form(CallStatus=word, **when, **fields)
        self.tell(twilio.call_status(form, _ACCOUNT, self.arrives(at)))

    def leg(self, at: float, word: str, sequence: int, sid: str) -> None:
        about = {"CallSid": sid, "ParentCallSid": f"CA{self.name}", "Direction": "outbound-dial"}
        self.status(at, word, sequence, **about)

    def dialled(self, at: float, word: str, stage: str, sid: str, status: str) -> None:
        form = self.form(DialCallStatus=word, DialCallSid=sid, CallStatus=status)
        self.tell(twilio.dial_ended(form, _ACCOUNT, self.at(at), stage))

    def new_leg(self) -> str:
        return f"CA{self.random.getrandbits(128):032x}"

    # Telnyx

    def telnyx(self, name: str, at: float, leg: str, **payload: Any) -> Event:
        ids = {"call_control_id": f"v3:{leg}", "call_leg_id": leg, "call_session_id": self.name}
        data = {
            "event_type": name,
            "id": str(UUID(int=self.random.getrandbits(128))),
            "occurred_at": to_rfc3339(self.at(at)),
            "payload": {**ids, "from": CALLER, "to": CALLED, **payload},
        }
        return self.tell(*parse_event(data, self.arrives(at)))

    def hung_up(self, at: float, leg: str, cause: str, sip: str = "", **payload: Any) -> None:
        why = {"hangup_cause": cause, "sip_hangup_cause": sip or "unspecified"}
        self.telnyx("call.hangup", at, leg, **why, **payload)

    # LiveKit, ourselves

    def in_room(self, kind: T, at: float, room: str, who: Participant) -> None:
        self.tell(participant_event(kind, room, who, time=self.whole(at)))

    def own(self, kind: T, at: float, call: str, reason: str = "") -> None:
        data = EventData(call_id=call, reason=reason)
        key = event_id("switchboard", call, kind.value)
        self.tell(
            Event(id=key, type=kind, source="switchboard", time=self.at(at), key=call, data=data)
        )

    def room(self, call: str, ready: float | None, left: float, closed: float) -> None:
        """The caller's leg and the agent's way, as seen in the room."""
        caller = Participant("PA_c", "sip", "SIP", "", False, {"sip.ruleID": "SDR_1"}, 0)
        agent = Participant("PA_a", "agent-1", "AGENT", "lk-anna", True, {}, 0)
        self.own(T.AGENT_DISPATCHED, 0.1, call)
        self.in_room(T.SIP_JOINED, 0.4, call, caller)
        self.in_room(T.SIP_LEFT, left, call, caller)
        if ready is not None and ready < closed:
            self.in_room(T.AGENT_JOINED, ready - 0.2, call, agent)
            self.in_room(T.AGENT_READY, ready, call, agent)
            self.in_room(T.AGENT_LEFT, closed, call, agent)
        if ready is None or ready > 16.0:
            self.own(T.AGENT_MISSING, 16.0, call, "no agent could be heard in time")


def _agent_and_patience(random: Random) -> tuple[float | None, float]:
    """When the agent can be heard, and when the caller gives up: often at nearly the same time."""
    ready = random.choice([random.uniform(0.6, 3.0), random.uniform(0.6, 25.0), None])
    close = 1e9 if ready is None else ready + random.uniform(-0.2, 0.3)
    return ready, max(0.6, random.choice([random.uniform(0.6, 30.0), 1e9, close]))


def _talk(random: Random, begins: float) -> float:
    return begins + random.choice([random.uniform(0.2, 2.0), random.uniform(2.0, 600.0)])


def _twilio(random: Random) -> tuple[_Teller, Truth]:
    it = _Teller(random, "twilio", random.choice(["", FALLBACK]))
    call, sid = call_id("twilio", _ACCOUNT, f"CA{it.name}"), it.new_leg()
    it.tell(twilio.incoming_call(it.form(CallStatus="ringing"), _ACCOUNT, it.at(0.0)))
    it.leg(0.2, "initiated", 0, sid)
    it.leg(0.3, "ringing", 1, sid)
    ready, patience = _agent_and_patience(random)
    if ready is not None and ready < min(patience, _DIAL):
        answered, ended = ready + 0.1, _talk(random, ready + 0.1)
        it.room(call, ready, ended, ended)
        return _twilio_talk(it, sid, "agent", answered, ended)
    if patience < _DIAL:
        word = random.choice(["no-answer", "canceled"])
        it.leg(patience, word, 2, sid)
        it.dialled(patience + 0.1, "canceled", "agent", sid, word)
        it.status(patience + 0.1, word, 1, CallDuration="0")
        it.room(call, ready, patience, patience + 1.0)
        return it, Truth("twilio", frozenset({"no_answer", "canceled"}), False, patience)
    it.leg(_DIAL, "no-answer", 2, sid)
    it.dialled(_DIAL + 0.1, "no-answer", "agent", sid, "ringing")
    it.room(call, ready, _DIAL, _DIAL + 4.0)
    if it.fallback:
        return _twilio_fallback(it)
    return _twilio_apology(it, _DIAL + 0.2, "no_answer")


def _twilio_fallback(it: _Teller) -> tuple[_Teller, Truth]:
    sid = it.new_leg()
    it.leg(20.3, "initiated", 0, sid)
    it.leg(20.4, "ringing", 1, sid)
    if it.random.random() < 0.6:
        answered = 21.0 + it.random.uniform(0.5, 15.0)
        return _twilio_talk(it, sid, "fallback", answered, _talk(it.random, answered))
    it.leg(40.0, "busy", 2, sid)
    it.dialled(40.1, "busy", "fallback", sid, "ringing")
    return _twilio_apology(it, 40.2, "busy")


def _twilio_talk(
    it: _Teller, sid: str, stage: str, answered: float, ended: float
) -> tuple[_Teller, Truth]:
    it.leg(answered, "in-progress", 2, sid)
    it.status(answered + 0.05, "in-progress", 1)
    it.leg(ended, "completed", 3, sid)
    it.dialled(ended + 0.1, "completed", stage, sid, "in-progress")
    it.status(ended + 0.2, "completed", 2, CallDuration=str(int(ended - answered)))
    how: Disposition = "answered" if stage == "agent" else "forwarded"
    return it, Truth("twilio", frozenset({how}), True, ended)


def _twilio_apology(it: _Teller, at: float, how: Disposition) -> tuple[_Teller, Truth]:
    it.status(at, "in-progress", 1)
    it.status(at + 4.3, "completed", 2, CallDuration="4")
    return it, Truth("twilio", frozenset({how}), None, at + 4.3)


def _telnyx(random: Random) -> tuple[_Teller, Truth]:
    it = _Teller(random, "telnyx", random.choice(["", FALLBACK]))
    call = call_id("telnyx", "", it.name)
    first = it.telnyx("call.initiated", 0.0, "caller", direction="incoming", state="parked")
    leg = {"to": f"sip:{call}@sip.example.com", "client_state": leg_state(first, "agent")}
    it.telnyx("call.initiated", 0.2, "leg-1", direction="outgoing", state="bridging", **leg)
    ready, patience = _agent_and_patience(random)
    if ready is not None and ready < min(patience, _DIAL):
        answered, ended = ready + 0.1, _talk(random, ready + 0.1)
        it.room(call, ready, ended, ended)
        return _telnyx_talk(it, "leg-1", leg, answered, ended, "answered")
    if patience < _DIAL:
        it.hung_up(patience, "leg-1", "originator_cancel", "487", **leg)
        it.hung_up(patience, "caller", "originator_cancel", "487")
        it.room(call, ready, patience, patience + 1.0)
        return it, Truth("telnyx", frozenset({"canceled"}), False, patience)
    it.hung_up(_DIAL, "leg-1", "timeout", "487", **leg)
    it.room(call, ready, _DIAL, _DIAL + 4.0)
    if it.fallback:
        return _telnyx_fallback(it, first)
    it.hung_up(20.6, "caller", "normal_clearing")
    return it, Truth("telnyx", frozenset({"no_answer"}), False, 20.6)


def _telnyx_fallback(it: _Teller, first: Event) -> tuple[_Teller, Truth]:
    leg = {"to": FALLBACK, "client_state": leg_state(first, "fallback")}
    it.telnyx("call.initiated", 20.5, "leg-2", direction="outgoing", state="bridging", **leg)
    if it.random.random() < 0.6:
        answered = 21.0 + it.random.uniform(0.5, 15.0)
        return _telnyx_talk(it, "leg-2", leg, answered, _talk(it.random, answered), "forwarded")
    it.hung_up(40.0, "leg-2", "user_busy", "486", **leg)
    it.hung_up(40.6, "caller", "normal_clearing")
    return it, Truth("telnyx", frozenset({"busy"}), False, 40.6)


def _telnyx_talk(
    it: _Teller, leg: str, about: dict[str, str], answered: float, ended: float, how: Disposition
) -> tuple[_Teller, Truth]:
    for name, at in (("call.answered", answered), ("call.bridged", answered + 0.05)):
        it.telnyx(name, at, leg, **about)
        it.telnyx(name, at, "caller")
    it.hung_up(ended, leg, "normal_clearing", "200", **about)
    it.hung_up(ended, "caller", "normal_clearing", "200")
    return it, Truth("telnyx", frozenset({how}), True, ended)


def _trunk(random: Random) -> tuple[_Teller, Truth]:
    it = _Teller(random, "twilio")
    named = {"sip.twilio.callSid": f"CA{it.name}", "sip.twilio.accountSid": _ACCOUNT}
    parties = {"sip.phoneNumber": CALLER, "sip.trunkPhoneNumber": CALLED, "sip.ruleID": "SDR_1"}
    attributes = {"sip.callID": f"SCL_{it.name}", **parties, **random.choice([named, {}])}

    def caller(status: str, why: str = "") -> Participant:
        said = {**attributes, "sip.callStatus": status}
        joined = it.at(0.3) // SECOND * SECOND
        return Participant("PA_c", "sip", "SIP", "", False, said, joined, why)

    room = f"call-{it.name}"
    it.tell(*rooms.joined(room, caller("ringing"), time=it.whole(0.3)))
    ready = random.choice([random.uniform(0.6, 10.0), 1e9])
    ended = random.uniform(1.0, 100.0)
    if ready < ended:
        agent = Participant("PA_a", "agent-1", "AGENT", "lk-anna", True, {}, it.at(ready - 0.2))
        it.tell(*rooms.seen(room, [caller("ringing"), agent], now=it.at(ready + 0.05)))
    it.tell(*rooms.left(room, caller("hangup", "CLIENT_INITIATED"), time=it.whole(ended), raw={}))
    how: Disposition = "answered" if ready < ended else "no_answer"
    return it, Truth("livekit", frozenset({how}), ready < ended, ended)


def _vocode(random: Random) -> tuple[_Teller, Truth]:
    it, ended = _Teller(random, "vocode"), random.uniform(1.0, 300.0)
    call = call_id("vocode", "", it.name)

    def message(kind: str, received_at: int, **fields: Any) -> None:
        raw = {"type": kind, "call_id": it.name, "payload": fields}
        it.tell(*from_message(Message(kind, it.name, fields, raw), received_at))

    ends = {"to_phone_number": CALLED, "from_phone_number": CALLER}
    message("event_phone_call_connected", it.at(0.0), **ends)
    it.own(T.AGENT_DISPATCHED, 0.1, call)
    message("event_phone_call_ended", it.arrives(ended), conversation_minutes=ended / 60)
    return it, Truth("vocode", frozenset({"answered"}), True, ended, is_timed=False)


def _outbound(random: Random) -> tuple[_Teller, Truth]:
    it = _Teller(random, "twilio")
    ends = {"Direction": "outbound-api", "From": CALLED, "To": CALLER}
    it.status(0.0, "initiated", 0, **ends)
    it.status(1.0, "ringing", 1, **ends)
    if random.random() < 0.6:
        ended = _talk(random, 5.0)
        it.status(5.0, "in-progress", 2, **ends)
        it.status(ended, "completed", 3, **ends, CallDuration=str(int(ended - 5.0)))
        return it, Truth("twilio", frozenset({"answered"}), True, ended, outbound=True)
    how: Disposition = random.choice(["busy", "failed", "no_answer", "canceled"])
    it.status(8.0, how.replace("_", "-"), 2, **ends, CallDuration="0")
    return it, Truth("twilio", frozenset({how}), False, 8.0, outbound=True)


_HISTORIES: Final[Sequence[Callable[[Random], tuple[_Teller, Truth]]]] = (
    *(_twilio, _twilio, _telnyx, _telnyx, _trunk, _vocode, _outbound),
)


def history(seed: int) -> tuple[list[Event], Truth]:
    """All events of one call, in no particular order, and what really happened."""
    random = Random(seed)
    it, truth = random.choice(_HISTORIES)(random)
    random.shuffle(it.events)
    return it.events, truth


def moment(truth: Truth) -> int:
    """When the call ended, µs since the epoch."""
    return _BEGAN + round(truth.ended * SECOND)
