"""Agents and numbers: the mapping that every ingress follows.

A change is written in batches, each one transaction: rows, a revision, and for every number whose
route changed two outbox rows, what happened (`telephony.numbers`) and what holds now
(`telephony.routes`). So a change of up to `_FIRST` agents and numbers is there as a whole or not at
all; a larger one, everything of which was checked before the first write, may be left half done by
a crash, and applying it once more does the rest. Agents come first and go last.

A batch locks its agents and numbers, reads them, and takes its revision then: of two changes of a
number the later commit has the higher rev, and who follows the log may trust that alone. An agent
that changed is ahead of its numbers' revs until each has been told.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Row, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from router.events.types import CONNECTIONS_TOPIC, ROUTES_TOPIC
from router.routing.spec import (
    AgentChange,
    AgentSpec,
    MappingResult,
    MappingSpec,
    NumberSpec,
    route_of,
)
from router.routing.table import NEVER, Route, Version
from router.routing.table import fingerprint as route_fingerprint
from router.storage import batch, outbox
from router.storage.changes import State, agent_changes, leads_elsewhere, route_changes, wanted
from router.storage.engine import Database
from router.storage.schema import agents, numbers, revision
from router.storage.schema import outbox as outbox_rows

_COMPACTED: Final = (ROUTES_TOPIC, CONNECTIONS_TOPIC)
_READ: Final = 120.0  # seconds: all numbers of a large account
_PAGE: Final = 250  # rows, some ms: webhooks and claims come between two pages

# A claim waits for the batch that is being written, because SQLite has one writer: a batch takes as
# many changes as fit into `_HELD` seconds, and who waits then comes first (`sqlite.Gate`).
_FIRST: Final = 100
_LARGEST: Final = 500
_SMALLEST: Final = 100
_HELD: Final = 0.03

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
    return await _plan(db, desired, (), prune=prune)


async def apply_mapping(
    db: Database,
    desired: MappingSpec,
    *,
    prune: bool = False,
    progress: Progress | None = None,
) -> MappingResult:
    """Make the mapping as `desired`; with `prune`, remove every agent and number not in it.

    Raises:
        ConfigError: a number leads to an agent that would not exist; nothing was changed, unless
            that agent was removed by somebody else meanwhile.
        StorageUnavailable: try again, part of it may be written: applying twice is the same as
            once.
    """
    plan = await _plan(db, desired, (), prune=prune)
    return await _carry_out(db, plan, desired, progress)


async def delete_numbers(db: Database, numbers: Sequence[str]) -> MappingResult:
    """Remove E.164 numbers; those that aren't there are no change.

    Raises:
        StorageUnavailable: try again, part of it may be done.
    """
    plan = await _plan(db, MappingSpec(), numbers, prune=False)
    return await _carry_out(db, plan, MappingSpec(), None)


async def tell_outdated(db: Database) -> int:
    """Finish changes of agents that a crash left half told; how many numbers that were.

    Raises:
        StorageUnavailable: try again.
    """
    query = select(numbers.c.number).join(agents).where(numbers.c.rev < agents.c.rev)
    async with db.read() as connection:
        keys = (await connection.execute(query)).scalars().all()
        before = await batch.state(connection, (), keys)
    changes = tuple(route_changes(before, before, NEVER))
    done = await _carry_out(db, MappingResult(0, changes), MappingSpec(), None)
    return len(done.changes)


async def position(db: Database) -> Version:
    """The epoch, and the newest revision that was given out."""
    async with db.read() as connection:
        return Version(*(await connection.execute(batch.POSITION)).one())


async def version(db: Database) -> int:
    """The revision of the newest change, 0 before the first."""
    return (await position(db)).rev


async def take_version(db: Database) -> Version:
    """A version above all that were given out, for a record that no change wrote."""
    async with db.write() as connection:
        epoch, rev, _ = (await connection.execute(batch.NEXT)).one()
        return Version(epoch, rev)


async def take_epoch(db: Database, beyond: Version) -> Version:
    """Begin an epoch of which every version is above `beyond`; its first version.

    Records of routes and connections that wait in the outbox are of the epoch before: they are
    dropped, because all of them are to be published anew.
    """

    async def work(connection: AsyncConnection) -> Version:
        epoch, value, _ = (await connection.execute(batch.NEXT)).one()
        fresh = Version(max(epoch, beyond.epoch) + 1, max(value, beyond.rev + 1))
        await connection.execute(update(revision).values(epoch=fresh.epoch, value=fresh.rev))
        await connection.execute(delete(outbox_rows).where(outbox_rows.c.topic.in_(_COMPACTED)))
        return fresh

    return await db.transact(work)


async def fingerprint(db: Database) -> int:
    """Of the routes that hold (`router.routing.table.fingerprint`): who has it has them all."""
    async with db.read() as connection:
        epoch, _ = (await connection.execute(batch.POSITION)).one()
        rows = (await connection.execute(select(numbers.c.number, numbers.c.rev))).all()
    return route_fingerprint((number, Version(epoch, rev)) for number, rev in rows)


async def unpublished(db: Database) -> int:
    """How many records of changes wait for the log: 0 when every instance can have them all."""
    return await outbox.count(db)


async def at_most_unpublished(db: Database) -> int:
    """At most so many: as `unpublished`, for who asks again and again."""
    return await outbox.span(db)


async def counts(db: Database) -> Counts:
    """How many agents and numbers there are."""
    async with db.read() as connection:
        found = [
            (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            for table in (agents, numbers)
        ]
    return Counts(*found)


async def state_of(db: Database, keys: Collection[str]) -> State:
    """These numbers with their agents, as they are at one moment."""
    async with db.read() as connection:
        return await batch.state(connection, (), keys)


async def missing(db: Database, among: Collection[str]) -> set[str]:
    """Those of the numbers `among` that the mapping does not have."""
    async with db.read() as connection:
        found = await batch.where_in(connection, numbers.c.number, among)
    return set(among) - {row.number for row in found}


async def list_agents(db: Database) -> Sequence[AgentSpec]:
    """All agents, by name."""
    async with db.read() as connection:
        rows = await connection.execute(select(agents).order_by(agents.c.name))
        return [batch.agent_of(row) for row in rows]


async def list_numbers(
    db: Database, *, after: str = "", limit: int = _PAGE
) -> Sequence[NumberSpec]:
    """Up to `limit` numbers that come after the number `after`."""
    query = select(numbers).where(numbers.c.number > after).order_by(numbers.c.number)
    async with db.read() as connection:
        return [batch.number_of(row) for row in await connection.execute(query.limit(limit))]


async def fallbacks(db: Database, among: Collection[str]) -> dict[str, str]:
    """The fallback of each of these numbers that has one."""
    async with db.read() as connection:
        rows = await batch.where_in(connection, numbers.c.number, among)
    return {row.number: row.fallback for row in rows if row.fallback}


async def get_route(db: Database, number: str) -> Route | None:
    """Where an E.164 number leads, None when it isn't in the mapping."""
    async with db.read() as connection:
        routes = await _routes(connection, numbers.c.number == number, limit=1)
    return routes[0] if routes else None


