"""The JSON around every event of API v2, and how its values are read.

`{"data": {"record_type": "event", "event_type", "id", "occurred_at", "payload"}, "meta"}`
(developers.telnyx.com/development/api-fundamentals/webhooks/receiving-webhooks). `meta` counts the
attempts: a redelivery differs in it, and so in its signature, but not in `data`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from router.errors import BadPayload
from router.events.codec import from_rfc3339
from router.events.text import read_json
from router.provider import happened_at

PROVIDER: Final = "telnyx"
CONTROL_ID: Final = re.compile(r"v[0-9]+:[\w.=-]{1,200}", re.ASCII)
"""A `call_control_id`, which is also TeXML's `CallSid`."""

_TRANSIT: Final = 2  # seconds that a webhook may be on its way, the signature's whole one included
_SIP_STATUS: Final = re.compile(r"[1-6][0-9]{2}")
_V1: Final = (
    "event_type is one of API v1, which is not taken: set webhook_api_version to 2 on the Call "
    "Control application or connection (API v2 in Mission Control)"
)
# Good for paying or for taking a number away; how much of them Telnyx masks is up to settings.
_SECRETS: Final = frozenset(
    {
        "attempted_pin",
        "bank_account_number",
        "bank_routing_number",
        "expiration_date",
        "payment_card_number",
        "payment_card_postal_code",
        "security_code",
        "token_id",
    }
)

Payload = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Notice:
    """One event as Telnyx tells it."""

    id: str  # the same in every redelivery
    name: str  # its `event_type`
    time: int  # µs since epoch, when it happened
    payload: Payload
    raw: Payload  # the whole `data`, without secrets


def open_envelope(body: bytes) -> Mapping[str, Any]:
    """The `data` of a webhook. Raises BadPayload."""
    try:
        envelope = read_json(body)
    except (ValueError, RecursionError) as error:
        raise BadPayload("the body is not JSON that can be read") from error
    if not isinstance(envelope, dict):
        raise BadPayload("the body is not a JSON object")
    data = envelope.get("data")
    if isinstance(data, dict):
        return data
    kind = text(envelope, "event_type")
    if "data" in envelope or not kind:
        raise BadPayload("data is missing or not an object")
    if "." not in kind:  # call_initiated
        raise BadPayload(_V1)
    return envelope  # conference.floor.changed is specified without `data`


def read_notice(data: Mapping[str, Any], received_at: int, signed_ago: int = 0) -> Notice:
    """The event in `data`, received at a time in µs since the epoch. Raises BadPayload.

    A webhook is signed anew each time it is sent. Where that seems to be a while ago, or yet to
    come, our clock differs from Telnyx's by so much, and what Telnyx says of time is moved to ours:
    else a clock that is two minutes fast would make every call too old to be answered.
    """
    for name in ("id", "event_type"):
        if not text(data, name):
            raise BadPayload(f"data.{name} is missing or not text")
    payload = data.get("payload") or {}
    if not isinstance(payload, Mapping):
        raise BadPayload("data.payload is not an object")
    claimed = moment(data, "occurred_at") or moment(payload, "occurred_at")
    if claimed and abs(signed_ago) > _TRANSIT:
        claimed = max(0, claimed + signed_ago * 1_000_000)
    return Notice(
        id=text(data, "id"),
        name=text(data, "event_type"),
        time=happened_at(claimed, received_at),
        payload=payload,
        raw=dict(data) | {"payload": _without_secrets(payload)},
    )


def text(values: Mapping[str, Any], *names: str) -> str:
    """The first of the values that is text and not empty, "" where there is none."""
    for name in names:
        value = values.get(name)
        if value and isinstance(value, str):
            return value
    return ""


def part(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object of that name, an empty one where there is none."""
    value = values.get(name)
    return value if isinstance(value, Mapping) else {}


def items(values: Mapping[str, Any], name: str) -> list[Any]:
    """The list of that name, an empty one where there is none."""
    value = values.get(name)
    return value if isinstance(value, list) else []


def moment(values: Mapping[str, Any], name: str) -> int:
    """A time (RFC 3339) in µs since the epoch, 0 where it is missing or unreadable."""
    try:
        return max(0, from_rfc3339(text(values, name)))
    except (ValueError, OverflowError):
        return 0


def sip_status(values: Mapping[str, Any], name: str) -> int:
    """A SIP response code, 0 where there is none: Telnyx writes 486, "486" and "unspecified"."""
    value = values.get(name)
    if isinstance(value, int):
        return value if 100 <= value < 700 else 0
    return int(value) if isinstance(value, str) and _SIP_STATUS.fullmatch(value) else 0


def seconds(values: Mapping[str, Any], name: str) -> float | None:
    """A duration in seconds, None where there is none."""
    value = values.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value < 10**9 else None


def _without_secrets(payload: Payload) -> dict[str, Any]:
    return {name: value for name, value in payload.items() if name not in _SECRETS}
