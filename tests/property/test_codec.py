"""Events survive the log, and whatever lies in a topic is an event or a BadPayload."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from router.errors import BadPayload
from router.events import codec
from router.events.examples import EXAMPLES
from router.events.model import Decision, Event, EventData
from router.events.types import EventType

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(texts, values, max_size=4),
    max_leaves=12,
)
json_objects = st.dictionaries(texts, json_values, max_size=4)
numbers = st.none() | st.floats(0, 1e6)


def of_all(struct: type[Any], **special: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Any value of a struct: what is `special` by name, else texts, else anything of the type."""
    fields = {
        field.name: texts if field.type is str else st.from_type(field.type)
        for field in msgspec.structs.fields(struct)
        if field.name not in special
    }
    return st.builds(struct, **fields, **special)


decisions = of_all(Decision, metadata=json_objects, table_version=st.integers(0, 2**63 - 1))
data = of_all(
    EventData,
    decision=st.none() | decisions,
    duration=numbers,
    sip_status=st.integers(0, 699),
    timing=st.dictionaries(texts, st.integers(0, 2**63 - 1), max_size=3),
    sip_headers=st.dictionaries(texts, texts, max_size=3),
    raw=json_objects,
)
events = of_all(
    Event,
    type=st.sampled_from(EventType),
    time=st.integers(-(10**15), 4 * 10**15),
    data=data,
)


@given(events)
def test_events_survive_the_log(event: Event) -> None:
    headers, value = codec.encode(event)
    assert codec.decode(event.key, headers, value) == event


@given(events)
def test_headers_are_text_that_kafka_can_carry(event: Event) -> None:
    headers, _ = codec.encode(event)
    assert {name: text.encode().decode() for name, text in headers.items()} == headers


HEADERS, VALUE = codec.encode(EXAMPLES[EventType.CALL_INITIATED])
odd_values = (
    st.none()
    | st.binary(max_size=60)
    | json_values.map(msgspec.json.encode)
    | st.builds(
        lambda change: msgspec.json.encode(msgspec.json.decode(VALUE) | change), json_objects
    )
    | st.dictionaries(st.sampled_from(sorted(EventData.__struct_fields__)), json_values).map(
        msgspec.json.encode
    )
    | st.dictionaries(
        st.sampled_from(["id", "source", "type", "specversion", "time", "data", "data_base64"]),
        json_values,
    ).map(msgspec.json.encode)
)
_MOMENTS = st.datetimes().map(str) | st.sampled_from(
    ["2023-11-14", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999-23:59"]
)
odd_headers = st.fixed_dictionaries(
    {},
    optional={
        "ce_id": texts,
        "ce_source": texts,
        "ce_type": texts | st.sampled_from(["number.mapped", "call.teleported"]),
        "ce_time": texts | _MOMENTS,
        "ce_dataschema": texts | st.sampled_from(["switchboard/event/1", "switchboard/event/9"]),
        "content-type": texts
        | st.sampled_from(
            [
                "application/cloudevents+json",
                "Application/CloudEvents+JSON; charset=UTF-8",
                "application/cloudevents",
            ]
        ),
    },
)


@given(texts, odd_headers, st.sets(st.sampled_from(sorted(HEADERS)), max_size=2), odd_values)
def test_any_record_is_an_event_or_a_bad_payload(
    key: str, changes: dict[str, str], missing: set[str], value: bytes | None
) -> None:
    headers = {name: text for name, text in (HEADERS | changes).items() if name not in missing}
    try:
        event = codec.decode(key, headers, value)
    except BadPayload:
        return
    assert isinstance(event, Event)
    assert event.key == key
