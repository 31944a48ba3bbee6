"""The event log's port: what every adapter promises, in one place.

Promised
- **Durable on return.** `append` returns when the record survives a crash of this process and of
  the machine (journal: fsync; replicated: also acknowledged by Kafka, or the deadline passed).
- **Idempotent by id.** A record whose topic and `ce_id` the journal already holds is not written
  again; the answer carries the first one, so that a repeated webhook gets the answer the first one
  got. The memory is that of one journal: its retention, and not the journals of other processes.
- **Order per key.** Records of one key are read in the order in which `append` was called for them.
- **At least once per group.** A record is handed out until a position at or past it is committed.
- **Members of a group share no partition.** Groups are independent of each other.
- **A follower misses nothing.** It gets every record after the given positions, belongs to no
  group, and says when it has handed out everything that was in the log when it was opened. Where
  the log is shorter than a given position it is another log, and is read from its beginning.

Not promised: order across keys, exactly once (consumers fence their effects), one place per record
(a replicated record has a position in the journal and another in Kafka).

The conformance suite (tests/contract/test_eventlog.py) has one test for each line.
"""

from asyncio import Event
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
    """Where the journal has a record; `existing` is the one that was there first, for a repeat."""

    position: Position
    existing: Record | None


class Behind(NamedTuple):
    """What a reader knows of the records that it has not handed out yet."""

    events: int  # at the log's last word
    silent: float  # seconds since the log last said anything: records, or that there are none


class Lag(NamedTuple):
    """What the relay has not moved into Kafka yet."""

    events: int
    age: float  # seconds since the oldest of them was appended, 0.0 for none


OnRevoke = Callable[[Sequence[tuple[str, int]], float], Awaitable[None]]
"""Called with (topic, partition) pairs before they go to another member, and with the seconds that
there are for it: then it is cancelled, and the partitions go whatever it has done.
"""


class Reader(Protocol):
    """One member of a group."""

    @property
    def behind(self) -> Behind:
        """How far it has come; asks nobody."""

    async def fetch(self, *, limit: int, wait: float) -> Sequence[Record]:
        """Up to `limit` records, waiting at most `wait` seconds for the first.

        `limit=0` fetches nothing and only keeps the membership alive: a reader whose handlers are
        busy must still call it, or it loses its partitions.

        Raises:
            LogUnavailable: the log can't be read now; call again.
        """

    async def commit(self, positions: Sequence[Position]) -> None:
        """Everything up to and including each position in its partition is done; one request.

        Raises:
            PartitionLost: its `partitions` belong to another member now; the others are committed.
            LogUnavailable: none was taken, or nobody knows; call again.
        """


class Follower(Protocol):
    """Reads everything from given positions on, for itself alone."""

    @property
    def caught_up(self) -> bool:
        """Whether all that was in the log at the time of opening has been handed out."""

    async def fetch(self, *, limit: int, wait: float) -> Sequence[Record]:
        """Up to `limit` (≥ 1) records, waiting at most `wait` seconds for the first.

        Raises:
            LogUnavailable: the log can't be read now; call again.
        """


class EventLog(Protocol):
    """Append and read."""

    async def append(
        self, topic: str, key: str, value: bytes | None, headers: Mapping[str, str]
    ) -> Appended:
        """Add a record; `headers["ce_id"]` is its identity within the topic.

        Whoever stops waiting takes nothing back: the record is written all the same.

        Raises:
            LogUnavailable: nothing was written, the sender may try again.
            LogFailed: the disk failed; this process must end.
            ValueError: the record can't be stored, now or ever (no `ce_id`, not UTF-8).
        """

    def reader(
        self, topics: Sequence[str], *, group: str, on_revoke: OnRevoke | None = None
    ) -> AbstractAsyncContextManager[Reader]:
        """Join `group`. A group that never committed starts at the log's beginning.

        All members of a group read the same topics.
        """

    def follow(
        self, topics: Sequence[str], *, after: Mapping[tuple[str, int], int]
    ) -> AbstractAsyncContextManager[Follower]:
        """Read without a group, after the given offset of each (topic, partition).

        What `after` does not name is read from the beginning.
        """


class RelayState(Protocol):
    """How far the copy into Kafka has come."""

    @property
    def healthy(self) -> bool:
        """Whether Kafka takes events fast enough that an answer may wait for it."""

    @property
    def lag(self) -> Lag:
        """What waits for Kafka."""

    @property
    def acked_seq(self) -> int:
        """Everything up to this offset of the journal is in Kafka."""

    @property
    def trouble(self) -> str:
        """What keeps it from Kafka, for a person; "" once something was acknowledged again."""

    def place(self, seq: int) -> Position | None:
        """Where Kafka has the record at this offset of the journal; None when nobody knows."""


class Takeover(Protocol):
    """Records of this process that nobody handled within `kafka.takeover_after` seconds.

    Whether Kafka has not taken them, or no consumer can read them there. The consumer says what its
    own members of the group handle, so that nothing is asked about the calls that came in time.
    """

    def begun(self, record: Record) -> None:
        """A member in this process handles the record."""

    def ended(self, record: Record, *, done: bool) -> None:
        """It does no more; `done`: it never comes again."""

    def reader(self) -> AbstractAsyncContextManager[Reader]:
        """Hands out what is left over, each record once.

        Its `commit` does nothing: the same records come once more through Kafka.
        """


class OpenLog(EventLog, Protocol):
    """What `router.eventlog.open.open_log` gives: the log, and what a runtime has to watch."""

    @property
    def failed(self) -> Event:
        """Set when the disk failed: the process must end, with an exit code that restarts it."""

    @property
    def seat(self) -> str:
        """The name of this process's place in the data folder; who had it before is dead."""

    @property
    def relay(self) -> RelayState | None:
        """None where the log is the journal alone."""

    def takeover(self, topics: Sequence[str], *, group: str) -> "Takeover | None":
        """For the one consumer (`group`) that must not wait for Kafka.

        None where the log is the journal alone.
        """
