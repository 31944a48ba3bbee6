"""Call records: the events of each call, and the record that they fold into.

The record is never changed by hand, it is folded anew from all of the call's events whenever one
more came; so the order in which they arrive does not matter, and a fold that learns something new
can be run over the past. Every function may raise StorageUnavailable.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import RowMapping, Select, and_, func, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from router.events.call import CallRecord, CallState
from router.events.model import Event, EventData
from router.events.types import EventType
from router.storage.engine import Database
from router.storage.schema import call_events, calls
from router.storage.sql import insert, micros, now_micros

Fold = Callable[[Sequence[Event]], CallRecord]
"""All events of one call, by time, to its record. Pure."""

_LOCKS: Final = 1  # our class among PostgreSQL's advisory locks of two numbers
_decoder: Final = msgspec.json.Decoder(EventData)


async def record(db: Database, event: Event, fold: Fold) -> tuple[CallRecord, bool]:
    """Keep `event` and fold its call anew; the record, and whether the event was new.

    Raises:
        ValueError: the event is about no call.
    """
    if not event.call_id:
        raise ValueError(f"{event.type.value} is about no call")

    async def work(connection: AsyncConnection) -> tuple[CallRecord, bool]:
        await _lock(connection, event.call_id)
        if not await _add(connection, event):
            query = select(calls).where(calls.c.call_id == event.call_id)
            return _record((await connection.execute(query)).mappings().one()), False
        record = fold(await _events(connection, event.call_id))
        await _put(connection, record)
        return record, True

    return await db.transact(work)


async def get(db: Database, call_id: str) -> CallRecord | None:
    """The record of one call."""
    found = await _fetch(db, select(calls).where(calls.c.call_id == call_id))
    return found[0] if found else None


async def find(db: Database, text: str) -> CallRecord | None:
    """The newest call whose id begins with `text`, or whose provider calls it exactly that."""
    if not text:
        return None
    # Ids are ASCII and sorted bytewise, so "~" is above every way that `text` can go on.
    begins = and_(calls.c.call_id >= text, calls.c.call_id <= text + "~")
    query = select(calls).where(or_(begins, calls.c.provider_call_id == text))
    found = await _fetch(db, query.order_by(calls.c.initiated_at.desc()).limit(1))
    return found[0] if found else None


async def list_calls(
    db: Database, *, limit: int, before: str | None = None, state: CallState | None = None
) -> Sequence[CallRecord]:
    """Up to `limit` calls, newest first, that come after the call with the id `before`."""
    place = tuple_(calls.c.initiated_at, calls.c.call_id)
    query = select(calls)
    if before is not None:
        last = select(calls.c.initiated_at, calls.c.call_id).where(calls.c.call_id == before)
        query = query.where(place < last.scalar_subquery())
    if state is not None:
        query = query.where(calls.c.state == state)
    order = (calls.c.initiated_at.desc(), calls.c.call_id.desc())
    return await _fetch(db, query.order_by(*order).limit(limit))


async def events(db: Database, call_id: str) -> Sequence[Event]:
    """All events of a call, by time."""
    async with db.read() as connection:
        return await _events(connection, call_id)


async def open_calls(db: Database, older_than: float, *, limit: int = 100) -> Sequence[CallRecord]:
    """Up to `limit` calls begun over `older_than` seconds ago that have not ended, oldest first."""
    began = calls.c.initiated_at < now_micros() - micros(older_than)
    query = select(calls).where(calls.c.state != "ended", began)
    return await _fetch(db, query.order_by(calls.c.initiated_at).limit(limit))


async def _fetch(db: Database, query: Select[Any]) -> Sequence[CallRecord]:
    async with db.read() as connection:
        return [_record(row) for row in (await connection.execute(query)).mappings()]


async def _lock(connection: AsyncConnection, call_id: str) -> None:
    """Be the only one who folds this call until the transaction ends.

    Its row can't be locked, it may not be there yet. In SQLite nobody else writes anyhow.
    """
    if connection.dialect.name == "postgresql":
        lock = func.pg_advisory_xact_lock(_LOCKS, func.hashtext(call_id))
        await connection.execute(select(lock))


async def _add(connection: AsyncConnection, event: Event) -> bool:
    statement = (
        insert(connection.dialect.name, call_events)
        .values(
            event_id=event.id,
            call_id=event.call_id,
            type=event.type.value,
            time=event.time,
            source=event.source,
            data=msgspec.json.encode(event.data),
        )
        .on_conflict_do_nothing(index_elements=[call_events.c.event_id])
        .returning(call_events.c.event_id)
    )
    return (await connection.execute(statement)).one_or_none() is not None


async def _events(connection: AsyncConnection, call_id: str) -> Sequence[Event]:
    query = (
        select(call_events)
        .where(call_events.c.call_id == call_id)
        .order_by(call_events.c.time, call_events.c.event_id)
    )
    return [
        Event(
            id=row.event_id,
            type=EventType(row.type),
            source=row.source,
            time=row.time,
            key=row.call_id,
            data=_decoder.decode(row.data),
        )
        for row in await connection.execute(query)
    ]


async def _put(connection: AsyncConnection, record: CallRecord) -> None:
    values = {name: _storable(value) for name, value in msgspec.structs.asdict(record).items()}
    statement = insert(connection.dialect.name, calls).values(values)
    await connection.execute(
        statement.on_conflict_do_update(index_elements=[calls.c.call_id], set_=values)
    )


def _storable(value: Any) -> Any:
    # A caller's SIP user may hold anything; PostgreSQL's text holds no NUL and no lone surrogate.
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    return value


def _record(row: RowMapping) -> CallRecord:
    return CallRecord(**row)
