"""Who changed what: a row for each change, written in the transaction of the change."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from router.control.context import Control
from router.control.model import Actor, AuditRow, Page


async def record(
    connection: AsyncConnection,
    actor: Actor,
    action: str,
    object_id: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Write one row; secrets in `before` and `after` are masked here."""
    raise NotImplementedError


async def list_(
    control: Control,
    actor: Actor,
    *,
    everybody: bool = False,
    object_id: str = "",
    offset: int = 0,
    limit: int = 50,
) -> Page[AuditRow]:
    """Newest first; `everybody` for scope `admin` alone."""
    raise NotImplementedError
