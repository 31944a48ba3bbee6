"""One batch of a change of the mapping: one transaction that locks what it changes, then reads it.

Rows, a revision, and for each number whose route changed its two records in the outbox. The
revision is taken last, when everything is locked: of two changes of a number the later commit has
the higher one, and two changes that have no agent and no number in common wait for each other only
while the one writes.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Final
from uuid import uuid4

import msgspec
from sqlalchemy import (
    ClauseElement,
    Column,
    ColumnElement,
    Row,
    Select,
    Table,
    bindparam,
    delete,
    false,
    func,
    literal_column,
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
from router.storage.changes import (
    State,
    agent_changes,
    leads_elsewhere,
    route_changes,
    taken,
    wanted,
)
from router.storage.records import change_records
from router.storage.schema import agents, numbers, revision
from router.storage.sql import execute_many, insert, now_micros, unindexed

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

_NOBODY: Final = (None, 0)
_NONE: Final[Mapping[str, NumberSpec]] = {}

ACTIVE: Final = numbers.c.state == "active"
"""Of numbers that are part of the mapping: one that is being released has no route."""
_AGENTS: Final = select(
    agents.c.id,
    agents.c.name,
    agents.c.livekit_agent_name,
    agents.c.metadata,
    agents.c.status,
    agents.c.rev,
)
_NUMBERS: Final = select(
    numbers.c.number,
    numbers.c.provider,
    numbers.c.fallback,
    numbers.c.agent_id,
    numbers.c.connection_id,
    numbers.c.account_id,
    numbers.c.state,
    numbers.c.rev,
)

_decoder = msgspec.json.Decoder(dict[str, Any])


async def write(
    connection: AsyncConnection,
    account_id: str,
    part: Sequence[Change],
    specs: Mapping[str, NumberSpec],
) -> MappingResult:
    """Write the part of a plan as far as it still is a change; version 0 where none of it is.

    `specs` are the numbers that are wanted. One of the plan that is not among them is there because
    its agent changed: it keeps its row, whatever that is by now.

    Raises:
        ConfigError, Conflict: as `router.storage.changes.wanted`.
    """
    of_agents = [change for change in part if isinstance(change, AgentChange)]
    keys = [change.number for change in part if isinstance(change, RouteChange)]
    gone = [c.number for c in part if isinstance(c, RouteChange) and c.after is None]
    own = tuple(specs[key] for key in keys if key in specs)
    upserts = tuple(change.after for change in of_agents if change.after is not None)
    dropped = {change.name for change in of_agents if change.after is None}
    names = names_of(upserts, own) | dropped
    before = await state(connection, account_id, names, keys, known=specs, lock=True)
    dropped -= await _in_use(connection, before, dropped, gone)
    desired = MappingSpec(agents=upserts, numbers=own)
    after = wanted(before, desired, prune=False, removed=gone, dropped=dropped)
    changed_agents = tuple(agent_changes(before, after))
    if not changed_agents and next(route_changes(before, after, NEVER), None) is None:
        return MappingResult(0)
    epoch, rev, now = (await connection.execute(NEXT)).one()
    after = await _with_ids(connection, before, after)
    planned = {c.number: c.before for c in part if isinstance(c, RouteChange)}
    changed_routes = tuple(
        RouteChange(change.number, planned[change.number], change.after)
        for change in route_changes(before, after, Version(epoch, rev))
    )
    await _put(connection, changed_agents, changed_routes, after, (rev, now, now))
    told = drafts(account_id, changed_routes, Version(epoch, rev), now)
    await outbox.add(connection, told, now=now)
    return MappingResult(rev, changed_agents + changed_routes)


async def state(
    connection: AsyncConnection,
    account_id: str,
    names: Collection[str] | None,
    keys: Collection[str] | None,
    *,
    known: Mapping[str, NumberSpec] = _NONE,
    lock: bool = False,
) -> State:
    """These agents and numbers, and the agents that the numbers lead to; None: all of the account.

    A number that is as it is in `known` is that very object: it need not be made, nor compared.
    """
    position = Version(*(await connection.execute(POSITION)).one())
    agent_rows = await _agent_rows(connection, account_id, agents.c.name, names, lock=lock)
    number_rows = await _number_rows(connection, account_id, keys, known, lock=lock)
    others = {row[3] for row in number_rows if row[3] is not None and row[5] == account_id}
    others -= {row.id for row in agent_rows}
    agent_rows += await _agent_rows(connection, account_id, agents.c.id, others, lock=lock)
    by_id = {row.id: (row.name, row.rev) for row in agent_rows}
    specs: dict[str, NumberSpec] = {}
    versions: dict[str, Version] = {}
    outdated: set[str] = set()
    foreign: set[str] = set()
    leaving: set[str] = set()
    for row in number_rows:  # in one pass: there may be a hundred thousand
        number, provider, fallback, agent_id, connection_id, owner, condition, rev = row
        if owner != account_id or condition != "active":
            (foreign if owner != account_id else leaving).add(number)
            continue
        # Between the two looks one that is not locked may have been unlinked and removed.
        agent, agent_rev = by_id.get(agent_id, _NOBODY)
        spec = known.get(number)
        found = (provider, agent, fallback, connection_id)
        if spec is None or (spec.provider, spec.agent, spec.fallback, spec.connection) != found:
            spec = NumberSpec(
                number=number,
                provider=provider,
                agent=agent,
                fallback=fallback,
                connection=connection_id,
            )
        specs[number] = spec
        versions[number] = Version(position.epoch, rev)
        if rev < agent_rev:
            outdated.add(number)
    return State(
        {row.name: agent_of(row) for row in agent_rows},
        specs,
        versions,
        outdated,
        account_id=account_id,
        agent_ids={row.name: row.id for row in agent_rows},
        foreign=foreign,
        leaving=leaving,
        position=position,
    )


async def _agent_rows(
    connection: AsyncConnection,
    account_id: str,
    column: Column[str],
    keys: Collection[str] | None,
    *,
    lock: bool,
) -> list[Row[*tuple[Any, ...]]]:
    mine = agents.c.account_id if column is not agents.c.id else unindexed(agents.c.account_id)
    query = _AGENTS.where(mine == account_id)
    return await where_in(connection, query, column, keys, lock=lock)


async def _number_rows(
    connection: AsyncConnection,
    account_id: str,
    keys: Collection[str] | None,
    known: Mapping[str, NumberSpec],
    *,
    lock: bool,
) -> list[Row[*tuple[Any, ...]]]:
    """Rows of `_NUMBERS`; of all accounts, because a number is one account's alone."""
    if keys is not None:
        return await where_in(connection, _NUMBERS, numbers.c.number, keys, lock=lock)
    query = _NUMBERS.where(numbers.c.account_id == account_id)
    own = await where_in(connection, query, numbers.c.number, None)
    absent = known.keys() - {row[0] for row in own}
    return own + await where_in(connection, _NUMBERS, numbers.c.number, absent)


