"""The outbox: log records that were decided in a transaction and wait to be appended to the log.

They are read by id and deleted when the log has them, so a row whose transaction commits late is
seen later, never passed over. Rows of one key are in the order of their commits: who changes a
number has it locked (`router.storage.mapping`). Appending twice does no harm: the log knows each
record by its `ce_id`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from sqlalchemy import bindparam, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from router.storage.engine import OUTBOX, Database
from router.storage.schema import outbox
from router.storage.sql import execute_many, now_micros

_decoder = msgspec.json.Decoder(dict[str, str])
_encoder = msgspec.json.Encoder()
_COLUMNS: Final = (outbox.c.topic, outbox.c.key, outbox.c.value, outbox.c.headers)
_ADD: Final = (
    insert(outbox)
    .inline()
    .values({column: bindparam(column.name) for column in (*_COLUMNS, outbox.c.created_at)})
)
_ENDS: Final = select(
    select(func.min(outbox.c.id)).scalar_subquery(), select(func.max(outbox.c.id)).scalar_subquery()
)
_PENDING: Final = select(*_COLUMNS, outbox.c.id, outbox.c.created_at).order_by(outbox.c.id)
_NOTIFY: Final = select(func.pg_notify(OUTBOX, ""))


class Draft(msgspec.Struct, frozen=True):
    """A log record to be; `value` None is a tombstone."""

    topic: str
    key: str
    value: bytes | None
    headers: Mapping[str, str]


class Entry(Draft, frozen=True):
    """A draft that waits in the outbox."""

    id: int
    created_at: int  # µs since epoch


async def add(connection: AsyncConnection, drafts: Iterable[Draft], *, now: int) -> None:
    """Put drafts into the outbox, in order; of a mapping's change: with what it changes locked."""
    rows = [
        (draft.topic, draft.key, draft.value, _encoder.encode(draft.headers).decode(), now)
        for draft in drafts
    ]
    if not rows:
        return
    await execute_many(connection, _ADD, rows)
    connection.info[OUTBOX] = True
    if connection.dialect.name == "postgresql":
        await connection.execute(_NOTIFY)  # heard when this transaction commits


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
        rows = (await connection.execute(_PENDING.limit(limit))).all()
    return [
        Entry(topic, key, value, _decoder.decode(headers), id_, created_at)
        for topic, key, value, headers, id_, created_at in rows
    ]


async def done(db: Database, ids: Sequence[int]) -> None:
    """The log has these entries of one `pending`: forget them.

    Raises:
        StorageUnavailable: they stay, and will be pending again.
    """
    if not ids:
        return
    first, last = min(ids), max(ids)
    without_gap = last - first + 1 == len(ids)  # then a range names them all, and costs a tenth
    these = outbox.c.id.between(first, last) if without_gap else outbox.c.id.in_(ids)
    async with db.write() as connection:
        await connection.execute(delete(outbox).where(these))


async def count(db: Database) -> int:
    """How many entries wait.

    Raises:
        StorageUnavailable: try again.
    """
    async with db.read() as connection:
        return int(
            (await connection.execute(select(func.count()).select_from(outbox))).scalar_one()
        )


async def span(db: Database) -> int:
    """How many entries wait at most: ids may have gaps. It looks at two entries, not at all.

    Raises:
        StorageUnavailable: try again.
    """
    async with db.read() as connection:
        first, last = (await connection.execute(_ENDS)).one()
    return 0 if first is None else int(last - first + 1)


async def removals(db: Database, topic: str) -> set[str]:
    """The keys that a waiting tombstone of `topic` is about.

    Raises:
        StorageUnavailable: try again.
    """
    query = select(outbox.c.key).where(outbox.c.topic == topic, outbox.c.value.is_(None))
    async with db.read() as connection:
        return set((await connection.execute(query)).scalars())
