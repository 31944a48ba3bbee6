"""The Debugger's webhook: our own failures as Twilio sees them, without anybody's secrets."""

import json
from typing import Any

import msgspec
import pytest

from router.errors import BadPayload
from router.events.ids import call_id
from router.events.model import Event
from router.events.types import EventType
from tests.support.twilio_requests import ACCOUNT, json_request, parsed, request

SID = "NO" + "4d" * 16
CALL = "CA" + "0f" * 16
PARENT = "CA" + "ee" * 16
PAYLOAD: dict[str, Any] = {
    "resource_sid": CALL,
    "service_sid": None,
    "error_code": "11200",
    "more_info": {
        "Msg": "An attempt to retrieve content returned the HTTP status code 503",
        "url": "https://user:hunter2@calls.example.com/webhooks/twilio/voice",
        "httpResponse": "503",
    },
    "webhook": {
        "type": "application/json",
        "request": {
            "method": "POST",
            "url": "https://calls.example.com/webhooks/twilio/voice",
            "headers": {"X-Twilio-Signature": "a-signature", "Authorization": "Basic x"},
            "parameters": {"CallSid": CALL, "CallToken": "a-call-token"},
        },
        "response": {
            "status_code": 200,
            "headers": {"Content-Type": "text/xml"},
            "body": '<Response><Dial><Sip password="hunter2">sip:x</Sip></Dial></Response>',
        },
    },
}


def logged(payload: Any = PAYLOAD, **fields: str) -> Event:
    about = {
        "Sid": SID,
        "AccountSid": ACCOUNT,
        "ParentAccountSid": "",
        "Level": "ERROR",
        "PayloadType": "application/json",
        "Payload": payload if isinstance(payload, str) else json.dumps(payload),
        "Timestamp": "2026-05-28T19:00:00Z",
    }
    return parsed(request("debugger", about | fields))[0]


def test_a_failure_of_a_call_is_told_with_the_call() -> None:
    event = logged()
    assert event.type is EventType.PROVIDER_ALERTED
    assert event.key == event.data.call_id == call_id("twilio", ACCOUNT, CALL)
    assert (event.data.error_code, event.data.status) == ("11200", "ERROR")
    assert event.data.reason == PAYLOAD["more_info"]["Msg"]
    assert event.time == 1_779_994_800_000_000


def test_a_failure_of_a_leg_is_told_with_its_call_where_twilio_says_which() -> None:
    payload = json.loads(json.dumps(PAYLOAD))
    payload["webhook"]["request"]["parameters"]["ParentCallSid"] = PARENT
    event = logged(payload)
    assert event.key == call_id("twilio", ACCOUNT, PARENT)
    assert (event.data.provider_call_id, event.data.leg_id) == (PARENT, CALL)


@pytest.mark.parametrize("resource", [None, "", "SM" + "0f" * 16, 7, "CAx", ["CA"]])
def test_a_failure_of_something_else_has_its_own_key(resource: object) -> None:
    event = logged(PAYLOAD | {"resource_sid": resource})
    assert (event.key, event.data.call_id, event.data.provider_call_id) == (SID, "", "")


def test_secrets_of_what_was_asked_and_answered_are_not_kept() -> None:
    kept = msgspec.json.encode(logged())
    for secret in (b"hunter2", b"a-call-token", b"a-signature", b"Basic x"):
        assert secret not in kept
    payload = logged().data.raw["Payload"]
    assert payload["webhook"]["response"]["status_code"] == 200
    assert payload["more_info"]["url"].startswith("https://***@calls.example.com/")


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "not json",
        "[" * 90_000,
        "{" * 20,
        "null",
        "[1]",
        '{"error_code": {"a": 1}, "more_info": [], "webhook": "x"}',
        '{"error_code": %s}' % ("9" * 5000),
        '{"more_info": {"Msg": "a\\ud800\\u0000"}, "x": NaN, "y": 1e999}',
        '{"a":' * 500 + "1" + "}" * 500,
    ],
)
def test_a_payload_of_any_kind_is_an_alert(payload: str) -> None:
    event = logged(payload)
    assert (event.type, event.key, event.data.error_code) == (EventType.PROVIDER_ALERTED, SID, "")
    assert msgspec.json.decode(msgspec.json.encode(event), type=Event).id == event.id


def test_the_debugger_and_the_stream_tell_of_one_alert() -> None:
    streamed = {
        "specversion": "1.0",
        "type": "com.twilio.error-logs.error.logged",
        "source": "/v1/Alerts",
        "id": SID,
        "time": "2026-05-28T19:00:00.000Z",
        "data": {
            "sid": SID,
            "account_sid": ACCOUNT,
            "level": "ERROR",
            "error_code": "11200",
            "resource_sid": CALL,
            "payload": json.dumps(PAYLOAD),
        },
    }
    one, other = logged(), parsed(json_request("events", [streamed]))[0]
    assert (one.id, one.key, one.type) == (other.id, other.key, other.type)
    assert one.data.error_code == other.data.error_code
    assert b"hunter2" not in msgspec.json.encode(other)


def test_what_programs_log_is_no_failure() -> None:
    assert logged(Level="INFO").type is EventType.PROVIDER_UNKNOWN


@pytest.mark.parametrize("field", ["Sid", "Level", "AccountSid"])
def test_malformed_fields_are_named(field: str) -> None:
    with pytest.raises(BadPayload, match=field):
        logged(**{field: "?"})
