"""Agents and numbers: the mapping that every ingress follows.

A change is one transaction: the rows, the next revision, and for each number whose route changed
two outbox rows, what happened (`telephony.numbers`) and what holds now (`telephony.routes`). It
locks the revision first, so changes happen one after the other and a higher rev is always a later
commit: whoever follows the log may trust `rev` alone.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Column, ColumnElement, Row, Table, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from router.events.codec import encode
from router.events.types import NUMBERS_TOPIC, ROUTES_TOPIC
from router.routing.spec import (
    AgentChange,
    AgentSpec,
    MappingResult,
    MappingSpec,
    NumberSpec,
    RouteChange,
    route_of,
)
from router.routing.table import Route
from router.routing.table import fingerprint as route_fingerprint
from router.storage import outbox
from router.storage.changes import State, agent_changes, route_changes, wanted
from router.storage.engine import Database
from router.storage.records import number_event, route_record
from router.storage.schema import agents, numbers, revision
from router.storage.schema import outbox as waiting
from router.storage.sql import insert, now_micros

_LIMIT: Final = 120.0  # seconds: a file with all numbers of a large account
_BATCH: Final = 500  # keys per statement; PostgreSQL takes 65535 parameters, SQLite 32766
_PAGE: Final = 1000

_decoder = msgspec.json.Decoder(dict[str, Any])


Progress = Callable[[int, int], None]
"""Told after each batch of changes: (done, total)."""


class Counts(NamedTuple):
    """How large the mapping is."""

    agents: int
    numbers: int


async def plan_mapping(db: Database, desired: MappingSpec, *, prune: bool = False) -> MappingResult:
    """What `apply_mapping` would change now. Nothing is written; `version` is the present one.

    Raises:
        ConfigError: a number leads to an agent that would not exist.
        StorageUnavailable: try again.
    """
    async with db.read(limit=_LIMIT) as connection:
        last = int((await connection.execute(select(revision.c.value))).scalar_one())
        before = await _load(connection, desired, (), everything=prune)
    after = wanted(before, desired, prune=prune)
    changes = (*agent_changes(before, after), *route_changes(before, after, last + 1))
    return MappingResult(last, changes)


async def apply_mapping(
    db: Database,
    desired: MappingSpec,
    *,
    prune: bool = False,
    progress: Progress | None = None,
) -> MappingResult:
    """Make the mapping as `desired`; with `prune`, remove every agent and number not in it.

    Raises:
        ConfigError: a number leads to an agent that would not exist; nothing was changed.
        StorageUnavailable: try again; applying twice is the same as once.
    """
    result = await _apply(db, desired, prune=prune)
    if progress is not None:
        progress(len(result.changes), len(result.changes))
    return result


async def delete_numbers(db: Database, numbers: Sequence[str]) -> MappingResult:
    """Remove E.164 numbers; those that aren't there are no change.

    Raises:
        StorageUnavailable: try again.
    """
    return await _apply(db, MappingSpec(), removed=numbers)


async def unpublished(db: Database) -> int:
    """How many records of changes wait for the log: 0 when every instance can have them all."""
    async with db.read() as connection:
        return int(
            (await connection.execute(select(func.count()).select_from(waiting))).scalar_one()
        )


async def counts(db: Database) -> Counts:
    """How many agents and numbers there are."""
    async with db.read() as connection:
        found = [
            int((await connection.execute(select(func.count()).select_from(table))).scalar_one())
            for table in (agents, numbers)
        ]
    return Counts(*found)


async def version(db: Database) -> int:
    """The revision of the newest change, 0 before the first."""
    async with db.read() as connection:
        return int((await connection.execute(select(revision.c.value))).scalar_one())


async def fingerprint(db: Database) -> int:
    """Of the routes that hold (`router.routing.table.fingerprint`): who has it has them all."""
    async with db.read() as connection:
        rows = await connection.execute(select(numbers.c.number, numbers.c.rev))
        return route_fingerprint((number, rev) for number, rev in rows)


async def list_agents(db: Database) -> Sequence[AgentSpec]:
    """All agents, by name."""
    async with db.read() as connection:
        rows = await connection.execute(select(agents).order_by(agents.c.name))
        return [_agent(row) for row in rows]


async def list_numbers(
    db: Database, *, after: str = "", limit: int = _PAGE
) -> Sequence[NumberSpec]:
    """Up to `limit` numbers that come after the number `after`."""
    query = select(numbers).where(numbers.c.number > after).order_by(numbers.c.number)
    async with db.read() as connection:
        return [_number(row) for row in await connection.execute(query.limit(limit))]


async def fallbacks(db: Database, among: Collection[str]) -> dict[str, str]:
    """The fallback of each of these numbers that has one."""
    async with db.read(limit=_LIMIT) as connection:
        rows = await _where_in(connection, numbers, numbers.c.number, among)
    return {row.number: row.fallback for row in rows if row.fallback}


async def get_route(db: Database, number: str) -> Route | None:
    """Where an E.164 number leads, None when it isn't in the mapping."""
    async with db.read() as connection:
        routes = await _routes(connection, numbers.c.number == number, limit=1)
    return routes[0] if routes else None


