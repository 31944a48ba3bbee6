"""Telnyx's events: all that its SDK knows have a place, and each becomes what it says."""

import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from inspect import isclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from telnyx import types
from telnyx.types import porting, portouts

from router.errors import BadPayload
from router.events.ids import call_id, event_id
from router.events.types import EventType
from router.providers.telnyx.envelope import open_envelope
from router.providers.telnyx.events import parse_event
from router.providers.telnyx.kinds import CALLS, NUMBERS
from tests.providers.case import read
from tests.support.telnyx_requests import (
    CALLED,
    CALLER,
    CONTROL_ID,
    NOW,
    SESSION,
    event,
    parsed,
    request,
    source,
)

PAYLOADS = Path(__file__).parents[1] / "providers" / "telnyx" / "payloads"
Model = type[BaseModel]

_ELSEWHERE: Sequence[Model] = [
    porting.porting_event_status_changed_event.PortingEventStatusChangedEvent,
    porting.porting_event_deleted_payload.PortingEventDeletedPayload,
    porting.porting_event_split_event.PortingEventSplitEvent,
    porting.porting_event_new_comment_event.PortingEventNewCommentEvent,
    porting.porting_event_messaging_changed_payload.PortingEventMessagingChangedPayload,
    porting.porting_event_without_webhook.PortingEventWithoutWebhook,
    portouts.webhook_portout_status_changed.WebhookPortoutStatusChanged,
    portouts.webhook_portout_foc_date_changed.WebhookPortoutFocDateChanged,
    portouts.webhook_portout_new_comment.WebhookPortoutNewComment,
]
"""Events about ports: models of the API, which lists what was posted."""


def models(annotation: Any) -> Iterator[Model]:
    if isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from models(inner)


def literals(annotation: Any) -> Iterator[str]:
    for inner in typing.get_args(annotation):
        yield from [inner] if isinstance(inner, str) else literals(inner)


def described() -> Mapping[str, Sequence[Model]]:
    """The SDK's models of `data`, by event type."""
    posted = [m for top in models(types.UnwrapWebhookEvent) for m in (top, *_data_of(top))]
    every: list[Model] = [*posted, *_ELSEWHERE]
    found: dict[str, list[Model]] = {}
    for model in every:
        field = model.model_fields.get("event_type")
        for name in literals(field.annotation) if field else ():
            found.setdefault(name, []).append(model)
    return found


def _data_of(model: Model) -> Iterator[Model]:
    field = model.model_fields.get("data")
    return models(field.annotation) if field else iter(())


SDK = described()


def test_every_event_of_the_sdk_about_calls_and_numbers_has_a_type() -> None:
    others = ("fax.", "message.", "whatsapp.")
    known = {name for name in SDK if not name.startswith(others)}
    assert len(known) > 60
    assert known - CALLS.keys() - NUMBERS.keys() == {
        "call.machine.premium.detection.started",  # says nothing yet
        "number_reputation.external_verification.status_changed",  # of an enterprise
    }
    assert CALLS.keys() | NUMBERS.keys() <= SDK.keys()


def test_every_event_of_the_tables_has_a_payload_file_that_fits_the_sdks_model() -> None:
    seen = set()
    for path in PAYLOADS.glob("*.http"):
        raw = read(path)
        if raw.target != "/webhooks/telnyx" or path.stem == "v1_refused":
            continue
        data = open_envelope(raw.body)
        for model in SDK[data["event_type"]]:
            model.model_validate(data)
        seen.add(data["event_type"])
    assert seen >= CALLS.keys() | NUMBERS.keys()


def test_an_incoming_call_asks_where_it_goes() -> None:
    found = parsed(event("call.initiated", direction="incoming", state="parked"))
    assert found.type is EventType.CALL_INITIATED
    assert found.id == event_id("telnyx", "b97d4d5e-6fe7-4432-911f-79637bf6ebb7")
    assert found.key == found.call_id == call_id("telnyx", "", CONTROL_ID)
    data = found.data
    assert (data.stage, data.direction) == ("route", "inbound")
    assert (data.from_number, data.to_number) == (CALLER, CALLED)
    assert (data.provider_call_id, data.control_id) == (CONTROL_ID, CONTROL_ID)