async def numbers_of(
    connection: AsyncConnection,
    account_id: str,
    names: Collection[str],
    *,
    outdated: bool = False,
) -> set[str]:
    """The numbers that lead to these agents; `outdated`: those that were not told of a change."""
    query = select(numbers.c.number).join(agents).where(ACTIVE, agents.c.account_id == account_id)
    if outdated:
        query = query.where(numbers.c.rev < agents.c.rev)
    found: set[str] = set()
    for some in _in_parts(sorted(names)):
        found.update((await connection.execute(query.where(agents.c.name.in_(some)))).scalars())
    return found


async def _in_use(
    connection: AsyncConnection, before: State, names: Collection[str], but_for: Collection[str]
) -> set[str]:
    """Those of the agents that a number leads to, other than the numbers `but_for`."""
    stored = {before.agent_ids[name]: name for name in names if name in before.agent_ids}
    if not stored:
        return set()
    query = select(numbers.c.agent_id).distinct().where(numbers.c.agent_id.in_(stored), ACTIVE)
    found = await connection.execute(query.where(numbers.c.number.not_in(but_for)))
    return {stored[agent_id] for agent_id in found.scalars()}


async def _with_ids(connection: AsyncConnection, before: State, after: State) -> State:
    """`after` with an id for each agent that is new.

    Rows that are not there can't be locked. But who takes a revision keeps it from others until
    the commit: what they added before is here now, and nobody adds more.
    """
    added = after.numbers.keys() - before.numbers.keys()
    foreign = [
        row[0]
        for row in await where_in(connection, _NUMBERS, numbers.c.number, added)
        if row[5] != after.account_id
    ]
    if foreign:
        raise taken(min(foreign))
    new = after.agents.keys() - before.agents.keys()
    if not new:
        return after
    there = await _agent_rows(connection, after.account_id, agents.c.name, new, lock=False)
    ids = {name: str(uuid4()) for name in new} | {row.name: row.id for row in there}
    return replace(after, agent_ids={**after.agent_ids, **ids})


