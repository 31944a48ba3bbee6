"""What is read in order: all events of a call have its key, all of a number the number."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest
from aiokafka.partitioner import DefaultPartitioner

from router.events.examples import EXAMPLES
from router.events.model import Event
from router.events.phone import is_e164
from router.events.types import NUMBERS_TOPIC, topic_of
from tests.golden import records

PAYLOADS: Final = sorted(Path(__file__).parents[1].glob("providers/*/payloads/*.json"))


def told() -> Iterator[tuple[str, Event]]:
    """Events that providers' webhooks became, that older versions wrote, and the examples."""
    for path in PAYLOADS:
        for event in msgspec.json.decode(path.read_bytes())["events"]:
            yield f"{path.parts[-3]}-{path.stem}", msgspec.convert(event, Event)
    for path in records.paths():
        yield f"{path.parent.name}-{path.stem}", records.load(path).event
    for kind, example in EXAMPLES.items():
        yield f"example-{kind.value}", example


EVENTS: Final = list(told())


@pytest.mark.parametrize("event", [e for _, e in EVENTS], ids=[name for name, _ in EVENTS])
def test_a_key_is_what_the_event_is_about(event: Event) -> None:
    assert event.key
    if topic_of(event.type) == NUMBERS_TOPIC:
        assert event.key == event.data.number or not event.data.number
        assert not event.data.number or is_e164(event.key)
    elif event.call_id:
        assert event.key == event.call_id


@pytest.mark.parametrize(
    ("key", "partition"),
    [
        ("", 3),
        ("foobar", 0),
        ("a-little-bit-long-string", 2),
        ("+14155550100", 4),
        ("9f1c5bd3-6c1e-5b59-9a43-0d3a3b2f7c55", 1),
        ("ключ", 2),
    ],
)
def test_a_key_has_the_partition_of_kafkas_own_clients(key: str, partition: int) -> None:
    """Of six: what BuiltInPartitioner.partitionForKey of kafka-clients 4.3.1 (Java) answers."""
    assert DefaultPartitioner()(key.encode(), list(range(6)), []) == partition


def test_there_is_something_to_look_at() -> None:
    assert len({event.source for _, event in EVENTS}) >= 4
    assert sum(topic_of(event.type) == NUMBERS_TOPIC for _, event in EVENTS) > 10
    assert len(PAYLOADS) > 20
