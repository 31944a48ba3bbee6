"""Takes mapping changes from the database to the log: the outbox, and what a lost topic needs.

A change of the mapping and its outbox rows are one transaction (`router.storage.mapping`), so a
change is on the log exactly when it is in the database, soon after. One process at a time does it
(the lease of `router.storage.leader`), in the order of the ids: order per number follows.
"""

import asyncio
from typing import Final

from router.clock import Clock
from router.errors import LogUnavailable, StorageUnavailable
from router.eventlog.base import EventLog, Record
from router.events.types import ROUTES_TOPIC
from router.observability import log
from router.routing.table import Route
from router.storage import mapping, outbox
from router.storage.engine import Database
from router.storage.leader import leader
from router.storage.records import REV, route_record

logger = log.get(__name__)

_POLL: Final = 0.1  # seconds between looks at the outbox: how long `apply` takes to hold
_RETRY: Final = 1.0
_RECONCILE: Final = 300.0
_BATCH: Final = 500
_READ: Final = 60.0  # seconds that reading the whole topic may take
_LEASE: Final = "publish"


async def run(database: Database, events: EventLog, clock: Clock) -> None:
    """Publish until cancelled; outages of the database or the log are waited out."""
    while True:
        try:
            async with leader(database, _LEASE) as leading:
                if leading:
                    await _lead(database, events, clock)
        except (StorageUnavailable, LogUnavailable) as error:
            logger.warning("publish.waiting", why=type(error).__name__, retry_in=_RETRY)
        await clock.sleep(_RETRY)


async def _lead(database: Database, events: EventLog, clock: Clock) -> None:
    reconcile_at = clock.monotonic()
    while True:
        if not await _drain(database, events):
            if clock.monotonic() >= reconcile_at:
                await republish(database, events, clock)
                reconcile_at = clock.monotonic() + _RECONCILE
            await clock.sleep(_POLL)


async def _drain(database: Database, events: EventLog) -> bool:
    rows = await outbox.pending(database, _BATCH)
    for row in rows:
        await events.append(row.topic, row.key, row.value, row.headers)
    if rows:
        await outbox.done(database, [row.id for row in rows])
    return bool(rows)


async def republish(database: Database, events: EventLog, clock: Clock) -> int:
    """Put onto `telephony.routes` what the database has and the topic lacks; how many routes.

    Normally nothing. After the topic was lost or restored from an old state, everything.

    Raises:
        StorageUnavailable, LogUnavailable: try again.
    """
    try:
        async with asyncio.timeout(_READ):
            published = await _published(events)
    except TimeoutError as error:
        raise LogUnavailable(f"{ROUTES_TOPIC} was not read within {_READ:g} s") from error
    sent = 0
    async for route in mapping.all_routes(database):
        if published.pop(route.number, 0) < route.rev:
            await _send(events, clock, route.number, route, route.rev)
            sent += 1
    version = await mapping.version(database)
    for number, rev in published.items():
        if rev > 0:  # on the topic, but not in the database any more
            await _send(events, clock, number, None, max(version, rev + 1))
            sent += 1
    if sent:
        logger.warning("publish.republished", routes=sent)
    return sent


async def _published(events: EventLog) -> dict[str, int]:
    """Number → rev of what the topic says now; removed numbers are 0."""
    revs: dict[str, int] = {}
    async with events.follow([ROUTES_TOPIC], after={}) as follower:
        while not follower.caught_up:
            for record in await follower.fetch(limit=_BATCH, wait=0.2):
                revs[record.key] = 0 if record.value is None else _rev(record)
    return revs


def _rev(record: Record) -> int:
    text = record.headers.get(REV, "")
    return int(text) if text.isdecimal() else 0  # unreadable for followers too: to be sent anew


async def _send(events: EventLog, clock: Clock, number: str, route: Route | None, rev: int) -> None:
    # By its time it has its own id: the journal may still hold the first copy, and would take this
    # one for a repeat.
    headers, value = route_record(number, route, rev=rev, time=clock.now())
    await events.append(ROUTES_TOPIC, number, value, headers)
