"""Twilio's calls as events (twilio.com/docs/voice/twiml#twilios-request-to-your-application).

Every builder takes checked-for-duplicates `fields`, the `account` that the request's key speaks for
and `received_at` (µs since epoch), and raises BadPayload. Event Streams tells of the same requests
(`router.providers.twilio.streams`) and comes through the same builders.
"""

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

import msgspec

from router.errors import BadPayload
from router.events.ids import call_id, event_id
from router.events.model import Disposition, Event, EventData
from router.events.phone import channel_of, is_e164, party
from router.events.types import EventType
from router.provider import happened_at
from router.providers.twilio.fields import (
    CALL_SID,
    NUMBER,
    WORD,
    Fields,
    answerer,
    attestation,
    called,
    caller,
    kept,
    matching,
    moment,
    optional,
    seconds,
    sip_headers,
)

PROVIDER: Final = "twilio"

_ENDINGS: Final[Mapping[str, Disposition]] = {
    "completed": "answered",
    "answered": "answered",
    "busy": "busy",
    "no-answer": "no_answer",
    "failed": "failed",
    "canceled": "canceled",
}
# A dial whose caller hung up while it rang may be told as the one or the other: CallStatus decides.
_UNANSWERED: Final = frozenset({"canceled", "no-answer"})
# Whoever subscribes to `answered` is told `in-progress`; at `queued` nobody is called yet.
_PROGRESS: Final[Mapping[str, EventType]] = {
    "initiated": EventType.CALL_INITIATED,
    "ringing": EventType.CALL_RINGING,
    "in-progress": EventType.CALL_ANSWERED,
}
_LEG_PROGRESS: Final[Mapping[str, EventType]] = {
    "initiated": EventType.LEG_INITIATED,
    "ringing": EventType.LEG_RINGING,
    "in-progress": EventType.LEG_ANSWERED,
}
STAGES: Final = ("agent", "fallback")
"""Who was dialled, in the query of our `<Dial action>` URLs."""

_REFER_TO: Final = re.compile(r"[^\r\n]{1,2048}")

# From the telephone network to us; the second is a call over an Elastic SIP trunk.
_INBOUND: Final = frozenset({"inbound", "trunking-originating"})


def incoming_call(fields: Fields, account: str, received_at: int) -> Event:
    """The voice webhook: a call came in, and Twilio waits for TwiML.

    With a status that is over it is a status callback that was sent here by mistake: the call's
    end, not one more call.
    """
    if fields.get("CallStatus") in _ENDINGS:
        return call_status(fields, account, received_at)
    return _asking(fields, account, received_at, "incoming")


def disaster_call(fields: Fields, account: str, received_at: int) -> Event:
    """The disaster recovery URL of an Elastic SIP trunk: LiveKit could not be reached over it.

    Twilio asks for TwiML as for a call that has just come in. `disposition` tells this call from
    one whose agent was not tried yet: see `TwilioSource.reply` for what its caller gets.
    """
    if fields.get("CallStatus") in _ENDINGS:
        return call_status(fields, account, received_at)
    event = _asking(fields, account, received_at, "disaster")
    data = msgspec.structs.replace(event.data, disposition="failed")
    return msgspec.structs.replace(event, data=data)


def call_status(fields: Fields, account: str, received_at: int) -> Event:
    """The status callback, of the call itself or (with ParentCallSid) of its leg to LiveKit."""
    status = matching(fields, "CallStatus", WORD)
    sequence = optional(fields, "SequenceNumber", NUMBER)
    is_leg = bool(fields.get("ParentCallSid"))
    if status in _ENDINGS:
        kind = EventType.LEG_ENDED if is_leg else EventType.CALL_ENDED
    else:
        progress = _LEG_PROGRESS if is_leg else _PROGRESS
        kind = progress.get(status, EventType.PROVIDER_UNKNOWN)
    data = _data(
        fields,
        account,
        status=status,
        disposition=_ENDINGS.get(status),
        answered_by=answerer(fields.get("AnsweredBy", "")),
    )
    return Event(
        id=event_id(PROVIDER, account, fields["CallSid"], "status", status, sequence),
        type=kind,
        source=PROVIDER,
        time=happened_at(moment(fields.get("Timestamp")), received_at),
        key=data.call_id,
        data=data,
    )


def dial_ended(fields: Fields, account: str, received_at: int, stage: str) -> Event:
    """The `<Dial action>` request: the dial of `stage` is over, and Twilio asks what is next.

    It asks too when the caller gave up while it rang: then the call is over, and nothing is next.
    """
    if stage not in STAGES:
        raise BadPayload("the query's stage is neither agent nor fallback")
    status = matching(fields, "DialCallStatus", WORD)
    given_up = status in _UNANSWERED and fields.get("CallStatus") in _ENDINGS
    data = _data(
        fields,
        account,
        status=status,
        disposition="canceled" if given_up else _ENDINGS.get(status, "failed"),
        stage="" if given_up else stage,
    )
    leg = fields.get("DialCallSid", "")
    return Event(
        id=event_id(PROVIDER, account, fields["CallSid"], "dial", stage, leg, status),
        type=EventType.CALL_ENDED if given_up else EventType.LEG_ENDED,
        source=PROVIDER,
        time=received_at,
        key=data.call_id,
        data=data,
    )