async def all_routes(db: Database) -> AsyncIterator[Route]:
    """Every route, page by page, each page its own transaction.

    Changes made meanwhile may or may not be in it; their records are in the outbox, and the higher
    rev wins.
    """
    last = ""
    while True:
        async with db.read() as connection:
            page = await _routes(connection, numbers.c.number > last, limit=_PAGE)
        for route in page:
            yield route
        if len(page) < _PAGE:
            return
        last = page[-1].number


async def _apply(
    db: Database, desired: MappingSpec, *, prune: bool = False, removed: Collection[str] = ()
) -> MappingResult:
    async def work(connection: AsyncConnection) -> MappingResult:
        query = select(revision.c.value, now_micros()).with_for_update()
        last, now = (await connection.execute(query)).one()
        before = await _load(connection, desired, removed, everything=prune)
        after = wanted(before, desired, prune=prune, removed=removed)
        rev = int(last) + 1
        of_agents = tuple(agent_changes(before, after))
        of_routes = tuple(route_changes(before, after, rev))
        if not of_agents and not of_routes:
            return MappingResult(last)
        await connection.execute(update(revision).values(value=rev))
        await _store(connection, of_agents, after, of_routes, rev=rev, now=now)
        await outbox.add(connection, _drafts(of_routes, rev=rev, now=now), now=now)
        return MappingResult(rev, of_agents + of_routes)

    return await db.transact(work, limit=_LIMIT)


async def _load(
    connection: AsyncConnection,
    desired: MappingSpec,
    removed: Collection[str],
    *,
    everything: bool,
) -> State:
    """What the change can touch: not the whole mapping, unless it is to be pruned."""
    if everything:
        agent_rows = (await connection.execute(select(agents))).all()
        number_rows = (await connection.execute(select(numbers))).all()
    else:
        agent_rows = await _where_in(connection, agents, agents.c.name, _names(desired))
        known = {row.name: _agent(row) for row in agent_rows}
        changed = [agent.name for agent in desired.agents if known.get(agent.name) != agent]
        wanted_numbers = {spec.number for spec in desired.numbers} | set(removed)
        number_rows = await _where_in(connection, numbers, numbers.c.number, wanted_numbers)
        number_rows += await _where_in(connection, numbers, numbers.c.agent, changed)
        others = {row.agent for row in number_rows if row.agent is not None} - known.keys()
        agent_rows += await _where_in(connection, agents, agents.c.name, others)
    return State(
        agents={row.name: _agent(row) for row in agent_rows},
        numbers={row.number: _number(row) for row in number_rows},
        revs={row.number: row.rev for row in number_rows},
    )


