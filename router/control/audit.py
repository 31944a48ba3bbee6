"""Who changed what: a row for each change, written in the transaction of the change.

As everywhere in `router.control`, a function has its statements in it: SQLAlchemy Core over
`router.storage.schema`, the account in every WHERE.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import RowMapping, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from router.control.context import Control
from router.control.model import Actor, AuditRow, Page, can_be_asked_for
from router.errors import Forbidden
from router.storage.schema import audit
from router.storage.sql import now_micros, paged
from router.vault import hidden


async def record(
    connection: AsyncConnection,
    actor: Actor,
    action: str,
    object_id: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    account_id: str = "",
) -> None:
    """Write one row; secrets in `before` and `after` are masked here.

    `account_id`: whose the object is, where it is not the actor's account (an admin's changes).
    """
    await connection.execute(
        insert(audit).values(
            account_id=account_id or actor.account_id,
            actor=actor.name,
            action=action,
            object_id=object_id,
            before=_json(before),
            after=_json(after),
            request_id=actor.request_id,
            created_at=now_micros(),
        )
    )


async def list_(
    control: Control,
    actor: Actor,
    *,
    everybody: bool = False,
    object_id: str = "",
    offset: int = 0,
    limit: int = 50,
) -> Page[AuditRow]:
    """Newest first; `everybody` for scope `admin` alone. Raises Forbidden."""
    if everybody and "admin" not in actor.scopes:
        raise Forbidden("the changes of every account are for tokens with the scope admin")
    if not can_be_asked_for(object_id):
        return Page([], 0)
    conditions = [] if everybody else [audit.c.account_id == actor.account_id]
    if object_id:
        conditions.append(audit.c.object_id == object_id)
    newest = audit.c.id.desc()
    page = paged(select(audit.c.id).where(*conditions).order_by(newest), offset, limit)
    items = select(audit).where(audit.c.id.in_(page)).order_by(newest)
    count = select(func.count()).select_from(audit).where(*conditions)
    async with control.database.read() as connection:
        rows = (await connection.execute(items)).mappings()
        return Page([_row(row) for row in rows], (await connection.execute(count)).scalar_one())


def _json(document: Mapping[str, Any] | None) -> str | None:
    return None if document is None else msgspec.json.encode(hidden(document)).decode()


def _row(row: RowMapping) -> AuditRow:
    documents = {
        name: None if row[name] is None else msgspec.json.decode(row[name])
        for name in ("before", "after")
    }
    return AuditRow(**{**row, **documents})
