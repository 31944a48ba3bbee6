"""One batch of a change of the mapping: one transaction that locks what it changes, then reads it.

Rows, a revision, and for each number whose route changed its two records in the outbox. The
revision is taken last, when everything is locked: of two changes of a number the later commit has
the higher one, and two changes that have no agent and no number in common wait for each other only
while the one writes.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

import msgspec
from sqlalchemy import (
    ClauseElement,
    Column,
    Row,
    Table,
    bindparam,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from router.routing.spec import (
    AgentChange,
    AgentSpec,
    MappingResult,
    MappingSpec,
    NumberSpec,
    RouteChange,
)
from router.routing.table import NEVER, Version
from router.storage import outbox
from router.storage.changes import State, agent_changes, leads_elsewhere, route_changes, wanted
from router.storage.records import change_records
from router.storage.schema import agents, numbers, revision
from router.storage.sql import execute_many, insert, now_micros

Change = AgentChange | RouteChange

POSITION: Final = select(revision.c.epoch, revision.c.value)
"""The epoch, and the newest revision that was given out."""
NEXT: Final = (
    update(revision)
    .values(value=revision.c.value + 1)
    .returning(revision.c.epoch, revision.c.value, now_micros())
)
"""Takes a revision: the epoch, the revision, and the database's time (µs)."""

_MANY: Final = 20_000  # keys
_KEYS: Final = 500  # per statement; PostgreSQL takes 65535 parameters, SQLite 32766

_NONE: Final[Mapping[str, NumberSpec]] = {}

_decoder = msgspec.json.Decoder(dict[str, Any])


async def write(
    connection: AsyncConnection, part: Sequence[Change], specs: Mapping[str, NumberSpec]
) -> MappingResult:
    """Write the part of a plan as far as it still is a change; version 0 where none of it is.

    `specs` are the numbers that are wanted. One of the plan that is not among them is there because
    its agent changed: it keeps its row, whatever that is by now.
    """
    of_agents = [change for change in part if isinstance(change, AgentChange)]
    keys = [change.number for change in part if isinstance(change, RouteChange)]
    gone = [c.number for c in part if isinstance(c, RouteChange) and c.after is None]
    own = tuple(specs[key] for key in keys if key in specs)
    upserts = tuple(change.after for change in of_agents if change.after is not None)
    dropped = {change.name for change in of_agents if change.after is None}
    names = names_of(upserts, own) | dropped
    before = await state(connection, names, keys, known=specs, lock=True)
    dropped -= await _in_use(connection, dropped, gone)
    desired = MappingSpec(agents=upserts, numbers=own)
    after = wanted(before, desired, prune=False, removed=gone, dropped=dropped)
    changed_agents = tuple(agent_changes(before, after))
    if not changed_agents and next(route_changes(before, after, NEVER), None) is None:
        return MappingResult(0)
    epoch, rev, now = (await connection.execute(NEXT)).one()
    planned = {c.number: c.before for c in part if isinstance(c, RouteChange)}
    changed_routes = tuple(
        RouteChange(change.number, planned[change.number], change.after)
        for change in route_changes(before, after, Version(epoch, rev))
    )
    await _store(connection, changed_agents, changed_routes, after, rev=rev, now=now)
    await outbox.add(connection, _drafts(changed_routes, Version(epoch, rev), now), now=now)
    return MappingResult(rev, changed_agents + changed_routes)


async def state(
    connection: AsyncConnection,
    names: Collection[str] | None,
    keys: Collection[str] | None,
    *,
    known: Mapping[str, NumberSpec] = _NONE,
    lock: bool = False,
) -> State:
    """These agents and numbers, and the agents that the numbers lead to; None: all of them.

    A number that is as it is in `known` is that very object: it need not be made, nor compared.
    """
    epoch, _ = (await connection.execute(POSITION)).one()
    agent_rows = await where_in(connection, agents.c.name, names, lock=lock)
    number_rows = await where_in(connection, numbers.c.number, keys, lock=lock)
    others = {agent for _, _, agent, *_ in number_rows if agent is not None}
    others -= {row.name for row in agent_rows}
    agent_rows += await where_in(connection, agents.c.name, others, lock=lock)
    revs = {row.name: row.rev for row in agent_rows}
    specs: dict[str, NumberSpec] = {}
    versions: dict[str, Version] = {}
    outdated: set[str] = set()
    for row in number_rows:  # in one pass: there may be a hundred thousand
        number, provider, agent, fallback, rev, *_ = row
        spec = known.get(number)
        found = (provider, agent, fallback)
        if spec is None or (spec.provider, spec.agent, spec.fallback) != found:
            spec = number_of(row)
        specs[number] = spec
        versions[number] = Version(epoch, rev)
        if rev < revs.get(agent or "", 0):
            outdated.add(number)
    by_name = {row.name: agent_of(row) for row in agent_rows}
    return State(by_name, specs, versions, outdated)


async def numbers_of(
    connection: AsyncConnection, names: Collection[str], *, outdated: bool = False
) -> set[str]:
    """The numbers that lead to these agents; `outdated`: those that were not told of a change."""
    query = select(numbers.c.number).join(agents)
    if outdated:
        query = query.where(numbers.c.rev < agents.c.rev)
    found: set[str] = set()
    for some in _in_parts(sorted(names)):
        found.update((await connection.execute(query.where(numbers.c.agent.in_(some)))).scalars())
    return found


