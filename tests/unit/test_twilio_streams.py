"""Event Streams: each CloudEvent alone, once, and the same as its webhook tells where it can."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from router.errors import BadPayload
from router.events.ids import call_id
from router.events.model import Event
from router.events.types import NUMBERS_TOPIC, EventType, topic_of
from router.provider import WebhookRequest
from router.routing.decide import decide
from router.routing.table import RouteTable
from tests.support.twilio_requests import (
    ACCOUNT,
    NOW,
    SUBACCOUNT,
    form,
    json_request,
    parsed,
    request,
    source,
)

SID = form()["CallSid"]
CALL = call_id("twilio", ACCOUNT, SID)
STATUS = "com.twilio.voice.status-callback.call."


def element(kind: str, data: Any = None, **members: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "type": kind,
        "source": f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{SID}.json",
        "id": "VW" + "7a" * 16,
        "dataschema": "https://events-schemas.twilio.com/Voice.WebhookEvent/2",
        "datacontenttype": "application/json",
        "time": "2026-05-28T19:00:00.125Z",
        "data": data,
    } | members


def asked(kind: str, fields: dict[str, Any], **members: Any) -> dict[str, Any]:
    """An element that wraps a request which Twilio made."""
    data = {
        "sid": SID,
        "eventSid": "VW" + "7a" * 16,
        "request": {"method": "POST", "url": "https://x.example.com", "parameters": fields},
        "response": {"responseCode": 200, "responseBody": "c2VjcmV0"},
    }
    return element(kind, data, **members)


def told(*elements: Any) -> list[Event]:
    return parsed(json_request("events", list(elements)))


def status(word: str, **fields: str) -> dict[str, str]:
    return form(CallStatus=word, SequenceNumber="2", Direction="inbound", **fields)


@pytest.mark.parametrize(
    ("name", "word", "expected"),
    [
        ("initiated", "initiated", EventType.CALL_INITIATED),
        ("ringing", "ringing", EventType.CALL_RINGING),
        ("answered", "in-progress", EventType.CALL_ANSWERED),
        ("completed", "completed", EventType.CALL_ENDED),
        ("completed", "busy", EventType.CALL_ENDED),
    ],
)
def test_a_status_is_the_same_event_as_its_callback(
    name: str, word: str, expected: EventType
) -> None:
    event = told(asked(STATUS + name, status(word)))[0]
    callback = parsed(request("status", status(word)))[0]
    assert (event.id, event.type, event.key) == (callback.id, expected, CALL)
    assert event.data.disposition == callback.data.disposition
    assert event.time == 1_779_994_800_125_000
    assert event.data.raw["type"] == STATUS + name


def test_the_name_that_it_had_until_2024_means_the_same() -> None:
    old = "com.twilio.voice.webhook.status-callback.call.completed"
    assert told(asked(old, status("completed")))[0].type is EventType.CALL_ENDED


def test_a_leg_belongs_to_its_call() -> None:
    child = "CA" + "bb" * 16
    event = told(asked(STATUS + "completed", status("completed", CallSid=child, ParentCallSid=SID)))
    assert (event[0].type, event[0].key, event[0].data.leg_id) == ("leg.ended", CALL, child)


def test_a_status_without_the_request_ends_no_call() -> None:
    """Without it nobody knows whether a leg ended or the call."""
    event = told(asked(STATUS + "completed", {}))[0]
    assert (event.type, event.key) == (EventType.PROVIDER_UNKNOWN, CALL)
    assert "CallStatus" in event.data.reason


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("voice.twiml.call.requested", {}, EventType.CALL_INITIATED),
        ("voice.twiml.dial.finished", {"DialCallStatus": "no-answer"}, EventType.LEG_ENDED),
        ("voice.twiml.gather.finished", {"Digits": "12#"}, EventType.DTMF_RECEIVED),
        ("voice.twiml.gather.finished", {}, EventType.PROVIDER_UNKNOWN),
        ("voice.twiml.request.failed", {"ErrorCode": "11200"}, EventType.PROVIDER_ALERTED),
        ("voice.twiml.call.redirected", {}, EventType.PROVIDER_UNKNOWN),
        ("voice.status-callback.amd.detected", {"AnsweredBy": "fax"}, EventType.CALL_CLASSIFIED),
        ("messaging.message.sent", {}, EventType.PROVIDER_UNKNOWN),
    ],
)
def test_what_else_is_told_of_a_call(
    kind: str, fields: dict[str, str], expected: EventType
) -> None:
    event = told(asked(f"com.twilio.{kind}", form(**fields)))[0]
    assert (event.type, event.key, event.data.call_id) == (expected, CALL, CALL)


@pytest.mark.parametrize("kind", ["voice.twiml.call.requested", "voice.twiml.dial.finished"])
def test_a_copy_of_a_request_never_stands_in_for_its_answer(kind: str) -> None:
    """It has another id than the webhook's event, and asks for no decision."""
    fields = form(DialCallStatus="no-answer")
    event = told(asked(f"com.twilio.{kind}", fields))[0]
    webhooks = [request("voice", fields), request("dial", fields, query="?stage=agent")]
    assert event.id not in [parsed(webhook)[0].id for webhook in webhooks]
    assert decide(event, RouteTable()) == event


