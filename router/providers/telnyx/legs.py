"""Which leg of a call an event is of, and how a leg ended.

A session has the caller's leg and one for each transfer: to LiveKit, then perhaps to the fallback
number. Telnyx tells of all of them alike; `direction` is in `call.initiated` only. What tells them
apart is the `client_state` that our transfer put on the new leg (`target_leg_client_state`, see
`router.providers.telnyx.api.leg_state`), which every webhook of that leg repeats. A leg without it
is the caller's, unless it goes to the SIP address that is named by the call's own id.

The caller's leg stays up when a transfer is not answered; when it was answered, Telnyx ends both
legs together.
"""

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
    control_id: str = ""  # of the caller's leg, which the next command goes to
    from_number: str = msgspec.field(name="from", default="")
    to_number: str = msgspec.field(name="to", default="")


_decoder: Final = msgspec.json.Decoder(Mark)


def mark_of(payload: Payload, call_id: str) -> Mark | None:
    """The mark of a leg that a transfer of ours made; None: it is the caller's leg."""
    try:
        return _decoder.decode(b64decode(text(payload, "client_state"), validate=True))
    except (ValueError, RecursionError):  # another's client_state, or none
        pass
    return Mark("agent") if call_id and f"sip:{call_id}@" in text(payload, "to") else None


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
