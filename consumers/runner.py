"""Runs a consumer: fetch → chain per key → handle → commit.

A record
1. The poll loop fetches it, shows it to the consumer (`Consumer.foresee`) and hangs it onto the
   chain of its key; it never waits for a handler. A chain is worked off in order by one task. Up to
   `Limits.in_hand` records are taken ahead of their turn, so that what became of a call is known
   before its beginning is handled. When that many are in hand the loop fetches nothing but still
   calls the reader, because a member that stays silent loses its partitions.
2. `Attempts` brings the record to its end: done, or in the dead topic. Only then does it count.
   `Limits.in_flight` handlers run at once, and their places go to the newest record that somebody
   waits for (`Consumer.is_urgent`): a backlog holds up no live call, nor does what is tried again
   and again, because a pause takes no place. A record that was in the log for a while begins only
   when the reader has read on to the end.
3. Four times a second what is done without a gap is committed (`Progress`), all partitions in one
   request, beside the poll loop: a slow coordinator holds up no fetch. A crash therefore repeats
   records, it never skips one.

A partition
- It begins with its first record. It *closes* when it is revoked or the runner stops: nothing new
  is started, pauses between attempts end, and handlers under way get the time that the reader gives
  less what a commit may take; then what is done is committed. Whatever became of that (cut off,
  refused, failed), the partition is forgotten: one that stayed closing would pass over every record
  that comes when it is ours again.
- A handler that outlasts that finishes for nothing: it reports to bookkeeping that nobody commits
  from any more, and the partition's next owner handles the record again.
- It also begins anew when the reader hands out an offset that was started already: the reader
  was rebuilt, or the topic made anew, and counts on nothing that we remember.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from random import Random, SystemRandom
from typing import Final, NamedTuple

from config.settings import Settings
from consumers.attempts import Attempts
from consumers.consumer import Consumer, ConsumerSpec, GiveUp
from consumers.progress import Progress
from router.backoff import backoff, jitter
from router.clock import Clock
from router.errors import LogUnavailable, PartitionLost
from router.eventlog.base import (
    Behind,
    EventLog,
    OnRevoke,
    Position,
    Reader,
    Record,
    Takeover,
)
from router.events.model import Event
from router.observability import log as logs
from router.supervisor import GroupState

log = logs.get(__name__)

OpenReader = Callable[[OnRevoke], AbstractAsyncContextManager[Reader]]

_COMMIT_EVERY: Final = 0.25  # seconds; others learn from the commit what they need not take over
_COMMIT_TIME: Final = 5.0  # seconds of a revoke that are kept for the commit, at most half of it
_WAIT: Final = 0.5  # seconds that one fetch may wait: what stopping and committing may be late by
_IN_HAND: Final = 5000  # records, some kilobytes each
_BYTES_IN_HAND: Final = 32 << 20  # LiveKit's webhooks may have half a megabyte
_FETCHED: Final = 500  # records at once, of whatever size
_MOMENT: Final = 2_000_000  # µs; an event older than this may have been answered in the log already
_READ_ON: Final = 1.0  # seconds that it waits at most for what else the log has


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Times in seconds."""

    in_flight: int  # handlers at once, over all keys
    time_limit: float  # one call of the handler
    grace: float  # handlers under way, when the process stops
    in_hand: int = 0  # records taken and not at their end; not less than `in_flight`

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """One call may take half of the time that Kafka gives a member before it is put out."""
        return cls(
            in_flight=settings.dispatch.concurrency,
            time_limit=settings.kafka.rebalance_timeout / 2,
            grace=settings.http.shutdown_grace,
            in_hand=_IN_HAND,
        )


@dataclass(slots=True, eq=False)
class _Partition:
    """A partition while it is ours; a later ownership is another object."""

    topic: str
    number: int
    progress: Progress = field(default_factory=Progress)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    running: int = 0  # records whose handling has begun
    committed: int | None = None


class _Item(NamedTuple):
    partition: _Partition
    record: Record
    event: Event | GiveUp


_Chain = deque[_Item]