def test_a_summary_of_a_past_call() -> None:
    data = {
        "call_sid": "CA" + "bb" * 16,
        "account_sid": ACCOUNT,
        "parent_call_sid": SID,
        "duration": 120,
        "call_state": "completed",
        "from": {"caller": "+12125550123"},
        "to": {"callee": "+14155550100"},
        "answered_by": "machine_start",
    }
    event = told(element("com.twilio.voice.insights.call-summary.complete", data))[0]
    assert (event.type, event.key) == (EventType.CALL_SUMMARISED, CALL)
    assert (event.data.duration, event.data.answered_by) == (120.0, "machine")
    assert (event.data.from_number, event.data.to_number) == ("+12125550123", "+14155550100")


@pytest.mark.parametrize("word", ["pending", "successful", "failed"])
@pytest.mark.parametrize("what", ["registration", "deregistration"])
def test_a_number_is_registered_for_messages(what: str, word: str) -> None:
    kind = f"messaging.compliance.number-{what}.{word}"
    data = {
        "phonenumber": "+14155550100",
        "phonenumbersid": "PN" + "0a" * 16,
        "accountsid": SUBACCOUNT,
        "externalstatus": "registered",
        "failurereason": "Campaign suspended",
    }
    event = told(element(f"com.twilio.{kind}", data))[0]
    assert (event.type, event.key) == (EventType.NUMBER_CHANGED, "+14155550100")
    assert (event.data.number, event.data.status) == ("+14155550100", kind)
    assert (event.data.provider_account, event.data.reason) == (SUBACCOUNT, "Campaign suspended")
    assert topic_of(event.type) == NUMBERS_TOPIC


def test_an_id_makes_one_event_and_another_id_another() -> None:
    one, other = element("com.twilio.new", {}), element("com.twilio.new", {}, id="VW2")
    events = told(one, other, one)
    assert [event.key for event in events] == [one["id"], "VW2"]
    assert [event.id for event in told(one, other)] == [event.id for event in events]


def test_every_test_of_a_sink_is_an_event() -> None:
    """Though all have one id: the account's."""
    kind = "com.twilio.eventstreams.test-event"
    tests = [
        element(kind, {"test_id": "one"}, id=ACCOUNT, source="Sink"),
        element(kind, json.dumps({"test_id": "two"}), id=ACCOUNT, source="Sink"),
    ]
    events = told(*tests)
    assert len({event.id for event in events}) == 2
    assert {event.type for event in events} == {EventType.PROVIDER_UNKNOWN}


def test_one_event_alone_is_taken() -> None:
    assert parsed(json_request("events", element("com.twilio.new", {})))[0].key.startswith("VW")