@pytest.mark.parametrize(
    ("direction", "state", "stage"),
    [
        ("incoming", "parked", "route"),
        ("incoming", None, "route"),  # not said: better one decision too many
        ("incoming", "bridging", ""),  # the number is connected straight to SIP
        ("outgoing", "parked", ""),
        ("outgoing", "bridging", ""),
        (None, "parked", ""),
    ],
)
def test_only_a_call_that_waits_for_a_command_asks(
    direction: str | None, state: str | None, stage: str
) -> None:
    assert parsed(event("call.initiated", direction=direction, state=state)).data.stage == stage


def test_a_redelivery_has_another_signature_and_the_same_event() -> None:
    first, again = event("call.answered"), event("call.answered", attempt=2)
    assert first != again
    assert parsed(first) == parsed(again)


def test_events_of_one_kind_are_told_apart_by_their_id() -> None:
    first, other = event("call.speak.ended"), event("call.speak.ended", event_id="another")
    assert parsed(first).id != parsed(other).id


def test_what_happened_a_while_ago_is_told_with_its_time() -> None:
    data = json.loads(event("call.answered"))["data"] | {"occurred_at": "2026-05-28T20:26:00Z"}
    assert parse_event(data, NOW)[0].time == NOW - 40_000_000


@pytest.mark.parametrize("ours_is_ahead", [-299, -100, -1, 0, 1, 100, 299])
@pytest.mark.parametrize("ago", [0, 40, 3600])
def test_a_clock_that_is_off_makes_no_event_older_or_younger(ours_is_ahead: int, ago: int) -> None:
    """Or callers would be left ringing: an event older than the ring window starts nothing."""
    sent_at = NOW + ago * 1_000_000
    received_at = sent_at + ours_is_ahead * 1_000_000
    telnyx = source()
    asked = request(event("call.answered"), at=sent_at, received_at=received_at)
    (found,) = telnyx.parse(telnyx.verify(asked))
    assert abs(received_at - found.time - ago * 1_000_000) <= 2_000_000


@pytest.mark.parametrize("claimed", ["", "yesterday", "2026-05-28T20:26:00", 7, None, "0001-01-01"])
def test_a_time_that_can_not_be_read_is_ours(claimed: object) -> None:
    data = json.loads(event("call.answered"))["data"] | {"occurred_at": claimed}
    assert parse_event(data, NOW)[0].time == NOW


@pytest.mark.parametrize(
    ("name", "payload", "kind", "fact"),
    [
        ("call.machine.detection.ended", {"result": "not_sure"}, "call.classified", "unknown"),
        ("call.machine.detection.ended", {"result": "machine"}, "call.classified", "machine"),
        ("call.machine.premium.detection.ended", {"result": "new"}, "call.classified", "unknown"),
        ("call.dtmf.received", {"digit": "#"}, "dtmf.received", "#"),
        ("call.gather.ended", {"digits": "", "status": "timeout"}, "dtmf.received", ""),
        (
            "call.transcription",
            {"transcription_data": {"transcript": "hi"}},
            "transcript.added",
            "hi",
        ),
        ("call.transcription", {"transcription_data": None}, "transcript.added", ""),
        ("call.ai_gather.message_history_updated", {"message_history": []}, "transcript.added", ""),
        ("call.playback.ended", {"status": "cancelled"}, "media.ended", "cancelled"),
        ("call.playback.ended", {"status": "failed"}, "media.failed", "failed"),
        ("call.refer.failed", {"sip_notify_response": True}, "transfer.failed", 0),
        ("call.cost", {"billed_duration_secs": 6}, "call.summarised", 6.0),
        ("call.cost", {"billed_duration_secs": "6"}, "call.summarised", None),
    ],
)
def test_what_an_event_says_is_read(
    name: str, payload: Mapping[str, Any], kind: str, fact: object
) -> None:
    fields = {
        "call.classified": "answered_by",
        "dtmf.received": "digits",
        "transcript.added": "text",
        "media.ended": "status",
        "media.failed": "status",
        "transfer.failed": "sip_status",
        "call.summarised": "duration",
    }
    found = parsed(event(name, **payload))
    assert found.type == kind
    assert getattr(found.data, fields[kind]) == fact