class Runner:
    """One member of a consumer's group."""

    def __init__(
        self,
        spec: ConsumerSpec,
        consumer: Consumer,
        open_reader: OpenReader,
        event_log: EventLog,
        clock: Clock,
        limits: Limits,
        random: Random | None = None,
        takeover: Takeover | None = None,
    ) -> None:
        """`takeover` learns what is handled here, so that it need not hand it out."""
        self._takeover = takeover
        self._consumer = consumer
        self._group = spec.group
        self._open = open_reader
        self._clock = clock
        self._limits = limits
        self._random = random or SystemRandom()
        self._attempts = Attempts(
            spec.group,
            consumer,
            event_log,
            clock,
            at_once=limits.in_flight,
            time_limit=limits.time_limit,
            retry_for=spec.retry_for,
            random=self._random,
        )
        self._reader: Reader | None = None
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._chains: dict[tuple[str, int, str], _Chain] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._in_hand = 0
        self._bytes = 0  # of them
        self._has_read_on = asyncio.Event()
        self._begun: dict[int, float] = {}  # when the handling of each record began, in order
        self._failed_fetches = 0
        self._moved = asyncio.Event()  # a record came to its end

    async def run(self, stop: asyncio.Event) -> None:
        """Read and handle until `stop` is set, then drain and commit; cancelling skips that.

        Raises:
            ExceptionGroup: of `LogFailed`; the process must end.
        """
        async with asyncio.TaskGroup() as tasks, self._open(self.revoke) as reader:
            self._reader = reader
            committing = tasks.create_task(self._keep_committing())
            try:
                while not stop.is_set():
                    for record in await self._fetch(reader):
                        self._take(record, tasks)
                    if not (reader.behind.events and self._room()):
                        self._has_read_on.set()
                    else:
                        self._has_read_on.clear()
                await self._release(list(self._partitions.values()), drain=self._limits.grace)
                for worker in (*self._workers, committing):
                    worker.cancel()
            finally:
                self._partitions.clear()  # cancelled: leaving the group must not drain first

    def state(self) -> GroupState:
        """How far this member has come."""
        behind = self._reader.behind if self._reader is not None else Behind(0, 0.0)
        oldest = next(iter(self._begun.values()), None)
        return GroupState(
            unread=behind.events,
            silent=behind.silent,
            in_flight=self._in_hand,
            oldest=0.0 if oldest is None else self._clock.monotonic() - oldest,
        )

    async def revoke(self, partitions: Sequence[tuple[str, int]], seconds: float) -> None:
        """The reader's `on_revoke`: bring what is under way to its end, commit, forget."""
        found = [self._partitions.get(pair) for pair in partitions]
        drain = max(seconds / 2, seconds - _COMMIT_TIME)
        await self._release([part for part in found if part is not None], drain=drain)

    async def _fetch(self, reader: Reader) -> Sequence[Record]:
        if not self._room():
            await self._until(lambda: self._room() > 0, _WAIT)
        room = min(self._room(), _FETCHED)
        try:
            records = await reader.fetch(limit=room, wait=_WAIT if room else 0.0)
        except LogUnavailable as error:
            self._failed_fetches += 1
            log.warning("fetch.failed", group=self._group, error=str(error))
            await self._clock.sleep(jitter(backoff(self._failed_fetches), self._random))
            return ()
        self._failed_fetches = 0
        return records

    def _room(self) -> int:
        most = self._limits.in_flight
        if self._bytes < _BYTES_IN_HAND:
            most = max(most, self._limits.in_hand)
        return max(0, most - self._in_hand)

    def _take(self, record: Record, tasks: asyncio.TaskGroup) -> None:
        topic, number, offset = record.position
        partition = self._partitions.get((topic, number))
        if partition is not None and partition.progress.started(offset):
            self._forget(partition)
            partition = None
        if partition is None:
            partition = self._partitions[topic, number] = _Partition(topic, number)
        if partition.closing.is_set():
            return  # on its way to another member, who will read this record
        partition.progress.start(offset)
        self._in_hand += 1
        self._bytes += len(record.value or b"")
        if self._takeover is not None:
            self._takeover.begun(record)
        item = _Item(partition, record, self._attempts.read(record))
        if isinstance(item.event, Event):
            self._consumer.foresee(item.event)
        key = (topic, number, record.key)
        if key in self._chains:
            self._chains[key].append(item)
            return
        self._chains[key] = deque([item])
        worker = tasks.create_task(self._work_off(key))
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    async def _work_off(self, key: tuple[str, int, str]) -> None:
        chain = self._chains[key]
        try:
            await self._read_on(chain[0].event)
            while chain:
                await self._finish(*chain.popleft())
        finally:
            del self._chains[key]

    async def _read_on(self, event: Event | GiveUp) -> None:
        if isinstance(event, Event) and self._clock.now() - event.time > _MOMENT:
            with suppress(TimeoutError):
                async with asyncio.timeout(_READ_ON):
                    await self._has_read_on.wait()

    async def _finish(self, partition: _Partition, record: Record, event: Event | GiveUp) -> None:
        partition.running += 1
        begun, done = self._clock.monotonic(), False
        self._begun[id(record)] = begun
        try:
            done = await self._attempts.finish(record, event, partition.closing)
            if done:
                partition.progress.done(record.position.offset)
        finally:
            del self._begun[id(record)]
            if self._takeover is not None:
                self._takeover.ended(record, done=done)
            partition.running -= 1
            self._in_hand -= 1
            self._bytes -= len(record.value or b"")
            self._moved.set()

    async def _release(self, partitions: Sequence[_Partition], *, drain: float) -> None:
        for partition in partitions:
            partition.closing.set()
        try:
            if not await self._until(lambda: not any(part.running for part in partitions), drain):
                log.warning("drain.late", group=self._group, seconds=drain)
            await self._commit(partitions)
        finally:  # also when the reader's patience ends in the middle of it
            for partition in partitions:
                self._forget(partition)

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition():
                    self._moved.clear()
                    await self._moved.wait()
        return condition()

    async def _keep_committing(self) -> None:
        while True:
            await self._clock.sleep(_COMMIT_EVERY)
            await self._commit(self._partitions.values())

    async def _commit(self, partitions: Iterable[_Partition]) -> None:
        due: dict[tuple[str, int], tuple[_Partition, int]] = {}
        for partition in partitions:
            offset = partition.progress.committable()
            if offset is not None and offset != partition.committed:
                due[partition.topic, partition.number] = (partition, offset)
        if not due or self._reader is None:
            return
        try:
            await self._reader.commit(
                [Position(*pair, offset) for pair, (_, offset) in due.items()]
            )
        except PartitionLost as lost:
            for pair in lost.partitions:
                log.info("partition.lost", group=self._group, partition=pair[1])
                self._forget(due.pop(pair)[0])
        except LogUnavailable as error:
            log.warning("commit.failed", group=self._group, error=str(error))
            return
        for partition, offset in due.values():
            partition.committed = offset

    def _forget(self, partition: _Partition) -> None:
        partition.closing.set()
        key = (partition.topic, partition.number)
        if self._partitions.get(key) is partition:
            del self._partitions[key]
