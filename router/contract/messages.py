"""The messages of the AsyncAPI document and their schemas, from the code that writes them."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from router.events import codec, schema
from router.events.examples import EXAMPLES
from router.events.model import Event
from router.events.types import CALLS_TOPIC, NUMBERS_TOPIC, ROUTES_TOPIC, EventType, topic_of
from router.routing.table import Route, Target
from router.storage.records import EPOCH, REV, ROUTE_SCHEMA, route_record

Json = dict[str, Any]

BINDING: Final = "0.5.0"  # version of AsyncAPI's Kafka bindings
DEAD: Final = "dead"
ROUTE, NO_ROUTE = "route.held", "route.removed"

_REF: Final = "#/components/schemas/{name}"
_KEYS: Final[Mapping[str, str]] = {
    CALLS_TOPIC: "the call_id; of events that are about no call, an id of the provider",
    NUMBERS_TOPIC: "the number, E.164; of events that are about none, an id of the provider",
    ROUTES_TOPIC: "the number, E.164",
}
_ATTRIBUTES: Final[Mapping[str, str]] = {
    "ce_specversion": "version of CloudEvents",
    "ce_id": "the same when the same thing is told again: for de-duplication",
    "ce_type": "what happened",
    "ce_source": "who says so: / and the provider, or /switchboard",
    "ce_subject": "the record's key",
    "ce_time": "when it happened, RFC 3339, UTC",
    "ce_dataschema": "name and version of the value's schema",
    "content-type": "of the value",
}
# Written by router.eventlog.dead_letter: Kafka refused it, or a handler gave up.
_REASONS: Final[Mapping[str, str]] = {
    "dlq.reason": "why it could not be taken: a constant text, or the name of a field",
    "dlq.topic": "where the record was",
    "dlq.offset": "its offset there; of one that Kafka refused, its place in the journal",
    "dlq.partition": "its partition there",
    "dlq.ce_id": "its own ce_id; the dead record has another",
    "dlq.group": "the consumer group that gave up",
    "dlq.attempts": "how often it was tried",
    "dlq.first_failed_at": "when it failed first, RFC 3339, UTC",
    "dlq.size": "its size in bytes, where Kafka refused it",
}
_DEAD_VALUE: Final = (
    "the record's own value, byte for byte; none where it had none, or where not even the dead "
    "topic can hold it"
)
EXAMPLE_ROUTE: Final = Route(
    number="+14155550100",
    provider="twilio",
    rev=7,
    targets=(Target(agent="anna", livekit_agent_name="anna-v2", metadata={"language": "en"}),),
    fallback="+14155550111",
)


def schemas() -> Json:
    """What messages consist of, by name."""
    _, of_routes = msgspec.json.schema_components((Route,), ref_template=_REF)
    found = schema.schemas(_REF) | of_routes
    for kind in EventType:
        found[kind.value].pop("examples")  # they stand at the messages, with their headers
    found["Headers"] = _headers(_ATTRIBUTES, required=_ATTRIBUTES)
    found["DeadHeaders"] = _headers(_REASONS, required=("dlq.reason", "dlq.topic", "dlq.offset"))
    return found


def messages() -> Json:
    """One message per event type, the two of the routes, and the dead record, by name."""
    return {
        **{kind.value: _event(EXAMPLES[kind]) for kind in EventType},
        ROUTE: _route(EXAMPLE_ROUTE),
        NO_ROUTE: _route(None),
        DEAD: {
            "name": DEAD,
            "summary": "a record that could not be handled",
            "contentType": "application/octet-stream",  # it may be here because it is no JSON
            "headers": {"$ref": "#/components/schemas/DeadHeaders"},
            "payload": {"description": _DEAD_VALUE},
            "bindings": _keyed("the record's own"),
        },
    }


def _headers(meanings: Mapping[str, str], *, required: Iterable[str]) -> Json:
    return {
        "type": "object",
        "properties": {
            name: {"type": "string", "description": meaning} for name, meaning in meanings.items()
        },
        "required": list(required),
    }


def _event(event: Event) -> Json:
    name = event.type.value
    headers, value = codec.encode(event)
    return {
        "name": name,
        "summary": event.type.meaning,
        "contentType": codec.CONTENT_TYPE,
        "headers": _headers_with(ce_type={"const": name}, ce_dataschema={"const": codec.SCHEMA}),
        "payload": {"$ref": _REF.format(name=name)},
        "bindings": _keyed(_KEYS[topic_of(event.type)], event.key),
        "examples": [{"headers": headers, "payload": msgspec.json.decode(value)}],
    }


def _route(route: Route | None) -> Json:
    number, time = EXAMPLE_ROUTE.number, EXAMPLES[EventType.NUMBER_MAPPED].time
    headers, value = route_record(number, route, version=EXAMPLE_ROUTE.version, time=time)
    rev = "grows with every change: of two records of a number the higher (epoch, rev) holds"
    epoch = "1 where it is absent; a database that was restored takes a higher one"
    message = {
        "headers": _headers_with(
            ce_dataschema={"const": ROUTE_SCHEMA},
            **{
                REV: {"type": "string", "description": rev},
                EPOCH: {"type": "string", "description": epoch},
            },
        ),
        "bindings": _keyed(_KEYS[ROUTES_TOPIC], number),
    }
    if value is None:
        return message | {
            "name": NO_ROUTE,
            "summary": "a number has no route any more: a tombstone, it has no value",
            "payload": {"type": "null"},
            "examples": [{"headers": headers}],
        }
    return message | {
        "name": ROUTE,
        "summary": "the route that holds for a number from now on",
        "contentType": codec.CONTENT_TYPE,
        "payload": {"$ref": _REF.format(name="Route")},
        "examples": [{"headers": headers, "payload": msgspec.json.decode(value)}],
    }


def _headers_with(**more: Json) -> Json:
    return {
        "type": "object",
        "allOf": [{"$ref": _REF.format(name="Headers")}],
        "properties": more,
    }


def _keyed(meaning: str, *examples: str) -> Json:
    key: Json = {"type": "string", "description": meaning}
    if examples:
        key["examples"] = list(examples)
    return {"kafka": {"key": key, "bindingVersion": BINDING}}
