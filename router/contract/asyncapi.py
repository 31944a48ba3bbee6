"""What is on the topics, as an AsyncAPI 3.1 document made from the code that writes it.

It says nothing that a stranger should not know: the brokers' addresses are left to who runs them.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Final

import msgspec

from config.settings import KafkaSettings
from router.contract.messages import BINDING, DEAD, NO_ROUTE, ROUTE, Json, messages, schemas
from router.eventlog.topics import TOPICS, Topic
from router.events import codec
from router.events.types import (
    CALLS_TOPIC,
    DEAD_SUFFIX,
    NUMBERS_TOPIC,
    ROUTES_TOPIC,
    EventType,
    topic_of,
)

_ABOUT: Final = (
    "Events of telephone calls and numbers: CloudEvents 1.0 in Kafka's binary mode. They come at "
    "least once, and in order per key. Versions are additive: readers ignore fields and types that "
    "they do not know."
)
_TELLS: Final[Mapping[str, str]] = {
    CALLS_TOPIC: "What happens to calls, their agents and rooms. All of a call has one key.",
    NUMBERS_TOPIC: "What happens to numbers: mapping, orders, ports.",
    ROUTES_TOPIC: "The route that holds for each number; a record without a value: it has none.",
}


def document(kafka: KafkaSettings) -> bytes:
    """What `/asyncapi.json` serves: JSON, made once."""
    secured = kafka.security_protocol in ("SSL", "SASL_SSL")
    protocol = "kafka-secure" if secured else "kafka"
    return _document(
        protocol if kafka.bootstrap_servers else "", kafka.partitions, kafka.replication_factor
    )


@cache
def _document(protocol: str, partitions: int, replicas: int) -> bytes:
    return msgspec.json.encode(asyncapi(protocol, partitions=partitions, replicas=replicas))


def asyncapi(protocol: str, *, partitions: int, replicas: int) -> Json:
    """The document; `protocol` is AsyncAPI's name of it, "" where the log is the journal alone."""
    carried = _carried()
    return {
        "asyncapi": "3.1.0",
        "info": {
            "title": "Switchboard",
            "version": codec.SCHEMA.rpartition("/")[2],
            "description": _ABOUT,
        },
        "defaultContentType": codec.CONTENT_TYPE,
        "servers": _servers(protocol),
        "channels": {
            topic.name: _channel(topic, carried[topic.name], partitions, replicas)
            for topic in TOPICS
        },
        "operations": dict(_operations(carried)),
        "components": {"schemas": schemas(), "messages": messages()},
    }


def _carried() -> dict[str, list[str]]:
    """Topic → the names of its messages."""
    found = {topic.name: [DEAD] for topic in TOPICS}
    for topic in (CALLS_TOPIC, NUMBERS_TOPIC):
        found[topic] = [kind.value for kind in EventType if topic_of(kind) == topic]
    found[ROUTES_TOPIC] = [ROUTE, NO_ROUTE]
    return found


def _servers(protocol: str) -> Json:
    if not protocol:
        return {}
    bootstrap = {"description": "One of `kafka.bootstrap_servers` in the settings."}
    return {
        "kafka": {
            "host": "{bootstrap}",
            "protocol": protocol,
            "variables": {"bootstrap": bootstrap},
        }
    }


def _channel(topic: Topic, names: Sequence[str], partitions: int, replicas: int) -> Json:
    source = topic.name.removesuffix(DEAD_SUFFIX)
    dead = f"What of `{source}` could not be handled, as it was; its headers say why."
    return {
        "address": topic.name,
        "description": _TELLS.get(topic.name, dead),
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": partitions,
                "replicas": replicas,
                "topicConfiguration": {"cleanup.policy": [topic.cleanup]},
                "bindingVersion": BINDING,
            }
        },
    }


def _operations(carried: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Json]]:
    """Switchboard sends to every topic and reads all but the dead ones."""
    for topic, names in carried.items():
        refs = [{"$ref": f"#/channels/{topic}/messages/{name}"} for name in names]
        for action in ("send",) if topic.endswith(DEAD_SUFFIX) else ("send", "receive"):
            yield (
                f"{action}.{topic}",
                {"action": action, "channel": {"$ref": f"#/channels/{topic}"}, "messages": refs},
            )
