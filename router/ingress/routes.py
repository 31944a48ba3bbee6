"""Keeps this process's route table: follows `telephony.routes`, with a copy in the data folder.

The copy lets a restart in the middle of an outage answer at once. It is never the truth: the topic
is read from its beginning at every start, and whichever is newer for a number (`Version`) holds. It
is a line of JSON for every thousand routes, so that writing a million of them never holds the
interpreter for long: webhooks are answered meanwhile.
"""

import asyncio
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from router.clock import Clock
from router.errors import LogUnavailable
from router.eventlog.base import EventLog, Follower, Record
from router.events.types import ROUTES_TOPIC
from router.files import open_file
from router.observability import log
from router.observability.metrics import ROUTES, ROUTES_VERSION
from router.routing.table import FIRST_EPOCH, Route, RouteTable, Version
from router.storage.records import version_of

logger = log.get(__name__)

_SAVE_EVERY: Final = 2.0  # seconds at least, and ten times what saving takes
_RETRY: Final = 1.0
_BATCH: Final = 1000
_AT_ONCE: Final = 100  # routes, some ms


class _Copy(msgspec.Struct, frozen=True):
    """A line of the copy. A removal is its rev, or (epoch, rev) after the first epoch."""

    routes: Sequence[Route] = ()
    removed: dict[str, int | Version] = {}


class RouteFollower:
    """Feeds `table` until cancelled. `ready` once the table may be decided from."""

    def __init__(self, table: RouteTable, events: EventLog, clock: Clock, path: Path) -> None:
        self.table = table
        self._log = events
        self._clock = clock
        self._path = path
        self._changed = False
        self._saving = threading.Lock()  # the last save may meet one that is under way
        self.loaded_copy = False
        self.looked = asyncio.Event()  # for the copy, which may not have been there
        self.caught_up_at: float | None = None  # monotonic

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

    def facts(self) -> dict[str, Any]:
        """For /readyz."""
        age = self.age
        return {
            "numbers": len(self.table),
            "version": self.table.version,
            "epoch": self.table.newest.epoch,
            "fingerprint": f"{self.table.fingerprint:016x}",
            "current": self.caught_up_at is not None,
            "age_seconds": None if age is None else round(age, 1),
        }

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
                self._save(list(self.table), dict(self.table.removed()))

    async def _follow(self) -> None:
        async with self._log.follow([ROUTES_TOPIC], after={}) as follower:
            while True:
                try:
                    await self._read(follower)
                except LogUnavailable:  # the same follower again: it knows how far it came
                    logger.warning("routes.log_unavailable", retry_in=_RETRY)
                    await self._clock.sleep(_RETRY)

    async def _read(self, follower: Follower) -> None:
        while True:
            records = await follower.fetch(limit=_BATCH, wait=1.0)
            for count, record in enumerate(records, 1):
                self._apply(record)
                if not count % _AT_ONCE:
                    await asyncio.sleep(0)  # webhooks are answered meanwhile
            if follower.caught_up:
                self.caught_up_at = self._clock.monotonic()
            ROUTES.set(len(self.table))
            ROUTES_VERSION.set(self.table.version)

    def _apply(self, record: Record) -> None:
        version = version_of(record.headers)
        if version is None:
            logger.warning("routes.unreadable", offset=record.position.offset, why="no rev")
            return
        if record.value is None:
            self._changed |= self.table.remove(record.key, version)
            return
        try:
            route = msgspec.json.decode(record.value, type=Route)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            logger.warning("routes.unreadable", offset=record.position.offset, why="not a route")
            return
        self._changed |= self.table.put(route)

    def _load(self) -> None:
        try:
            with self._path.open("rb") as file:
                lines = [msgspec.json.decode(line, type=_Copy) for line in file]
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is damaged"
            logger.warning("routes.copy_unreadable", path=str(self._path), why=why)
            return
        for line in lines:
            for route in line.routes:
                self.table.put(route)
            for number, version in line.removed.items():
                if isinstance(version, int):
                    version = Version(FIRST_EPOCH, version)
                self.table.remove(number, version)
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
                routes, removed = list(self.table), dict(self.table.removed())
                try:
                    saved = await asyncio.to_thread(self._save, routes, removed)
                finally:  # cancelled: the end of `run` saves once more, behind this one
                    self._changed |= not saved
                pause = max(_SAVE_EVERY, 10 * (self._clock.monotonic() - began))

    def _save(self, routes: Sequence[Route], removed: dict[str, Version]) -> bool:
        fresh = self._path.with_suffix(".new")
        try:
            opened = os.O_WRONLY | os.O_TRUNC
            with self._saving, os.fdopen(open_file(fresh, opened), "wb") as file:
                for line in _lines(routes, removed):
                    file.write(msgspec.json.encode(line) + b"\n")
                file.flush()
                os.fsync(file.fileno())
                fresh.replace(self._path)
        except OSError as error:
            logger.warning("routes.copy_not_saved", path=str(self._path), why=error.strerror)
            return False
        return True


def _lines(routes: Sequence[Route], removed: dict[str, Version]) -> Iterator[_Copy]:
    for start in range(0, len(routes), _BATCH):
        yield _Copy(routes[start : start + _BATCH])
    yield _Copy(
        removed={
            number: version.rev if version.epoch == FIRST_EPOCH else version
            for number, version in removed.items()
        }
    )
