"""What becomes of a record that can't be handled, or that Kafka refuses: `<topic>.dead`, with the
reason in `dlq.*` headers, named after Kafka Connect's
(`org.apache.kafka.connect.runtime.errors.DeadLetterQueueReporter`).

Key, value and the other headers stay as they were, byte for byte, so that the record can be put
back. Where a consumer gave up (`dead_headers`), `ce_id` changes too: a log holds every id once, and
the original's id is taken by the original. Where Kafka refused it (`prepare`) nothing was taken, so
it keeps its id; a record that the dead topic refuses as well goes there without its value, and one
that is refused even so is left out: nothing may stand still behind it, and the journal has it until
retention.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from router.eventlog.base import Record
from router.events.codec import to_rfc3339
from router.events.ids import event_id
from router.events.types import DEAD_SUFFIX, dead_topic

TOO_LARGE: Final = "too_large"
MAX_RECORD: Final = 1_000_000  # bytes; brokers take 1_048_588 by default
MAX_DEAD_RECORD: Final = 8_000_000  # what our dead topics are created for
_OVERHEAD: Final = 100  # bytes of a record's own frame, generously
_IDENTITY: Final = ("ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a consumer gave a record up."""

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
        **_origin(record, failure.reason),
        "ce_id": event_id("dead", failure.group, topic, original),
        "dlq.ce_id": original,
        "dlq.partition": str(partition),
        "dlq.group": failure.group,
        "dlq.attempts": str(failure.attempts),
        "dlq.first_failed_at": to_rfc3339(failure.first_failed_at),
    }


def _origin(record: Record, reason: str) -> dict[str, str]:
    topic, _, offset = record.position
    return {"dlq.reason": reason, "dlq.topic": topic, "dlq.offset": str(offset)}


class Refusal(NamedTuple):
    """In which form a record that Kafka refused is sent, and why it was refused."""

    form: Literal["dead", "without_value", "left_out"]
    reason: str

    @classmethod
    def after(cls, before: "Refusal | None", reason: str) -> "Refusal":
        """The next form, after Kafka refused the form of `before` (None: the record itself)."""
        if before is None:
            return cls("dead", reason)
        return cls("without_value" if before.form == "dead" else "left_out", before.reason)


def size(record: Record) -> int:
    """Bytes that the record takes in Kafka, a little more rather than less."""
    headers = sum(len(name) + len(value.encode()) + 10 for name, value in record.headers.items())
    return len(record.key.encode()) + len(record.value or b"") + headers + _OVERHEAD


def prepare(record: Record, refusals: Mapping[int, Refusal]) -> Record | None:
    """The record to send: itself, its dead form where it can't be taken as it is, None for none.

    `refusals`: by the record's seq.
    """
    bytes_ = size(record)
    refusal = refusals.get(record.position.offset)
    if refusal is None and bytes_ <= MAX_RECORD:
        return record
    form, reason = refusal or Refusal("dead", TOO_LARGE)
    if form == "left_out":
        return None
    added = _origin(record, reason) | {"dlq.size": str(bytes_)}
    value, headers = record.value, {**record.headers, **added}
    if form == "without_value" or bytes_ > MAX_DEAD_RECORD:
        kept = {name: record.headers[name] for name in _IDENTITY if name in record.headers}
        value, headers = None, {**kept, **added}
    topic = record.position.topic
    if not topic.endswith(DEAD_SUFFIX):
        topic = dead_topic(topic)
    return replace(
        record, position=record.position._replace(topic=topic), value=value, headers=headers
    )
