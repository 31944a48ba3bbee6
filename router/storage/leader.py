"""One process among many that does a job: the relay of the outbox.

PostgreSQL: an advisory lock that lives and dies with a connection of its own
(https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS); a pooler in
transaction mode between us and the server breaks it. Losing the connection is losing the lead, so
the connection is asked all the time, and the work is stopped when it does not answer. Between the
loss and the stop two may lead: what a leader does must bear being done twice.

SQLite has one node: it leads.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Final, cast

import psycopg
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from router.errors import StorageUnavailable
from router.storage.engine import OUTBOX, Database

_EVERY: Final = 2.0  # seconds between two questions to the connection
_ANSWER: Final = 3.0  # seconds that it may take to answer


@asynccontextmanager
async def leader(db: Database, name: str, *, listens: bool = False) -> AsyncIterator[bool]:
    """Whether this process leads the job `name` until the block's end; False: another one does.

    With `listens`, `db.filled` is set whenever anybody has written to the outbox: the lead's
    connection hears of it, so that a change need not wait until the leader looks.

    Raises:
        StorageUnavailable: the lead was lost, and the block was cancelled for it; or the database
            could not be asked.
    """
    if db.dialect == "sqlite":
        yield True
        return
    async with db.session() as connection:
        if not (
            await connection.execute(select(func.pg_try_advisory_lock(_key(name))))
        ).scalar_one():
            yield False
            return
        lost = asyncio.timeout(None)
        try:
            async with lost:
                watching = _watch(connection, lost, db.filled if listens else None)
                watch = asyncio.create_task(watching, name=f"leader of {name}")
                try:
                    yield True
                finally:
                    await _stop(watch)
        except TimeoutError as error:
            if not lost.expired():
                raise
            raise StorageUnavailable(f"this process leads {name} no longer") from error


async def _watch(
    connection: AsyncConnection, lost: asyncio.Timeout, filled: asyncio.Event | None
) -> None:
    """Ask the connection until it fails, then end the block."""
    try:
        if filled is not None:
            await connection.execute(text(f"LISTEN {OUTBOX}"))
        while True:
            if filled is None:
                await asyncio.sleep(_EVERY)
            else:
                await _listen(connection, filled)
            async with asyncio.timeout(_ANSWER):
                await connection.execute(select(1))
    except (SQLAlchemyError, psycopg.Error, TimeoutError, OSError):
        lost.reschedule(asyncio.get_running_loop().time())


async def _listen(connection: AsyncConnection, filled: asyncio.Event) -> None:
    """Hear what others told, for `_EVERY` seconds; what comes between two calls is kept."""
    opened = (await connection.get_raw_connection()).driver_connection
    driver = cast("psycopg.AsyncConnection", opened)
    async for _ in driver.notifies(timeout=_EVERY):
        filled.set()


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _key(name: str) -> int:
    """A 64-bit number for PostgreSQL, the same in every process."""
    digest = sha256(f"switchboard/leader/{name}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)
