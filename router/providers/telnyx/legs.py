"""Which leg of a call an event is of, and how a leg ended.

A call is its caller's leg (`call_control_id`), and one more for each transfer: to LiveKit, then
perhaps to the fallback number. Telnyx tells of all alike; `direction` is in `call.initiated` only.
What tells them apart is the `client_state` that our transfer put on the new leg
(`target_leg_client_state`, see `router.providers.telnyx.api.leg_state`), which every webhook of
that leg repeats. A leg without it is a caller's, unless it goes to the SIP address that a call's id
names.

The session (`call_session_id`) is no call: where a number of ours is called by way of another one,
it has two legs that came in, and two callers must not meet in one room.

The caller's leg stays up when a transfer is not answered; when it was answered, Telnyx ends both
legs together.
"""

import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from router.events.model import Disposition
from router.providers.telnyx.envelope import Payload, sip_status, text

_CANCELLED: Final = 487  # RFC 3261 §21.4.25: the caller gave up before anybody answered

# Where nothing is said of a cause, the SIP status decides.
_ENDINGS: Final[Mapping[str, Disposition]] = {
    "originator_cancel": "canceled",
    "timeout": "no_answer",
    "no_answer": "no_answer",
    "user_busy": "busy",
    "call_rejected": "failed",
    "not_found": "failed",
}
_AFTER_ANSWER: Final = frozenset({"normal_clearing", "time_limit"})


class Mark(msgspec.Struct, frozen=True):
    """What our transfer wrote on the leg that it made, about the call it belongs to."""

    switchboard: Literal["agent", "fallback"]  # what was dialled
    control_id: str = ""  # of the caller's leg: what the call is known by, and commands go to
    from_number: str = msgspec.field(name="from", default="")
    to_number: str = msgspec.field(name="to", default="")


_decoder: Final = msgspec.json.Decoder(Mark)
# Where our transfers to LiveKit go: a call_id is a UUID of version 5.
_ROOM: Final = re.compile(r"sip:([0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12})@")


def mark_of(payload: Payload) -> Mark | None:
    """The mark of a leg that a transfer of ours made; None: it is a caller's leg."""
    try:
        return _decoder.decode(b64decode(text(payload, "client_state"), validate=True))
    except (ValueError, RecursionError):  # another's client_state, or none
        pass
    return Mark("agent") if room_of(payload) else None


def room_of(payload: Payload) -> str:
    """The call_id in the SIP address that a leg goes to, "" where it goes elsewhere."""
    found = _ROOM.match(text(payload, "to"))
    return found[1] if found is not None else ""


def disposition_of(payload: Payload) -> Disposition | None:
    """How a leg ended (`call.hangup`), None where Telnyx does not say.

    `normal_clearing` is also said of legs that were never answered: the SIP status tells.
    """
    cause = text(payload, "hangup_cause")
    if cause in _ENDINGS:
        return _ENDINGS[cause]
    status = sip_status(payload, "sip_hangup_cause")
    if status == _CANCELLED:
        return "canceled"
    if status >= 300:
        return "failed"
    return "answered" if status >= 200 or cause in _AFTER_ANSWER else None


def waits_for_more(payload: Payload) -> bool:
    """Whether a dial failed and the caller is still there: `call.hangup` of a marked leg.

    In doubt yes: a command to a caller who is gone does nothing, but one who waits for a command
    that never comes hears silence.
    """
    if disposition_of(payload) in ("answered", "canceled"):
        return False
    hung_up = text(payload, "hangup_source") == "caller"
    return not (hung_up and text(payload, "hangup_cause") == "normal_clearing")
