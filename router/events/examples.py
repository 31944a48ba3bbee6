"""One realistic event of each type, for the published contract and for the golden records.

They tell of one call from a carrier, and of one number. All of it is invented.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from router.events.ids import DEFAULT_ACCOUNT, call_id, event_id
from router.events.model import Decision, Event, EventData
from router.events.types import EventType

_TIME: Final = 1_780_000_000_250_000
_ACCOUNT: Final = "AC" + "a1" * 16
_CALL: Final = "CA" + "0f" * 16
_LEG: Final = "CA" + "1e" * 16
_AGENT_ID: Final = "2c9a4f0e-7d31-4b5e-9a44-6f1d0c8b7e21"
_CALLER, _NUMBER, _FALLBACK = "+12125550123", "+14155550100", "+14155550111"
_ROOM: Final = call_id("twilio", _ACCOUNT, _CALL)

_OF_CARRIER: Final = EventData(
    call_id=_ROOM,
    provider_call_id=_CALL,
    provider_account=_ACCOUNT,
    direction="inbound",
    from_number=_CALLER,
    to_number=_NUMBER,
)
_OF_LIVEKIT: Final = EventData(call_id=_ROOM, provider_call_id=_CALL)
_OF_TELNYX: Final = EventData(
    call_id=call_id("telnyx", "", "428c31b6-7af4-4bcb-b7f5-5013ef9657c1"),
    provider_call_id="428c31b6-7af4-4bcb-b7f5-5013ef9657c1",
    control_id="v3:u5OAKGEPT3Dx8SZSSDRWEMdNH2OripQhO",
    from_number=_CALLER,
    to_number=_NUMBER,
)
_OF_VOCODE: Final = EventData(
    call_id=call_id("vocode", "", "6f3b1d2a"),
    provider_call_id="6f3b1d2a",
    media="provider",
    from_number=_CALLER,
    to_number=_NUMBER,
)
_OF_US: Final = EventData(
    call_id=_ROOM,
    provider_call_id=_CALL,
    provider_account=_ACCOUNT,
    account_id=DEFAULT_ACCOUNT,
    agent="anna-v2",
    agent_id=_AGENT_ID,
)
_OF_NUMBER: Final = EventData(number=_NUMBER)

_TO_AGENT: Final = Decision(
    action="dispatch",
    reason="number is mapped to agent anna",
    table_version=7,
    agent="anna",
    agent_id=_AGENT_ID,
    livekit_agent_name="anna-v2",
    metadata={"language": "en"},
    fallback=_FALLBACK,
)
_TO_FALLBACK: Final = Decision(
    action="forward",
    reason="the agent's dial was not answered: to the fallback",
    table_version=7,
    fallback=_FALLBACK,
)
_PAYLOAD: Final = {"CallSid": _CALL, "AccountSid": _ACCOUNT, "From": _CALLER, "To": _NUMBER}

# type → (source, whose facts, what is said beside them)
_ROWS: Final[Mapping[EventType, tuple[str, EventData, Mapping[str, Any]]]] = {
    EventType.CALL_INITIATED: (
        "twilio",
        _OF_CARRIER,
        {
            "account_id": DEFAULT_ACCOUNT,
            "agent_id": _AGENT_ID,
            "stage": "route",
            "decision": _TO_AGENT,
            "timing": {"verified": 61, "decided": 103},
            "raw": {**_PAYLOAD, "CallStatus": "ringing", "Direction": "inbound"},
        },
    ),
    EventType.CALL_RINGING: ("twilio", _OF_CARRIER, {"status": "ringing"}),
    EventType.CALL_ANSWERED: ("twilio", _OF_CARRIER, {"status": "in-progress"}),
    EventType.CALL_BRIDGED: ("telnyx", _OF_TELNYX, {"status": "call.bridged"}),
    EventType.CALL_HELD: ("telnyx", _OF_TELNYX, {"status": "call.hold"}),
    EventType.CALL_RESUMED: ("telnyx", _OF_TELNYX, {"status": "call.unhold"}),
    EventType.CALL_CLASSIFIED: ("twilio", _OF_CARRIER, {"answered_by": "human"}),
    EventType.CALL_FORWARDED: (
        "twilio",
        _OF_CARRIER,
        {
            "stage": "agent",
            "leg_id": _LEG,
            "disposition": "no_answer",
            "sip_status": 480,
            "decision": _TO_FALLBACK,
        },
    ),
    EventType.CALL_ENDED: (
        "twilio",
        _OF_CARRIER,
        {"status": "completed", "disposition": "answered", "duration": 63.0},
    ),
    EventType.CALL_EXPIRED: (
        "switchboard",
        _OF_US,
        {"agent": "", "reason": "it waited for longer than callers ring"},
    ),
    EventType.CALL_SUMMARISED: ("twilio", _OF_CARRIER, {"status": "complete", "duration": 63.0}),
    EventType.LEG_INITIATED: ("twilio", _OF_CARRIER, {"leg_id": _LEG, "status": "initiated"}),
    EventType.LEG_RINGING: ("twilio", _OF_CARRIER, {"leg_id": _LEG, "status": "ringing"}),
    EventType.LEG_ANSWERED: ("twilio", _OF_CARRIER, {"leg_id": _LEG, "status": "in-progress"}),
    EventType.LEG_ENDED: (
        "twilio",
        _OF_CARRIER,
        {"leg_id": _LEG, "status": "completed", "disposition": "answered", "duration": 58.0},
    ),
    EventType.TRANSFER_STARTED: ("telnyx", _OF_TELNYX, {"status": "call.refer.started"}),
    EventType.TRANSFER_COMPLETED: (
        "telnyx",
        _OF_TELNYX,
        {"status": "call.refer.completed", "sip_status": 200},
    ),
    EventType.TRANSFER_FAILED: (
        "telnyx",
        _OF_TELNYX,
        {"status": "call.refer.failed", "sip_status": 603},
    ),
    EventType.DTMF_RECEIVED: ("telnyx", _OF_TELNYX, {"digits": "42#"}),
    EventType.MEDIA_STARTED: ("telnyx", _OF_TELNYX, {"status": "streaming.started"}),
    EventType.MEDIA_ENDED: ("telnyx", _OF_TELNYX, {"status": "streaming.stopped"}),
    EventType.MEDIA_FAILED: (
        "telnyx",
        _OF_TELNYX,
        {"status": "streaming.failed", "reason": "the other side closed the connection"},
    ),
    EventType.RECORDING_STARTED: ("twilio", _OF_CARRIER, {"recording_id": "RE" + "c3" * 16}),
    EventType.RECORDING_COMPLETED: (
        "twilio",
        _OF_CARRIER,
        {
            "recording_id": "RE" + "c3" * 16,
            "recording_url": "https://recordings.example.com/RE" + "c3" * 16,
            "duration": 61.0,
        },
    ),
    EventType.RECORDING_FAILED: ("twilio", _OF_CARRIER, {"recording_id": "RE" + "c3" * 16}),
    EventType.TRANSCRIPT_STARTED: ("twilio", _OF_CARRIER, {"status": "transcription-started"}),
    EventType.TRANSCRIPT_ADDED: (
        "twilio",
        _OF_CARRIER,
        {"speaker": "inbound_track", "text": "Good morning, I need an appointment."},
    ),
    EventType.TRANSCRIPT_ENDED: ("twilio", _OF_CARRIER, {"status": "transcription-stopped"}),
    EventType.TRANSCRIPT_FAILED: ("twilio", _OF_CARRIER, {"error_code": "32655"}),
    EventType.MESSAGE_SPOKEN: (
        "vocode",
        _OF_VOCODE,
        {"speaker": "bot", "text": "Good morning, how can I help?"},
    ),
    EventType.ACTION_PERFORMED: ("vocode", _OF_VOCODE, {"status": "action_transfer_call"}),
    EventType.QUEUE_JOINED: ("telnyx", _OF_TELNYX, {"status": "call.enqueued"}),
    EventType.QUEUE_LEFT: ("telnyx", _OF_TELNYX, {"status": "call.dequeued"}),
    EventType.CONFERENCE_CHANGED: ("telnyx", _OF_TELNYX, {"status": "conference.created"}),
    EventType.SIP_JOINED: ("livekit", _OF_LIVEKIT, {"leg_id": "PA_sip7dQk3Vn"}),
    EventType.SIP_LEFT: ("livekit", _OF_LIVEKIT, {"leg_id": "PA_sip7dQk3Vn"}),
    EventType.AGENT_DISPATCHED: ("switchboard", _OF_US, {"reason": "first dispatch"}),
    EventType.AGENT_JOINED: (
        "livekit",
        _OF_LIVEKIT,
        {"leg_id": "PA_agent4hTz9", "agent": "anna-v2"},
    ),
    EventType.AGENT_READY: (
        "livekit",
        _OF_LIVEKIT,
        {"leg_id": "PA_agent4hTz9", "agent": "anna-v2"},
    ),
    EventType.AGENT_LEFT: (
        "livekit",
        _OF_LIVEKIT,
        {"leg_id": "PA_agent4hTz9", "agent": "anna-v2"},
    ),
    EventType.AGENT_MISSING: ("switchboard", _OF_US, {"reason": "no agent by the deadline"}),
    EventType.ROOM_STARTED: ("livekit", EventData(call_id=_ROOM), {"leg_id": "RM_a8dQk3Vn7cHs"}),
    EventType.ROOM_ENDED: ("livekit", EventData(call_id=_ROOM), {"leg_id": "RM_a8dQk3Vn7cHs"}),
    EventType.NUMBER_MAPPED: (
        "switchboard",
        _OF_NUMBER,
        {
            "to_number": _NUMBER,
            "account_id": DEFAULT_ACCOUNT,
            "agent": "anna-v2",
            "agent_id": _AGENT_ID,
            "reason": "mapped to agent anna",
        },
    ),
    EventType.NUMBER_MISMATCHED: (
        "telnyx",
        _OF_NUMBER,
        {
            "status": "telnyx",
            "reason": "a call to it came from telnyx, but it is mapped at twilio",
        },
    ),
    EventType.NUMBER_UNMAPPED: (
        "switchboard",
        _OF_NUMBER,
        {"to_number": _NUMBER, "reason": "removed from the mapping"},
    ),
    EventType.NUMBER_CHANGED: ("twilio", _OF_NUMBER, {"status": "updated"}),
    EventType.ORDER_CHANGED: ("telnyx", _OF_NUMBER, {"order_id": "8fe2", "status": "pending"}),
    EventType.ORDER_COMPLETED: ("telnyx", _OF_NUMBER, {"order_id": "8fe2", "status": "success"}),
    EventType.ORDER_FAILED: ("telnyx", _OF_NUMBER, {"order_id": "8fe2", "status": "failure"}),
    EventType.PORT_CHANGED: ("telnyx", _OF_NUMBER, {"order_id": "b0c1", "status": "submitted"}),
    EventType.PORT_COMPLETED: ("telnyx", _OF_NUMBER, {"order_id": "b0c1", "status": "ported"}),
    EventType.PORT_FAILED: ("telnyx", _OF_NUMBER, {"order_id": "b0c1", "status": "cancelled"}),
    EventType.PORTOUT_CHANGED: ("telnyx", _OF_NUMBER, {"order_id": "d7e9", "status": "pending"}),
    EventType.PORTOUT_COMPLETED: ("telnyx", _OF_NUMBER, {"order_id": "d7e9", "status": "ported"}),
    EventType.BUNDLE_CHANGED: (
        "twilio",
        EventData(provider_account=_ACCOUNT),
        {"order_id": "BU" + "d4" * 16, "status": "twilio-approved"},
    ),
    EventType.PROVIDER_ALERTED: (
        "twilio",
        EventData(provider_account=_ACCOUNT),
        {"error_code": "11200", "reason": "HTTP retrieval failure"},
    ),
    EventType.PROVIDER_UNKNOWN: (
        "twilio",
        _OF_CARRIER,
        {"status": "queued", "raw": {**_PAYLOAD, "CallStatus": "queued"}},
    ),
}


def _example(kind: EventType, source: str, facts: EventData, more: Mapping[str, Any]) -> Event:
    data = msgspec.structs.replace(facts, **more)
    return Event(
        id=event_id("example", kind.value),
        type=kind,
        source=source,
        time=_TIME,
        key=data.call_id or data.number or data.order_id or data.provider_account,
        data=data,
    )


EXAMPLES: Final[Mapping[EventType, Event]] = {
    kind: _example(kind, *row) for kind, row in _ROWS.items()
}