def test_an_event_that_nobody_heard_of_is_kept_with_its_payload() -> None:
    found = parsed(event("call.teleported", destination="the moon"))
    assert found.type is EventType.PROVIDER_UNKNOWN
    assert found.call_id == call_id("telnyx", "", CONTROL_ID)
    assert found.data.raw["payload"]["destination"] == "the moon"


def test_two_legs_that_came_in_are_two_calls_though_their_session_is_one() -> None:
    """A number of ours that was called by way of another: two callers must not share a room."""
    first = parsed(event("call.initiated", direction="incoming", event_id="1"))
    second = parsed(
        event("call.initiated", direction="incoming", event_id="2", call_control_id="v3:another")
    )
    sessions = {each.data.raw["payload"]["call_session_id"] for each in (first, second)}
    assert sessions == {SESSION}
    assert first.call_id != second.call_id


@pytest.mark.parametrize("to", ["14155550102", "sip:+14155550102@acme.sip.telnyx.com"])
def test_a_number_of_ours_is_known_in_every_form(to: str) -> None:
    assert parsed(event("call.initiated", to=to)).data.to_number == "+14155550102"


def test_what_a_call_says_of_its_caller_is_kept() -> None:
    headers = [{"name": "X-Ticket", "value": "77"}, "odd", {"name": 1}]
    data = parsed(
        event(
            "call.initiated",
            caller_id_name="JANE DOE",
            shaken_stir_attestation="a",
            custom_headers=headers,
        )
    ).data
    assert (data.caller_name, data.attestation) == ("JANE DOE", "A")
    assert data.sip_headers == {"X-Ticket": "77"}


def test_an_event_of_no_call_has_a_key_too() -> None:
    found = parsed(event("fax.received", call_session_id=None, call_control_id=None))
    assert (found.call_id, found.key) == ("", found.id)


def test_what_pays_or_moves_a_number_is_not_kept() -> None:
    secrets: dict[str, Any] = {
        "payment_card_number": "4111",
        "security_code": "123",
        "attempted_pin": "9182",
    }
    for name in ("call.payment.completed", "portout.status_changed", "call.teleported"):
        assert not parsed(event(name, **secrets)).data.raw["payload"].keys() & secrets.keys()


def test_api_v1_is_refused_and_how_to_switch_is_told() -> None:
    body = json.dumps({"event_type": "call_initiated", "id": "1", "payload": {}}).encode()
    with pytest.raises(BadPayload, match="webhook_api_version to 2"):
        parsed(body)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "JSON"),
        (b"\xff", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[]", "JSON object"),
        (b"{}", "data"),
        (b'{"data":[]}', "data"),
        (b'{"data":{}}', "data.id"),
        (b'{"data":{"id":1}}', "data.id"),
        (b'{"data":{"id":""}}', "data.id"),
        (b'{"data":{"id":"a","event_type":["call.answered"]}}', "data.event_type"),
        (b'{"data":{"id":"a","event_type":"call.answered","payload":"p"}}', "data.payload"),
        (event("call.hangup", call_control_id=None), "call_control_id"),
        (event("call.initiated", call_control_id=7), "call_control_id"),
    ],
)
def test_what_can_not_be_read_is_refused_by_the_name_of_its_field(body: bytes, field: str) -> None:
    with pytest.raises(BadPayload, match=field) as refused:
        parsed(body)
    assert CALLER not in str(refused.value)
