"""CloudEvents over HTTP, in all three modes, beside the official SDK.

The scenarios are those of http-protocol-binding.feature, and the events those of format/json, in
cloudevents/conformance; the rules for header values are §3.1.3.2 of the binding.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import pytest
from cloudevents.core.bindings import http
from cloudevents.core.bindings.http import HTTPMessage
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as SdkEvent
from multidict import CIMultiDict

from router.errors import BadPayload
from router.events.cloudevents import CloudEvent, from_http, from_json, to_http

REQUIRED: Final = {
    "specversion": "1.0",
    "id": "1234-1234-1234",
    "type": "com.example.someevent",
    "source": "/mycontext/subcontext",
}
ATTRIBUTES: Final = {**REQUIRED, "time": "2018-04-05T03:56:24Z"}
DATA: Final = b'{"message": "Hello World!"}'


def headers(attributes: Mapping[str, str], content_type: str = "") -> CIMultiDict[str]:
    found = CIMultiDict({f"ce-{name}": value for name, value in attributes.items()})
    if content_type:
        found["Content-Type"] = content_type
    return found


def only(sent: Mapping[str, str], body: bytes) -> CloudEvent:
    (event,) = from_http(sent, body)
    return event


# The scenarios of the conformance suite


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8"])
def test_binary_content_mode(content_type: str) -> None:
    event = only(headers(ATTRIBUTES, content_type), DATA)
    assert event == CloudEvent({**ATTRIBUTES, "datacontenttype": content_type}, DATA)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/cloudevents+json",
        "application/cloudevents+json; charset=utf-8",
        "Application/CloudEvents+JSON",
    ],
)
def test_structured_content_mode(content_type: str) -> None:
    body = msgspec.json.encode(
        {**ATTRIBUTES, "datacontenttype": "application/json", "data": msgspec.json.decode(DATA)}
    )
    event = only({"content-type": content_type}, body)
    assert event.attributes == {**ATTRIBUTES, "datacontenttype": "application/json"}
    assert event.data is not None
    assert msgspec.json.decode(event.data) == {"message": "Hello World!"}


@pytest.mark.parametrize(
    "content_type",
    ["application/cloudevents-batch+json", "Application/CloudEvents-Batch+JSON; charset=UTF-8"],
)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_batched_content_mode(content_type: str, count: int) -> None:
    batch = [{**ATTRIBUTES, "id": str(number), "data": number} for number in range(count)]
    events = from_http({"Content-Type": content_type}, msgspec.json.encode(batch))
    assert [(event.attributes["id"], event.data) for event in events] == [
        (str(number), str(number).encode()) for number in range(count)
    ]


# Header values


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("%e2%82%ac", "€"),
        ("%41bc", "Abc"),  # unnecessarily encoded
        ("%2541", "%41"),  # one round only
        ('"Euro %E2%82%AC"', "Euro €"),
        (r'"a \"quoted\" \\ word"', 'a "quoted" \\ word'),
        ("a;b,c(d)", "a;b,c(d)"),
    ],
)
def test_header_values_are_unquoted_and_percent_decoded(value: str, meant: str) -> None:
    assert only(headers({**REQUIRED, "subject": value}), b"").attributes["subject"] == meant


@pytest.mark.parametrize("value", ["%C0%A0", "%ff", "%ED%A0%80", "\udc80"])
def test_header_values_that_are_not_utf8_are_refused(value: str) -> None:
    with pytest.raises(BadPayload, match=r"subject .* not UTF-8"):
        from_http(headers({**REQUIRED, "subject": value}), b"")


@pytest.mark.parametrize(
    "value",
    [
        *("%0A", "a%00", "%7F", "%C2%85"),
        *("%EF%B7%90", "%EF%BF%BE", "%F4%8F%BF%BF"),  # U+FDD0, U+FFFE, U+10FFFF: no characters
    ],
)
def test_control_characters_and_noncharacters_are_refused(value: str) -> None:
    with pytest.raises(BadPayload, match=r"subject .* malformed"):
        from_http(headers({**REQUIRED, "subject": value}), b"")


def test_a_content_type_that_is_no_text_is_refused() -> None:
    with pytest.raises(BadPayload, match=r"datacontenttype .* malformed"):
        from_http(headers(REQUIRED, "\udcfctext/plain"), b"x")


def test_an_attribute_that_is_there_twice_is_refused() -> None:
    sent = headers(REQUIRED)
    sent.add("CE-ID", "another")
    with pytest.raises(BadPayload, match="more than once"):
        from_http(sent, b"")


def test_the_content_type_alone_says_the_datas_type() -> None:
    sent = headers({**REQUIRED, "datacontenttype": "text/plain"})
    assert only(sent, b"x").attributes == REQUIRED
    sent["content-type"] = "application/json"
    assert only(sent, b"1").attributes["datacontenttype"] == "application/json"


def test_an_empty_body_is_no_data() -> None:
    assert only(headers(REQUIRED), b"").data is None


@pytest.mark.parametrize(
    "content_type",
    ["application/cloudevents+avro", "application/cloudevents", "application/cloudevents-batch"],
)
def test_other_event_formats_are_refused(content_type: str) -> None:
    with pytest.raises(BadPayload, match="content-type"):
        from_http(headers(REQUIRED, content_type), b"{}")


# The JSON format


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in REQUIRED.items() if key != name}


@pytest.mark.parametrize(
    "invalid",
    [
        *[without(name) for name in REQUIRED],
        *[{**REQUIRED, name: ""} for name in (*REQUIRED, "datacontenttype", "dataschema")],
        {**REQUIRED, "subject": ""},
        *[
            {**REQUIRED, "time": time}
            for time in (
                "lunchtime",
                "2018-04-05T18:31Z",
                "2018-04-05T18:31:00",
                "2018-04-05T18:31:00X",
                "2018-04-05T18:31:00+25:00",
                "2018-04-05T18:31:00+xx:00",
                "2018-04-05T18:31:00+05",
            )
        ],
        {**REQUIRED, "specversion": "0.9"},
        {**REQUIRED, "datacontenttype": "xyz"},
        {**REQUIRED, "id": 25},
        {**REQUIRED, "id": {"xyz": "abc"}},
        {**REQUIRED, "MyExtension": "bad"},
        {**REQUIRED, "my.extension": "bad"},
        {**REQUIRED, "myextension": 1.5},
        {**REQUIRED, "data": "text", "data_base64": "eyAieHl6IjogMTIzIH0="},
        {**REQUIRED, "data_base64": "not base64"},
        {**REQUIRED, "data_base64": 7},
    ],
    ids=str,
)
def test_what_is_no_event_is_refused(invalid: dict[str, Any]) -> None:
    with pytest.raises(BadPayload):
        from_json(msgspec.json.encode(invalid))
    with pytest.raises(BadPayload):
        from_http(
            {"content-type": "application/cloudevents-batch+json"},
            msgspec.json.encode([REQUIRED, invalid]),
        )


@pytest.mark.parametrize("body", [b"", b"[", b"{}", b'"text"', b"\xff", b'["text"]', b"null"])
@pytest.mark.parametrize(
    "content_type", ["application/cloudevents+json", "application/cloudevents-batch+json"]
)
def test_what_is_no_json_of_events_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(BadPayload):
        from_http({"content-type": content_type}, body)


@pytest.mark.parametrize(
    ("members", "attributes", "data"),
    [
        ({"time": None, "subject": None, "dataschema": None, "data": None}, {}, None),
        ({"time": "2018-04-05T17:31:00.000000000Z"}, None, None),
        ({"time": "2018-04-05T16:31:00-01:00"}, None, None),
        ({"source": "#fragment"}, None, None),
        ({"datacontenttype": "text/plain", "data": "Simple text"}, None, b"Simple text"),
        ({"datacontenttype": "text/plain", "data": {"a": 1}}, None, b'{"a":1}'),
        ({"datacontenttype": "application/problem+json", "data": "text"}, None, b'"text"'),
        ({"data": "text"}, {}, b'"text"'),
        ({"data": 0}, {}, b"0"),
        ({"data_base64": "eyAieHl6IjogMTIzIH0="}, {}, b'{ "xyz": 123 }'),
        (
            {"extinteger": 10, "extboolean": True, "extbinary": "TWE="},
            {"extinteger": "10", "extboolean": "true", "extbinary": "TWE="},
            None,
        ),
    ],
)
def test_what_is_an_event_is_read(
    members: dict[str, Any], attributes: dict[str, str] | None, data: bytes | None
) -> None:
    event = from_json(msgspec.json.encode({**REQUIRED, **members}))
    if attributes is None:
        attributes = {name: text for name, text in members.items() if name != "data"}
    assert event == CloudEvent({**REQUIRED, **attributes}, data)


def test_an_event_does_not_show_what_it_says() -> None:
    members = {**REQUIRED, "subject": "+14155550100", "data": 4155550100}
    assert "4155550100" not in repr(from_json(msgspec.json.encode(members)))


# The SDK on the other side

SDK_EVENT: Final = SdkEvent(
    {
        **REQUIRED,
        "time": datetime(2018, 4, 5, 3, 56, 24, tzinfo=UTC),
        "subject": 'Euro € "😀" 100%',
        "datacontenttype": "application/json",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    },
    {"message": "Grüße"},
)


@pytest.mark.parametrize("write", [http.to_binary, http.to_structured])
def test_we_read_what_the_sdk_writes(
    write: Callable[[SdkEvent, JSONFormat], HTTPMessage],
) -> None:
    message = write(SDK_EVENT, JSONFormat())
    event = only(message.headers, message.body)
    assert event.attributes == {**SDK_EVENT.get_attributes(), "time": "2018-04-05T03:56:24Z"}
    assert event.data is not None
    assert msgspec.json.decode(event.data) == SDK_EVENT.get_data()


def test_the_sdk_reads_what_we_write() -> None:
    attributes = {**SDK_EVENT.get_attributes(), "time": "2018-04-05T03:56:24Z"}
    sent, body = to_http(CloudEvent(attributes, b'{"message":"Gr\xc3\xbc\xc3\x9fe"}'))
    assert sent["ce-subject"] == "Euro%20%E2%82%AC%20%22%F0%9F%98%80%22%20100%25"
    assert sent["content-type"] == "application/json"
    assert "ce-datacontenttype" not in sent
    read = http.from_http(HTTPMessage(headers=sent, body=body), JSONFormat())
    assert read.get_attributes() == SDK_EVENT.get_attributes()
    assert read.get_data() == SDK_EVENT.get_data()
