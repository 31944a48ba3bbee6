"""Call records: the events of each call, and the record that they fold into.

The record is never changed by hand, it is folded anew from all of the call's events whenever one
more came; so the order in which they arrive does not matter, and a fold that learns something new
can be run over the past. Every function may raise StorageUnavailable.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any, Final

import msgspec
from sqlalchemy import (
    Executable,
    RowMapping,
    Select,
    and_,
    bindparam,
    literal,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from router.events.call import CallRecord, CallState, Leg
from router.events.codec import stored_data
from router.events.model import Event
from router.events.types import EventType
from router.storage.engine import Database
from router.storage.schema import call_events, calls
from router.storage.sql import insert

Fold = Callable[[Sequence[Event]], CallRecord | None]
"""The telling events of one call, by time, to its record; None: they make none. Pure."""

# Be the only one who folds these calls until the transaction ends. Their rows can't be locked, they
# may not be there yet. In SQLite nobody else writes anyhow. Always in the same order, or two would
# wait for each other; 1 is our class among the advisory locks of two numbers.
_LOCK: Final = text(
    "SELECT pg_advisory_xact_lock(1, key) FROM (SELECT hashtext(k) AS key "
    "FROM unnest(CAST(:keys AS text[])) AS k ORDER BY 1) AS ordered"
)
# Built once: building a statement costs more than running it.
_OF_CALLS: Final = (
    select(call_events)
    .where(call_events.c.call_id.in_(bindparam("call_ids", expanding=True)))
    .order_by(call_events.c.time, call_events.c.event_id)
)
_TELLING_OF_CALLS: Final = _OF_CALLS.where(
    call_events.c.type.in_(bindparam("telling", expanding=True))
)
# The index of unended calls has this very condition; with a parameter in it, no planner takes it.
_UNENDED: Final = calls.c.state != literal("ended", literal_execute=True)
_TYPES: Final[Mapping[str, EventType]] = {kind.value: kind for kind in EventType}
_legs_decoder: Final = msgspec.json.Decoder(tuple[Leg, ...])


async def record(
    db: Database, batch: Sequence[Event], fold: Fold, *, telling: Collection[EventType]
) -> None:
    """Keep the events and fold their calls anew, in one transaction; repeated ones change nothing.

    `fold` depends on events of the types `telling` alone, and gets no others: a call whose every
    sentence is an event is not folded for each of them.

    Raises:
        ValueError: an event is about no call.
    """
    for event in batch:
        if not event.call_id:
            raise ValueError(f"{event.type.value} is about no call")
    call_ids = sorted({event.call_id for event in batch if event.type in telling})

    async def work(connection: AsyncConnection) -> None:
        dialect = connection.dialect.name
        if dialect == "postgresql" and call_ids:
            await connection.execute(_LOCK, {"keys": call_ids})
        await connection.execute(_adding(dialect), [_event_values(event) for event in batch])
        if not call_ids:
            return
        told = await _events(connection, call_ids, telling)
        folded = [fold(told[call_id]) for call_id in call_ids]
        records = [_record_values(record) for record in folded if record is not None]
        if records:
            await connection.execute(_putting(dialect), records)

    await db.transact(work, yields=True)


async def get(db: Database, account_id: str, call_id: str) -> CallRecord | None:
    """The record of one call of the account."""
    query = select(calls).where(calls.c.call_id == call_id, calls.c.account_id == account_id)
    found = await _fetch(db, query)
    return found[0] if found else None


async def find(db: Database, account_id: str, text: str) -> CallRecord | None:
    """The account's newest call whose id begins so, or whose provider calls it exactly so."""
    if not text:
        return None
    # Ids are ASCII and sorted bytewise, so "~" is above every way that `text` can go on.
    begins = and_(calls.c.call_id >= text, calls.c.call_id <= text + "~")
    query = select(calls).where(or_(begins, calls.c.provider_call_id == text))
    # As an expression: the index of the account's calls would be read from end to end.
    query = query.where(calls.c.account_id + "" == account_id)
    found = await _fetch(db, query.order_by(calls.c.initiated_at.desc()).limit(1))
    return found[0] if found else None