BAD: list[Any] = [
    None,
    7,
    "text",
    [],
    {},
    {"id": "1"},
    {"type": "t"},
    {"id": 1, "type": "t"},
    {"id": "a b", "type": "t"},
    {"id": "x" * 201, "type": "t"},
    element("com.twilio.new", "not json"),
    element("com.twilio.new", {"account_sid": "AC"}),
    element("com.twilio.new", {"account_sid": "\ud800"}),
    element("com.twilio.new", {}, id="\ud800"),
    asked("com.twilio.voice.twiml.gather.finished", form(Digits="\ud800")),
    asked("com.twilio.voice.twiml.dial.finished", form(DialCallSid="\ud800")),
    asked(STATUS + "completed", {"CallSid": SID, "AccountSid": ACCOUNT, "CallStatus": "a b"}),
    asked(STATUS + "completed", {k: v for k, v in status("completed").items() if k != "To"}),
    element("com.twilio.messaging.compliance.number-registration.failed", {"phonenumber": "x"}),
    asked("com.twilio.voice.twiml.dial.finished", {"CallSid": [SID]}),
    element("com.twilio.error-logs.error.logged", {"payload": "{"}),
    element("com.twilio.voice.insights.call-summary.complete", {"duration": "x", "from": []}),
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_one_bad_element_does_not_lose_the_others(bad: Any) -> None:
    good = asked(STATUS + "completed", status("completed"), id="VW3")
    first, second = told(bad, good)
    assert second.type is EventType.CALL_ENDED
    assert first.type in (EventType.PROVIDER_UNKNOWN, EventType.CALL_SUMMARISED)
    assert first.key
    assert first.data.raw
    assert told(bad)[0].id == first.id


@pytest.mark.parametrize(
    "body", [b"", b"{", b"7", b'"x"', b"null", b"\xff", b"[" * 90_000, b"[1]x"]
)
def test_a_body_that_holds_no_events_is_refused(body: bytes) -> None:
    with pytest.raises(BadPayload):
        parsed(json_request("events", body))


@pytest.mark.parametrize(
    "value", ["9" * 5000, "-" + "9" * 30, "1e999", "NaN", '"\\ud800"', '"\\u0000"', "1.5"]
)
def test_odd_values_are_kept_as_far_as_they_can_be_written(value: str) -> None:
    good = json.dumps(element("com.twilio.new", {"x": "HERE"})).replace('"HERE"', value)
    event = parsed(json_request("events", f"[{good}]".encode()))[0]
    assert event.type is EventType.PROVIDER_UNKNOWN
    assert msgspec.json.decode(msgspec.json.encode(event), type=Event).id == event.id


def test_what_is_nested_too_deeply_is_cut_off_there() -> None:
    deep = json.dumps(element("com.twilio.new", "HERE")).replace('"HERE"', "[" * 400 + "]" * 400)
    event = parsed(json_request("events", f"[{deep}]".encode()))[0]
    assert len(msgspec.json.encode(event.data.raw)) < 1000


def test_our_answers_and_the_callers_tokens_are_not_kept() -> None:
    fields = status("completed", CallToken="a-token", Twiml="<Sip password='a-token'/>")
    fields["StirPassportToken"] = "a-token"
    kept = msgspec.json.encode(told(asked(STATUS + "completed", fields))[0])
    for secret in (b"a-token", b"c2VjcmV0"):
        assert secret not in kept


VALUES = [SID, ACCOUNT, "completed", STATUS + "completed", "com.twilio.new", "ERROR", "\ud800"]
NAMES = ["id", "type", "data", "time", "request", "parameters", "sid", "payload", "account_sid"]
NAMES += [
    "DialCallSid",
    "Digits",
    "level",
    "CallSid",
    "AccountSid",
    "CallStatus",
    "From",
    "To",
    "status",
    "phone_number",
]
STEP = {"status": "pending", "phone_number": "+14155550100"}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(VALUES),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6)
    ),
    max_leaves=15,
)


def test_secrets_in_json_within_json_are_not_kept() -> None:
    hidden = json.dumps({"response": {"status_code": 200, "body": "hunter2"}, "pin": "hunter2"})
    for bad in ({}, {"sid": "?"}, {"sid": "NO" + "3c" * 16, "level": "ERROR"}):
        data = bad | {"payload": hidden}
        for told_as in (data, json.dumps(data)):
            event = told(element("com.twilio.error-logs.error.logged", told_as))[0]
            assert b"hunter2" not in msgspec.json.encode(event)
            assert b"status_code" in msgspec.json.encode(event)


@given(message=JSON)
@example(message={"port_in_request_sid": "KW" + "0a" * 16, "last_date_updated": "\ud800"} | STEP)
@example(message=[asked("com.twilio.voice.twiml.dial.finished", form() | {"From": "\ud800"})])
def test_no_signed_json_is_more_than_a_bad_payload(message: Any) -> None:
    twilio = source()
    for kind in ("events", "porting"):
        signed: WebhookRequest = json_request(kind, message)
        try:
            events = twilio.parse(twilio.verify(signed))
        except BadPayload:
            continue
        for event in events:
            assert msgspec.json.encode(event)
            assert 0 <= event.time <= NOW
            twilio.reply(kind, event)
