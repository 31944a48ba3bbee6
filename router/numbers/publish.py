"""Takes mapping changes from the database to the log, and mends a topic that lacks some.

A change of the mapping and its outbox rows are one transaction (`router.storage.mapping`), so a
change is on the log exactly when it is in the database, soon after. One process at a time does it
(the lease of `router.storage.leader`): many rows at once, those of one number one after the other.

Before the first row, and then every few minutes, the topic is compared with the database:

- The topic lacks routes: it was lost or restored, and is filled.
- The topic knows of changes that the database does not: the database was restored from a backup, or
  a replica took over that had not got them. It begins a new epoch (`router.routing.table.Version`)
  and publishes every route anew, or followers would take its changes for old ones.
- The topic has routes that the database does not have, more than a tenth of them: nobody removes so
  much without a word. The database was deleted, or is another one. Nothing is published until the
  database has them again, or a person says `switchboard up --forget-routes`.
"""

import asyncio
from collections import ChainMap
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from router.clock import Clock
from router.errors import LogUnavailable, StorageUnavailable
from router.eventlog.base import EventLog, Record
from router.events.codec import to_rfc3339
from router.events.types import ROUTES_TOPIC
from router.numbers import publish_connections
from router.observability import log
from router.routing.table import FIRST_EPOCH, NEVER, Route, RouteTable, Version
from router.storage import mapping, outbox
from router.storage.engine import Database
from router.storage.leader import leader
from router.storage.records import route_record, version_of
from router.storage.sql import micros

logger = log.get(__name__)

# Seconds between looks at the outbox of which nobody told: with SQLite `apply` is another process.
_POLL: Final = 0.1
_RETRY: Final = 1.0
_RECONCILE: Final = 300.0
_LOOK: Final = 2.0  # seconds between looks for agents that are ahead of their numbers
_ABANDONED: Final = 15.0  # seconds after an agent's change; most are told in much less
_BATCH: Final = 500  # records; of a webhook's event that many may be ahead
_PAGE: Final = 4000  # records that are read from the outbox at once, some ms
_FORGOTTEN: Final = 500  # records that are deleted from it at once: a claim waits some ms for them
_READ: Final = 60.0  # seconds that reading the whole topic may take
_LEASE: Final = "publish"
_MUCH: Final = 10  # a tenth of the routes is more than anybody loses on purpose

_encoder = msgspec.json.Encoder(order="deterministic")


class Said(NamedTuple):
    """What the topic, or this node's table, says of a number."""

    version: Version
    content: int | None  # a hash of the route; None: removed


_NOTHING: Final = Said(NEVER, None)

Outgoing = tuple[str, Route | None, Version]
"""A number, its route (None: removed), and the version of that."""


@dataclass(slots=True)
class Guard:
    """Between the database and the routes by which calls are answered."""

    forget: bool = False
    """The operator's word: routes that the database does not have may go, this once."""
    table: RouteTable | None = None
    """The routes by which this very process answers, which may be more than the topic has."""
    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when `table` has what the data folder keeps."""
    finding: str = ""
    """For /readyz: what is wrong with the database, or what was done about it."""
    comparing: bool = False
    """Whether this process leads, and what is published is not yet known to be the database's."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the routes that are known say about the database."""

    topic: dict[str, Said]
    live: int  # numbers with a route
    lost: set[str]  # those of them that the database does not have
    newest: Version  # of all that is known
    position: Version  # the database's
    behind: bool  # the database lacks changes that are known
    connections: publish_connections.Comparison


async def run(
    database: Database, events: EventLog, clock: Clock, guard: Guard | None = None
) -> None:
    """Publish until cancelled; outages of the database or the log are waited out."""
    guard = guard or Guard()
    if guard.table is not None:
        await guard.loaded.wait()
    while True:
        try:
            async with leader(database, _LEASE, listens=True) as leading:
                if leading:
                    await _lead(database, events, clock, guard)
        except (StorageUnavailable, LogUnavailable) as error:
            logger.warning("publish.waiting", why=str(error), retry_in=_RETRY)
        guard.comparing = False
        await clock.sleep(_RETRY)


