"""Sealing anew: whatever a former `secret_key` has sealed, under the current one.

Row by row, each in a transaction with its own look at what holds then: it may be stopped at any
point, run beside an instance, and run again; what is under the current key stays as it is.
Remembered answers to Idempotency-Keys are left alone: they live for a day, former keys for longer.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import RowMapping, Table, select
from sqlalchemy import update as update_rows
from sqlalchemy.ext.asyncio import AsyncConnection

from router.control import audit
from router.control.context import Control
from router.control.model import Actor
from router.providers import carriers
from router.storage import batch
from router.storage.connections import tell
from router.storage.schema import agents, connections, documents, numbers, orders
from router.vault import Unreadable, Vault, reseal

_PAGE: Final = 200
_decoder: Final = msgspec.json.Decoder(dict[str, Any])

# Where documents with sealed secrets are; the owner of each is its row's id.
_DOCUMENTS: Final = (
    (documents, "body"),
    (agents, "config"),
    (numbers, "details"),
    (orders, "request"),
)


class Rotated(NamedTuple):
    """What was done."""

    sealed: dict[str, int]  # table → rows that were sealed anew
    unreadable: Sequence[str]  # `table id` of what no key here opens

    @property
    def total(self) -> int:
        """Rows that were sealed anew."""
        return sum(self.sealed.values())


async def seal_anew(control: Control, actor: Actor) -> Rotated:
    """Seal all of every account under the vault's first key, and tell the connections anew.

    Raises:
        StorageUnavailable: part of it may be done; run it again.
    """
    sealed: dict[str, int] = {}
    unreadable: list[str] = []
    for table, work in (
        (connections, _connection),
        *((table, _document(table, column)) for table, column in _DOCUMENTS),
    ):
        sealed[table.name] = 0
        async for row in _rows(control, table):
            try:
                if _is_former(control.vault, table, row):
                    sealed[table.name] += await _written(control, table, row["id"], work)
            except Unreadable:
                unreadable.append(f"{table.name} {row['id']}")
    done = Rotated(sealed, unreadable)
    if done.total:
        async with control.database.write() as connection:
            await audit.record(connection, actor, "secrets.rotated", "", after={"sealed": sealed})
    return done


_Work = Callable[[AsyncConnection, Vault, RowMapping], Awaitable[bool]]


async def _written(control: Control, table: Table, row_id: str, work: _Work) -> bool:
    """Whether it was sealed anew, as it is by then. Raises Unreadable."""
    query = select(table).where(table.c.id == row_id).with_for_update()

    async def write(connection: AsyncConnection) -> bool:
        row = (await connection.execute(query)).mappings().first()
        return row is not None and await work(connection, control.vault, row)

    return await control.database.transact(write)


def _is_former(vault: Vault, table: Table, row: RowMapping) -> bool:
    if table is connections:
        return not vault.is_current(row["sealed"])
    column = dict(_DOCUMENTS)[table]
    return reseal(vault, row["id"], _decoder.decode(row[column])) is not None


async def _connection(connection: AsyncConnection, vault: Vault, row: RowMapping) -> bool:
    if vault.is_current(row["sealed"]):
        return False
    fresh = vault.seal(row["id"], vault.open(row["id"], row["sealed"]))
    epoch, rev, now = (await connection.execute(batch.NEXT)).one()
    this = connections.c.id == row["id"]
    await connection.execute(update_rows(connections).where(this).values(sealed=fresh, rev=rev))
    if row["provider"] in carriers():
        changed = (await connection.execute(select(connections).where(this))).mappings().one()
        await tell(connection, row["id"], changed, version=(epoch, rev), now=now)
    return True


def _document(table: Table, column: str) -> _Work:
    async def work(connection: AsyncConnection, vault: Vault, row: RowMapping) -> bool:
        fresh = reseal(vault, row["id"], _decoder.decode(row[column]))
        if fresh is None:
            return False
        statement = update_rows(table).where(table.c.id == row["id"])
        await connection.execute(statement.values({column: msgspec.json.encode(fresh).decode()}))
        return True

    return work


async def _rows(control: Control, table: Table) -> AsyncIterator[RowMapping]:
    last = ""
    while True:
        query = select(table).where(table.c.id > last).order_by(table.c.id).limit(_PAGE)
        async with control.database.read() as connection:
            page = (await connection.execute(query)).mappings().all()
        for row in page:
            yield row
        if len(page) < _PAGE:
            return
        last = page[-1]["id"]
