"""Looking at the log from another process: `switchboard tail`.

Over Kafka where there is one, else over the journals in the data folder, which are read while their
owners write them (read-only connections, 20 times a second).
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from config.settings import Settings
from router.errors import LogError
from router.eventlog.base import Follower, Record
from router.eventlog.journal import to_record
from router.eventlog.journal_db import FILE_NAME, JournalReader
from router.eventlog.kafka_follower import KafkaFollower
from router.eventlog.slots import slot_folders, slot_number
from router.observability import log

_POLL: Final = 0.05  # seconds
_TOLD_AT: Final = 5  # failures in a row; a journal that is just being made can fail once

logger = log.get(__name__)


class JournalTail:
    """See `base.Follower`. A position's partition is the number of the journal's folder."""

    def __init__(self, data_dir: Path, topics: Sequence[str], last: int) -> None:
        self._data_dir = data_dir
        self._topics = tuple(topics)
        self._last = last
        self._open: dict[int, tuple[JournalReader, int]] = {}  # and the seq to go on from
        self._failures: dict[int, int] = {}  # in a row, by the number of the journal
        self._begun = False
        # Whoever stops waiting for a thread does not stop it: it may still read when we close.
        self._at_it = threading.Lock()
        self._closed = False

    async def open(self) -> None:
        """Take the place that is the end now: what comes from here on is new."""
        await asyncio.to_thread(self._read, 0)

    @property
    def caught_up(self) -> bool:
        """See `base.Follower`."""
        return self._begun

    async def fetch(self, *, limit: int, wait: float) -> Sequence[Record]:
        """See `base.Follower`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            records = await asyncio.to_thread(self._read, limit)
            if records or loop.time() >= deadline:
                self._begun = self._begun or not records
                return records
            await asyncio.sleep(_POLL)

    def _read(self, limit: int) -> list[Record]:
        with self._at_it:
            return [] if self._closed else self._next(limit)

    def _next(self, limit: int) -> list[Record]:
        self._discover()
        if not limit:
            return []
        records: list[Record] = []
        for number, (reader, after) in self._open.items():
            with self._told(number):
                rows = reader.read(after, upto=_NO_END, topics=self._topics, limit=limit)
                if rows:
                    self._open[number] = (reader, rows[-1][0])
                    records += [to_record(row, partition=number) for row in rows]
                limit -= len(rows)
            if limit <= 0:
                break
        return sorted(records, key=lambda record: record.time)

    def _discover(self) -> None:
        for folder in slot_folders(self._data_dir):
            number = slot_number(folder)
            if number in self._open:
                continue
            with self._told(number):
                if (folder / FILE_NAME).exists():
                    self._open[number] = self._opened(folder)

    def _opened(self, folder: Path) -> tuple[JournalReader, int]:
        reader = JournalReader(folder)
        try:
            before_last = reader.before_last(self._last, self._topics)
        except LogError:
            reader.close()
            raise
        # A journal that appears later is new from its first record on.
        return reader, 0 if self._begun else before_last

    @contextmanager
    def _told(self, number: int) -> Iterator[None]:
        """One journal that can't be read must not hide the others; it is tried again each time."""
        try:
            yield
        except (LogError, OSError) as error:
            self._failures[number] = self._failures.get(number, 0) + 1
            if self._failures[number] == _TOLD_AT:
                logger.warning("tail.unreadable", journal=f"journal-{number}", why=str(error))
        else:
            self._failures.pop(number, None)

    def close(self) -> None:
        """Close all connections, after a read that is under way."""
        with self._at_it:
            self._closed = True
            for reader, _ in self._open.values():
                reader.close()


_NO_END: Final = (1 << 63) - 1


@asynccontextmanager
async def open_tail(
    settings: Settings, topics: Sequence[str], *, last: int = 0
) -> AsyncIterator[Follower]:
    """What comes into `topics` from now on, after the `last` records of each journal or partition.

    Opens nothing for writing and takes no lock; the log's processes need not know.
    """
    if settings.has_kafka:
        follower = KafkaFollower(settings.kafka, topics, after={}, last=last)
        try:
            yield follower
        finally:
            await follower.close()
    else:
        tail = JournalTail(settings.data_dir, topics, last)
        try:
            await tail.open()
            yield tail
        finally:
            tail.close()
