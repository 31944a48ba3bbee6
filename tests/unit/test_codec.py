"""Events to records and back: both modes, every version, and what is refused."""

import msgspec
import pytest

from router.errors import BadPayload
from router.events import codec
from router.events.ids import DEFAULT_ACCOUNT
from router.events.model import Event, EventData
from router.events.types import EventType
from router.events.upcast import STEPS, upcast

EVENT = Event(
    id="1",
    type=EventType.CALL_ENDED,
    source="twilio",
    time=1_700_000_000_123_456,
    key="k",
    data=EventData(call_id="k", disposition="busy"),
)


def test_headers_are_cloudevents_in_kafkas_binary_mode() -> None:
    headers, value = codec.encode(EVENT)
    assert headers == {
        "ce_specversion": "1.0",
        "ce_id": "1",
        "ce_type": "call.ended",
        "ce_source": "/twilio",
        "ce_subject": "k",
        "ce_time": "2023-11-14T22:13:20.123456Z",
        "ce_dataschema": "switchboard/event/3",
        "content-type": "application/json",
    }
    assert value == b'{"call_id":"k","disposition":"busy"}'


@pytest.mark.parametrize(
    ("spoil", "value"),
    [
        ({"ce_id": None}, b"{}"),
        ({"ce_time": "yesterday"}, b"{}"),
        ({"ce_time": "2023-11-14T22:13:20"}, b"{}"),
        ({}, b"["),
        ({}, b"[]"),
        ({}, b"\xff"),
        ({}, b'{"duration": "x"}'),
        ({}, b'{"raw": ' + b'{"a":' * 5000),
        ({"ce_dataschema": "switchboard/event/1"}, b"[]"),
        ({"ce_dataschema": "switchboard/event/1"}, b'{"duration": "x"}'),
        ({"ce_dataschema": "switchboard/event/1"}, b'{"raw": ' + b'{"a":' * 5000),
        ({"content-type": "application/cloudevents+json"}, b"{}"),
        ({"content-type": "application/cloudevents+json"}, b'{"data": ' + b'{"a":' * 5000),
        ({"content-type": "application/cloudevents+avro"}, b"{}"),
        ({"content-type": "application/cloudevents-batch+json"}, b"[]"),
    ],
)
def test_unreadable_records_are_bad_payloads(spoil: dict[str, str | None], value: bytes) -> None:
    headers = {**codec.encode(EVENT)[0], **spoil}
    given_headers = {name: text for name, text in headers.items() if text is not None}
    with pytest.raises(BadPayload):
        codec.decode("", given_headers, value)


def test_an_unreadable_record_is_told_without_its_content() -> None:
    headers = {**codec.encode(EVENT)[0], "ce_time": "+14155550100"}
    with pytest.raises(BadPayload) as caught:
        codec.decode("", headers, b"{}")
    assert "4155550100" not in str(caught.value)


def test_a_type_from_a_newer_version_passes_as_unknown() -> None:
    headers, value = codec.encode(EVENT)
    newer = codec.decode("k", {**headers, "ce_type": "call.teleported"}, value)
    assert newer == msgspec.structs.replace(EVENT, type=EventType.PROVIDER_UNKNOWN)


@pytest.mark.parametrize("schema", ["switchboard/event/4", "somebody/else/1", "", None])
def test_of_data_that_is_not_ours_or_newer_the_known_fields_count(schema: str | None) -> None:
    headers, _ = codec.encode(EVENT)
    headers.pop("ce_dataschema")
    if schema is not None:
        headers["ce_dataschema"] = schema
    value = b'{"call_id":"k","disposition":"busy","colour":{"hue":1}}'
    assert codec.decode("k", headers, value) == EVENT


def test_every_older_version_has_a_step_to_the_next() -> None:
    newest = int(codec.SCHEMA.rpartition("/")[2])
    assert list(STEPS) == [f"switchboard/event/{number}" for number in range(1, newest)]


@pytest.mark.parametrize(
    ("kind", "data", "more"),
    [
        ("call.initiated", {"direction": "inbound", "decision": {}}, {"stage": "route"}),
        ("call.initiated", {"direction": "outbound", "decision": {}}, {}),
        ("call.initiated", {"direction": "inbound"}, {}),
        ("call.forwarded", {"direction": "inbound", "decision": {}, "stage": "agent"}, {}),
        ("number.mapped", {"to_number": "+14155550100"}, {"number": "+14155550100"}),
        ("number.unmapped", {"to_number": "+14155550100"}, {"number": "+14155550100"}),
        ("number.mapped", {}, {}),
        # Written by version 2 before it had its name: what is said already stays.
        ("call.initiated", {"direction": "inbound", "decision": {}, "stage": "route"}, {}),
    ],
)
def test_version_1_is_read_as_version_2_means_it(
    kind: str, data: dict[str, object], more: dict[str, object]
) -> None:
    before = dict(data)
    assert STEPS["switchboard/event/1"](kind, data) == data | more
    assert data == before


def test_version_2_knew_the_providers_account_alone() -> None:
    data = {"call_id": "c", "account": "AC1", "raw": {"account": "kept as it was"}}
    assert upcast("switchboard/event/2", "call.ended", data) == {
        "call_id": "c",
        "provider_account": "AC1",
        "account_id": DEFAULT_ACCOUNT,
        "raw": {"account": "kept as it was"},
    }
    number = {"to_number": "+14155550100"}
    assert upcast("switchboard/event/1", "number.mapped", number) == {
        "number": "+14155550100",
        "to_number": "+14155550100",
        "account_id": DEFAULT_ACCOUNT,
    }


OLD_DATA = b'{"call_id":"k","account":"AC1","raw":{"account":"x"}}'
NEW = EventData(
    call_id="k",
    provider_account="AC1",
    account_id="ac3e0000-0000-4000-8000-000000000001",
    raw={"account": "x"},
)


def test_a_row_that_an_older_version_wrote_is_read_as_it_meant() -> None:
    old = EventData(
        call_id="k", provider_account="AC1", account_id=DEFAULT_ACCOUNT, raw={"account": "x"}
    )
    assert codec.stored_data(OLD_DATA) == old
    assert codec.stored_data(msgspec.json.encode(NEW)) == NEW
    row = b'{"id":"1","type":"call.ended","source":"twilio","time":1,"key":"k","data":%s}'
    assert codec.stored_event(row % OLD_DATA) == msgspec.structs.replace(EVENT, time=1, data=old)
    mine = msgspec.structs.replace(EVENT, data=NEW)
    assert codec.stored_event(msgspec.json.encode(mine)) == mine
    for wrong in (b"", b"[]", b'{"data":{"account":1}}'):
        with pytest.raises(msgspec.MsgspecError):
            codec.stored_event(wrong)
