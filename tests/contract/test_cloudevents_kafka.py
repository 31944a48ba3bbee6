"""CloudEvents over Kafka: the official SDK reads what we write, and we read what it writes.

The scenarios are those of kafka-protocol-binding.feature in cloudevents/conformance.
"""

from datetime import datetime

import msgspec
import pytest
from cloudevents.core.bindings import kafka
from cloudevents.core.bindings.kafka import KafkaMessage
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from router.errors import BadPayload
from router.events import codec
from router.events.examples import EXAMPLES
from router.events.model import Event, EventData
from router.events.types import EventType
from router.routing.table import Route, Version
from router.storage.records import REV, route_record

TIME = "2018-04-05T03:56:24Z"
STRUCTURED = ["application/cloudevents+json", "application/cloudevents+json; charset=utf-8"]


def sent(event: Event) -> KafkaMessage:
    """The record as a client of Kafka gets it: header values are bytes."""
    headers, value = codec.encode(event)
    return message(event.key, headers, value)


def message(key: str, headers: dict[str, str], value: bytes | None) -> KafkaMessage:
    encoded = {name: text.encode() for name, text in headers.items()}
    return KafkaMessage(headers=encoded, key=key.encode(), value=value or b"")


def received(theirs: KafkaMessage) -> Event:
    key = theirs.key if isinstance(theirs.key, str) else (theirs.key or b"").decode()
    headers = {name: value.decode() for name, value in theirs.headers.items()}
    return codec.decode(key, headers, theirs.value)


def theirs(event: Event) -> CloudEvent:
    """The same event as the SDK would make it."""
    headers, value = codec.encode(event)
    attributes: dict[str, object] = {
        name.removeprefix("ce_"): text for name, text in headers.items() if name[:3] == "ce_"
    }
    attributes["time"] = datetime.fromisoformat(headers["ce_time"])
    attributes["datacontenttype"] = headers["content-type"]
    attributes["partitionkey"] = event.key
    return CloudEvent(attributes, msgspec.json.decode(value))


# The scenarios of the conformance suite


def test_binary_content_mode() -> None:
    event = codec.decode(
        "",
        {
            "ce_specversion": "1.0",
            "ce_id": "1234-1234-1234",
            "ce_type": "com.example.someevent",
            "ce_source": "/mycontext/subcontext",
            "ce_time": TIME,
            "content-type": "application/json",
        },
        b'{"message": "Hello World!"}',
    )
    assert event == expected()


@pytest.mark.parametrize("content_type", STRUCTURED)
def test_structured_content_mode(content_type: str) -> None:
    value = b"""
        {
            "specversion": "1.0",
            "type": "com.example.someevent",
            "time": "2018-04-05T03:56:24Z",
            "id": "1234-1234-1234",
            "source": "/mycontext/subcontext",
            "datacontenttype": "application/json",
            "data": {
                "message": "Hello World!"
            }
        }
        """
    assert codec.decode("", {"content-type": content_type}, value) == expected()


def expected() -> Event:
    """Their type and their data's field are none of ours; the rest is as the scenarios want it."""
    return Event(
        id="1234-1234-1234",
        type=EventType.PROVIDER_UNKNOWN,
        source="mycontext/subcontext",
        time=1_522_900_584_000_000,
        key="",
        data=EventData(),
    )


# What we write, read by the SDK


@pytest.mark.parametrize("kind", EventType)
def test_the_sdk_reads_our_records(kind: EventType) -> None:
    event = EXAMPLES[kind]
    read = kafka.from_kafka(sent(event), JSONFormat())
    assert read.get_attributes() == theirs(event).get_attributes()
    assert read.get_data() == msgspec.to_builtins(event.data)
    assert read.get_id() == event.id
    assert read.get_type() == event.type.value
    assert read.get_source() == "/" + event.source
    assert read.get_subject() == event.key
    time = read.get_time()
    assert time is not None
    assert round(time.timestamp() * 1_000_000) == event.time


def test_headers_are_utf8() -> None:
    event = msgspec.structs.replace(EXAMPLES[EventType.CALL_ENDED], id="Zürich-☎", key="ключ")
    read = kafka.from_kafka(sent(event), JSONFormat())
    assert (read.get_id(), read.get_extension("partitionkey")) == ("Zürich-☎", "ключ")
    assert received(sent(event)) == event


def test_a_route_is_an_event_and_no_route_is_a_tombstone() -> None:
    number = "+14155550100"
    route = Route(number=number, provider="twilio", rev=7)
    for held in (route, None):
        headers, value = route_record(number, held, version=Version(1, 7), time=1)
        assert (value is None) is (held is None)
        own = {name: text for name, text in headers.items() if name != REV}
        read = kafka.from_kafka(message(number, own, value), JSONFormat())
        assert read.get_data() == (None if held is None else msgspec.to_builtins(held))
        assert read.get_dataschema() == "switchboard/route/1"


# What the SDK writes, read by us


@pytest.mark.parametrize("kind", EventType)
def test_we_read_the_sdks_binary_records(kind: EventType) -> None:
    event = EXAMPLES[kind]
    assert received(kafka.to_binary(theirs(event), JSONFormat())) == event


@pytest.mark.parametrize("kind", EventType)
@pytest.mark.parametrize(
    "content_type", [*STRUCTURED, "Application/CloudEvents+JSON;charset=UTF-8"]
)
def test_we_read_the_sdks_structured_records(kind: EventType, content_type: str) -> None:
    event = EXAMPLES[kind]
    written = kafka.to_structured(theirs(event), JSONFormat())
    assert written.headers["content-type"] == b"application/cloudevents+json"
    written.headers["content-type"] = content_type.encode()
    assert received(written) == event


def test_a_structured_record_of_an_older_version_is_upcast() -> None:
    event = theirs(EXAMPLES[EventType.NUMBER_MAPPED])
    data = event.get_data()
    assert isinstance(data, dict)
    del data["number"]
    event.get_attributes()["dataschema"] = "switchboard/event/1"
    read = received(kafka.to_structured(event, JSONFormat()))
    assert read.data.number == "+14155550100"


def test_a_structured_record_without_data_is_an_event_without_facts() -> None:
    event = theirs(EXAMPLES[EventType.CALL_ENDED])
    written = kafka.to_structured(CloudEvent(event.get_attributes(), None), JSONFormat())
    assert received(written).data == EventData()


@pytest.mark.parametrize(
    "content_type", ["application/cloudevents+avro", "application/cloudevents-batch+json"]
)
def test_modes_that_kafka_has_not_are_refused(content_type: str) -> None:
    headers, value = codec.encode(EXAMPLES[EventType.CALL_ENDED])
    with pytest.raises(BadPayload):
        codec.decode("key", headers | {"content-type": content_type}, value)
