"""Twilio's webhooks as events (twilio.com/docs/voice/twiml#twilios-request-to-your-application).

The schema is strict where the signature is not: names and values are signed without a delimiter
(`From=+1` and `Fro=m+1` sign alike), so every field that is used must look like what it is.
Unknown fields are kept: Twilio adds some without notice.
"""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

import msgspec

from router.errors import BadPayload
from router.events.ids import call_id, event_id
from router.events.model import Disposition, Event, EventData
from router.events.phone import is_e164
from router.events.types import EventType
from router.provider import WebhookRequest, happened_at
from router.providers.twilio.signature import Form

PROVIDER: Final = "twilio"

_CALL_SID: Final = re.compile(r"CA[0-9a-f]{32}")
_ACCOUNT_SID: Final = re.compile(r"AC[0-9a-f]{32}")
_SIP_URI: Final = re.compile(r"sips?:[^\s<>\"]{1,255}")
_IDENTITY: Final = re.compile(r"[\w:.@-][\w:.@+-]{0,254}", re.ASCII)  # 12345, client:bob
_WORD: Final = re.compile(r"[a-zA-Z0-9_-]{1,32}")
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_ANONYMOUS: Final = frozenset({"anonymous", "restricted", "unavailable", "unknown", "private", ""})
_SECRETS: Final = frozenset({"CallToken", "StirPassportToken"})  # good for acting as the caller

_ENDINGS: Final[Mapping[str, Disposition]] = {
    "completed": "answered",
    "answered": "answered",
    "busy": "busy",
    "no-answer": "no_answer",
    "failed": "failed",
    "canceled": "canceled",
}
_PROGRESS: Final[Mapping[str, EventType]] = {
    "ringing": EventType.CALL_RINGING,
    "in-progress": EventType.CALL_ANSWERED,
}
_LEG_PROGRESS: Final[Mapping[str, EventType]] = {
    "ringing": EventType.LEG_RINGING,
    "in-progress": EventType.LEG_ANSWERED,
}


def incoming_call(request: WebhookRequest, form: Form, account: str) -> Event:
    """The voice webhook: a call came in, and Twilio waits for TwiML."""
    fields = _fields(form, account)
    data = _data(fields, account, disposition=None)
    if data.direction == "inbound":
        data = msgspec.structs.replace(data, stage="route")
    return Event(
        id=event_id(PROVIDER, account, fields["CallSid"], "incoming"),
        type=EventType.CALL_INITIATED,
        source=PROVIDER,
        time=request.received_at,
        key=data.call_id,
        data=data,
    )


def call_status(request: WebhookRequest, form: Form, account: str) -> Event:
    """The status callback, of the call itself or (with ParentCallSid) of its leg to LiveKit."""
    fields = _fields(form, account)
    status = _matching(fields, "CallStatus", _WORD)
    sequence = fields.get("SequenceNumber", "")
    if sequence:
        _matching(fields, "SequenceNumber", _NUMBER)
    is_leg = bool(fields.get("ParentCallSid"))
    ended = status in _ENDINGS
    if ended:
        kind = EventType.LEG_ENDED if is_leg else EventType.CALL_ENDED
    else:
        progress = _LEG_PROGRESS if is_leg else _PROGRESS
        kind = progress.get(status, EventType.PROVIDER_UNKNOWN)
    data = _data(fields, account, disposition=_ENDINGS.get(status))
    return Event(
        id=event_id(PROVIDER, account, fields["CallSid"], "status", status, sequence),
        type=kind,
        source=PROVIDER,
        time=happened_at(_timestamp(fields), request.received_at),
        key=data.call_id,
        data=data,
    )


def dial_ended(request: WebhookRequest, form: Form, account: str, stage: str) -> Event:
    """The `<Dial action>` request: the dial of `stage` is over, and Twilio asks what is next."""
    if stage not in ("agent", "fallback"):
        raise BadPayload("the query's stage is neither agent nor fallback")
    fields = _fields(form, account)
    status = _matching(fields, "DialCallStatus", _WORD)
    leg = fields.get("DialCallSid", "")
    if leg:
        _matching(fields, "DialCallSid", _CALL_SID)
    data = _data(fields, account, disposition=_ENDINGS.get(status, "failed"), stage=stage)
    return Event(
        id=event_id(PROVIDER, account, fields["CallSid"], "dial", stage, leg, status),
        type=EventType.LEG_ENDED,
        source=PROVIDER,
        time=request.received_at,
        key=data.call_id,
        data=data,
    )


def _fields(form: Form, account: str) -> dict[str, str]:
    """The form as a mapping, its identifying fields checked."""
    fields = dict(form)
    if len(fields) != len(form):
        raise BadPayload("a field is there more than once")
    _matching(fields, "CallSid", _CALL_SID)
    if _matching(fields, "AccountSid", _ACCOUNT_SID) != account:
        raise BadPayload("AccountSid is not providers.twilio.account_sid")
    if fields.get("ParentCallSid"):
        _matching(fields, "ParentCallSid", _CALL_SID)
    _check_party(fields, "From")
    _check_party(fields, "To")
    return fields


def _matching(fields: Mapping[str, str], name: str, pattern: re.Pattern[str]) -> str:
    value = fields.get(name, "")
    if pattern.fullmatch(value) is None:
        raise BadPayload(f"{name} is missing or malformed")
    return value


def _check_party(fields: Mapping[str, str], name: str) -> None:
    value = fields.get(name)
    if value is None:
        raise BadPayload(f"{name} is missing")
    known = is_e164(value) or value.lower() in _ANONYMOUS
    if not known and not (_SIP_URI.fullmatch(value) or _IDENTITY.fullmatch(value)):
        raise BadPayload(f"{name} is malformed")


def _data(
    fields: Mapping[str, str], account: str, *, disposition: Disposition | None, stage: Any = ""
) -> EventData:
    parent = fields.get("ParentCallSid", "")
    sip_status = fields.get("DialSipResponseCode") or fields.get("SipResponseCode") or "0"
    return EventData(
        call_id=call_id(PROVIDER, account, parent or fields["CallSid"]),
        provider_call_id=parent or fields["CallSid"],
        account=account,
        direction="inbound" if fields.get("Direction", "inbound") == "inbound" else "outbound",
        from_number=fields.get("From", ""),
        to_number=fields.get("To", ""),
        leg_id=fields["CallSid"] if parent else fields.get("DialCallSid", ""),
        stage=stage,
        disposition=disposition,
        sip_status=int(sip_status) if _NUMBER.fullmatch(sip_status) else 0,
        duration=_seconds(fields.get("CallDuration") or fields.get("DialCallDuration")),
        raw={name: value for name, value in fields.items() if name not in _SECRETS},
    )


def _seconds(text: str | None) -> float | None:
    return float(text) if text and _NUMBER.fullmatch(text) else None


def _timestamp(fields: Mapping[str, str]) -> int:
    """The RFC 2822 `Timestamp` in µs, 0 where there is none."""
    try:
        return int(parsedate_to_datetime(fields["Timestamp"]).timestamp() * 1_000_000)
    except (KeyError, ValueError, OverflowError):
        return 0
