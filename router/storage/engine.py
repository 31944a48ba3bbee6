"""The database: SQLite in the data folder by default, PostgreSQL at scale, one way to use either.

A transaction is a `with` block: `async with db.write() as connection: …` commits at its end and
rolls back on any exception. Everything is bounded: waiting for a connection, for a lock, a
statement, and the transaction as a whole (a server that is stopped, not gone, answers nothing at
all, and no time-out of its own then helps; psycopg then takes up to 10 s more to give it up).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from threading import Thread
from typing import Final, TypeVar
from weakref import WeakSet

from sqlalchemy import URL, NullPool, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from config.settings import Settings
from router.errors import ConfigError, StorageUnavailable
from router.storage import sqlite
from router.storage.failures import Conflict, Unusable, no_connection, translated, unusable

T = TypeVar("T")

LIMIT: Final = 10.0  # seconds that a transaction may take in all
OUTBOX: Final = "switchboard_outbox"
"""In `connection.info`: the transaction wrote to the outbox. Also PostgreSQL's channel for that."""
_WAIT: Final = 5.0  # seconds to wait for a connection or for SQLite's gate
_TRIES: Final = 4  # of a transaction that PostgreSQL rolled back for another one

# Server-side limits per connection, in ms, and the sockets' own: a primary that vanished without a
# word is noticed in seconds (https://www.postgresql.org/docs/current/libpq-connect.html).
_POSTGRESQL: Final = {
    "application_name": "switchboard",
    "connect_timeout": 3,
    "options": "-c statement_timeout=5000 -c lock_timeout=3000"
    " -c idle_in_transaction_session_timeout=15000",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 6000,
}


