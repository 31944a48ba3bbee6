"""Agents and numbers: the mapping that every ingress follows, of each account its own.

A number is one account's alone, names of agents are unique in their account. What is about all
routes (`all_routes`, `fingerprint`, `told_routes`, …) goes over all accounts; everything else takes
the account's id and reaches no other's rows.

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
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Row, and_, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from router.errors import ConfigError, Conflict
from router.events.phone import mask
from router.events.types import CONNECTIONS_TOPIC, ROUTES_TOPIC
from router.routing.spec import (
    AgentChange,
    AgentSpec,
    MappingResult,
    MappingSpec,
    NumberSpec,
    RouteChange,
    route_of,
)
from router.routing.table import Route, Version
from router.routing.table import fingerprint as route_fingerprint
from router.storage import batch, outbox
from router.storage.changes import State, agent_changes, leads_elsewhere, route_changes, wanted
from router.storage.engine import Database
from router.storage.schema import accounts, agents, numbers, revision
from router.storage.schema import outbox as outbox_rows
from router.storage.sql import now_micros

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


class Outdated(NamedTuple):
    """An agent that is ahead of its numbers."""

    account_id: str
    agent_id: str
    age: int  # µs since it was changed


async def plan_mapping(
    db: Database, account_id: str, desired: MappingSpec, *, prune: bool = False
) -> MappingResult:
    """What `apply_mapping` would change now. Nothing is written; `version` is the present one.

    Raises:
        ConfigError: a number leads to an agent that would not exist, is another account's, or is
            being released.
        StorageUnavailable: try again.
    """
    with _as_config_error():
        return await _plan(db, account_id, desired, (), prune=prune)


async def apply_mapping(
    db: Database,
    account_id: str,
    desired: MappingSpec,
    *,
    prune: bool = False,
    progress: Progress | None = None,
) -> MappingResult:
    """Make the account's mapping as `desired`; with `prune`, remove what of it is not in there.

    Raises:
        ConfigError: as `plan_mapping`; nothing was changed, unless somebody else removed the agent,
            or took the number, meanwhile.
        StorageUnavailable: try again, part of it may be written: applying twice is the same as
            once.
    """
    with _as_config_error():
        plan = await _plan(db, account_id, desired, (), prune=prune)
        return await _carry_out(db, account_id, plan, desired, progress)


async def delete_numbers(db: Database, account_id: str, numbers: Sequence[str]) -> MappingResult:
    """Remove E.164 numbers; those that the account does not have are no change.

    Raises:
        StorageUnavailable: try again, part of it may be done.
    """
    plan = await _plan(db, account_id, MappingSpec(), numbers, prune=False)
    return await _carry_out(db, account_id, plan, MappingSpec(), None)


async def publish(connection: AsyncConnection, account_id: str, keys: Sequence[str]) -> int:
    """Tell every ingress where these numbers lead by what this transaction has written; the rev.

    For who writes rows itself, with the numbers and the agents that they lead to locked. Numbers
    whose row is gone or not active lead nowhere. It comes last: it takes the revision.
    """
    epoch, rev, now = (await connection.execute(batch.NEXT)).one()
    version, these = Version(epoch, rev), numbers.c.number.in_(keys)
    await connection.execute(update(numbers).where(these).values(rev=rev))
    routes = {route.number: route for route in await _routes(connection, these, limit=len(keys))}
    changes = [RouteChange(key, None, routes.get(key)) for key in sorted(set(keys))]
    await outbox.add(connection, batch.drafts(account_id, changes, version, now), now=now)
    return version.rev


async def outdated(db: Database, *, beyond: int = 0) -> Sequence[Outdated]:
    """Agents with a rev above `beyond` that have numbers which were not told of their change.

    Raises:
        StorageUnavailable: try again.
    """
    behind = select(numbers.c.id).where(
        numbers.c.agent_id == agents.c.id, numbers.c.rev < agents.c.rev, batch.ACTIVE
    )
    age = now_micros() - agents.c.updated_at
    query = select(agents.c.account_id, agents.c.id, age).where(agents.c.rev > beyond)
    async with db.read() as connection:
        rows = await connection.execute(query.where(behind.exists()).order_by(agents.c.rev))
        return [Outdated(*row) for row in rows]


async def tell_outdated(db: Database) -> int:
    """Finish changes of agents that a crash left half told; how many numbers that were.

    Raises:
        StorageUnavailable: try again.
    """
    return sum([await tell(db, each.account_id, each.agent_id) for each in await outdated(db)])


async def tell(db: Database, account_id: str, agent_id: str, *, most: int | None = None) -> int:
    """Tell the numbers of an agent what they were not told of it; how many that were.

    At least `most`, where there are so many. Page by page, each a short transaction: calls are
    claimed in between.

    Raises:
        StorageUnavailable: try again, a part may be done.
    """
    last, size, done = 0, _FIRST, 0
    behind = (
        select(numbers.c.short_id, numbers.c.number)
        .join(agents)
        .where(agents.c.id == agent_id, numbers.c.rev < agents.c.rev, batch.ACTIVE)
        .order_by(numbers.c.short_id)
    )
    while most is None or done < most:
        async with db.read() as connection:
            page = behind.where(numbers.c.short_id > last).limit(size)
            rows = (await connection.execute(page)).all()
        if not rows:
            break
        told, seconds = await _tell_page(db, account_id, agent_id, [row.number for row in rows])
        last, done = rows[-1].short_id, done + told
        size = _next_size(len(rows), seconds)
    return done


async def _tell_page(
    db: Database, account_id: str, agent_id: str, page: Sequence[str]
) -> tuple[int, float]:
    """How many of these numbers were told now, and the seconds that it held the lock."""
    held = 0.0
    agent = select(agents.c.rev).where(agents.c.id == agent_id).with_for_update(read=True)
    # By their numbers alone, or SQLite would go through all that the agent has.
    these = select(numbers.c.number, numbers.c.agent_id, numbers.c.rev)
    these = these.where(numbers.c.number.in_(page), batch.ACTIVE).order_by(numbers.c.number)

    async def work(connection: AsyncConnection) -> int:
        nonlocal held
        began = time.perf_counter()
        rev = (await connection.execute(agent)).scalar_one_or_none() or 0
        rows = await connection.execute(these.with_for_update())
        keys = [row.number for row in rows if row.agent_id == agent_id and row.rev < rev]
        if keys:
            await publish(connection, account_id, keys)
        held = time.perf_counter() - began
        return len(keys)

    return await db.transact(work), held


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
        query = select(numbers.c.number, numbers.c.rev).where(batch.ACTIVE)
        rows = (await connection.execute(query)).all()
    return route_fingerprint((number, Version(epoch, rev)) for number, rev in rows)


async def unpublished(db: Database) -> int:
    """How many records of changes wait for the log: 0 when every instance can have them all."""
    return await outbox.count(db)


async def at_most_unpublished(db: Database) -> int:
    """At most so many: as `unpublished`, for who asks again and again."""
    return await outbox.span(db)


async def account_named(db: Database, name: str) -> str | None:
    """The id of the account with this name."""
    async with db.read() as connection:
        found = await connection.execute(select(accounts.c.id).where(accounts.c.name == name))
        return found.scalar_one_or_none()


async def account_name(db: Database, account_id: str) -> str:
    """The name of an account, "" of none."""
    async with db.read() as connection:
        found = await connection.execute(select(accounts.c.name).where(accounts.c.id == account_id))
        return found.scalar_one_or_none() or ""


async def counts(db: Database, account_id: str) -> Counts:
    """How many agents and numbers the account's mapping has."""
    query = select(
        select(func.count()).where(agents.c.account_id == account_id).scalar_subquery(),
        select(func.count())
        .where(numbers.c.account_id == account_id, batch.ACTIVE)
        .scalar_subquery(),
    )
    async with db.read() as connection:
        return Counts(*(await connection.execute(query)).one())


