"""The form fields of Twilio's webhooks.

Source: twilio.com/docs/voice/twiml#request-parameters, .../dial, .../voice/api/call-resource
(status callbacks), and captured requests.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from router.sandbox.twilio.call import Call

API_VERSION: Final = "2010-04-01"
_PLACE: Final = {"City": "SAN FRANCISCO", "State": "CA", "Zip": "94105", "Country": "US"}


def voice(call: Call, account_sid: str) -> dict[str, str]:
    """Of a request for TwiML."""
    places = {
        side + field: value
        for side in ("From", "To", "Caller", "Called")
        for field, value in _PLACE.items()
    }
    return {
        "CallSid": call.sid,
        "AccountSid": account_sid,
        "ApiVersion": API_VERSION,
        "From": call.from_,
        "To": call.to,
        "Caller": call.from_,
        "Called": call.to,
        "CallStatus": call.status,
        "Direction": "inbound",
        "StirVerstat": "TN-Validation-Passed-A",
        **places,
        **call.extra,
    }


def dial_result(
    sid: str, status: str, seconds: int | None, sip_call_id: str, sip_code: int
) -> dict[str, str]:
    """What a request to a dial's action adds; `seconds` None when nobody answered."""
    params = {
        "DialCallSid": sid,
        "DialCallStatus": status,
        "DialBridged": "true" if seconds is not None else "false",
    }
    if seconds is not None:
        params["DialCallDuration"] = str(seconds)
    if sip_call_id:
        params |= {"DialSipCallId": sip_call_id, "DialSipResponseCode": str(sip_code)}
    return params


def progress(base: Mapping[str, str], status: str, sequence: int, now: int) -> dict[str, str]:
    """A status callback about the call that `base` names; `now` in µs since the epoch."""
    moment = datetime.fromtimestamp(now / 1_000_000, UTC)
    return {
        **base,
        "CallStatus": status,
        "CallbackSource": "call-progress-events",
        "SequenceNumber": str(sequence),
        "Timestamp": format_datetime(moment),
    }


def duration(seconds: int) -> dict[str, str]:
    """What the callback at the end adds: seconds, and minutes as they are billed."""
    return {"CallDuration": str(seconds), "Duration": str(math.ceil(seconds / 60))}