async def _lead(database: Database, events: EventLog, clock: Clock, guard: Guard) -> None:
    while True:
        guard.comparing, replaced = True, database.replaced
        found = await _admitted(database, events, clock, guard)
        await _mend(database, events, clock, guard, found)
        del found  # as large as the mapping
        guard.comparing = False
        finishing = _Finishing(database, clock)
        until = clock.monotonic() + _RECONCILE
        while clock.monotonic() < until and database.replaced == replaced:
            database.filled.clear()
            if not await _drain(database, events) and not await finishing.some():
                await _wait(database.filled, clock)


async def _wait(filled: asyncio.Event, clock: Clock) -> None:
    """Until something is in the outbox, or it is time to look all the same."""
    waiting = [asyncio.create_task(filled.wait()), asyncio.create_task(clock.sleep(_POLL))]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


class _Finishing:
    """Finishes changes of agents whose numbers nobody tells any more: a process ended at it.

    Whoever changes an agent tells its numbers, so this looks again and again only while one of them
    is behind, and takes over when that is so for `_ABANDONED`.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._settled = 0  # the agents' changes up to this revision are told
        self._next_look = 0.0

    async def some(self) -> int:
        """Tell some numbers, so that they are published before the next; how many that were."""
        if self._clock.monotonic() < self._next_look:
            return 0
        position = (await mapping.position(self._database)).rev
        if position > self._settled:
            found = await mapping.outdated(self._database, beyond=self._settled)
            for each in found:
                if each.age >= micros(_ABANDONED):
                    told = await mapping.tell(
                        self._database, each.account_id, each.agent_id, most=_BATCH
                    )
                    logger.info("publish.finished", agent=each.agent_id, numbers=told)
                    return told
            self._settled = self._settled if found else position
        self._next_look = self._clock.monotonic() + _LOOK
        return 0


async def _admitted(database: Database, events: EventLog, clock: Clock, guard: Guard) -> Comparison:
    """Compare, and wait as long as the database may not be published from."""
    while True:
        found = await compare(database, events, guard.table)
        guard.finding = "" if guard.forget else refusal(found)
        if not guard.finding:
            return found
        logger.error("publish.refused", why=guard.finding)
        again = clock.monotonic() + _RECONCILE
        while clock.monotonic() < again and await mapping.position(database) == found.position:
            await clock.sleep(_RETRY)


def refusal(found: Comparison) -> str:
    """Why the database must not replace the routes that are known; empty: it may."""
    lost, live = len(found.connections.lost), found.connections.live
    if len(found.lost) * _MUCH <= found.live and lost * _MUCH > live:
        return (
            f"the database lacks {lost} of the {live} connections by which tenants' calls are "
            "verified: it is new, was deleted, or is another one. They go on, and no change is "
            "published. Stop and restore the database (docs/OPERATIONS.md, Backup and restore). If "
            "the connections are to go, start once with: switchboard up --forget-routes"
        )
    if len(found.lost) * _MUCH <= found.live:
        return ""
    return (
        f"the database lacks {len(found.lost)} of the {found.live} routes by which calls are "
        "answered: it is new, was deleted, or is another one. These routes go on, and no change of "
        "the mapping is published. Stop and restore the database (docs/OPERATIONS.md, Backup and "
        "restore), or apply the whole mapping again. If the routes are to go, start once with: "
        "switchboard up --forget-routes"
    )


async def compare(
    database: Database, events: EventLog, table: RouteTable | None = None
) -> Comparison:
    """What the topic and this node's table know, beside what the database has.

    They are read first: what they have and a sound database has not was removed meanwhile.

    Raises:
        StorageUnavailable, LogUnavailable: try again.
    """
    try:
        async with asyncio.timeout(_READ):
            topic = await _published(events)
            connections = await publish_connections.compare(database, events)
    except TimeoutError as error:
        raise LogUnavailable(f"the log was not read within {_READ:g} s") from error
    newer = await _newer(table, topic) if table is not None else {}
    known: Mapping[str, Said] = ChainMap(newer, topic) if newer else topic
    # In a thread: a million of them would keep webhooks waiting.
    newest, lost = await asyncio.to_thread(_newest_and_live, known)
    newest = max(newest, connections.newest)
    live = len(lost)
    lost -= await outbox.removals(database, ROUTES_TOPIC)
    position = await mapping.position(database)
    suspects: list[str] = []
    async for route in mapping.all_routes(database):
        lost.discard(route.number)
        if _contradicts(route, known.get(route.number)):
            suspects.append(route.number)
    behind = newest > position or connections.contradicts
    behind = behind or await _any_contradiction(database, suspects, known)
    return Comparison(topic, live, lost, newest, position, behind, connections)


def _newest_and_live(known: Mapping[str, Said]) -> tuple[Version, set[str]]:
    newest = max((said.version for said in known.values()), default=NEVER)
    return newest, {number for number, said in known.items() if said.content is not None}


def _contradicts(route: Route, said: Said | None) -> bool:
    """Whether somebody was told of this number what the database can't have told."""
    if said is None or said.version < route.version:
        return False
    if said.version > route.version:
        return True
    # A route that was told before agents had ids names none, and holds all the same.
    return said.content not in (_content(route), _content(_without_ids(route)))


