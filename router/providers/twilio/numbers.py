"""What becomes of numbers at Twilio, as events: porting and regulatory bundles.

Twilio has no webhook for numbers that are bought, changed or released.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from router.errors import BadPayload
from router.events.ids import event_id
from router.events.model import Event, EventData
from router.events.phone import is_e164
from router.events.types import EventType
from router.provider import WebhookRequest, happened_at
from router.providers.twilio.events import PROVIDER
from router.providers.twilio.fields import (
    WORD,
    Fields,
    kept,
    matching,
    moment,
    read_json,
    scrubbed,
)
from router.providers.twilio.keys import Signer

_BUNDLE_SID: Final = re.compile(r"BU[0-9a-f]{32}")
_PORT_IN_SID: Final = re.compile(r"KW[0-9a-f]{32}")
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_STATE: Final = re.compile(r"[\w -]{1,64}", re.ASCII)
# A status is `in_progress`, `In Progress` or the notification's name, PortInPhoneNumberPending.
_NOTIFICATION: Final = re.compile(r"^port(in|out)(phonenumber)?(?=[a-z])")

# twilio.com/docs/phone-numbers/port-in/porting-webhooks. A number that the losing carrier rejected
# can be submitted again, so that is no end.
_PORT_ENDS: Final[Mapping[str, EventType]] = {
    "completed": EventType.PORT_COMPLETED,
    "canceled": EventType.PORT_FAILED,
    "cancelled": EventType.PORT_FAILED,
    "expired": EventType.PORT_FAILED,
}
_PORTOUT_ENDS: Final[Mapping[str, EventType]] = {"completed": EventType.PORTOUT_COMPLETED}


def bundle_status(fields: Fields, account: str, received_at: int) -> Event:
    """The StatusCallback of a regulatory bundle: its papers were judged.

    A bundle can be rejected twice, and Twilio numbers its callbacks in no way: what is one event is
    told by all the fields together.
    """
    name = "BundleSid" if "BundleSid" in fields else "Sid"
    sid = matching(fields, name, _BUNDLE_SID)
    said = [part for pair in sorted(fields.items()) for part in pair]
    return Event(
        id=event_id(PROVIDER, account, "bundle", sid, *said),
        type=EventType.BUNDLE_CHANGED,
        source=PROVIDER,
        time=received_at,
        key=sid,
        data=EventData(
            provider_account=account,
            order_id=sid,
            status=matching(fields, "Status", WORD),
            reason=fields.get("FailureReason") or fields.get("RejectionReason") or "",
            raw=kept(fields),
        ),
    )


def porting(request: WebhookRequest, signer: Signer) -> Event:
    """The porting webhook: JSON about a number, or about the request that it is part of.

    It goes to the account that configured it, its subaccounts' numbers too. Its key is the number,
    or the request's Sid where it is about all numbers of one.

    Raises:
        BadPayload: not a JSON object, or a field is malformed.
    """
    payload = _read(request.body)
    fields = {name: value for name, value in payload.items() if isinstance(value, str)}
    number = fields.get("phone_number", "")
    if number and not is_e164(number):
        raise BadPayload("phone_number is malformed")
    order = matching(fields, "port_in_request_sid", _PORT_IN_SID) if _is_in(fields) else ""
    key = number or order
    if not key:
        raise BadPayload("neither phone_number nor port_in_request_sid is there")
    account = signer.account_of(fields.get("account_sid", ""), parent=signer.account)
    status = matching(fields, "status" if "status" in fields else "event_type", _STATE)
    changed = fields.get("last_date_updated", "")
    return Event(
        id=event_id(PROVIDER, account, "porting", order, key, status, changed),
        type=_kind(fields, status),
        source=PROVIDER,
        time=happened_at(moment(changed), request.received_at),
        key=key,
        data=EventData(
            provider_account=account,
            number=number,
            order_id=order,
            status=status,
            error_code=_text(payload, "rejection_reason_code", "not_portable_reason_code"),
            reason=_text(
                payload, "rejection_reason", "order_cancellation_reason", "not_portable_reason"
            ),
            raw=payload,
        ),
    )


def _read(body: bytes) -> Mapping[str, Any]:
    """The payload, scrubbed, its names in snake_case: Twilio documents them in both spellings."""
    try:
        found = scrubbed(read_json(body.decode()))
    except UnicodeDecodeError as error:
        raise BadPayload("the body is not UTF-8") from error
    if not isinstance(found, dict):
        raise BadPayload("the body is not a JSON object")
    return {_CAMEL.sub("_", name).lower(): value for name, value in found.items()}


def _is_in(fields: Fields) -> bool:
    words = (fields.get("event_type", ""), fields.get("status", ""), *fields)
    return not any(word.lower().startswith(("portout", "port_out")) for word in words)


def _kind(fields: Fields, status: str) -> EventType:
    word = _NOTIFICATION.sub("", re.sub(r"[^a-z]", "", status.lower()))
    if not _is_in(fields):
        return _PORTOUT_ENDS.get(word, EventType.PORTOUT_CHANGED)
    if not fields.get("phone_number"):  # of a whole request: "completed" may mean all canceled
        return EventType.PORT_CHANGED
    return _PORT_ENDS.get(word, EventType.PORT_CHANGED)


def _text(payload: Mapping[str, Any], *names: str) -> str:
    """The first of the fields that says something."""
    found = next((payload[name] for name in names if payload.get(name)), "")
    return str(found) if isinstance(found, str | int) else ""
