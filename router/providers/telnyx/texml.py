"""TeXML's webhooks as events (developers.telnyx.com/api-reference/callbacks/texml-call-completed).

TeXML speaks as Twilio does, in forms, but names calls by their call control id (`CallSid`), and
signs as all of Telnyx does. The session's id is in the last callback only: `call_id` follows from
the `CallSid` of the caller's leg.
"""

import re
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final
from urllib.parse import parse_qsl

from router.errors import BadPayload
from router.events.ids import call_id, event_id
from router.events.model import Direction, Disposition, Event, EventData
from router.events.phone import channel_of, party
from router.events.types import EventType
from router.provider import WebhookRequest, happened_at
from router.providers.telnyx.action import Dialled
from router.providers.telnyx.envelope import CONTROL_ID, PROVIDER, moment, sip_status
from router.providers.telnyx.facts import KEPT_HEADERS

_MAX_FIELDS: Final = 200
_WORD: Final = re.compile(r"[a-z-]{1,32}", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_CUSTOM_HEADER: Final = re.compile(r"SipHeader_(X-[\w-]{1,60}|User-to-User)", re.ASCII | re.I)
_CALLBACKS: Final = frozenset({"call-progress-events", "call-cost-events"})

_ENDINGS: Final[Mapping[str, Disposition]] = {
    "completed": "answered",
    "answered": "answered",
    "busy": "busy",
    "no-answer": "no_answer",
    "failed": "failed",
    "canceled": "canceled",
}
_PROGRESS: Final[Mapping[str, EventType]] = {
    "initiated": EventType.CALL_INITIATED,
    "ringing": EventType.CALL_RINGING,
    "in-progress": EventType.CALL_ANSWERED,
    "answered": EventType.CALL_ANSWERED,
}
_LEG_PROGRESS: Final[Mapping[str, EventType]] = {
    "initiated": EventType.LEG_INITIATED,
    "ringing": EventType.LEG_RINGING,
    "in-progress": EventType.LEG_ANSWERED,
    "answered": EventType.LEG_ANSWERED,
}

Fields = Mapping[str, str]


def read_form(body: bytes) -> Fields:
    """The form, its identifying fields checked. Raises BadPayload."""
    try:
        # Telnyx signs the bytes, so what is no UTF-8 in them has come from it: no reason to refuse.
        text = body.decode("utf-8", "replace")
        pairs = parse_qsl(
            text, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="replace"
        )
    except ValueError as error:
        raise BadPayload("the form has too many fields") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise BadPayload("a field is there more than once")
    _matching(fields, "CallSid", CONTROL_ID)
    if fields.get("ParentCallSid"):
        _matching(fields, "ParentCallSid", CONTROL_ID)
    return fields


def incoming_call(request: WebhookRequest, fields: Fields) -> Event:
    """The request for a document: a call came in, and Telnyx has answered it already.

    A status callback that is sent here, by mistake or by somebody who recorded it, is what it says:
    it must not start a call.
    """
    if fields.get("CallbackSource") in _CALLBACKS or fields.get("CallStatus") in _ENDINGS:
        return call_status(request, fields)
    direction = _direction(fields) or "inbound"
    return Event(
        id=event_id(PROVIDER, fields["CallSid"], "incoming"),
        type=EventType.CALL_INITIATED,
        source=PROVIDER,
        time=request.received_at,
        key=_call_id(fields),
        data=_data(
            fields,
            direction=direction,
            stage="route" if direction == "inbound" else "",
            **_caller_facts(fields),
        ),
    )


def call_status(request: WebhookRequest, fields: Fields) -> Event:
    """A status callback, of the call itself or (with ParentCallSid) of its leg to LiveKit."""
    status = fields.get("CallStatus", "")
    sequence, source = fields.get("SequenceNumber", ""), fields.get("CallbackSource", "")
    return Event(
        id=event_id(PROVIDER, fields["CallSid"], "status", source, status, sequence),
        type=_status_type(fields, status, source),
        source=PROVIDER,
        time=happened_at(moment(fields, "Timestamp"), request.received_at),
        key=_call_id(fields),
        data=_data(
            fields,
            direction=_direction(fields),
            status=status,
            disposition=_ENDINGS.get(status),
            sip_status=sip_status(fields, "SipHangupCause"),
            duration=_seconds(fields, "CallDuration"),
        ),
    )


def dial_ended(request: WebhookRequest, fields: Fields, dialled: Dialled) -> Event:
    """The `<Dial action>` request: a dial is over, and Telnyx asks what is next.

    What the path says (see `router.providers.telnyx.action`) is which dial that was and which
    number had been called, and from that follows whose fallback is next; the event's identity is
    what the signed fields say, wherever they name the dialled leg.
    """
    status = _matching(fields, "DialCallStatus", _WORD)
    leg = fields.get("DialCallSid", "")
    if leg:
        _matching(fields, "DialCallSid", CONTROL_ID)
    duration = _seconds(fields, "DialCallDuration")
    return Event(
        id=event_id(PROVIDER, fields["CallSid"], "dial", leg or dialled.stage, status),
        type=EventType.LEG_ENDED,
        source=PROVIDER,
        time=request.received_at,
        key=_call_id(fields),
        data=_data(
            fields,
            direction=_direction(fields) or "inbound",
            to_number=dialled.called or party(fields.get("To", "")).address,
            leg_id=leg,
            stage=dialled.stage,
            status=status,
            disposition=_outcome(status, duration),
            duration=duration,
        ),
    )


def _outcome(status: str, duration: float | None) -> Disposition:
    """How a dial ended. Field reports have refused dials "completed", in 0 seconds.

    Where somebody did answer for less than a second, the fallback is right as well.
    """
    if status == "completed" and duration == 0:
        return "no_answer"
    return _ENDINGS.get(status, "failed")


def _status_type(fields: Fields, status: str, source: str) -> EventType:
    is_leg = bool(fields.get("ParentCallSid"))
    if source == "call-cost-events":
        return EventType.CALL_SUMMARISED
    if status in _ENDINGS:
        return EventType.LEG_ENDED if is_leg else EventType.CALL_ENDED
    progress = _LEG_PROGRESS if is_leg else _PROGRESS
    return progress.get(status, EventType.PROVIDER_UNKNOWN)


def _data(fields: Fields, **more: Any) -> EventData:
    parent = fields.get("ParentCallSid")
    from_, to = party(fields.get("From", "")), party(fields.get("To", ""))
    return EventData(
        **{
            "call_id": _call_id(fields),
            "provider_call_id": parent or fields["CallSid"],
            "provider_account": fields.get("AccountSid", ""),
            "from_number": from_.address,
            "to_number": to.address,
            "channel": channel_of(from_, to),
            "leg_id": fields["CallSid"] if parent else "",
            "raw": fields,
            **more,
        }
    )


def _caller_facts(fields: Fields) -> Mapping[str, Any]:
    """What the request for a document says of the caller.

    No source tells whether TeXML passes on headers of the INVITE; where it does, then under TwiML's
    names for them, as it does with all that it takes over.
    """
    level = fields.get("ShakenStirAttestation", "").upper()
    was_verified = fields.get("ShakenStirValidated", "true").lower() == "true"
    headers = (
        (header[1], value)
        for name, value in fields.items()
        if (header := _CUSTOM_HEADER.fullmatch(name)) is not None
    )
    return {
        "caller_name": fields.get("CallerName") or fields.get("CallerId", ""),
        "forwarded_from": party(fields.get("ForwardedFrom", "")).address,
        "attestation": level if was_verified and level in ("A", "B", "C") else "",
        "sip_headers": dict(islice(headers, KEPT_HEADERS)),
    }


def _call_id(fields: Fields) -> str:
    return call_id(PROVIDER, "", fields.get("ParentCallSid") or fields["CallSid"])


def _direction(fields: Fields) -> Direction | None:
    word = fields.get("Direction", "")
    if not word:
        return None
    return "inbound" if word == "inbound" else "outbound"


def _matching(fields: Fields, name: str, pattern: re.Pattern[str]) -> str:
    value = fields.get(name, "")
    if pattern.fullmatch(value) is None:
        raise BadPayload(f"{name} is missing or malformed")
    return value


def _seconds(fields: Fields, name: str) -> float | None:
    value = fields.get(name, "")
    return float(value) if _NUMBER.fullmatch(value) else None