async def _any_contradiction(
    database: Database, suspects: Sequence[str], known: Mapping[str, Said]
) -> bool:
    """Look once more: a change of an agent is in the database before its numbers are told."""
    for start in range(0, len(suspects), _BATCH):
        for route in await mapping.told_routes(database, suspects[start : start + _BATCH]):
            if _contradicts(route, known.get(route.number)):
                return True
    return False


async def _newer(table: RouteTable, topic: Mapping[str, Said]) -> dict[str, Said]:
    """What this node's table has and the topic has not: its copy in the data folder outlived it."""
    found: dict[str, Said] = {}
    for index, route in enumerate(list(table), 1):
        if route.version > topic.get(route.number, _NOTHING).version:
            found[route.number] = Said(route.version, _content(route))
        if not index % _BATCH:
            await asyncio.sleep(0)  # webhooks are answered meanwhile
    for number, version in list(table.removed().items()):
        if version > topic.get(number, _NOTHING).version:
            found[number] = Said(version, None)
    return found


async def _published(events: EventLog) -> dict[str, Said]:
    """What the topic says now; of a record that followers can't read: nothing."""
    said: dict[str, Said] = {}
    async with events.follow([ROUTES_TOPIC], after={}) as follower:
        while not follower.caught_up:
            for record in await follower.fetch(limit=_BATCH, wait=0.2):
                said[record.key] = _said(record)
    return said


def _said(record: Record) -> Said:
    version = version_of(record.headers)
    if version is None or record.value is None:
        return Said(version or NEVER, None)
    try:
        return Said(version, _content(msgspec.json.decode(record.value, type=Route)))
    except (ValueError, RecursionError):
        return _NOTHING


def _content(route: Route) -> int:
    return hash(_encoder.encode(msgspec.structs.replace(route, rev=0, epoch=FIRST_EPOCH)))


def _without_ids(route: Route) -> Route:
    targets = tuple(msgspec.structs.replace(target, agent_id="") for target in route.targets)
    return msgspec.structs.replace(route, targets=targets)


async def republish(database: Database, events: EventLog, clock: Clock) -> int:
    """Put onto `telephony.routes` what the database has and the topic lacks; how many routes.

    Normally nothing. After the topic was lost or restored from an old state, everything.

    Raises:
        StorageUnavailable, LogUnavailable: try again.
    """
    found = await compare(database, events)
    return 0 if refusal(found) else await _mend(database, events, clock, Guard(), found)


