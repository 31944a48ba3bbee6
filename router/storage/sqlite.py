"""SQLite as Switchboard uses it: one connection per process, and a gate between processes.

SQLite before 3.51.3 can corrupt a WAL database when two connections write or checkpoint at the
same moment (https://www.sqlite.org/wal.html, "WAL-reset bug"); most Pythons bundle such a
version. `switchboard apply` runs beside the instance, so two processes do write. Each therefore
has one connection, and whoever opens, writes (the automatic checkpoint is part of a commit) or
closes holds a lock file. Readers write nothing and need no lock.
"""

import asyncio
import fcntl
import os
import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from errno import EISDIR
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, Final, Self, TypeVar, cast
from weakref import WeakSet

import aiosqlite
from sqlalchemy import AdaptedConnection, Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine
from typing_extensions import override

from router import files
from router.errors import ConfigError, StorageError, StorageUnavailable

T = TypeVar("T")

_LEAVE: Final = 2.0  # seconds that a statement which was cancelled may still take
_LOOK: Final = 0.005  # seconds between two looks at the lock, at most

WRITES: Final = "switchboard_writes"
"""Execution option of a connection that will write."""

_PRAGMAS: Final = (
    "PRAGMA busy_timeout=5000",  # ms; only a foreign program in the file makes us wait
    "PRAGMA synchronous=FULL",  # a commit survives a power cut
    "PRAGMA foreign_keys=ON",
    "PRAGMA mmap_size=0",
    "PRAGMA journal_size_limit=67108864",
    "PRAGMA fullfsync=ON",  # macOS: fsync alone does not reach the disk; no effect elsewhere
    "PRAGMA checkpoint_fullfsync=ON",
)


class Gate:
    """The lock file: one writer at a time, in this process and among processes.

    flock knows no queue, so who waits says so by a shared lock on a second file, and who had the
    gate last lets the others go first: a claim never waits for a second batch of a mapping.
    """

    def __init__(self, path: Path, *, limit: float) -> None:
        self._path = path
        self._limit = limit  # seconds to wait
        self._local = asyncio.Lock()  # the file lock belongs to the descriptor, not to a task
        self._descriptor = -1
        self._queue = -1
        self._had_it = False
        self._hurried = 0  # who has it or waits for it and does not yield
        self._nobody = asyncio.Event()
        self._nobody.set()

    def open(self) -> None:
        """Make the lock files, if that was not done yet. Raises OSError."""
        if self._descriptor < 0:
            self._queue = files.open_file(self._path.with_suffix(".queue"), os.O_RDWR)
            self._descriptor = files.open_file(self._path, os.O_RDWR)

    def close(self) -> None:
        """Give the descriptors back, and with them the locks."""
        for descriptor in (self._descriptor, self._queue):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._queue = -1

    async def renew(self) -> None:
        """Take the lock files anew at the next use: other ones may have their place."""
        async with self._local:
            self.close()

    @asynccontextmanager
    async def held(self, *, yields: bool = False) -> AsyncIterator[None]:
        """Hold the lock. Who `yields` lets all others go first, for half of the limit.

        Raises:
            StorageUnavailable: another process kept it for longer than the limit.
            OSError: the lock files can't be made.
        """
        with self._in_a_hurry() if not yields else nullcontext():
            try:
                async with asyncio.timeout(self._limit):
                    if yields:
                        await self._let_others_go()
                    await self._local.acquire()
            except TimeoutError as error:
                raise StorageUnavailable(
                    f"the database could not be written to for {self._limit:g} s: more is to be "
                    "written than the disk takes"
                ) from error
            try:
                await self._lock_file()
                try:
                    yield
                finally:
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            finally:
                self._local.release()

    @contextmanager
    def _in_a_hurry(self) -> Iterator[None]:
        self._hurried += 1
        self._nobody.clear()
        try:
            yield
        finally:
            self._hurried -= 1
            if not self._hurried:
                self._nobody.set()

    async def _let_others_go(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limit / 2):
                while self._hurried:
                    await self._nobody.wait()

    async def _lock_file(self) -> None:
        self.open()
        if self._had_it and not _locks(self._queue, fcntl.LOCK_EX):
            await _pause(2 * _LOOK)
        else:
            fcntl.flock(self._queue, fcntl.LOCK_UN)
        if not _locks(self._descriptor, fcntl.LOCK_EX):
            await self._wait()
        self._had_it = True

    async def _wait(self) -> None:
        # Asked again and again: a blocking flock in a thread could not be cancelled.
        deadline = asyncio.get_running_loop().time() + self._limit
        pause = 0.001
        try:
            while not _locks(self._descriptor, fcntl.LOCK_EX):
                _locks(self._queue, fcntl.LOCK_SH)
                if asyncio.get_running_loop().time() > deadline:
                    raise StorageUnavailable(
                        f"another process has been writing to the database for {self._limit:g} s: "
                        f"end it or try again (lock file {self._path})"
                    )
                await _pause(pause)
                pause = min(pause * 2, _LOOK)
        finally:
            fcntl.flock(self._queue, fcntl.LOCK_UN)


def _locks(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds * random.uniform(0.5, 1.0))  # noqa: S311 - jitter


