"""What becomes of a record that is too large for its topic: `<topic>.dead`, with the reason.

The headers follow Kafka Connect's dead letter queue in meaning: topic and offset of the original
(its seq in the journal), and why.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Literal

from router.eventlog.base import Record
from router.events.types import DEAD_SUFFIX, dead_topic

Verdict = Literal["dead", "bare"]
"""`dead`: to the dead topic with its value. `bare`: without, as the dead topic refused it too."""

MAX_RECORD: Final = 1_000_000  # bytes; brokers take 1_048_588 by default
MAX_DEAD_RECORD: Final = 8_000_000  # what our dead topics are created for
_OVERHEAD: Final = 100  # bytes of a record's own frame, generously


def size(record: Record) -> int:
    """Bytes that the record takes in Kafka, a little more rather than less."""
    headers = sum(len(name) + len(value.encode()) + 10 for name, value in record.headers.items())
    return len(record.key.encode()) + len(record.value or b"") + headers + _OVERHEAD


def prepare(record: Record, verdicts: Mapping[int, Verdict]) -> Record:
    """The record to send: itself, or its dead form where it can't be taken as it is."""
    bytes_ = size(record)
    verdict = verdicts.get(record.position.offset)
    if verdict is None and bytes_ <= MAX_RECORD:
        return record
    topic = record.position.topic
    if not topic.endswith(DEAD_SUFFIX):
        topic = dead_topic(topic)
    reason = {
        "dlq.reason": "too_large",
        "dlq.topic": record.position.topic,
        "dlq.offset": str(record.position.offset),
        "dlq.size": str(bytes_),
    }
    if verdict == "bare" or bytes_ > MAX_DEAD_RECORD:
        kept = {name: record.headers[name] for name in _IDENTITY if name in record.headers}
        value, headers = None, {**kept, **reason}
    else:
        value, headers = record.value, {**record.headers, **reason}
    return replace(
        record, position=record.position._replace(topic=topic), value=value, headers=headers
    )


_IDENTITY: Final = ("ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time")
