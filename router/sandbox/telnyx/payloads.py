"""What Telnyx's webhooks say: the event of API version 2, and the form of TeXML.

Sources: the callbacks' OpenAPI and captured requests (call.initiated of 2025-11, call.hangup of
2026-05); developers.telnyx.com/docs/voice/programmable-voice/texml-instruction-fetching.
"""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from router.events.codec import to_rfc3339
from router.sandbox.telnyx.call import CONNECTION_ID, Call, CallLeg

ACCOUNT_ID: Final = "6a9a7976-012e-45d2-9258-6f5dc68d861e"

_LACK: Final[Mapping[str, frozenset[str]]] = {  # what events of a type do not repeat
    "call.bridged": frozenset({"start_time"}),
    "call.speak.started": frozenset({"from", "to", "start_time"}),
    "call.speak.ended": frozenset({"from", "to", "start_time"}),
}


def event(event_type: str, leg: CallLeg, now: int, **more: Any) -> dict[str, Any]:
    """The `data` of a webhook about a leg; `now` in µs since the epoch."""
    lacking = _LACK.get(event_type, frozenset())
    common = {name: value for name, value in _common(leg).items() if name not in lacking}
    return {
        "record_type": "event",
        "event_type": event_type,
        "id": str(uuid.uuid4()),
        "occurred_at": to_rfc3339(now),
        "payload": {**common, **more},
    }


def initiated(leg: CallLeg) -> dict[str, Any]:
    """What call.initiated adds."""
    more: dict[str, Any] = {
        "direction": leg.direction,
        "state": leg.state,
        "caller_id_name": leg.from_,
        "calling_party_type": "pstn",
        "connection_codecs": "PCMA,PCMU",
        "offered_codecs": "PCMU",
    }
    if leg.direction == "incoming":
        more["from_sip_uri"] = f"{leg.from_}@192.0.2.10:5060"
        more["to_sip_uri"] = f"{leg.to}@192.0.2.20:5060"
    if leg.custom_headers:
        more["custom_headers"] = msgspec.to_builtins(leg.custom_headers)
    return more


def hangup(leg: CallLeg, cause: str, source: str, sip_cause: str) -> dict[str, Any]:
    """What call.hangup adds."""
    return {
        "state": "hangup",
        "end_time": to_rfc3339(leg.ended_at or leg.started_at),
        "hangup_cause": cause,
        "hangup_source": source,
        "sip_hangup_cause": sip_cause,
    }


def texml(call: Call, **more: str) -> dict[str, str]:
    """The form that asks for a TeXML document."""
    return {
        "AccountSid": ACCOUNT_ID,
        "CallSid": call.caller.control_id,
        "CallSidLegacy": call.caller.control_id,
        "CallStatus": "ringing" if call.caller.answered_at is None else "in-progress",
        "CallerId": call.from_,
        "CallingPartyType": "pstn",
        "ConnectionId": CONNECTION_ID,
        "Direction": "inbound",
        "From": call.from_,
        "FromSipUri": f"{call.from_}@192.0.2.10:5060",
        "To": call.to,
        "ToSipUri": f"{call.to}@192.0.2.20:5060",
        **more,
    }


def texml_progress(status: str, sequence: int, now: int, **more: str) -> dict[str, str]:
    """The form of a TeXML status callback, without whom it is about."""
    moment = datetime.fromtimestamp(now / 1_000_000, UTC)
    return {
        "AccountSid": ACCOUNT_ID,
        "CallStatus": status,
        "CallbackSource": "call-progress-events",
        "ConnectionId": CONNECTION_ID,
        "SequenceNumber": str(sequence),
        "Timestamp": f"{moment:%Y-%m-%d %H:%M:%S.%f}Z",
        **more,
    }


def _common(leg: CallLeg) -> Mapping[str, Any]:
    return {
        "call_control_id": leg.control_id,
        "call_leg_id": leg.leg_id,
        "call_session_id": leg.session_id,
        "connection_id": leg.connection_id,
        "client_state": leg.client_state,
        "from": leg.from_,
        "to": leg.to,
        "start_time": to_rfc3339(leg.started_at),
    }