async def _put(
    connection: AsyncConnection,
    of_agents: Sequence[AgentChange],
    of_routes: Sequence[RouteChange],
    after: State,
    stamp: tuple[int, int, int],
) -> None:
    """Write the rows; agents come first and go last, because numbers refer to them."""
    ids = after.agent_ids
    for moved in (True, False):
        rows = [
            (ids[change.name], after.account_id, *_agent_values(change.after), *stamp)
            for change in of_agents
            if change.after is not None and leads_elsewhere(change.before, change.after) is moved
        ]
        await _upsert(connection, agents, rows, keep=() if moved else ("rev",))
    kept = [after.numbers[change.number] for change in of_routes if change.after is not None]
    rows = [
        (
            str(uuid4()),  # of a new one; one that is there keeps its own
            after.account_id,
            spec.number,
            spec.provider,
            spec.connection,
            None if spec.agent is None else ids[spec.agent],
            spec.fallback,
            *stamp,
        )
        for spec in kept
    ]
    await _upsert(connection, numbers, rows)
    await _delete(connection, numbers.c.number, [c.number for c in of_routes if c.after is None])
    gone = [ids[change.name] for change in of_agents if change.after is None]
    for some in _in_parts(gone):  # numbers that are being released lead nowhere any more
        unlinked = update(numbers).where(numbers.c.agent_id.in_(some)).values(agent_id=None)
        await connection.execute(unlinked)
    await _delete(connection, agents.c.id, gone)


def drafts(
    account_id: str, changes: Sequence[RouteChange], at: Version, now: int
) -> Iterator[outbox.Draft]:
    """What the log is told of changes of routes."""
    for change in changes:
        for topic, headers, value in change_records(
            change.number, change.after, account_id=account_id, version=at, time=now
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


# What a row that is inserted has beside what the mapping says of it; a change leaves it alone.
_DEFAULTS: Final[Mapping[str, ColumnElement[Any]]] = {
    "origin": literal_column("'file'"),
    "config": literal_column("'{}'"),
    "state": literal_column("'active'"),
    "mode": literal_column("'webhook'"),
    "details": literal_column("'{}'"),
    "provider_number_id": literal_column("''"),
    "bought": false(),
}
_KEYS_OF: Final[Mapping[Table, Sequence[str]]] = {
    agents: ("account_id", "name"),
    numbers: ("number",),
}
_ONCE: Final = frozenset({"id", "account_id", "label", "created_at", *_DEFAULTS})


@cache
def _upserting(dialect: str, table: Table, keep: tuple[str, ...]) -> ClauseElement:
    every: dict[Any, Any] = {
        column: _DEFAULTS.get(column.name, bindparam(column.name))
        for column in table.columns
        if column.name != "short_id"
    }
    if table is numbers:
        every[numbers.c.label] = literal_column("''")
    statement = insert(dialect, table).values(every)
    keys = _KEYS_OF[table]
    news = {
        column.name: statement.excluded[column.name]
        for column in every
        if column.name not in {*keys, *keep, *_ONCE}
    }
    return statement.on_conflict_do_update(index_elements=keys, set_=news)


async def _delete(connection: AsyncConnection, column: Column[str], keys: Sequence[str]) -> None:
    for some in _in_parts(keys):
        await connection.execute(delete(column.table).where(column.in_(some)))


async def where_in(
    connection: AsyncConnection,
    query: Select[Any],
    column: Column[str],
    keys: Collection[str] | None,
    *,
    lock: bool = False,
) -> list[Row[*tuple[Any, ...]]]:
    """The rows of the query whose `column` is among `keys`; None: all rows."""
    if keys is None:
        return list((await connection.execute(query)).all())
    if lock:  # all in one order, or two changes would wait for each other
        query = query.order_by(column).with_for_update()
    elif len(keys) > _MANY:
        count = await connection.execute(select(func.count()).select_from(column.table))
        if count.scalar_one() < 2 * len(keys):  # one statement costs less than hundreds
            among, place = set(keys), query.selected_columns.keys().index(column.name)
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


def _agent_values(spec: AgentSpec) -> tuple[Any, ...]:
    """Name, label, livekit_agent_name, metadata, status."""
    metadata = msgspec.json.encode(spec.metadata).decode()
    return spec.name, spec.name, spec.livekit_agent_name, metadata, spec.status


def number_of(row: Row[*tuple[Any, ...]]) -> NumberSpec:
    """The number of a row that has its agent's name as `agent`."""
    return NumberSpec(
        number=row.number,
        provider=row.provider,
        agent=row.agent,
        fallback=row.fallback,
        connection=row.connection_id,
    )