class Database:
    """An open database. Made by `open_database`."""

    def __init__(
        self,
        engine: AsyncEngine,
        where: str,
        file: "_SqliteFile | None" = None,
        connections: int = 1,
        filled: asyncio.Event | None = None,
    ) -> None:
        self.filled = filled or asyncio.Event()
        """Set when something new is in the outbox, for who takes it from there (and clears this).

        SQLite: by every transaction of a Database that shares the event, not by other processes.
        PostgreSQL: by whoever's transaction, in the process that leads (`router.storage.leader`).
        """
        self._engine = engine
        self._file = file  # None: PostgreSQL
        # Of the connections, what those that yield may have: claims find the other half free.
        self._yielding = asyncio.Semaphore(max(1, connections // 2))
        self.where = where
        """The file, or host and database without user and password: for messages."""

    @property
    def replaced(self) -> int:
        """How often SQLite's file was found to be another one than before: what it says is old."""
        return self._file.replaced if self._file is not None else 0

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @asynccontextmanager
    async def read(self, *, limit: float = LIMIT) -> AsyncIterator[AsyncConnection]:
        """A transaction that can't write; it may take `limit` seconds.

        Raises:
            StorageUnavailable: no connection, or too slow; may be tried again.
            StorageError: the database refused.
        """
        if self._file is not None:
            await self._file.ready(self._engine)
        async with self._transaction(limit, writes=False) as connection:
            yield connection

    @asynccontextmanager
    async def write(
        self, *, limit: float = LIMIT, yields: bool = False
    ) -> AsyncIterator[AsyncConnection]:
        """A transaction that commits at the end of the block; it may take `limit` seconds.

        One that `yields` lets others go first: callers wait for claims, and nobody for a record. In
        SQLite there is one writer; of PostgreSQL's connections they take half.

        Where the connection breaks during the commit, StorageUnavailable leaves open whether it
        was written: what is done in the block must bear being done again.

        Raises:
            StorageUnavailable: no connection, a lock not free in time, or too slow.
            StorageError: the database refused.
        """
        async with AsyncExitStack() as stack:
            if self._file is not None:
                await self._file.ready(self._engine)
                await stack.enter_async_context(self._file.gate.held(yields=yields))
            elif yields:
                await stack.enter_async_context(self._half())
            async with self._transaction(limit, writes=True) as connection:
                connection.info.pop(OUTBOX, None)
                yield connection
                filled = OUTBOX in connection.info
            if filled and self._file is not None:
                self.filled.set()

    @asynccontextmanager
    async def _half(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(_WAIT):
                await self._yielding.acquire()
        except TimeoutError as error:
            raise StorageUnavailable(no_connection(self.where)) from error
        try:
            yield
        finally:
            self._yielding.release()

    async def transact(
        self,
        work: Callable[[AsyncConnection], Awaitable[T]],
        *,
        limit: float = LIMIT,
        yields: bool = False,
    ) -> T:
        """Run `work` in a write transaction, again when PostgreSQL chose it as a conflict's loser.

        Raises:
            StorageUnavailable: as `write`, or it lost every time.
        """
        turn = 1
        while True:
            try:
                async with self.write(limit=limit, yields=yields) as connection:
                    return await work(connection)
            except Conflict:
                if turn == _TRIES:
                    raise
            await asyncio.sleep(0.01 * 2**turn * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            turn += 1

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncConnection]:
        """A PostgreSQL connection outside the pool, each statement on its own: for session locks.

        Raises:
            StorageUnavailable: no connection.
        """
        engine = create_async_engine(
            self._engine.url,
            connect_args=_POSTGRESQL,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
        )
        with translated(self.where):
            async with engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def _transaction(self, limit: float, *, writes: bool) -> AsyncIterator[AsyncConnection]:
        options = {sqlite.WRITES: writes, "postgresql_readonly": not writes}
        timer = asyncio.timeout(limit)
        try:
            with translated(self.where):
                async with timer, self._engine.connect() as connection:
                    await connection.execution_options(**options)
                    async with connection.begin():
                        yield connection
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise StorageUnavailable(
                f"a transaction took longer than {limit:g} s: {self.where} is overloaded or hangs"
            ) from error
        except Unusable:
            if self._file is not None:
                self._file.opened = False
            raise


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _SqliteFile:
    """SQLite's file, first touched when it is first needed, and anew after it was unusable.

    What answers calls without a database starts whatever became of the file, and a file that was
    mended is used without a restart. So is one that took the place of ours while we used it: else
    we would go on with a file that has no name any more, and other commands with the one that has.
    """

    def __init__(self, path: Path, threads: "WeakSet[Thread]") -> None:
        self._path = path
        self._threads = threads
        self._opening = asyncio.Lock()
        self.gate = sqlite.Gate(path.with_name(path.name + ".lock"), limit=_WAIT)
        self.opened = False
        self.replaced = 0
        self._identity: tuple[int, int] | None = None  # of the file that was opened last

    async def ready(self, engine: AsyncEngine) -> None:
        """Open the file behind the gate: the log that a crash left is recovered then.

        Raises:
            StorageUnavailable: it can't be used now.
            ConfigError: its folder can't be made.
        """
        async with self._opening:
            if self.opened and _identity(self._path) != self._identity:
                self.opened = False
            if not self.opened:
                await self._open(engine)
                self.opened = True

    async def _open(self, engine: AsyncEngine) -> None:
        where = str(self._path)
        try:
            sqlite.prepare_folder(self._path)
            await self.gate.renew()
            async with self.gate.held():
                await engine.dispose()
                with translated(where):
                    async with engine.connect() as connection:
                        await connection.execution_options(**{sqlite.WRITES: True})
                        async with connection.begin():
                            count = text("SELECT count(*) FROM sqlite_master")
                            tables = (await connection.execute(count)).scalar_one()
        except OSError as error:
            raise unusable(where, error) from error
        if self._identity is not None and not tables:
            raise Unusable(
                f"the database {where} was deleted or emptied while it was in use: stop "
                "Switchboard and put your backup in its place (docs/OPERATIONS.md, Backup and "
                "restore); without one, `switchboard migrate` makes its tables anew"
            )
        identity = _identity(self._path)
        self.replaced += self._identity not in (None, identity)
        self._identity = identity

    async def close(self, engine: AsyncEngine) -> None:
        """Close it behind the gate: the last one to leave checkpoints."""
        if not self.opened:
            await engine.dispose()
            return
        try:
            async with self.gate.held():
                await engine.dispose()
        except StorageUnavailable:
            # Another process sits on the gate: it is stuck, not checkpointing.
            await engine.dispose()
        finally:
            self.gate.close()
            await sqlite.ended(self._threads)


@asynccontextmanager
async def open_database(
    settings: Settings, *, filled: asyncio.Event | None = None
) -> AsyncIterator[Database]:
    """The database that `settings` name, until the end of the block.

    It is first asked when it is first needed, so a start does not depend on it. `filled`: see
    `Database`; what opens the same database twice in a process gives both the same event.

    Raises:
        ConfigError: `database.url` is not one that Switchboard can use.
    """
    url = _url(settings.database_url)
    if url.get_backend_name() == "sqlite":
        path = Path(str(url.database))
        engine = create_async_engine(
            url,
            connect_args={"async_creator_fn": sqlite.connect},
            pool_size=1,
            max_overflow=0,
            pool_timeout=_WAIT,
            hide_parameters=True,
        )
        file = _SqliteFile(path, sqlite.install(engine))
        try:
            yield Database(engine, str(path), file, filled=filled)
        finally:
            await file.close(engine)
        return
    engine = create_async_engine(
        url,
        connect_args=_POSTGRESQL,
        pool_size=settings.database.pool_size,
        max_overflow=0,
        pool_timeout=_WAIT,
        pool_pre_ping=True,
        hide_parameters=True,
    )
    try:
        yield Database(engine, _place(url), connections=settings.database.pool_size, filled=filled)
    finally:
        await engine.dispose()


def _place(url: URL) -> str:
    """Where a PostgreSQL is, without user and password: they may also be in the query."""
    host = url.host or url.query.get("host") or "the local socket"
    port = f":{url.port}" if url.port else ""
    return f"{host}{port}/{url.database or ''}"


def _url(value: str) -> URL:
    try:
        url = make_url(value)
    except ArgumentError:  # its text may quote the password
        raise ConfigError("database.url is not a URL", key="database.url") from None
    match url.get_backend_name():
        case "sqlite" if url.database not in (None, "", ":memory:"):
            return url.set(drivername="sqlite+aiosqlite")
        case "postgresql" | "postgres":
            return url.set(drivername="postgresql+psycopg")
        case _:
            raise ConfigError(
                "database.url must be empty (SQLite in data_dir), sqlite+aiosqlite:///<file> or "
                "postgresql+psycopg://user:password@host/name",
                key="database.url",
            )