def transfer_wanted(fields: Fields, account: str, received_at: int) -> Event:
    """The `<Dial referUrl>` request: the agent's end sent a SIP REFER; Twilio asks what is next.

    `ReferTransferTarget` is the Refer-To header: `<tel:+14155550199>`, `sip:+1…@host?X-Header=…`.
    What holds no E.164 number has no `number` (twilio.com/docs/voice/api/refer-to-twilio).
    """
    target = matching(fields, "ReferTransferTarget", _REFER_TO)
    wanted = party(target.rpartition("<")[2].partition(">")[0]).address  # RFC 3261: name-addr
    number = wanted if is_e164(wanted) else ""
    data = _data(fields, account, number=number, stage="agent")
    return Event(
        id=event_id(PROVIDER, account, fields["CallSid"], "refer", target),
        type=EventType.TRANSFER_STARTED,
        source=PROVIDER,
        time=received_at,
        key=data.call_id,
        data=data,
    )


def action_failed(fields: Fields, account: str, received_at: int, stage: str) -> Event:
    """The fallback URL asked because a `<Dial action>` gave no TwiML: `dial_ended` all the same.

    How the dial ended need not be repeated there. CallStatus tells: our dials answer the caller
    only when somebody took the call (answerOnBridge).
    """
    if "DialCallStatus" in fields:
        return dial_ended(fields, account, received_at, stage)
    status = "completed" if fields.get("CallStatus") == "in-progress" else "no-answer"
    event = dial_ended({**fields, "DialCallStatus": status}, account, received_at, stage)
    if event.type is EventType.LEG_ENDED:
        return event
    # The caller has gone: they may have talked before, other events know.
    return msgspec.structs.replace(
        event, data=msgspec.structs.replace(event.data, disposition=None)
    )


def unknown(fields: Fields, account: str, received_at: int, kind: str) -> Event:
    """A signed request that tells of no call of ours: of a conference, say. Kept as it came."""
    told = sha256(repr(sorted(fields.items())).encode("utf-8", "replace")).hexdigest()
    identity = event_id(PROVIDER, account, kind, told)
    is_of_call = CALL_SID.fullmatch(fields.get("CallSid", "")) is not None
    about = about_call(fields, account) if is_of_call else EventData(raw=kept(fields))
    data = msgspec.structs.replace(about, provider_account=account, status=kind)
    return Event(
        id=identity,
        type=EventType.PROVIDER_UNKNOWN,
        source=PROVIDER,
        time=happened_at(moment(fields.get("Timestamp")), received_at),
        key=data.call_id or identity,
        data=data,
    )


def about_call(fields: Fields, account: str) -> EventData:
    """What every request that names a call says of it; it may be of a leg of that call."""
    sid = matching(fields, "CallSid", CALL_SID)
    parent = optional(fields, "ParentCallSid", CALL_SID)
    return EventData(
        call_id=call_id(PROVIDER, account, parent or sid),
        provider_call_id=parent or sid,
        provider_account=account,
        leg_id=sid if parent else "",
        raw=kept(fields),
    )


def _asking(fields: Fields, account: str, received_at: int, what: str) -> Event:
    data = msgspec.structs.replace(
        _data(fields, account),
        caller_name=fields.get("CallerName", ""),
        forwarded_from=party(fields.get("ForwardedFrom", "")).address,
        attestation=attestation(fields),
        sip_headers=sip_headers(fields),
    )
    if data.direction == "inbound":
        data = msgspec.structs.replace(data, stage="route")
    return Event(
        id=event_id(PROVIDER, account, fields["CallSid"], what),
        type=EventType.CALL_INITIATED,
        source=PROVIDER,
        time=received_at,
        key=data.call_id,
        data=data,
    )


def _data(fields: Fields, account: str, **more: Any) -> EventData:
    """What a request says that tells of both parties of a call."""
    sip_status = fields.get("DialSipResponseCode") or fields.get("SipResponseCode") or "0"
    dialled = optional(fields, "DialCallSid", CALL_SID)
    known = about_call(fields, account)
    from_, to = caller(fields), called(fields)
    return msgspec.structs.replace(
        known,
        direction="inbound" if fields.get("Direction", "inbound") in _INBOUND else "outbound",
        from_number=from_.address,
        to_number=to.address,
        channel=channel_of(from_, to),
        leg_id=known.leg_id or dialled,
        sip_status=int(sip_status) if NUMBER.fullmatch(sip_status) else 0,
        duration=seconds(fields.get("CallDuration") or fields.get("DialCallDuration")),
        **more,
    )
