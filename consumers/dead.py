"""The record of the dead topic: the original, untouched, and why it is there.

Key, value and headers stay as they were, byte for byte, so that `replay` can put the record back;
what happened to it is in added `dlq.*` headers, named after Kafka Connect's
(`org.apache.kafka.connect.runtime.errors.DeadLetterQueueReporter`). `ce_id` is the one header that
changes: a log holds every id once, and the original's id is taken by the original.
"""

from dataclasses import dataclass

from router.eventlog.base import Record
from router.events.codec import to_rfc3339
from router.events.ids import event_id


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a record is dead."""

    group: str
    reason: str  # a constant text or a field's name, without facts of the call
    attempts: int
    first_failed_at: int  # µs since epoch


def dead_headers(record: Record, failure: Failure) -> dict[str, str]:
    """The headers of the dead record; the same record and group give the same `ce_id`."""
    topic, partition, offset = record.position
    original = record.headers.get("ce_id", f"{partition}:{offset}")
    return {
        **record.headers,
        "ce_id": event_id("dead", failure.group, topic, original),
        "dlq.ce_id": original,
        "dlq.topic": topic,
        "dlq.partition": str(partition),
        "dlq.offset": str(offset),
        "dlq.group": failure.group,
        "dlq.reason": failure.reason,
        "dlq.attempts": str(failure.attempts),
        "dlq.first_failed_at": to_rfc3339(failure.first_failed_at),
    }
