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
from typing import Final, TypeVar

from sqlalchemy import URL, NullPool, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from config.settings import Settings
from router.errors import ConfigError, StorageUnavailable
from router.storage import sqlite
from router.storage.failures import Conflict, translated

T = TypeVar("T")

LIMIT: Final = 10.0  # seconds that a transaction may take in all
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

    def __init__(self, engine: AsyncEngine, gate: sqlite.Gate | None) -> None:
        self._engine = engine
        self._gate = gate  # SQLite's; PostgreSQL needs none

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
        async with self._transaction(limit, writes=False) as connection:
            yield connection

    @asynccontextmanager
    async def write(
        self, *, limit: float = LIMIT, yields: bool = False
    ) -> AsyncIterator[AsyncConnection]:
        """A transaction that commits at the end of the block; it may take `limit` seconds.

        One that `yields` lets others go first where there is one writer (SQLite): callers wait for
        claims, and nobody for a record.

        Where the connection breaks during the commit, StorageUnavailable leaves open whether it
        was written: what is done in the block must bear being done again.

        Raises:
            StorageUnavailable: no connection, a lock not free in time, or too slow.
            StorageError: the database refused.
        """
        async with AsyncExitStack() as stack:
            if self._gate is not None:
                await stack.enter_async_context(self._gate.held(yields=yields))
            yield await stack.enter_async_context(self._transaction(limit, writes=True))

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
        with translated():
            async with engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def _transaction(self, limit: float, *, writes: bool) -> AsyncIterator[AsyncConnection]:
        options = {sqlite.WRITES: writes, "postgresql_readonly": not writes}
        timer = asyncio.timeout(limit)
        try:
            with translated():
                async with timer, self._engine.connect() as connection:
                    await connection.execution_options(**options)
                    async with connection.begin():
                        yield connection
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise StorageUnavailable(f"a transaction took longer than {limit:g} s") from error


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """The database that `settings` name, until the end of the block.

    PostgreSQL is first asked when it is first needed, so a start does not depend on it.

    Raises:
        ConfigError: `database.url` is not one that Switchboard can use.
        StorageUnavailable: SQLite's file is held by another process.
    """
    url = _url(settings.database_url)
    if url.get_backend_name() == "sqlite":
        async with _open_sqlite(url) as database:
            yield database
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
        yield Database(engine, None)
    finally:
        await engine.dispose()


@asynccontextmanager
async def _open_sqlite(url: URL) -> AsyncIterator[Database]:
    path = Path(str(url.database))
    sqlite.prepare_folder(path)
    gate = sqlite.Gate(path.with_name(path.name + ".lock"), limit=_WAIT)
    engine = create_async_engine(
        url, pool_size=1, max_overflow=0, pool_timeout=_WAIT, hide_parameters=True
    )
    sqlite.install(engine)
    database = Database(engine, gate)
    try:
        async with (
            database.write() as connection
        ):  # a log left by a crash is recovered behind the gate
            await connection.execute(text("SELECT count(*) FROM sqlite_master"))
        yield database
    finally:
        await _close_sqlite(engine, gate)


async def _close_sqlite(engine: AsyncEngine, gate: sqlite.Gate) -> None:
    try:
        async with gate.held():
            await engine.dispose()
    except StorageUnavailable:
        # Another process sits on the gate: it is stuck, not checkpointing.
        await engine.dispose()
    finally:
        gate.close()


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
