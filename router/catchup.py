"""Fetches what a provider could not deliver to us: while no ingress was there, or none answered.

The events go through the outbox onto the log, decided by the mapping as it is now, with the ids
that their webhooks would have had: what was delivered after all, or is fetched twice, changes
nothing. Calls that are too old by then are recorded as expired and start nothing
(`consumers.dispatch`).
"""

from collections.abc import AsyncIterator, Mapping
from itertools import chain, repeat
from typing import Final

from router.backoff import jitter
from router.clock import Clock
from router.errors import EffectError, Permanent, StorageUnavailable
from router.events.codec import encode
from router.events.model import Event
from router.events.text import plain
from router.events.types import topic_of
from router.observability import log
from router.provider import Carrier
from router.resources import Resources
from router.routing.decide import decide
from router.routing.table import RouteTable
from router.storage import mapping, outbox
from router.storage.engine import Database
from router.storage.leader import leader

logger = log.get(__name__)

_BATCH: Final = 100
_HOUR: Final = 3_600_000_000  # µs
_OVERLAP: Final = 60_000_000  # µs; a list may lack what has just happened
_RETRY: Final = (5.0, 30.0, 120.0, 600.0)  # seconds; the last one again and again


async def catch_up(database: Database, carrier: Carrier, since: int) -> int:
    """Put onto the log what `carrier` could not deliver since (µs since epoch); how many events.

    Raises:
        EffectError: the carrier could not be asked to the end; what was found is on its way.
        StorageUnavailable: try again.
    """
    if carrier.missed is None:
        return 0
    count = 0
    async for batch in _batches(carrier.missed(since)):
        await outbox.post(database, [await _draft(database, event) for event in batch])
        count += len(batch)
    return count


async def keep_up(resources: Resources, clock: Clock) -> None:
    """Catch up at start and every `calls.catch_up_interval`, until cancelled.

    An outage of our network, name or proxy leaves no trace here: nobody tells us of what could not
    reach us. So it is asked for all the time, each time for what came since the last answer.
    """
    settings = resources.settings.calls
    longest = round(settings.catch_up_hours * _HOUR)
    since = clock.now() - longest
    while longest:
        began = clock.now()
        if await run(resources, clock, since=since):
            since = began - _OVERLAP
        await clock.sleep(jitter(settings.catch_up_interval))
        since = max(since, clock.now() - longest)


async def run(resources: Resources, clock: Clock, *, since: int | None = None) -> bool:
    """Catch up once, from `since` (µs since epoch) or `calls.catch_up_hours` ago.

    A provider that gives no answer is asked again for as many hours: what keeps it away now may be
    what kept its webhooks away. One that refuses (a wrong key) is not.

    Returns:
        Whether all of them were asked by this process; False also where another process leads.
    """
    hours = resources.settings.calls.catch_up_hours
    waiting: Mapping[str, Carrier] | None = {
        name: carrier for name, carrier in resources.carriers.items() if carrier.missed is not None
    }
    if since is None:
        since = clock.now() - round(hours * _HOUR)
    until = clock.monotonic() + hours * 3600
    pauses = chain((0.0, *_RETRY), repeat(_RETRY[-1]))
    while waiting and clock.monotonic() < until:
        await clock.sleep(next(pauses))
        waiting = await _turn(resources.database, waiting, since)
    if waiting and hours:
        logger.error("catch_up.given_up", providers=sorted(waiting))
    return waiting is not None and not waiting


async def _turn(
    database: Database, waiting: Mapping[str, Carrier], since: int
) -> Mapping[str, Carrier] | None:
    """Ask each provider; those that are to be asked again. None: another process does it."""
    left: dict[str, Carrier] = {}
    try:
        async with leader(database, "catch-up") as leading:
            if not leading:
                return None
            for name, carrier in waiting.items():
                try:
                    found = await catch_up(database, carrier, since)
                except Permanent as error:
                    logger.error("catch_up.refused", provider=name, why=str(error))  # noqa: TRY400
                except EffectError as error:
                    logger.warning("catch_up.failed", provider=name, why=str(error))
                    left[name] = carrier
                else:
                    logger.info("catch_up.done", provider=name, events=found)
    except StorageUnavailable as error:
        logger.warning("catch_up.failed", why=str(error))
        return waiting
    return left


async def _batches(events: AsyncIterator[Event]) -> AsyncIterator[list[Event]]:
    batch: list[Event] = []
    try:
        async for event in events:
            batch.append(event)
            if len(batch) == _BATCH:
                yield batch
                batch = []
    except EffectError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


async def _draft(database: Database, event: Event) -> outbox.Draft:
    event = plain(event)
    if event.data.stage:
        table = RouteTable()
        for number in (event.data.to_number, event.data.from_number):
            route = await mapping.find_route(database, number)
            if route is not None:
                table.put(route)
        event = decide(event, table)
    headers, value = encode(event)
    return outbox.Draft(topic_of(event.type), event.key, value, headers)
