"""Vocode's messages as events.

Only the payload of `event_human_detection` is documented; the others are the open-source library's
models, which the hosted service is built on. So every fact is taken where it is there, and missed
where it isn't: what a message can't do without is its call.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from typing import Any, Final

import msgspec

from router.errors import BadPayload
from router.events.ids import call_id, event_id
from router.events.model import Disposition, Event, EventData
from router.events.phone import party
from router.events.types import EventType
from router.provider import happened_at
from router.providers.vocode.message import Message

PROVIDER: Final = "vocode"

_Fields = Mapping[str, Any]
_NAME: Final = re.compile(r"[\w.-]{1,64}")
_MAX_PARTY: Final = 255
_TIMES: Final = (1e9, 4e9)  # seconds since the epoch: others count from the call's start, or in ms
_sorted: Final = msgspec.json.Encoder(order="sorted")

# Twilio's words (CallStatus) and Vonage's (status): Vocode carries calls over either.
_ENDINGS: Final[Mapping[str, Disposition]] = {
    "busy": "busy",
    "no-answer": "no_answer",
    "unanswered": "no_answer",
    "timeout": "no_answer",
    "canceled": "canceled",
    "cancelled": "canceled",
    "failed": "failed",
    "rejected": "busy",
}
_ANSWERED_BY: Final = {"human": "human", "no_human": "machine", "machine": "machine"}


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a type of message becomes."""

    types: Sequence[EventType]
    facts: Callable[[EventData, _Fields], EventData]
    once: bool = False  # in a call: then it needs nothing more to be known again
    needs_call: bool = True
    timed: bool = False  # whether `timestamp` says when it happened


def from_message(message: Message, received_at: int) -> Sequence[Event]:
    """The events of a message; a type that nobody told us of becomes `provider.unknown`.

    A redelivery gives the same ids. Vocode gives its messages none, so of those that a call can
    have many of, equal ones are one: two sentences differ in their `timestamp`.

    Raises:
        BadPayload: what happened to a call names no call, or a number is malformed.
    """
    kind = _ACTION if message.is_action else _KINDS.get(message.type, _UNKNOWN)
    if kind.needs_call and not message.provider_call_id:
        raise BadPayload("call_id (conversation_id) is missing")
    digest = "" if kind.once else sha256(_sorted.encode(message.raw)).hexdigest()
    claimed = _micros(message.fields.get("timestamp")) if kind.timed else 0
    time = happened_at(claimed, received_at)
    data = kind.facts(_data(message), message.fields)
    return [_event(message, type_, data, digest, time) for type_ in kind.types]


def _data(message: Message) -> EventData:
    theirs = message.provider_call_id
    return EventData(
        call_id=call_id(PROVIDER, "", theirs) if theirs else "",
        provider_call_id=theirs,
        raw=message.raw,
    )


def _event(message: Message, type_: EventType, data: EventData, digest: str, time: int) -> Event:
    id_ = event_id(PROVIDER, data.provider_call_id, message.type, type_.value, digest)
    if type_ is EventType.CALL_INITIATED:
        data = msgspec.structs.replace(data, stage="route")
    return Event(id=id_, type=type_, source=PROVIDER, time=time, key=data.call_id or id_, data=data)


def _connected(data: EventData, fields: _Fields) -> EventData:
    # Which way it goes is not said: the route table knows which end is ours.
    return msgspec.structs.replace(
        data,
        to_number=_party(fields, "to_phone_number", "to_number"),
        from_number=_party(fields, "from_phone_number", "from_number"),
        media="provider",
    )


def _ended(data: EventData, fields: _Fields) -> EventData:
    # The open-source library never measures: 0 is the model's default and says nothing.
    minutes = _measure(fields.get("conversation_minutes"))
    duration = minutes * 60 if minutes else None
    return msgspec.structs.replace(data, disposition="answered", duration=duration)