async def _store(
    connection: AsyncConnection,
    of_agents: Sequence[AgentChange],
    after: State,
    of_routes: Sequence[RouteChange],
    *,
    rev: int,
    now: int,
) -> None:
    """Write the rows; agents come first and go last, because numbers refer to them."""
    stamp = {"rev": rev, "created_at": now, "updated_at": now}
    await _upsert(
        connection,
        agents,
        [_agent_values(change.after) | stamp for change in of_agents if change.after is not None],
    )
    kept = [after.numbers[change.number] for change in of_routes if change.after is not None]
    await _upsert(connection, numbers, [_number_values(spec) | stamp for spec in kept])
    gone = [change.number for change in of_routes if change.after is None]
    await _delete(connection, numbers, numbers.c.number, gone)
    gone = [change.name for change in of_agents if change.after is None]
    await _delete(connection, agents, agents.c.name, gone)


def _drafts(changes: Sequence[RouteChange], *, rev: int, now: int) -> Iterator[outbox.Draft]:
    for change in changes:
        number, route = change.number, change.after
        headers, value = route_record(number, route, rev=rev, time=now)
        yield outbox.Draft(ROUTES_TOPIC, number, value, headers)
        headers, value = encode(number_event(number, route, rev=rev, time=now))
        yield outbox.Draft(NUMBERS_TOPIC, number, value, headers)


async def _upsert(
    connection: AsyncConnection, table: Table, rows: Sequence[dict[str, Any]]
) -> None:
    if not rows:
        return
    statement = insert(connection.dialect.name, table)
    keys = {column.name for column in table.primary_key}
    news = {
        column.name: statement.excluded[column.name]
        for column in table.columns
        if column.name not in keys and column.name != "created_at"
    }
    await connection.execute(
        statement.on_conflict_do_update(index_elements=list(keys), set_=news), rows
    )


async def _delete(
    connection: AsyncConnection, table: Table, column: Column[str], keys: Sequence[str]
) -> None:
    for start in range(0, len(keys), _BATCH):
        await connection.execute(delete(table).where(column.in_(keys[start : start + _BATCH])))


async def _where_in(
    connection: AsyncConnection, table: Table, column: Column[str], keys: Collection[str]
) -> list[Row[Any]]:
    ordered = sorted(keys)
    rows: list[Row[Any]] = []
    for start in range(0, len(ordered), _BATCH):
        query = select(table).where(column.in_(ordered[start : start + _BATCH]))
        rows += (await connection.execute(query)).all()
    return rows


async def _routes(
    connection: AsyncConnection, condition: ColumnElement[bool], *, limit: int
) -> list[Route]:
    query = (
        select(
            numbers, agents.c.name, agents.c.livekit_agent_name, agents.c.metadata, agents.c.status
        )
        .select_from(numbers.outerjoin(agents))
        .where(condition)
        .order_by(numbers.c.number)
        .limit(limit)
    )
    return [_route(row) for row in await connection.execute(query)]


def _names(desired: MappingSpec) -> set[str]:
    """Agents that `desired` sets or refers to."""
    referred = {number.agent for number in desired.numbers if number.agent is not None}
    return referred | {agent.name for agent in desired.agents}


def _route(row: Row[Any]) -> Route:
    agent = None if row.agent is None else _agent(row)
    return route_of(_number(row), agent, row.rev)


def _agent(row: Row[Any]) -> AgentSpec:
    return AgentSpec(
        name=row.name,
        livekit_agent_name=row.livekit_agent_name,
        metadata=_decoder.decode(row.metadata),
        status=row.status,
    )


def _agent_values(spec: AgentSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "livekit_agent_name": spec.livekit_agent_name,
        "metadata": msgspec.json.encode(spec.metadata).decode(),
        "status": spec.status,
    }


def _number(row: Row[Any]) -> NumberSpec:
    return NumberSpec(
        number=row.number, provider=row.provider, agent=row.agent, fallback=row.fallback
    )


def _number_values(spec: NumberSpec) -> dict[str, Any]:
    return {
        "number": spec.number,
        "provider": spec.provider,
        "agent": spec.agent,
        "fallback": spec.fallback,
    }
