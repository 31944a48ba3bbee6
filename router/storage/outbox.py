"""The outbox: log records that were decided in a transaction and wait to be appended to the log.

They are read by id and deleted when the log has them, so a row whose transaction commits late is
seen later, never passed over. Rows of one key are in the order of their commits: who changes a
number has it locked (`router.storage.mapping`). Appending twice does no harm: the log knows each
record by its `ce_id`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from router.storage.engine import Database
from router.storage.schema import outbox
from router.storage.sql import now_micros

_decoder = msgspec.json.Decoder(dict[str, str])
_ADD: Final = insert(outbox)


@dataclass(frozen=True, slots=True)
class Draft:
    """A log record to be; `value` None is a tombstone."""

    topic: str
    key: str
    value: bytes | None
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Entry(Draft):
    """A draft that waits in the outbox."""

    id: int
    created_at: int  # µs since epoch


async def add(connection: AsyncConnection, drafts: Iterable[Draft], *, now: int) -> None:
    """Put drafts into the outbox, in order; of a mapping's change: with what it changes locked."""
    rows = [
        {
            "topic": draft.topic,
            "key": draft.key,
            "value": draft.value,
            "headers": msgspec.json.encode(draft.headers).decode(),
            "created_at": now,
        }
        for draft in drafts
    ]
    if rows:
        await connection.execute(_ADD, rows)


async def post(db: Database, drafts: Sequence[Draft]) -> None:
    """Put drafts into the outbox that follow from no change of the mapping.

    Raises:
        StorageUnavailable: try again; records with a `ce_id` reach the log once.
    """

    async def work(connection: AsyncConnection) -> None:
        now = (await connection.execute(select(now_micros()))).scalar_one()
        await add(connection, drafts, now=now)

    await db.transact(work)


async def pending(db: Database, limit: int) -> Sequence[Entry]:
    """The oldest `limit` entries, in the order in which they must reach the log.

    Raises:
        StorageUnavailable: try again.
    """
    async with db.read() as connection:
        rows = (await connection.execute(select(outbox).order_by(outbox.c.id).limit(limit))).all()
    return [
        Entry(
            topic=row.topic,
            key=row.key,
            value=row.value,
            headers=_decoder.decode(row.headers),
            id=row.id,
            created_at=row.created_at,
        )
        for row in rows
    ]


async def done(db: Database, ids: Sequence[int]) -> None:
    """The log has these entries of one `pending`: forget them.

    Raises:
        StorageUnavailable: they stay, and will be pending again.
    """
    if ids:
        async with db.write() as connection:
            await connection.execute(delete(outbox).where(outbox.c.id.in_(ids)))


async def count(db: Database) -> int:
    """How many entries wait.

    Raises:
        StorageUnavailable: try again.
    """
    async with db.read() as connection:
        return int(
            (await connection.execute(select(func.count()).select_from(outbox))).scalar_one()
        )


async def removals(db: Database, topic: str) -> set[str]:
    """The keys that a waiting tombstone of `topic` is about.

    Raises:
        StorageUnavailable: try again.
    """
    query = select(outbox.c.key).where(outbox.c.topic == topic, outbox.c.value.is_(None))
    async with db.read() as connection:
        return set((await connection.execute(query)).scalars())