async def list_calls(
    db: Database,
    account_id: str,
    *,
    limit: int,
    before: str | None = None,
    state: CallState | None = None,
) -> Sequence[CallRecord]:
    """Up to `limit` of the account's calls, newest first, after its call with the id `before`."""
    place = tuple_(calls.c.initiated_at, calls.c.call_id)
    query = select(calls).where(calls.c.account_id == account_id)
    if before is not None:
        last = select(calls.c.initiated_at, calls.c.call_id)
        last = last.where(calls.c.call_id == before, calls.c.account_id == account_id)
        query = query.where(place < last.scalar_subquery())
    if state is not None:
        query = query.where(calls.c.state == state)
    order = (calls.c.initiated_at.desc(), calls.c.call_id.desc())
    return await _fetch(db, query.order_by(*order).limit(limit))


async def unended(
    db: Database, *, began_before: int, limit: int, after: tuple[int, str] = (0, "")
) -> Sequence[CallRecord]:
    """Up to `limit` calls that are not over and began before then (µs), the oldest first.

    They are of all accounts.
    `after` is (initiated_at, call_id) of the last one of the page before. What is read is as much
    as there are such calls, however many there were in the past.
    """
    # As an expression: SQLite would take the index of all calls for a column of it.
    by_id = calls.c.call_id + ""
    query = (
        select(calls)
        .where(_UNENDED, calls.c.initiated_at < began_before)
        .where(tuple_(calls.c.initiated_at, by_id) > after)
        .order_by(calls.c.initiated_at, by_id)
        .limit(limit)
    )
    return await _fetch(db, query)


async def events(db: Database, call_id: str) -> Sequence[Event]:
    """All events of a call, by time. Whose call it is says its record alone."""
    async with db.read() as connection:
        return (await _events(connection, [call_id]))[call_id]


async def _fetch(db: Database, query: Select[Any]) -> Sequence[CallRecord]:
    async with db.read() as connection:
        return [record_of(row) for row in (await connection.execute(query)).mappings()]


async def _events(
    connection: AsyncConnection,
    call_ids: Sequence[str],
    telling: Collection[EventType] | None = None,
) -> Mapping[str, Sequence[Event]]:
    """The events of each call, by time; of all types, or of these."""
    told: dict[str, list[Event]] = {call_id: [] for call_id in call_ids}
    values: dict[str, Any] = {"call_ids": call_ids}
    statement = _OF_CALLS
    if telling is not None:
        statement = _TELLING_OF_CALLS
        values["telling"] = [kind.value for kind in telling]
    for row in await connection.execute(statement, values):
        told[row.call_id].append(
            Event(
                id=row.event_id,
                # As a log's reader does: a newer version may have written it.
                type=_TYPES.get(row.type, EventType.PROVIDER_UNKNOWN),
                source=row.source,
                time=row.time,
                key=row.call_id,
                data=stored_data(row.data),
            )
        )
    return told


@cache
def _adding(dialect: str) -> Executable:
    return insert(dialect, call_events).on_conflict_do_nothing(
        index_elements=[call_events.c.event_id]
    )


@cache
def _putting(dialect: str) -> Executable:
    statement = insert(dialect, calls)
    newer = {column.name: statement.excluded[column.name] for column in calls.c}
    return statement.on_conflict_do_update(index_elements=[calls.c.call_id], set_=newer)


def _event_values(event: Event) -> dict[str, Any]:
    return {
        "event_id": event.id,
        "call_id": event.call_id,
        "type": event.type.value,
        "time": event.time,
        "source": event.source,
        "data": msgspec.json.encode(event.data),
    }


def _record_values(record: CallRecord) -> dict[str, Any]:
    values = {name: _storable(value) for name, value in msgspec.structs.asdict(record).items()}
    values["account"] = values.pop("provider_account")  # as the column has been called for long
    return values


def _storable(value: Any) -> Any:
    # A caller's SIP user may hold anything; PostgreSQL's text holds no NUL and no lone surrogate.
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, tuple):
        return msgspec.json.encode(value).decode()
    return value


def record_of(row: RowMapping) -> CallRecord:
    """A row of `calls` as the record that it is."""
    values = {**row, "legs": _legs_decoder.decode(row["legs"])}
    values["provider_account"] = values.pop("account")
    return CallRecord(**values)
