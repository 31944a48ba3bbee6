"""`/asyncapi.json` against the official schema of AsyncAPI 3.1, and against what is really written.

The schema is vendored (tests/contract/schemas/README.md), so nothing is fetched.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema
import msgspec
import pytest

from config import load
from config.settings import KafkaSettings
from router.contract.asyncapi import asyncapi, document
from router.eventlog.base import Position, Record
from router.eventlog.dead_letter import MAX_RECORD, Failure, Refusal, dead_headers, prepare
from router.events import codec
from router.events.examples import EXAMPLES
from router.events.types import EventType, topic_of
from router.routing.decide import decide
from router.routing.table import RouteTable
from tests.golden import records
from tests.providers.found import payloads

Json = dict[str, Any]
SCHEMA: Final = Path(__file__).parent / "schemas" / "asyncapi-3.1.0.json"


@cache
def official() -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(msgspec.json.decode(SCHEMA.read_bytes()))


@pytest.fixture
def published() -> Json:
    return asyncapi("kafka", partitions=6, replicas=3)


def resolve(root: Json, ref: str) -> Json:
    found: Any = root
    for part in ref.removeprefix("#/").split("/"):
        found = found[part]
    assert isinstance(found, dict)
    return found


def refs(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for inner in node.values():
            yield from refs(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from refs(inner)


def fits(root: Json, schema: Json, value: object) -> bool:
    return jsonschema.Draft7Validator({**root, "allOf": [schema]}).is_valid(value)


@pytest.mark.parametrize("protocol", ["kafka", "kafka-secure", ""])
def test_it_is_what_asyncapi_says(protocol: str) -> None:
    official().validate(asyncapi(protocol, partitions=6, replicas=3))


def _no_title(root: Json) -> None:
    del root["info"]["title"]


def _unknown_action(root: Json) -> None:
    root["operations"]["send.telephony.calls"]["action"] = "shout"


def _no_partitions(root: Json) -> None:
    root["channels"]["telephony.calls"]["bindings"]["kafka"]["partitions"] = 0


def _unknown_policy(root: Json) -> None:
    kafka = root["channels"]["telephony.routes"]["bindings"]["kafka"]
    kafka["topicConfiguration"]["cleanup.policy"] = ["never"]


def _no_object(root: Json) -> None:
    root["components"]["messages"]["call.ended"]["headers"] = ["ce_id"]


def _unknown_field(root: Json) -> None:
    root["components"]["messages"]["call.ended"]["keys"] = {}


@pytest.mark.parametrize(
    "spoil",
    [_no_title, _unknown_action, _no_partitions, _unknown_policy, _no_object, _unknown_field],
)
def test_a_broken_document_is_noticed(spoil: Callable[[Json], None], published: Json) -> None:
    spoil(published)
    assert not official().is_valid(published)


def test_every_reference_leads_somewhere(published: Json) -> None:
    found = set(refs(published))
    assert len(found) > len(EventType)
    for ref in found:
        assert resolve(published, ref), ref


POLICIES: Final = {  # what readers go by: the routes are kept for ever, all else for a time
    "telephony.calls": "delete",
    "telephony.numbers": "delete",
    "telephony.routes": "compact",
    "telephony.calls.dead": "delete",
    "telephony.numbers.dead": "delete",
    "telephony.routes.dead": "delete",
}


def test_it_has_our_topics_with_their_policies(published: Json) -> None:
    bindings = {
        channel["address"]: channel["bindings"]["kafka"]
        for channel in published["channels"].values()
    }
    assert {
        topic: (binding["topic"], binding["topicConfiguration"]["cleanup.policy"])
        for topic, binding in bindings.items()
    } == {name: (name, [policy]) for name, policy in POLICIES.items()}
    assert {(b["partitions"], b["replicas"]) for b in bindings.values()} == {(6, 3)}


def test_every_type_is_on_one_topic_that_is_sent_and_received(published: Json) -> None:
    on: dict[str, list[str]] = {}
    for name, channel in published["channels"].items():
        for message in channel["messages"]:
            on.setdefault(message, []).append(name)
    assert all(len(on[kind.value]) == 1 for kind in EventType)
    for name in on["call.ended"] + on["number.mapped"] + on["route.held"]:
        actions = {
            operation["action"]: len(operation["messages"])
            for operation in published["operations"].values()
            if operation["channel"]["$ref"] == f"#/channels/{name}"
        }
        count = len(published["channels"][name]["messages"])
        assert actions == {"send": count, "receive": count}


def test_every_example_fits_its_message(published: Json) -> None:
    seen = 0
    for name, message in published["components"]["messages"].items():
        for example in message.get("examples", []):
            seen += 1
            assert fits(published, message["headers"], example["headers"]), name
            assert fits(published, message["payload"], example.get("payload")), name
    assert seen == len(EventType) + 2


@pytest.mark.parametrize("kind", EventType)
def test_every_golden_record_fits_its_message(kind: EventType, published: Json) -> None:
    path = records.FOLDER / "events" / f"v{records.VERSION}" / f"{kind.value}.json"
    golden, message = records.load(path), published["components"]["messages"][kind.value]
    key = message["bindings"]["kafka"]["key"]
    assert fits(published, message["headers"], golden.headers)
    assert fits(published, message["payload"], msgspec.json.decode(golden.value))
    assert fits(published, key, golden.key)
    assert message["summary"] == kind.meaning
    # The check bites: another type's headers, or data without what is always there.
    assert not fits(published, message["headers"], {**golden.headers, "ce_type": "x"})
    assert not fits(published, message["payload"], [])


@pytest.mark.parametrize("path", records.current_routes(), ids=lambda path: path.stem)
def test_every_golden_route_fits_its_message(path: Path, published: Json) -> None:
    golden, message = records.load_route(path), published["components"]["messages"][path.stem]
    value = None if golden.value is None else msgspec.json.decode(golden.value)
    assert fits(published, message["headers"], golden.headers)
    assert fits(published, message["payload"], value)
    assert fits(published, message["bindings"]["kafka"]["key"], golden.key)
    assert not fits(published, message["payload"], None if golden.route else {})


def test_what_providers_tell_fits_its_message_as_it_is_written(published: Json) -> None:
    """With the ingress's decision, where one is asked for."""
    channels, messages = published["channels"], published["components"]["messages"]
    decided = 0
    for payload in (each for each in payloads() if each.is_readable):
        for event in (decide(each, RouteTable()) for each in payload.events()):
            decided += event.data.decision is not None
            headers, value = codec.encode(codec.stamp(event, {"verified": 61}))
            name = event.type.value
            assert name in channels[topic_of(event.type)]["messages"]
            assert fits(published, messages[name]["headers"], headers), payload
            assert fits(published, messages[name]["payload"], msgspec.json.decode(value)), payload
            assert fits(published, messages[name]["bindings"]["kafka"]["key"], event.key)
    assert decided > 5


