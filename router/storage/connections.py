"""Connections as every process needs them: their rows, told on `telephony.connections`.

The topic is compacted: the key is the connection's id, the value what verifies and answers for it,
sealed; a tombstone once it is deleted. Like a route it carries the version of its change, from the
same `revision` row: a database that was restored begins a new epoch for both.
"""

from collections.abc import AsyncIterator
from typing import Final

import msgspec
from sqlalchemy import RowMapping, select
from sqlalchemy.ext.asyncio import AsyncConnection

from router.events.codec import CONTENT_TYPE, to_rfc3339
from router.events.ids import event_id
from router.events.types import CONNECTIONS_TOPIC
from router.routing.table import FIRST_EPOCH, Version
from router.storage import outbox
from router.storage.engine import Database
from router.storage.records import EPOCH, REV
from router.storage.schema import connections, revision

CONNECTION_SCHEMA: Final = "switchboard/connection/1"
_PAGE: Final = 500


class SealedConnection(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The value of a record: what a process needs to know of a connection."""

    id: str
    account_id: str
    provider: str
    provider_account: str = ""
    created_at: int  # µs since epoch
    rev: int
    epoch: int = FIRST_EPOCH
    sealed: bytes  # base64 in JSON; `router.vault`, its owner is `id`

    @property
    def version(self) -> Version:
        """Of the change that made it."""
        return Version(self.epoch, self.rev)


def connection_draft(
    connection_id: str, value: SealedConnection | None, *, version: Version, time: int
) -> outbox.Draft:
    """The record of what holds now; None: it is gone. `time` (µs) makes the id of a repeat new."""
    epoch, rev = version
    headers = {
        "ce_specversion": "1.0",
        "ce_id": event_id("connection", connection_id, str(epoch), str(rev), str(time)),
        "ce_type": "connection.changed",
        "ce_source": "/switchboard",
        "ce_time": to_rfc3339(time),
        "ce_dataschema": CONNECTION_SCHEMA,
        "content-type": CONTENT_TYPE,
        REV: str(rev),
    }
    if epoch != FIRST_EPOCH:
        headers[EPOCH] = str(epoch)
    encoded = None if value is None else msgspec.json.encode(value)
    return outbox.Draft(CONNECTIONS_TOPIC, connection_id, encoded, headers)


async def tell(
    connection: AsyncConnection,
    connection_id: str,
    row: RowMapping | None,
    *,
    version: tuple[int, int],
    now: int,
) -> None:
    """Put what was written into the outbox, in the transaction that wrote it; None: deleted."""
    at = Version(*version)
    value = None if row is None else _sealed(row, at.epoch)
    draft = connection_draft(connection_id, value, version=at, time=now)
    await outbox.add(connection, [draft], now=now)


async def published(db: Database, providers: frozenset[str]) -> AsyncIterator[SealedConnection]:
    """Every connection at these providers, whosever it is, page by page."""
    last = ""
    while True:
        query = (
            select(connections, select(revision.c.epoch).scalar_subquery().label("epoch"))
            .where(connections.c.id > last, connections.c.provider.in_(providers))
            .order_by(connections.c.id)
            .limit(_PAGE)
        )
        async with db.read() as connection:
            page = (await connection.execute(query)).mappings().all()
        for row in page:
            yield _sealed(row, row["epoch"])
        if len(page) < _PAGE:
            return
        last = page[-1]["id"]


def _sealed(row: RowMapping, epoch: int) -> SealedConnection:
    return SealedConnection(
        id=row["id"],
        account_id=row["account_id"],
        provider=row["provider"],
        provider_account=row["provider_account"],
        created_at=row["created_at"],
        rev=row["rev"],
        epoch=epoch,
        sealed=row["sealed"],
    )