async def size(db: Database) -> int:
    """How many numbers have a route, of all accounts."""
    query = select(func.count()).select_from(numbers).where(batch.ACTIVE)
    async with db.read() as connection:
        return int((await connection.execute(query)).scalar_one())


async def missing(db: Database, among: Collection[str]) -> set[str]:
    """Those of the numbers `among` that no account's mapping has."""
    query = select(numbers.c.number).where(batch.ACTIVE)
    async with db.read() as connection:
        found = await batch.where_in(connection, query, numbers.c.number, among)
    return set(among) - {row.number for row in found}


async def list_agents(db: Database, account_id: str) -> Sequence[AgentSpec]:
    """The account's agents, by name."""
    query = select(agents).where(agents.c.account_id == account_id).order_by(agents.c.name)
    async with db.read() as connection:
        return [batch.agent_of(row) for row in await connection.execute(query)]


async def agent_ids(db: Database, account_id: str) -> dict[str, str]:
    """The id of each of the account's agents, by name."""
    query = select(agents.c.name, agents.c.id).where(agents.c.account_id == account_id)
    async with db.read() as connection:
        return {row.name: row.id for row in await connection.execute(query)}


async def number_ids(db: Database, account_id: str, among: Collection[str]) -> dict[str, str]:
    """The id of each of these numbers that the account's mapping has."""
    query = select(numbers.c.number, numbers.c.id)
    query = query.where(numbers.c.account_id == account_id, batch.ACTIVE)
    async with db.read() as connection:
        rows = await batch.where_in(connection, query, numbers.c.number, among)
    return {row.number: row.id for row in rows}


