"""Twilio's Event Streams as events (twilio.com/docs/events): a JSON array of CloudEvents.

Each element is read alone: one that can't be is kept as `provider.unknown`, and the others are
taken. A single object is taken too (a sink with `batch_events` off), and so is the sink's test.

Most elements wrap a request that Twilio made to a webhook (`data.request.parameters`). Where that
webhook is ours, the event arrives twice. Status callbacks, recordings, answering machines and
alerts go through the builders of their own webhooks, so that both copies have one id and the log
keeps the first. All others have an id of their own, built from the element's; above all a call or
a dial, whose webhook carries a decision that a copy must never get ahead of. In any case both
copies have one call_id.

Of numbers there is only their registration for messages; porting and bundles have webhooks.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec

from router.errors import BadPayload
from router.events.ids import call_id, event_id
from router.events.model import Event, EventData
from router.events.phone import is_e164
from router.events.types import EventType
from router.provider import WebhookRequest, happened_at
from router.providers.twilio import alerts, events, media
from router.providers.twilio.events import PROVIDER
from router.providers.twilio.fields import (
    CALL_SID,
    NUMBER,
    Fields,
    answerer,
    matching,
    moment,
    optional,
    read_json,
    scrubbed,
    table,
)
from router.providers.twilio.keys import Signer

_ID: Final = re.compile(r"[\x21-\x7e]{1,200}")  # of types too
_DIGITS: Final = re.compile(r"[0-9*#A-Da-d]{1,128}")
_PREFIX: Final = "com.twilio."
_ACCOUNTS: Final = ("account_sid", "accountSid", "accountsid")  # each product has its spelling
_DURATION_LIMIT: Final = 1e9  # seconds


class Element:
    """One CloudEvent, scrubbed: its attributes, its data, the fields of the request it wraps."""

    def __init__(self, members: Mapping[str, Any], signer: Signer, received_at: int) -> None:
        """Raises BadPayload unless it has an id, a type and an account that its key speaks for."""
        self.id, kind = _text(members, "id"), _text(members, "type")
        if not (_ID.fullmatch(self.id) and _ID.fullmatch(kind)):
            raise BadPayload("a CloudEvent lacks its id or type, or it is malformed")
        self.type = kind.removeprefix(_PREFIX)
        self.data = table(members.get("data"))
        parameters = table(table(self.data.get("request")).get("parameters"))
        self.fields: Fields = {
            name: str(value) for name, value in parameters.items() if isinstance(value, str | int)
        }
        named = self.fields.get("AccountSid") or _first_text(self.data, _ACCOUNTS)
        self.account = signer.account_of(named, parent=signer.account)
        self.received_at = received_at
        said = _text(members, "time") or _text(self.data, "timestamp")
        self.time = happened_at(moment(said), received_at)
        self.raw = members

    def call_sids(self) -> tuple[str, str]:
        """The CallSid that it is about and its parent's, each "" where there is none."""
        data = self.data
        named = (self.fields.get("CallSid"), data.get("call_sid"), data.get("sid"))
        parents = (self.fields.get("ParentCallSid"), data.get("parent_call_sid"))
        sid = _first_call(named)
        return sid, _first_call(parents) if sid else ""


def parse(request: WebhookRequest, signer: Signer) -> Sequence[Event]:
    """The events of a delivery, each once, in their order.

    Raises:
        BadPayload: the body as a whole is not JSON, or neither an array nor an object.
    """
    try:
        document = read_json(request.body.decode())
    except UnicodeDecodeError as error:
        raise BadPayload("the body is not UTF-8") from error
    elements = [document] if isinstance(document, dict) else document
    if not isinstance(elements, list):
        raise BadPayload("the body is neither an array nor an object")
    found: dict[str, Event] = {}
    for element in elements:
        event = _event(element, signer, request.received_at)
        found.setdefault(event.id, event)
    return list(found.values())


def _event(element: Any, signer: Signer, received_at: int) -> Event:
    found = scrubbed(element)
    try:
        whole = Element(table(found), signer, received_at)
    except BadPayload as error:
        return _unreadable(found, signer.account, received_at, str(error))
    build = _BUILDERS.get(whole.type, _unknown)
    try:
        return build(whole)
    except BadPayload as error:
        return _about(whole, EventType.PROVIDER_UNKNOWN, reason=str(error))


def _as_webhook(build: Callable[[Fields, str, int], Event]) -> Callable[[Element], Event]:
    """The very event that the webhook makes of the request, id and all."""

    def told(element: Element) -> Event:
        event = build(element.fields, element.account, element.received_at)
        data = msgspec.structs.replace(event.data, raw=element.raw)
        return msgspec.structs.replace(event, time=element.time, data=data)

    return told


def _requested(element: Element) -> Event:
    data = events.incoming_call(element.fields, element.account, element.received_at).data
    return _copy(element, EventType.CALL_INITIATED, data)


def _dialled(element: Element) -> Event:
    # The stage is in our URL, and asks for a decision: this is only a copy.
    data = events.dial_ended(element.fields, element.account, element.received_at, "agent").data
    return _copy(element, EventType.LEG_ENDED, data)


