"""The event log's port: what every adapter promises, in one place.

Promised
- **Durable on return.** `append` returns when the record survives a crash of this process and of
  the machine (journal: fsync; replicated: also acknowledged by Kafka, or the deadline passed).
- **Idempotent by id.** A record whose `ce_id` the log already holds is not written again; the
  answer carries the first one, so that a repeated webhook gets the answer the first one got.
- **Order per key.** Records of one key are read in the order in which `append` was called for them.
- **At least once per group.** A record is handed out until a position at or past it is committed.
- **Members of a group share no partition.** Groups are independent of each other.

Not promised: order across keys, exactly once (consumers fence their effects).

The conformance suite (tests/contract/eventlog.py) has one test for each line.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Position(NamedTuple):
    """A place in the log. Offsets of a partition grow, with gaps."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the log as a reader gets it. `value` None is a tombstone."""

    position: Position
    key: str
    value: bytes | None
    headers: Mapping[str, str]
    time: int  # µs since epoch, when the log took it


class Appended(NamedTuple):
    """Where a record is; `existing` is the record that was there first, for a repeated id."""

    position: Position
    existing: Record | None


OnRevoke = Callable[[Sequence[tuple[str, int]]], Awaitable[None]]
"""Called with (topic, partition) pairs before they go to another member; must return promptly."""


class Reader(Protocol):
    """One member of a group."""

    async def fetch(self, *, limit: int, wait: float) -> Sequence[Record]:
        """Up to `limit` records, waiting at most `wait` seconds for the first.

        `limit=0` fetches nothing and only keeps the membership alive: a reader whose handlers are
        busy must still call it, or it loses its partitions.

        Raises:
            LogUnavailable: the log can't be read now; call again.
        """

    async def commit(self, position: Position) -> None:
        """Everything up to and including `position` in its partition is done.

        Raises:
            PartitionLost: it belongs to another member now.
            LogUnavailable: not taken; call again.
        """


class EventLog(Protocol):
    """Append and read."""

    async def append(
        self, topic: str, key: str, value: bytes | None, headers: Mapping[str, str]
    ) -> Appended:
        """Add a record; `headers["ce_id"]` is its identity.

        Raises:
            LogUnavailable: nothing was written, the sender may try again.
            LogFailed: the disk failed; this process must end.
        """

    def reader(
        self, topics: Sequence[str], *, group: str, on_revoke: OnRevoke | None = None
    ) -> AbstractAsyncContextManager[Reader]:
        """Join `group`. A group that never committed starts at the log's beginning."""