async def all_routes(db: Database) -> AsyncIterator[Route]:
    """Every route, page by page, each page its own transaction.

    Changes made meanwhile may or may not be in it; their records are in the outbox, and the higher
    version wins.
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


async def _plan(
    db: Database, desired: MappingSpec, removed: Collection[str], *, prune: bool
) -> MappingResult:
    async with db.read(limit=_READ) as connection:
        at = Version(*(await connection.execute(batch.POSITION)).one())
        if prune:
            before = await batch.state(connection, None, None, known=_by_number(desired))
        else:
            before = await _touched(connection, desired, removed)
    after = wanted(before, desired, prune=prune, removed=removed)
    changes: tuple[batch.Change, ...] = (
        *agent_changes(before, after),
        *route_changes(before, after, Version(at.epoch, at.rev + 1)),
    )
    return MappingResult(at.rev, changes)


async def _touched(
    connection: AsyncConnection, desired: MappingSpec, removed: Collection[str]
) -> State:
    """What the change can touch: not the whole mapping."""
    names = batch.names_of(desired.agents, desired.numbers)
    known = _by_number(desired)
    keys = known.keys() | set(removed)
    there = (await batch.state(connection, names, ())).agents
    changed = [spec.name for spec in desired.agents if leads_elsewhere(there.get(spec.name), spec)]
    keys.update(await batch.numbers_of(connection, changed))
    keys.update(await batch.numbers_of(connection, there, outdated=True))
    return await batch.state(connection, names, keys, known=known)


def _by_number(desired: MappingSpec) -> dict[str, NumberSpec]:
    return {spec.number: spec for spec in desired.numbers}


async def _carry_out(
    db: Database, plan: MappingResult, desired: MappingSpec, progress: Progress | None
) -> MappingResult:
    """Write the plan, batch by batch; what somebody else did meanwhile is no change of ours."""
    specs = _by_number(desired)
    ahead = sorted(plan.changes, key=_turn)
    total, size, rev = len(ahead), _FIRST, plan.version
    done: list[batch.Change] = []
    while ahead:
        part, ahead = ahead[:size], ahead[size:]
        written, seconds = await _write(db, part, specs)
        rev = max(rev, written.version)
        done += written.changes
        if progress is not None:
            progress(total - len(ahead), total)
        await asyncio.sleep(0)
        size = max(_SMALLEST, min(_LARGEST, round(len(part) * _HELD / max(seconds, 0.001))))
    return MappingResult(rev, tuple(done))


def _turn(change: batch.Change) -> int:
    """Agents come first and go last, because numbers refer to them."""
    if isinstance(change, AgentChange):
        return 3 if change.after is None else 0
    return 2 if change.after is None else 1


async def _write(
    db: Database, part: Sequence[batch.Change], specs: Mapping[str, NumberSpec]
) -> tuple[MappingResult, float]:
    """Write a part of a plan in one transaction; and the seconds that it held the lock."""
    held = 0.0

    async def work(connection: AsyncConnection) -> MappingResult:
        nonlocal held
        began = time.perf_counter()
        try:
            return await batch.write(connection, part, specs)
        finally:
            held = time.perf_counter() - began

    return await db.transact(work), held


async def _routes(
    connection: AsyncConnection, condition: ColumnElement[bool], *, limit: int
) -> list[Route]:
    query = (
        select(
            numbers,
            agents.c.name,
            agents.c.livekit_agent_name,
            agents.c.metadata,
            agents.c.status,
            select(revision.c.epoch).scalar_subquery().label("epoch"),
        )
        .select_from(numbers.outerjoin(agents))
        .where(condition)
        .order_by(numbers.c.number)
        .limit(limit)
    )
    return [_route(row) for row in await connection.execute(query)]


def _route(row: Row[*tuple[Any, ...]]) -> Route:
    agent = None if row.agent is None else batch.agent_of(row)
    return route_of(batch.number_of(row), agent, Version(row.epoch, row.rev))
