"""Idempotency keys: what a creating request was answered, so that its repetition gets the same.

A key is taken before the request is carried out. One whose process died in between is free again
when its lease has run out, so that a crash costs a minute and not a day.
"""

from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, and_, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from router.storage.engine import Database
from router.storage.schema import idempotency_keys as keys
from router.storage.sql import insert, micros, now_micros

KEPT: Final = 86_400.0  # seconds
_AT_ONCE: Final = 1000  # rows that one transaction removes


class Taken(NamedTuple):
    """The key is ours: carry out the request, then `finish` or `forget`."""

    fence: int


class Finished(NamedTuple):
    """The request was answered with this."""

    status: int
    body: bytes


class InFlight(NamedTuple):
    """The same request is being carried out."""


class Different(NamedTuple):
    """The key belongs to another request."""


Outcome = Taken | Finished | InFlight | Different


async def begin(db: Database, account_id: str, key: str, request: str, *, lease: float) -> Outcome:
    """Take a key for a request (its SHA-256), or say what holds it; `lease` in seconds."""

    async def work(connection: AsyncConnection) -> Outcome:
        fresh = {"request": request, "status": None, "body": None, "created_at": now_micros()}
        made = await connection.execute(
            insert(db.dialect, keys)
            .values(account_id=account_id, key=key, **fresh)
            .on_conflict_do_nothing()
            .returning(keys.c.created_at)
        )
        if (fence := made.scalar_one_or_none()) is not None:
            return Taken(fence)
        row = (
            await connection.execute(
                select(
                    keys.c.request,
                    keys.c.status,
                    keys.c.body,
                    keys.c.created_at,
                    (now_micros() - keys.c.created_at).label("age"),
                )
                .where(_is(account_id, key))
                .with_for_update()
            )
        ).one_or_none()
        if row is None:  # pruned in between
            return InFlight()
        abandoned = row.status is None and row.age > micros(lease)
        if row.age <= micros(KEPT) and row.request != request:
            return Different()
        if row.age <= micros(KEPT) and not abandoned:
            return InFlight() if row.status is None else Finished(row.status, row.body)
        again = await connection.execute(
            update(keys)
            .where(_is(account_id, key), keys.c.created_at == row.created_at)
            .values(fresh)
            .returning(keys.c.created_at)
        )
        fence = again.scalar_one_or_none()
        return InFlight() if fence is None else Taken(fence)

    return await db.transact(work)


async def finish(
    db: Database, account_id: str, key: str, taken: Taken, *, status: int, body: bytes
) -> None:
    """Keep the answer. Nothing happens where another request has taken the key meanwhile."""

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(
            update(keys).where(_ours(account_id, key, taken)).values(status=status, body=body)
        )

    await db.transact(work)


async def forget(db: Database, account_id: str, key: str, taken: Taken) -> None:
    """Free the key: the request was not carried out, or failed so that it may be repeated."""

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(delete(keys).where(_ours(account_id, key, taken)))

    await db.transact(work)


async def prune(db: Database) -> int:
    """Remove keys of more than a day ago; how many."""

    async def work(connection: AsyncConnection) -> int:
        old = (
            await connection.execute(
                select(keys.c.account_id, keys.c.key, keys.c.created_at)
                .where(keys.c.created_at < now_micros() - micros(KEPT))
                .limit(_AT_ONCE)
            )
        ).all()
        for row in old:
            await connection.execute(
                delete(keys).where(
                    _is(row.account_id, row.key), keys.c.created_at == row.created_at
                )
            )
        return len(old)

    removed = 0
    while count := await db.transact(work, yields=True):
        removed += count
    return removed


def _is(account_id: str, key: str) -> ColumnElement[bool]:
    return and_(keys.c.account_id == account_id, keys.c.key == key)


def _ours(account_id: str, key: str, taken: Taken) -> ColumnElement[bool]:
    return and_(_is(account_id, key), keys.c.created_at == taken.fence, keys.c.status.is_(None))