async def list_numbers(
    db: Database, account_id: str, *, after: str = "", limit: int = _PAGE
) -> Sequence[NumberSpec]:
    """Up to `limit` of the account's numbers that come after the number `after`."""
    query = (
        select(numbers, agents.c.name.label("agent"))
        .select_from(numbers.outerjoin(agents))
        .where(numbers.c.account_id == account_id, numbers.c.number > after, batch.ACTIVE)
        .order_by(numbers.c.number)
        .limit(limit)
    )
    async with db.read() as connection:
        return [batch.number_of(row) for row in await connection.execute(query)]


async def fallbacks(db: Database, account_id: str, among: Collection[str]) -> dict[str, str]:
    """The fallback of each of these numbers that has one."""
    query = select(numbers.c.number, numbers.c.fallback)
    query = query.where(numbers.c.account_id == account_id, batch.ACTIVE)
    async with db.read() as connection:
        rows = await batch.where_in(connection, query, numbers.c.number, among)
    return {row.number: row.fallback for row in rows if row.fallback}


async def get_route(db: Database, account_id: str, number: str) -> Route | None:
    """Where an E.164 number leads, None when it isn't in the account's mapping."""
    one = and_(numbers.c.account_id == account_id, numbers.c.number == number)
    async with db.read() as connection:
        routes = await _routes(connection, one, limit=1)
    return routes[0] if routes else None


async def find_route(db: Database, number: str) -> Route | None:
    """Where an E.164 number leads, whichever account holds it; None when none does."""
    async with db.read() as connection:
        routes = await _routes(connection, numbers.c.number == number, limit=1)
    return routes[0] if routes else None


async def told_routes(db: Database, among: Collection[str]) -> Sequence[Route]:
    """The routes of these numbers, at one moment, without those that an agent is ahead of.

    A change of an agent is in the database before its numbers are told.
    """
    told = or_(numbers.c.agent_id.is_(None), numbers.c.rev >= agents.c.rev)
    these = and_(numbers.c.number.in_(among), told)
    async with db.read() as connection:
        return await _routes(connection, these, limit=len(among))


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
    db: Database,
    account_id: str,
    desired: MappingSpec,
    removed: Collection[str],
    *,
    prune: bool,
) -> MappingResult:
    async with db.read(limit=_READ) as connection:
        if prune:
            known = _by_number(desired)
            before = await batch.state(connection, account_id, None, None, known=known)
        else:
            before = await _touched(connection, account_id, desired, removed)
    after = wanted(before, desired, prune=prune, removed=removed)
    epoch, rev = before.position
    changes: tuple[batch.Change, ...] = (
        *agent_changes(before, after),
        *route_changes(before, after, Version(epoch, rev + 1)),
    )
    gone = [each.number for each in changes if isinstance(each, RouteChange) and not each.after]
    if gone:
        await _require_none_bought(db, gone)
    return MappingResult(rev, changes)