def test_dead_records_fit_their_message(published: Json) -> None:
    message = published["components"]["messages"]["dead"]
    assert fits(published, message["bindings"]["kafka"]["key"], "key")
    headers, value = codec.encode(EXAMPLES[EventType.CALL_ENDED])
    record = Record(Position("telephony.calls", 2, 40), "key", value, headers, 0)
    large = Record(record.position, "key", b"x" * MAX_RECORD, headers, 0)
    schema = message["headers"]
    told = set(resolve(published, schema["$ref"])["properties"])
    bare = Refusal("without_value", "refused: PolicyViolationError")
    for written in (
        dead_headers(record, Failure("calls", "refused for good", 3, 1)),
        *(
            dict(refused.headers)
            for refused in (prepare(large, {}), prepare(record, {40: bare}))
            if refused is not None
        ),
    ):
        assert fits(published, schema, written)
        assert {name for name in written if name.startswith("dlq.")} <= told
    assert not fits(published, schema, headers)


def settings(**kafka: Any) -> KafkaSettings:
    return load(overrides={"kafka": kafka}).kafka


def test_what_is_served_is_made_once_and_names_no_broker() -> None:
    kafka = settings(bootstrap_servers="broker-1.internal:9092", partitions=5)
    served = document(kafka)
    assert b"internal" not in served
    assert document(kafka) is served
    content = msgspec.json.decode(served)
    official().validate(content)
    assert content["servers"]["kafka"]["protocol"] == "kafka"
    assert content["channels"]["telephony.calls"]["bindings"]["kafka"]["partitions"] == 5
    content = msgspec.json.decode(document(settings(bootstrap_servers="")))
    assert content["servers"] == {}


def test_brokers_behind_tls_are_said_to_be() -> None:
    kafka = settings(bootstrap_servers="b:9092", security_protocol="SSL")
    assert msgspec.json.decode(document(kafka))["servers"]["kafka"]["protocol"] == "kafka-secure"