async def _in_use(
    connection: AsyncConnection, names: Collection[str], but_for: Collection[str]
) -> set[str]:
    """Those of the agents that a number leads to, other than the numbers `but_for`."""
    if not names:
        return set()
    query = select(numbers.c.agent).distinct().where(numbers.c.agent.in_(names))
    found = await connection.execute(query.where(numbers.c.number.not_in(but_for)))
    return set(found.scalars())


async def _store(
    connection: AsyncConnection,
    of_agents: Sequence[AgentChange],
    of_routes: Sequence[RouteChange],
    after: State,
    *,
    rev: int,
    now: int,
) -> None:
    """Write the rows; agents come first and go last, because numbers refer to them."""
    stamp = (rev, now, now)
    for moved in (True, False):
        rows = [
            _agent_row(change.after) + stamp
            for change in of_agents
            if change.after is not None and leads_elsewhere(change.before, change.after) is moved
        ]
        await _upsert(connection, agents, rows, keep=() if moved else ("rev",))
    kept = [after.numbers[change.number] for change in of_routes if change.after is not None]
    await _upsert(connection, numbers, [_number_row(spec) + stamp for spec in kept])
    gone = [change.number for change in of_routes if change.after is None]
    await _delete(connection, numbers, numbers.c.number, gone)
    gone = [change.name for change in of_agents if change.after is None]
    await _delete(connection, agents, agents.c.name, gone)


def _drafts(changes: Sequence[RouteChange], at: Version, now: int) -> Iterator[outbox.Draft]:
    for change in changes:
        for topic, headers, value in change_records(
            change.number, change.after, version=at, time=now
        ):
            yield outbox.Draft(topic, change.number, value, headers)


async def _upsert(
    connection: AsyncConnection,
    table: Table,
    rows: Sequence[tuple[Any, ...]],
    *,
    keep: Collection[str] = (),
) -> None:
    if rows:
        statement = _upserting(connection.dialect.name, table, tuple(keep))
        await execute_many(connection, statement, rows)


@cache
def _upserting(dialect: str, table: Table, keep: tuple[str, ...]) -> ClauseElement:
    every: dict[Any, Any] = {column: bindparam(column.name) for column in table.columns}
    statement = insert(dialect, table).values(every)
    keys = [column.name for column in table.primary_key]
    news = {
        column.name: statement.excluded[column.name]
        for column in table.columns
        if column.name not in {*keys, *keep, "created_at"}
    }
    return statement.on_conflict_do_update(index_elements=keys, set_=news)


async def _delete(
    connection: AsyncConnection, table: Table, column: Column[str], keys: Sequence[str]
) -> None:
    for some in _in_parts(keys):
        await connection.execute(delete(table).where(column.in_(some)))


async def where_in(
    connection: AsyncConnection,
    column: Column[str],
    keys: Collection[str] | None,
    *,
    lock: bool = False,
) -> list[Row[*tuple[Any, ...]]]:
    """The rows of the column's table whose `column` is among `keys`; None: all rows."""
    query = select(column.table)
    if keys is None:
        return list((await connection.execute(query)).all())
    if lock:  # all in one order, or two changes would wait for each other
        query = query.order_by(column).with_for_update()
    elif len(keys) > _MANY:
        count = await connection.execute(select(func.count()).select_from(column.table))
        if count.scalar_one() < 2 * len(keys):  # one statement costs less than hundreds
            among, place = set(keys), list(column.table.columns).index(column)
            found = (await connection.execute(query)).all()
            return [row for row in found if row[place] in among]
    rows: list[Row[*tuple[Any, ...]]] = []
    for some in _in_parts(sorted(keys)):
        rows += (await connection.execute(query.where(column.in_(some)))).all()
    return rows


def _in_parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), _KEYS):
        yield keys[start : start + _KEYS]


def names_of(some: Sequence[AgentSpec], others: Sequence[NumberSpec]) -> set[str]:
    """The names of agents that are set or referred to."""
    referred = {number.agent for number in others if number.agent is not None}
    return referred | {agent.name for agent in some}


def agent_of(row: Row[*tuple[Any, ...]]) -> AgentSpec:
    """The agent of a row."""
    return AgentSpec(
        name=row.name,
        livekit_agent_name=row.livekit_agent_name,
        metadata=_decoder.decode(row.metadata),
        status=row.status,
    )


def _agent_row(spec: AgentSpec) -> tuple[Any, ...]:
    metadata = msgspec.json.encode(spec.metadata).decode()
    return spec.name, spec.livekit_agent_name, metadata, spec.status


def number_of(row: Row[*tuple[Any, ...]]) -> NumberSpec:
    """The number of a row that begins with the columns of the table."""
    number, provider, agent, fallback, *_ = row
    return NumberSpec(number=number, provider=provider, agent=agent, fallback=fallback)


def _number_row(spec: NumberSpec) -> tuple[Any, ...]:
    return spec.number, spec.provider, spec.agent, spec.fallback
