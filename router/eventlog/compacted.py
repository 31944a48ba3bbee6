"""What a process keeps of a compacted topic in memory, with a copy in the data folder.

The copy lets a restart in the middle of an outage begin with what was known. It is never the truth:
the topic is read from its beginning at every start, and whichever is newer for a key holds. It is
lines of JSON, so that writing a million entries never holds the interpreter for long: webhooks are
answered meanwhile.
"""

import asyncio
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from router.clock import Clock
from router.errors import LogUnavailable
from router.eventlog.base import EventLog, Follower, Record
from router.files import open_file
from router.observability import log

logger = log.get(__name__)

_SAVE_EVERY: Final = 2.0  # seconds at least, and ten times what saving takes
_RETRY: Final = 1.0
BATCH: Final = 1000
_AT_ONCE: Final = 100  # records, some ms


class Unusable(ValueError):
    """Why a record can't be taken; the message holds nothing of it."""


class CompactedTable(ABC):
    """Follows `topic` until cancelled. `ready` once what it holds may be used.

    A subclass holds the table. Log lines are called `<name>.…`.
    """

    topic: str
    name: str
    keeps_empty = False  # whether a copy is saved also where the topic has nothing

    def __init__(self, events: EventLog, clock: Clock, path: Path) -> None:
        self._log = events
        self._clock = clock
        self._path = path
        self._changed = False
        self._saving = threading.Lock()  # the last save may meet one that is under way
        self.loaded_copy = False
        self.looked = asyncio.Event()  # for the copy, which may not have been there
        self.caught_up_at: float | None = None  # monotonic

    @abstractmethod
    def take(self, record: Record) -> bool:
        """Take a record; whether it changed anything. Raises Unusable."""

    @abstractmethod
    def snapshot(self) -> Callable[[], Iterator[bytes]]:
        """What there is now, fast; and what makes lines of it later, in another thread."""

    @abstractmethod
    def read_line(self, line: bytes) -> Any:
        """A line of the copy. Raises ValueError."""

    @abstractmethod
    def restore(self, line: Any) -> None:
        """Take a line that was read."""

    def measure(self) -> None:  # noqa: B027 - there may be nothing to measure
        """Tell the metrics how large the table is."""

    def warn(self, what: str, **facts: Any) -> None:
        """Say on the log that something is wrong."""
        event = f"{self.name}.{what}"
        logger.warning(event, **facts)

    @property
    def ready(self) -> bool:
        """Whether the copy was there, or the topic has been read to its end."""
        return self.loaded_copy or self.caught_up_at is not None

    @property
    def age(self) -> float | None:
        """Seconds since the table was known to be current, None before."""
        if self.caught_up_at is None:
            return None
        return max(0.0, self._clock.monotonic() - self.caught_up_at)

    async def run(self) -> None:
        """Load the copy, then follow the topic and keep the copy fresh, to the very end."""
        await asyncio.to_thread(self._load)
        self.looked.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow())
                tasks.create_task(self._save_loop())
        finally:
            if self._has_news:
                self._save(self.snapshot())

    async def _follow(self) -> None:
        async with self._log.follow([self.topic], after={}) as follower:
            while True:
                try:
                    await self._read(follower)
                except LogUnavailable:  # the same follower again: it knows how far it came
                    self.warn("log_unavailable", retry_in=_RETRY)
                    await self._clock.sleep(_RETRY)

    async def _read(self, follower: Follower) -> None:
        while True:
            records = await follower.fetch(limit=BATCH, wait=1.0)
            for count, record in enumerate(records, 1):
                self._apply(record)
                if not count % _AT_ONCE:
                    await asyncio.sleep(0)  # webhooks are answered meanwhile
            if follower.caught_up:
                if self.caught_up_at is None:
                    self._changed |= self.keeps_empty and not self.loaded_copy
                self.caught_up_at = self._clock.monotonic()
            self.measure()

    def _apply(self, record: Record) -> None:
        try:
            self._changed |= self.take(record)
        except Unusable as error:
            self.warn("unreadable", offset=record.position.offset, why=str(error))

    def _load(self) -> None:
        try:
            with self._path.open("rb") as file:
                lines = [self.read_line(line) for line in file]
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is damaged"
            self.warn("copy_unreadable", path=str(self._path), why=why)
            return
        for line in lines:
            self.restore(line)
        self.loaded_copy = bool(lines)

    @property
    def _has_news(self) -> bool:
        # Before the topic was read to its end, the copy may hold more than the table.
        return self._changed and self.caught_up_at is not None

    async def _save_loop(self) -> None:
        pause = _SAVE_EVERY
        while True:
            await self._clock.sleep(pause)
            if self._has_news:
                began = self._clock.monotonic()
                self._changed, saved = False, False
                lines = self.snapshot()
                try:
                    saved = await asyncio.to_thread(self._save, lines)
                finally:  # cancelled: the end of `run` saves once more, behind this one
                    self._changed |= not saved
                pause = max(_SAVE_EVERY, 10 * (self._clock.monotonic() - began))

    def _save(self, lines: Callable[[], Iterator[bytes]]) -> bool:
        fresh = self._path.with_suffix(".new")
        try:
            opened = os.O_WRONLY | os.O_TRUNC
            with self._saving, os.fdopen(open_file(fresh, opened), "wb") as file:
                for line in lines():
                    file.write(line + b"\n")
                file.flush()
                os.fsync(file.fileno())
                fresh.replace(self._path)
        except OSError as error:
            self.warn("copy_not_saved", path=str(self._path), why=error.strerror)
            return False
        return True


def pages(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """A line of the copy holds so many."""
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