async def _mend(
    database: Database, events: EventLog, clock: Clock, guard: Guard, found: Comparison
) -> int:
    """Bring the topic to what the database has; how many routes had to be sent beside the outbox.

    The outbox comes before them: what waits there needs not be sent twice.
    """
    if found.behind:
        await mapping.take_epoch(database, found.newest)
    await mapping.tell_outdated(database)
    while rows := await _drain(database, events):
        for row in rows:
            publish_connections.note(found.connections.topic, row)
            if row.topic == ROUTES_TOPIC and (version := version_of(row.headers)):
                found.topic[row.key] = Said(version, None)
    sent = await _send(events, _drafts(clock, _lacking(database, found.topic)))
    removed = await _remove(database, events, clock, found.lost)
    missing = publish_connections.lacking(database, clock, found.connections.topic)
    connections = await _send(events, missing)
    guard.forget = False
    if sent or removed or connections:
        logger.warning("publish.republished", routes=sent, removed=removed, connections=connections)
    if found.behind:
        gone = f", and {removed} that it does not have were removed" if removed else ""
        guard.finding = (
            "the database was an older state than the routes that were in use (restored, or a "
            f"replica): since {to_rfc3339(clock.now())} its {sent} routes hold{gone}. What was "
            "changed after that state must be applied again"
        )
        logger.error("publish.restored", why=guard.finding)
    return sent + removed


async def _lacking(database: Database, topic: Mapping[str, Said]) -> AsyncIterator[Outgoing]:
    async for route in mapping.all_routes(database):
        if topic.get(route.number, _NOTHING).version < route.version:
            yield route.number, route, route.version


async def _remove(database: Database, events: EventLog, clock: Clock, lost: set[str]) -> int:
    if not lost:
        return 0
    # First the version, then the look: a number that is added after the look has a higher one.
    version = await mapping.take_version(database)
    gone = sorted(await mapping.missing(database, lost))

    async def tombstones() -> AsyncIterator[Outgoing]:
        for number in gone:
            yield number, None, version

    return await _send(events, _drafts(clock, tombstones()))


async def _drafts(clock: Clock, routes: AsyncIterator[Outgoing]) -> AsyncIterator[outbox.Draft]:
    async for number, route, version in routes:
        # By its time it has its own id: the journal may still hold the first copy, and would take
        # this one for a repeat.
        headers, value = route_record(number, route, version=version, time=clock.now())
        yield outbox.Draft(ROUTES_TOPIC, number, value, headers)


async def _send(events: EventLog, drafts: AsyncIterator[outbox.Draft]) -> int:
    sent = 0
    waiting: list[outbox.Draft] = []
    async for draft in drafts:
        waiting.append(draft)
        sent += 1
        if len(waiting) == _BATCH:
            await _append(events, waiting)
            waiting = []
    await _append(events, waiting)
    return sent


async def _drain(database: Database, events: EventLog) -> Sequence[outbox.Entry]:
    """Move a page from the outbox to the log; what it was.

    What the log has is deleted while what comes next is appended: each waits for the disk.
    """
    rows = await outbox.pending(database, _PAGE)
    forgetting: asyncio.Task[None] | None = None
    try:
        for start in range(0, len(rows), _FORGOTTEN):
            part = rows[start : start + _FORGOTTEN]
            for window in _windows(part):
                await _append(events, window)
            if forgetting is not None:
                await forgetting
            forgetting = asyncio.create_task(outbox.done(database, [row.id for row in part]))
    finally:
        if forgetting is not None:
            await forgetting
    return rows


def _windows(rows: Sequence[outbox.Entry]) -> Iterator[Sequence[outbox.Entry]]:
    """Cut after `_BATCH` records, and before every record of a key that is in the piece already:
    they keep their order.
    """
    start, seen = 0, set[tuple[str, str]]()
    for index, row in enumerate(rows):
        place = (row.topic, row.key)
        if place in seen or len(seen) == _BATCH:
            yield rows[start:index]
            start, seen = index, set()
        seen.add(place)
    if rows:
        yield rows[start:]


async def _append(events: EventLog, drafts: Sequence[outbox.Draft]) -> None:
    """Append side by side: one fsync, one trip to Kafka for all of them."""
    outcomes = await asyncio.gather(
        *(events.append(draft.topic, draft.key, draft.value, draft.headers) for draft in drafts),
        return_exceptions=True,
    )
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
