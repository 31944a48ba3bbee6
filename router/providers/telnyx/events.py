"""Events of Telnyx's API v2 → ours: Call Control's, and those about numbers.

`call_id` follows from the caller's leg, which the legs of our transfers name (`legs`); an event's
id follows from `data.id`, which a redelivery repeats.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from router.errors import BadPayload
from router.events.ids import call_id, event_id
from router.events.model import Direction, Event, EventData, Stage
from router.events.phone import channel_of, party
from router.events.types import EventType
from router.providers.telnyx import kinds
from router.providers.telnyx.envelope import PROVIDER, Notice, Payload, read_notice, text
from router.providers.telnyx.facts import facts_of
from router.providers.telnyx.legs import Mark, disposition_of, mark_of, room_of, waits_for_more
from router.providers.telnyx.numbers import number_events

_DIRECTIONS: Final[Mapping[str, Direction]] = {"incoming": "inbound", "outgoing": "outbound"}


def parse_event(
    data: Mapping[str, Any], received_at: int, *, signed_ago: int = 0, rooms: bool = True
) -> Sequence[Event]:
    """The events in one webhook's `data`, received at a time in µs since the epoch.

    `signed_ago`: seconds since Telnyx signed it, by our clock; see `envelope.read_notice`.
    `rooms`: whether a leg that nothing else tells of is of the call whose room it goes to.

    One, except about several numbers. An incoming call that waits for a command asks for a decision
    (`stage` route), and so does a leg that was not answered (agent, fallback). The end of a talk
    with the fallback has a `stage` too: it is the call's, forwarded.

    Raises:
        BadPayload: it lacks what an event can't do without; the message names the field.
    """
    notice = read_notice(data, received_at, signed_ago)
    family = kinds.NUMBERS.get(notice.name)
    if family is not None:
        return number_events(notice, family)
    return [_call_event(notice, rooms=rooms)]


def _call_event(notice: Notice, *, rooms: bool) -> Event:
    payload = notice.payload
    kind = _kind(notice)
    mark = mark_of(payload)
    theirs = mark.control_id if mark is not None else text(payload, "call_control_id")
    if kind in kinds.LEGS and not (theirs or mark):
        raise BadPayload("data.payload.call_control_id is missing or not text")
    room = room_of(payload) if rooms and not theirs else ""
    # A conference's own events name the session of whoever began it, and no leg.
    theirs = theirs or text(payload, "call_session_id", "creator_call_session_id")
    ours = room or (call_id(PROVIDER, "", theirs) if theirs else "")
    if mark is not None:
        kind = kinds.LEGS.get(kind, kind)
    about = _of_leg(mark) if mark is not None else _of_caller(payload)
    identity = event_id(PROVIDER, notice.id)
    return Event(
        id=identity,
        type=kind,
        source=PROVIDER,
        time=notice.time,
        key=ours or identity,
        data=EventData(
            call_id=ours,
            provider_call_id=theirs,
            leg_id=text(payload, "call_leg_id"),
            stage=_stage(kind, payload, mark),
            raw=notice.raw,
            **about,
            **facts_of(kind, payload),
        ),
    )


def _kind(notice: Notice) -> EventType:
    kind = kinds.CALLS.get(notice.name, EventType.PROVIDER_UNKNOWN)
    was_heard = text(notice.payload, "status") not in kinds.FAILED_MEDIA
    return kind if kind is not EventType.MEDIA_ENDED or was_heard else EventType.MEDIA_FAILED


def _of_caller(payload: Payload) -> dict[str, Any]:
    from_, to = party(text(payload, "from")), party(text(payload, "to"))
    return {
        "direction": _DIRECTIONS.get(text(payload, "direction")),
        "from_number": from_.address,
        "to_number": to.address,
        "channel": channel_of(from_, to),
        "control_id": text(payload, "call_control_id"),
    }


def _of_leg(mark: Mark) -> dict[str, Any]:
    """A leg's own parties are LiveKit's address and us; what counts is whose call it is of."""
    return {
        "direction": "inbound",  # no other calls are transferred
        "from_number": mark.from_number,
        "to_number": mark.to_number,
        "control_id": mark.control_id,
    }


def _stage(kind: EventType, payload: Payload, mark: Mark | None) -> Stage:
    """What Telnyx waits to be told, and the end of a talk with the fallback.

    A call in state `bridging` goes on by itself: its number is connected straight to SIP. And
    without the id of the caller's leg nothing could be told. Telnyx waits for nothing after a talk;
    but that it was with the fallback only this leg says, the caller's own end does not.
    """
    if kind is EventType.CALL_INITIATED:
        is_incoming = text(payload, "direction") == "incoming"
        return "route" if is_incoming and text(payload, "state") != "bridging" else ""
    if kind is EventType.LEG_ENDED and mark is not None and mark.control_id:
        was_forwarded = mark.switchboard == "fallback" and disposition_of(payload) == "answered"
        return mark.switchboard if was_forwarded or waits_for_more(payload) else ""
    return ""