def prepare_folder(path: Path) -> None:
    """Make the database's folder, readable by its owner only: it holds who called whom.

    Raises:
        ConfigError: there can be no such folder.
        OSError: the file can't be made, or something else is in its place.
    """
    if path.is_dir():
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR), str(path))
    try:
        files.make_folder(path.parent)
    except OSError as error:
        raise ConfigError(
            f"the database's folder {path.parent} can't be made ({error.strerror}): correct "
            "data_dir, or database.url where that is set",
            key="data_dir",
        ) from error
    # It opens only a new file: a close would drop the locks that this process's other connections
    # have on it, and the next process to leave would then delete the log that they write.
    files.make_sqlite_file(path)


class _Cursor:
    """What SQLAlchemy needs of aiosqlite's cursor, in one trip to the connection's thread.

    Else it makes four: for a cursor, the statement, its rows, and the cursor's end. A trip costs
    more than nearly every statement.
    """

    arraysize = 1
    description: Any = None
    rowcount = -1
    lastrowid: int | None = None

    def __init__(self, connection: "Driver") -> None:
        self._connection = connection
        self._rows: list[Any] = []

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, sql: str, values: Any = ()) -> Self:
        await self._connection.trip(self._run, sqlite3.Cursor.execute, sql, values)
        return self

    async def executemany(self, sql: str, values: Any) -> Self:
        await self._connection.trip(self._run, sqlite3.Cursor.executemany, sql, values)
        return self

    def _run(self, opened: sqlite3.Connection, how: Callable[..., Any], *given: Any) -> None:
        cursor = opened.cursor()
        try:
            how(cursor, *given)
            self._rows = cursor.fetchall()
            self.description, self.rowcount = cursor.description, cursor.rowcount
            self.lastrowid = cursor.lastrowid
        finally:
            cursor.close()

    async def fetchall(self) -> list[Any]:
        return self._rows

    async def close(self) -> None:
        self._rows = []


class Driver(aiosqlite.Connection):
    """aiosqlite's connection with few trips to its thread: most of a transaction were those."""

    _left_behind = False  # a trip whose end nobody waited for may still be on its way

    @override
    def cursor(self) -> Any:  # an aiosqlite.Cursor as far as SQLAlchemy uses it
        """See `_Cursor`."""
        return _Cursor(self)

    async def trip(self, work: Callable[..., T], *given: Any) -> T:
        """Call `work` with sqlite3's connection, and what is given, in the thread."""
        return cast("T", await self._execute(lambda: work(self._conn, *given)))

    @override
    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return await super()._execute(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        except asyncio.CancelledError:
            self._left_behind = True
            raise

    @override
    async def rollback(self) -> None:
        """The pool asks for it after every transaction, and hardly ever is there one."""
        if self._left_behind or self.in_transaction:
            self._left_behind = False
            await super().rollback()


def connect(*args: Any, **options: Any) -> Driver:
    """To be awaited, with the arguments of `sqlite3.connect`: SQLAlchemy's `async_creator_fn`."""
    driver = Driver(partial(sqlite3.connect, *args, **options), iter_chunk_size=64)
    # As SQLAlchemy has it: who is stuck in SQLite stops no exit.
    driver._thread.daemon = True  # noqa: SLF001 there is no public way
    return driver


def install(engine: AsyncEngine) -> "WeakSet[Thread]":
    """Set up each new connection of `engine`, and how its transactions begin.

    Returns:
        The threads of its connections; see `ended`.
    """
    threads: WeakSet[Thread] = WeakSet()

    def on_connect(connection: DBAPIConnection, record: object) -> None:
        driver: Any = connection
        threads.add(driver.driver_connection._thread)  # noqa: SLF001 there is no public way
        _on_connect(connection, record)

    event.listen(engine.sync_engine, "connect", on_connect)
    event.listen(engine.sync_engine, "begin", _on_begin)
    return threads


async def ended(threads: "WeakSet[Thread]") -> None:
    """Wait for the threads of connections that were closed, bounded.

    One whose statement was cancelled (Ctrl-C) is still at it. It would report to an event loop that
    is closed by then, and die of it with a traceback.
    """
    for thread in list(threads):
        await asyncio.to_thread(thread.join, _LEAVE)


def _on_connect(connection: DBAPIConnection, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves; the driver's way is BEGIN DEFERRED
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.execute("PRAGMA journal_mode=WAL")
    row = cursor.fetchone()
    cursor.close()
    if row is None or row[0] != "wal":
        raise StorageError(
            "SQLite can't use a write-ahead log here; put data_dir on a local disk, or use "
            "PostgreSQL (database.url)"
        )


def _on_begin(connection: Connection) -> None:
    writes = bool(connection.get_execution_options().get(WRITES))
    # A write that slipped into a read transaction would go past the gate: SQLite refuses it.
    begin = "PRAGMA query_only=OFF; BEGIN IMMEDIATE" if writes else "PRAGMA query_only=ON; BEGIN"
    # One trip to the driver's thread instead of six: such trips are most of a transaction's time.
    adapted = cast("AdaptedConnection", connection.connection.dbapi_connection)
    adapted.run_async(lambda driver: driver.executescript(begin))