async def _require_none_bought(db: Database, gone: Collection[str]) -> None:
    """Raises ConfigError: who forgets a number that was bought here pays for it without end."""
    query = select(numbers.c.number).where(numbers.c.bought)
    async with db.read() as connection:
        bought = await batch.where_in(connection, query, numbers.c.number, gone)
    if bought:
        raise ConfigError(
            f"{mask(bought[0].number)}{f' and {len(bought) - 1} more' if len(bought) > 1 else ''}: "
            "bought by Switchboard, and without a release the carrier goes on charging for it: "
            "`switchboard numbers release NUMBER`, or keep it in the file",
            key="numbers",
        )


async def _touched(
    connection: AsyncConnection, account_id: str, desired: MappingSpec, removed: Collection[str]
) -> State:
    """What the change can touch: not the whole mapping."""
    names = batch.names_of(desired.agents, desired.numbers)
    known = _by_number(desired)
    keys = known.keys() | set(removed)
    there = await batch.state(connection, account_id, names, ())
    moved = _led_elsewhere(there, desired)
    keys.update(await batch.numbers_of(connection, account_id, moved))
    keys.update(await batch.numbers_of(connection, account_id, there.agents, outdated=True))
    return await batch.state(connection, account_id, names, keys, known=known)


def _led_elsewhere(there: State, desired: MappingSpec) -> list[str]:
    """The agents whose numbers' routes change with them."""
    return [
        spec.name for spec in desired.agents if leads_elsewhere(there.agents.get(spec.name), spec)
    ]


@contextmanager
def _as_config_error() -> Iterator[None]:
    """What a file says that can't be: for who wrote the file."""
    try:
        yield
    except Conflict as error:
        raise ConfigError(str(error), key="numbers") from error


def _by_number(desired: MappingSpec) -> dict[str, NumberSpec]:
    return {spec.number: spec for spec in desired.numbers}


async def _carry_out(
    db: Database,
    account_id: str,
    plan: MappingResult,
    desired: MappingSpec,
    progress: Progress | None,
) -> MappingResult:
    """Write the plan, batch by batch; what somebody else did meanwhile is no change of ours."""
    specs = _by_number(desired)
    ahead = sorted(plan.changes, key=_turn)
    total, size, rev = len(ahead), _FIRST, plan.version
    done: list[batch.Change] = []
    while ahead:
        part, ahead = ahead[:size], ahead[size:]
        written, seconds = await _write(db, account_id, part, specs)
        rev = max(rev, written.version)
        done += written.changes
        if progress is not None:
            progress(total - len(ahead), total)
        await asyncio.sleep(0)
        size = _next_size(len(part), seconds)
    return MappingResult(rev, tuple(done))


def _next_size(size: int, seconds: float) -> int:
    """Of a batch, after one of this size held the lock for so long."""
    return max(_SMALLEST, min(_LARGEST, round(size * _HELD / max(seconds, 0.001))))


def _turn(change: batch.Change) -> int:
    """Agents come first and go last, because numbers refer to them."""
    if isinstance(change, AgentChange):
        return 3 if change.after is None else 0
    return 2 if change.after is None else 1


async def _write(
    db: Database,
    account_id: str,
    part: Sequence[batch.Change],
    specs: Mapping[str, NumberSpec],
) -> tuple[MappingResult, float]:
    """Write a part of a plan in one transaction; and the seconds that it held the lock."""
    held = 0.0

    async def work(connection: AsyncConnection) -> MappingResult:
        nonlocal held
        began = time.perf_counter()
        try:
            return await batch.write(connection, account_id, part, specs)
        finally:
            held = time.perf_counter() - began

    return await db.transact(work), held


async def _routes(
    connection: AsyncConnection, condition: ColumnElement[bool], *, limit: int
) -> list[Route]:
    query = (
        select(
            numbers,
            agents.c.name.label("agent"),
            agents.c.name,
            agents.c.livekit_agent_name,
            agents.c.metadata,
            agents.c.status,
            select(revision.c.epoch).scalar_subquery().label("epoch"),
        )
        .select_from(numbers.outerjoin(agents))
        .where(condition, batch.ACTIVE)
        .order_by(numbers.c.number)
        .limit(limit)
    )
    return [_route(row) for row in await connection.execute(query)]


def _route(row: Row[*tuple[Any, ...]]) -> Route:
    agent = None if row.agent is None else batch.agent_of(row)
    return route_of(
        batch.number_of(row),
        agent,
        Version(row.epoch, row.rev),
        account_id=row.account_id,
        agent_id=row.agent_id or "",
    )
