"""The journal: an embedded log in one folder, with one writer thread (`journal_writer`).

`append` puts the record into the writer's queue and waits for its fsync. Everything that reads
(consumers, the route table, the relay) asks `read` for what comes after a seq: the newest rows come
from memory, older ones from a read-only connection in its own thread. `wait` wakes up with the
commit itself, so nothing polls.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from config.settings import JournalSettings
from router.clock import SYSTEM, Clock
from router.errors import LogFailed, LogUnavailable
from router.eventlog.base import Appended, Position, Record
from router.eventlog.journal_db import JournalReader, Row
from router.eventlog.journal_writer import Append, Committed, Job, JournalWriter, Move
from router.eventlog.recent import Recent

_CLOSE_TIMEOUT: Final = 10.0  # seconds for the last batch; a disk that hangs must not hold the exit

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, str]).decode


def to_record(row: Row, *, partition: int = 0) -> Record:
    """The record of a row."""
    seq, topic, _, key, time, headers, value = row
    return Record(Position(topic, partition, seq), key, value, _decode(headers), time)


class Journal:
    """One open journal, bound to the running loop. Made by `open_journal`."""

    def __init__(
        self, folder: Path, settings: JournalSettings, *, pinned_by: str, clock: Clock
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._folder = folder
        self._clock = clock
        self._queue_limit = settings.queue_limit
        self._writer = JournalWriter(
            folder,
            settings,
            loop=self._loop,
            pinned_by=pinned_by,
            clock=clock,
            on_committed=self._committed,
            on_refused=self._refused,
            on_failed=self._failed,
        )
        self._queue = self._writer.queue
        self._pending = 0
        self._refusal: LogUnavailable | LogFailed | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._positions: dict[str, int] = {}
        self._read_thread = ThreadPoolExecutor(1, thread_name_prefix="journal-reader")
        self._reader: JournalReader | None = None
        self.last_seq = 0
        self.failed = asyncio.Event()

    async def start(self) -> None:
        """Open the file and start the writer. Raises LogFailed, LogUnavailable, ConfigError."""
        self._writer.start()
        opened = await asyncio.wrap_future(self._writer.opened)
        self.last_seq = opened.last_seq
        self._positions = opened.positions
        self._recent = Recent(opened.last_seq)

    async def append(
        self, topic: str, key: str, value: bytes | None, headers: Mapping[str, str]
    ) -> Appended:
        """As `EventLog.append`: durable in this journal on return."""
        identity = headers.get("ce_id")
        if not identity:
            raise ValueError("the record has no ce_id header")
        outcome: asyncio.Future[tuple[Row, bool]] = self._loop.create_future()
        draft = (topic, identity, key, self._clock.now(), _encode(headers), value)
        self._submit(Append(outcome, draft))
        row, repeated = await outcome
        return Appended(Position(topic, 0, row[0]), to_record(row) if repeated else None)

    def _submit(self, job: Job) -> None:
        if self._refusal is not None:
            raise self._refusal
        if self._pending >= self._queue_limit:
            raise LogUnavailable("the journal's queue is full: the disk is slower than the events")
        self._pending += 1
        self._queue.put(job)

    def _committed(self, batch: Committed) -> None:
        self._pending -= len(batch.appends) + len(batch.moves)
        existing = batch.existing
        fresh = batch.rows
        if existing:
            fresh = [row for row in fresh if row[0] not in existing]
        if fresh:
            self._recent.add(fresh)
            self.last_seq = fresh[-1][0]
        for (outcome, _), row in zip(batch.appends, batch.rows, strict=True):
            if not outcome.done():
                first = existing.get(row[0])
                outcome.set_result((row, False) if first is None else (first, True))
        for move in batch.moves:
            for name, seq in move.positions.items():
                self._positions[name] = max(seq, self._positions.get(name, 0))
            if not move.outcome.done():
                move.outcome.set_result(None)
        if fresh:
            self._wake()

    def _refused(self, batch: Sequence[Job], error: Exception) -> None:
        self._pending -= len(batch)
        for job in batch:
            if not job.outcome.done():
                job.outcome.set_exception(error)

    def _failed(self, batch: Sequence[Job], error: LogFailed) -> None:
        # All puts happen in this thread, so after this nobody is left waiting in the queue.
        self._refusal = error
        self._refused(batch, error)
        while not self._queue.empty():
            job = self._queue.get_nowait()
            if job is not None:
                self._refused([job], error)
        self.failed.set()
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def read(
        self, after: int, *, limit: int, topics: Collection[str] | None = None
    ) -> tuple[list[Record], int]:
        """Up to `limit` records after the seq `after` (of `topics`), and the seq to go on from.

        A backlog is read about 8 MiB at a time.

        Raises:
            LogUnavailable: the file can't be read now (no descriptor left, a disk that hiccups).
            LogFailed: it is corrupt; `failed` is set.
        """
        upto = self.last_seq
        rows = self._recent.after(after, topics, limit)
        if rows is None:
            names = None if topics is None else tuple(topics)
            try:
                rows = await self._loop.run_in_executor(
                    self._read_thread, self._read_file, after, upto, names, limit
                )
            except LogFailed as error:
                self._failed([], error)
                raise
        records = [to_record(row) for row in rows]
        return records, records[-1].position.offset if records else max(after, upto)

    def _read_file(
        self, after: int, upto: int, topics: tuple[str, ...] | None, limit: int
    ) -> list[Row]:
        if self._reader is None:
            self._reader = JournalReader(self._folder)
        try:
            return self._reader.read(after, upto=upto, topics=topics, limit=limit)
        except LogUnavailable:  # the next read opens the file anew
            self._reader.close()
            self._reader = None
            raise

    async def wait(self, after: int, timeout: float) -> None:
        """Until something after the seq `after` was committed, or `timeout` seconds passed."""
        if self.last_seq > after:
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter
        except TimeoutError:
            pass
        finally:
            self._waiters.discard(waiter)

    def position(self, name: str) -> int | None:
        """A stored position, None where there never was one."""
        return self._positions.get(name)

    async def move(self, positions: Mapping[str, int]) -> None:
        """Store positions (name → seq), durable on return; none moves back. Raises as `append`."""
        if not positions:
            return
        outcome: asyncio.Future[None] = self._loop.create_future()
        self._submit(Move(outcome, positions))
        await outcome

    async def close(self) -> None:
        """Write what is queued, checkpoint and close; bounded."""
        if self._refusal is None:
            self._refusal = LogUnavailable("the journal is closing")
        self._queue.put(None)
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await asyncio.shield(asyncio.wrap_future(self._writer.closed))
        if self._reader is not None:
            await self._loop.run_in_executor(self._read_thread, self._reader.close)
        self._read_thread.shutdown(wait=False)
        self._wake()


@asynccontextmanager
async def open_journal(
    folder: Path, settings: JournalSettings, *, pinned_by: str, clock: Clock = SYSTEM
) -> AsyncIterator[Journal]:
    """The journal in `folder`, which must be this process's own (`router.eventlog.slots`).

    `pinned_by` is the prefix of the positions that hold retention back.

    Raises:
        LogFailed: the file is unreadable.
        LogUnavailable: the disk is full.
        ConfigError: another version wrote it.
    """
    journal = Journal(folder, settings, pinned_by=pinned_by, clock=clock)
    await journal.start()
    try:
        yield journal
    finally:
        await journal.close()