def _gathered(element: Element) -> Event:
    digits = optional(element.fields, "Digits", _DIGITS)
    kind = EventType.DTMF_RECEIVED if digits else EventType.PROVIDER_UNKNOWN  # it was speech
    return _about(element, kind, digits=digits)


def _failed(element: Element) -> Event:
    code = optional(element.fields, "ErrorCode", NUMBER)
    return _about(element, EventType.PROVIDER_ALERTED, error_code=code)


def _summarised(element: Element) -> Event:
    data = element.data
    return _about(
        element,
        EventType.CALL_SUMMARISED,
        from_number=_number(table(data.get("from")), "caller"),
        to_number=_number(table(data.get("to")), "callee"),
        duration=_duration(data.get("duration")),
        answered_by=answerer(_text(data, "answered_by")),
    )


def _logged(element: Element) -> Event:
    data = element.data
    return alerts.alert(
        sid=matching({"sid": _text(data, "sid") or element.id}, "sid", alerts.SID),
        level=_text(data, "level"),
        account=element.account,
        payload={**data, **table(data.get("payload"))},
        time=element.time,
        raw=element.raw,
    )


def _registered(element: Element) -> Event:
    """twilio.com/docs/events/event-types/a2p/number-registration."""
    number = _number(element.data, "phonenumber")
    if not number:
        raise BadPayload("phonenumber is missing or malformed")
    reason = _text(element.data, "failurereason")
    return _about(element, EventType.NUMBER_CHANGED, number=number, reason=reason)


def _tested(element: Element) -> Event:
    """The test of a sink. All of an account's tests have one id: the account's."""
    return _about(element, EventType.PROVIDER_UNKNOWN, fact=_text(element.data, "test_id"))


def _unknown(element: Element) -> Event:
    return _about(element, EventType.PROVIDER_UNKNOWN)


_BUILDERS: Final[Mapping[str, Callable[[Element], Event]]] = {
    **{
        f"voice.{family}.call.{word}": _as_webhook(events.call_status)
        for family in ("status-callback", "webhook.status-callback")  # the second: until 2024
        for word in ("initiated", "ringing", "answered", "completed")
    },
    "voice.status-callback.amd.detected": _as_webhook(media.machine_detected),
    "voice.status-callback.recording.processed": _as_webhook(media.recording_status),
    "voice.twiml.call.requested": _requested,
    "voice.twiml.requested": _requested,
    "voice.twiml.dial.finished": _dialled,
    "voice.twiml.gather.finished": _gathered,
    "voice.twiml.request.failed": _failed,
    "voice.insights.call-summary.partial": _summarised,
    "voice.insights.call-summary.predicted-complete": _summarised,
    "voice.insights.call-summary.complete": _summarised,
    "error-logs.error.logged": _logged,
    **{
        f"messaging.compliance.number-{what}.{word}": _registered
        for what in ("registration", "deregistration")
        for word in ("pending", "successful", "failed")
    },
    "eventstreams.test-event": _tested,
}


def _copy(element: Element, kind: EventType, data: EventData) -> Event:
    data = msgspec.structs.replace(data, stage="", raw=element.raw)
    return _made(element, kind, data)


def _about(element: Element, kind: EventType, *, fact: str = "", **facts: Any) -> Event:
    sid, parent = element.call_sids()
    data = EventData(
        call_id=call_id(PROVIDER, element.account, parent or sid) if sid else "",
        provider_call_id=parent or sid,
        provider_account=element.account,
        leg_id=sid if parent else "",
        status=element.type,
        raw=element.raw,
        **facts,
    )
    return _made(element, kind, data, fact)


def _made(element: Element, kind: EventType, data: EventData, fact: str = "") -> Event:
    return Event(
        id=event_id(PROVIDER, element.account, "stream", element.id, fact),
        type=kind,
        source=PROVIDER,
        time=element.time,
        key=data.call_id or data.number or element.id,
        data=data,
    )


def _unreadable(element: Any, account: str, received_at: int, reason: str) -> Event:
    """An element that is no CloudEvent, or of an account that its key does not speak for."""
    digest = sha256(msgspec.json.encode(element)).hexdigest()
    return Event(
        id=event_id(PROVIDER, account, "stream", "unreadable", digest),
        type=EventType.PROVIDER_UNKNOWN,
        source=PROVIDER,
        time=received_at,
        key=digest,
        data=EventData(provider_account=account, reason=reason, raw={"element": element}),
    )


def _text(table: Mapping[str, Any], name: str) -> str:
    value = table.get(name)
    return value if isinstance(value, str) else ""


def _first_text(table: Mapping[str, Any], names: Iterable[str]) -> str:
    return next((text for name in names if (text := _text(table, name))), "")


def _first_call(values: Iterable[object]) -> str:
    sids = (value for value in values if isinstance(value, str) and CALL_SID.fullmatch(value))
    return next(sids, "")


def _number(table: Mapping[str, Any], name: str) -> str:
    number = _text(table, name)
    return number if is_e164(number) else ""


def _duration(value: object) -> float | None:
    if isinstance(value, int | float) and 0 <= value < _DURATION_LIMIT:
        return float(value)
    return None
