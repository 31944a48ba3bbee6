"""Phone calls in rooms that no call_id names: trunk mode, where no carrier's webhook tells of them.

LiveKit has no events of calls: the SIP participant is the call. What it says of it (seen with
livekit-server 1.13.5 and livekit-sip 1.8.0):

- `sip.ruleID` is there for a call that came in, and not for one that an agent or we placed;
- `sip.phoneNumber` is the far end, `sip.trunkPhoneNumber` ours; a rule may hide both;
- `sip.callStatus` when it joins: `ringing`, outbound also `dialing`, `active` after a PIN. It turns
  `active` without a webhook;
- when it leaves: `hangup`, whether it was answered or not, so that `call.ended` has no disposition
  then; where it was put out or the dial failed, what it was before.

The call_id is the carrier's where the participant of a call that came in names the carrier's call
(SIP headers of Twilio and Telnyx), so that what the carrier tells about it elsewhere is about the
same call; else it is LiveKit's `sip.callID`.

An agent's webhook holds nothing of the caller, so it can't say which call it is about: it stays
`provider.unknown`, with `room`, `leg_id` and `agent`. Asking LiveKit who is in that room says it:
`seen` makes agent.joined, agent.ready and call.answered of the answer. That an agent left, in trunk
mode, nobody says.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final

import msgspec

from router.events.ids import call_id, event_id
from router.events.model import Disposition, Event, EventData
from router.events.phone import party
from router.events.types import EventType
from router.providers.livekit.client import Participant

PROVIDER: Final = "livekit"

_CUSTOM_HEADER: Final = re.compile(r"sip\.h\.(x-[\w-]{1,60}|user-to-user)", re.ASCII | re.I)
_KEPT_HEADERS: Final = 20  # of a call; a stranger may send any number
_TALKING: Final = ("active", "automation")  # the latter: it is answered, and keys are being sent
_HUNG_UP: Final = "hangup"
_NORMAL: Final = ("", "UNKNOWN_REASON", "CLIENT_INITIATED")
# The call is `sip.callID`: the same caller is there anew, under a new participant.
_REPLACED: Final = ("DUPLICATE_IDENTITY", "MIGRATION")
_UNANSWERED: Final[Mapping[str, Disposition]] = {  # by DisconnectReason; the others: failed
    "USER_UNAVAILABLE": "no_answer",
    "USER_REJECTED": "busy",
    "CLIENT_INITIATED": "canceled",
    "PARTICIPANT_REMOVED": "canceled",
    "ROOM_DELETED": "canceled",
    "ROOM_CLOSED": "canceled",
}


def carriers_id(who: Participant) -> str:
    """The carrier's id of a SIP participant's call, "" where its SIP headers name none."""
    attributes = who.attributes
    return attributes.get("sip.twilio.callSid") or attributes.get("sip.telnyx.callSessionID") or ""


def _origin(who: Participant) -> tuple[str, str, str]:
    """Provider, account and id that the call's call_id is made of.

    What the carrier calls a call that was placed is known from its answer on: too late, the call
    would begin as one and end as another (livekit-sip pkg/sip/outbound.go, setExtraAttrs).
    """
    attributes = who.attributes
    if who.is_dialled:
        return PROVIDER, "", attributes["sip.callID"]
    if attributes.get("sip.twilio.callSid") and attributes.get("sip.twilio.accountSid"):
        return "twilio", attributes["sip.twilio.accountSid"], attributes["sip.twilio.callSid"]
    if attributes.get("sip.telnyx.callSessionID"):
        return "telnyx", "", attributes["sip.telnyx.callSessionID"]
    return PROVIDER, "", attributes.get("sip.callID") or who.sid


def phone_call(room: str, who: Participant) -> EventData:
    """What a SIP participant says of its call."""
    attributes = who.attributes
    carrier, account, own_id = _origin(who)
    far, ours = (
        party(attributes.get(name, "")).address
        for name in ("sip.phoneNumber", "sip.trunkPhoneNumber")
    )
    inbound = bool(attributes.get("sip.ruleID"))
    return EventData(
        call_id=call_id(carrier, account, own_id),
        provider_call_id=carriers_id(who) or own_id,
        provider_account=account,
        direction="inbound" if inbound else "outbound",
        from_number=far if inbound else ours,
        to_number=ours if inbound else far,
        leg_id=who.sid,
        room=room,
        sip_headers=_custom_headers(attributes),
        status=attributes.get("sip.callStatus", ""),
    )


def _custom_headers(attributes: Mapping[str, str]) -> Mapping[str, str]:
    """Custom headers of a call's INVITE, where its trunk includes them; their names in lower case.

    Others that a trunk may include, such as Authorization, are none of an event's business.
    """
    found = (
        (header[1], value)
        for name, value in attributes.items()
        if (header := _CUSTOM_HEADER.fullmatch(name)) is not None
    )
    return dict(islice(found, _KEPT_HEADERS))


def joined(
    room: str, who: Participant, *, time: int, raw: Mapping[str, Any] | None = None
) -> Sequence[Event]:
    """A SIP participant came: the call began, and may be answered already."""
    data = msgspec.structs.replace(phone_call(room, who), raw=raw or {})
    events = [_event(EventType.CALL_INITIATED, data, time)]
    if data.status in _TALKING:
        events.append(_event(EventType.CALL_ANSWERED, data, time))
    return events


def left(room: str, who: Participant, *, time: int, raw: Mapping[str, Any]) -> Sequence[Event]:
    """A SIP participant is gone: its call is over, unless another one took its place."""
    data = phone_call(room, who)
    why = who.disconnect_reason
    if why in _REPLACED:
        data = msgspec.structs.replace(data, reason=f"LiveKit: {why}", raw=raw)
        return [_event(EventType.LEG_ENDED, data, time)]
    data = msgspec.structs.replace(
        data,
        disposition=_disposition(data.status, why),
        reason="" if why in _NORMAL else f"LiveKit: {why}",
        raw=raw,
    )
    return [_event(EventType.CALL_ENDED, data, time)]


def seen(room: str, present: Sequence[Participant], *, now: int) -> Sequence[Event]:
    """What the people in a room say of its calls; each event as a webhook would tell it.

    Agents belong to the call that was there first. A call that came in is answered by LiveKit as
    soon as an agent's audio is there.
    """
    callers = sorted((p for p in present if p.kind == "SIP"), key=lambda who: who.joined_at)
    agents = [who for who in present if who.kind == "AGENT"]
    heard = any(agent.publishes_audio for agent in agents)
    events: list[Event] = []
    for who in callers:
        data = phone_call(room, who)
        events.append(_event(EventType.CALL_INITIATED, data, who.joined_at or now))
        is_due = heard and data.direction == "inbound" and who.is_ringing
        if is_due or data.status in _TALKING:  # since when, nobody says: not since they joined
            events.append(_event(EventType.CALL_ANSWERED, data, now))
    for who in agents if callers else ():
        events += _agent_events(phone_call(room, callers[0]), who, now)
    return events


def _agent_events(call: EventData, who: Participant, now: int) -> Sequence[Event]:
    data = EventData(
        call_id=call.call_id,
        provider_call_id=call.provider_call_id,
        provider_account=call.provider_account,
        leg_id=who.sid,
        room=call.room,
        agent=who.agent_name,
    )
    events = [_event(EventType.AGENT_JOINED, data, who.joined_at or now)]
    if who.publishes_audio:
        events.append(_event(EventType.AGENT_READY, data, now))
    return events


def _disposition(status: str, why: str) -> Disposition | None:
    if status == _HUNG_UP:
        return None
    return "answered" if status in _TALKING else _UNANSWERED.get(why, "failed")


def _event(kind: EventType, data: EventData, time: int) -> Event:
    return Event(
        id=event_id(PROVIDER, data.room, data.leg_id, kind.value),
        type=kind,
        source=PROVIDER,
        time=time,
        key=data.call_id,
        data=data,
    )