def _did_not_connect(data: EventData, fields: _Fields) -> EventData:
    status = _text(fields, "telephony_status")
    disposition = _ENDINGS.get(status.strip().lower().replace("_", "-"), "failed")
    return msgspec.structs.replace(data, status=status, disposition=disposition)


def _classified(data: EventData, fields: _Fields) -> EventData:
    result = _text(fields, "result")
    answered_by = _ANSWERED_BY.get(result, "unknown")
    return msgspec.structs.replace(data, status=result, answered_by=answered_by)


def _said(data: EventData, fields: _Fields) -> EventData:
    text = _text(fields, "text", "transcript", "message")
    return msgspec.structs.replace(data, text=text, speaker=_text(fields, "sender"))


def _recorded(data: EventData, fields: _Fields) -> EventData:
    return msgspec.structs.replace(data, recording_url=_text(fields, "recording_url"))


def _failed(data: EventData, fields: _Fields) -> EventData:
    return msgspec.structs.replace(data, reason=_text(fields, "error", "error_message", "message"))


def _unknown(data: EventData, fields: _Fields) -> EventData:  # noqa: ARG001 - the others' shape
    name = _text(data.raw, "type")
    reason = f"Vocode {name}" if _NAME.fullmatch(name) else "Vocode, type missing or malformed"
    return msgspec.structs.replace(data, reason=reason)


def _plain(data: EventData, fields: _Fields) -> EventData:  # noqa: ARG001 - the others' shape
    return data


_KINDS: Final[Mapping[str, _Kind]] = {
    "event_phone_call_connected": _Kind(
        (EventType.CALL_INITIATED, EventType.CALL_ANSWERED), _connected, once=True
    ),
    "event_phone_call_ended": _Kind((EventType.CALL_ENDED,), _ended, once=True),
    "event_phone_call_did_not_connect": _Kind((EventType.CALL_ENDED,), _did_not_connect, once=True),
    "event_human_detection": _Kind((EventType.CALL_CLASSIFIED,), _classified),
    "event_machine_detection": _Kind((EventType.CALL_CLASSIFIED,), _classified),  # its old name
    "event_transcript": _Kind((EventType.TRANSCRIPT_ADDED,), _said, timed=True),
    "event_transcript_complete": _Kind((EventType.TRANSCRIPT_ENDED,), _plain, once=True),
    "event_message": _Kind((EventType.MESSAGE_SPOKEN,), _said, timed=True),
    "event_recording": _Kind((EventType.RECORDING_COMPLETED,), _recorded),
    "event_action": _Kind((EventType.ACTION_PERFORMED,), _plain),
    # Fluents' subscription "Error"; its name on the wire follows that of the others.
    "event_error": _Kind((EventType.PROVIDER_ALERTED,), _failed, needs_call=False),
}
_ACTION: Final = _Kind((EventType.ACTION_PERFORMED,), _plain, needs_call=False)
_UNKNOWN: Final = _Kind((EventType.PROVIDER_UNKNOWN,), _unknown, needs_call=False)


def _party(fields: _Fields, *names: str) -> str:
    """The first of these that is there: a number with its +, or whatever else calls."""
    for name in names:
        value = fields.get(name)
        if value is None or value == "":
            continue
        text = str(value) if isinstance(value, int) else value
        if not isinstance(text, str) or len(text) > _MAX_PARTY:
            raise BadPayload(f"{name} is malformed")
        return party(text).address  # the hosted service writes E.164 without its +
    return ""


def _text(fields: _Fields, *names: str) -> str:
    values = [fields.get(name) for name in names]
    return next((value for value in values if isinstance(value, str) and value), "")


def _micros(value: Any) -> int:
    """Seconds since the epoch as µs, 0 where it isn't a time."""
    seconds, (first, last) = _measure(value), _TIMES
    return round(seconds * 1_000_000) if first < seconds < last else 0


def _measure(value: Any) -> float:
    """A positive number; a query has it as text. 0.0 where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0.0
    try:
        found = float(value)
    except ValueError:
        return 0.0
    return found if isfinite(found) and found > 0 else 0.0
