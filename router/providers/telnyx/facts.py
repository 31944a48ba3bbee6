"""What an event of a type says besides which call it is about: fields of `EventData`."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from router.events.types import EventType
from router.providers.telnyx.envelope import (
    Payload,
    items,
    part,
    seconds,
    sip_status,
    text,
)
from router.providers.telnyx.legs import disposition_of

# Of answering machine detection and of deepfake detection: who is on the line.
_VOICES: Final = {
    "human": "human",
    "human_residence": "human",
    "human_business": "human",
    "real": "human",
    "machine": "machine",
    "fake": "machine",
    "screening": "machine",
    "beep_detected": "machine",
    "no_beep_detected": "machine",
    "ended": "machine",
    "prompt_ended": "machine",
    "fax_detected": "fax",
}

KEPT_HEADERS: Final = 20  # of a call's custom headers; a stranger may send any number

Facts = Mapping[str, Any]


def facts_of(kind: EventType, payload: Payload) -> Facts:
    """Fields of `EventData` that follow from the payload of an event of this type."""
    common = {
        "status": text(payload, "status", "result", "payment_status", "state"),
        "error_code": text(
            payload, "failure_reason", "failure_cause", "error_message", "pay_error_code"
        ),
        "reason": text(payload, "reason"),
    }
    own = _OWN.get(kind)
    return common if own is None else {**common, **own(payload)}


def _came_in(payload: Payload) -> Facts:
    level = text(payload, "shaken_stir_attestation").upper()
    headers = ((text(each, "name"), text(each, "value")) for each in _tables(payload))
    return {
        "caller_name": text(payload, "caller_id_name"),
        "attestation": level if level in ("A", "B", "C") else "",
        "sip_headers": dict(
            islice(((name, value) for name, value in headers if name), KEPT_HEADERS)
        ),
    }


def _tables(payload: Payload) -> Iterator[Payload]:
    return (each for each in items(payload, "custom_headers") if isinstance(each, Mapping))


def _end(payload: Payload) -> Facts:
    # How long it was talked is not said: `start_time` is when it began to ring.
    return {
        "status": text(payload, "hangup_cause"),
        "disposition": disposition_of(payload),
        "sip_status": sip_status(payload, "sip_hangup_cause"),
    }


def _leg_end(payload: Payload) -> Facts:
    return {**_end(payload), "disposition": disposition_of(payload) or "failed"}


def _classified(payload: Payload) -> Facts:
    return {"answered_by": _VOICES.get(text(payload, "result"), "unknown")}


def _keys(payload: Payload) -> Facts:
    return {"digits": text(payload, "digit", "digits")}


def _recording(payload: Payload) -> Facts:
    urls = {**part(payload, "public_recording_urls"), **part(payload, "recording_urls")}
    return {
        "recording_id": text(payload, "recording_id"),
        "recording_url": text(urls, "wav", "mp3"),
    }


def _said(payload: Payload) -> Facts:
    heard = part(payload, "transcription_data")
    history = items(payload, "message_history")
    last = history[-1] if history and isinstance(history[-1], Mapping) else {}
    is_interim = heard.get("is_final") is False
    return {
        "text": text(payload, "transcription_text") or text(heard or last, "transcript", "content"),
        "speaker": text(heard or last, "transcription_track", "role"),
        "recording_id": text(payload, "recording_id"),
        "status": "interim" if is_interim else text(payload, "status"),
    }


def _referred(payload: Payload) -> Facts:
    return {"sip_status": sip_status(payload, "sip_notify_response")}


def _summed_up(payload: Payload) -> Facts:
    measured = seconds(payload, "billed_duration_secs")
    return {"duration": seconds(payload, "duration_sec") if measured is None else measured}


_OWN: Final[Mapping[EventType, Callable[[Payload], Facts]]] = {
    EventType.CALL_INITIATED: _came_in,
    EventType.CALL_ENDED: _end,
    EventType.LEG_ENDED: _leg_end,
    EventType.CALL_CLASSIFIED: _classified,
    EventType.DTMF_RECEIVED: _keys,
    EventType.RECORDING_COMPLETED: _recording,
    EventType.TRANSCRIPT_ADDED: _said,
    EventType.TRANSFER_STARTED: _referred,
    EventType.TRANSFER_COMPLETED: _referred,
    EventType.TRANSFER_FAILED: _referred,
    EventType.CALL_SUMMARISED: _summed_up,
}
