"""The connections' part of what `router.numbers.publish` keeps the same in database and log.

As of routes: what the topic lacks is published anew, what the database has not is removed, and a
topic that knows newer changes means that the database is an older state (a new epoch for both).
"""

from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec

from router.clock import Clock
from router.eventlog.base import EventLog
from router.events.types import CONNECTIONS_TOPIC
from router.providers import carriers
from router.routing.table import NEVER, Version
from router.storage import mapping, outbox
from router.storage.connections import SealedConnection, connection_draft, published
from router.storage.engine import Database
from router.storage.records import version_of

_BATCH = 500  # records


class Said(NamedTuple):
    """What the topic says of a connection."""

    version: Version
    sealed: bytes | None  # None: removed, or not to be read


class Comparison(NamedTuple):
    """What the topic says, beside what the database has."""

    topic: dict[str, Said]
    live: int  # connections that the topic has
    lost: set[str]  # those of them that the database does not have
    newest: Version  # of all that the topic knows
    contradicts: bool  # the topic knows of a connection what this database can't have told


async def compare(database: Database, events: EventLog) -> Comparison:
    """The topic is read first: what it has and a sound database has not was removed meanwhile.

    Raises:
        StorageUnavailable, LogUnavailable: try again.
    """
    topic = await _topic(events)
    lost = {key for key, said in topic.items() if said.sealed is not None}
    live = len(lost)
    lost -= await outbox.removals(database, CONNECTIONS_TOPIC)
    newest = max((said.version for said in topic.values()), default=NEVER)
    contradicts = False
    async for found in _stored(database):
        lost.discard(found.id)
        said = topic.get(found.id)
        if said is not None:
            same = said.version == found.version
            contradicts |= said.version > found.version or (same and said.sealed != found.sealed)
    return Comparison(topic, live, lost, newest, contradicts)


async def lacking(
    database: Database, clock: Clock, topic: dict[str, Said]
) -> AsyncIterator[outbox.Draft]:
    """What has to be sent so that the topic says what the database has."""
    gone = {key for key, said in topic.items() if said.sealed is not None}
    async for found in _stored(database):
        gone.discard(found.id)
        said = topic.get(found.id)
        if said is None or said.version < found.version:
            yield connection_draft(found.id, found, version=found.version, time=clock.now())
    if not gone:
        return
    # First the version, then the look: a connection that is made after the look has a higher one.
    version = await mapping.take_version(database)
    async for found in _stored(database):
        gone.discard(found.id)
    for key in sorted(gone):
        yield connection_draft(key, None, version=version, time=clock.now())


def note(topic: dict[str, Said], entry: outbox.Entry) -> None:
    """The topic says this too by now."""
    version = version_of(entry.headers)
    if entry.topic == CONNECTIONS_TOPIC and version is not None:
        topic[entry.key] = Said(version, _sealed(entry.value))


def _stored(database: Database) -> AsyncIterator[SealedConnection]:
    return published(database, frozenset(carriers()))


async def _topic(events: EventLog) -> dict[str, Said]:
    said: dict[str, Said] = {}
    async with events.follow([CONNECTIONS_TOPIC], after={}) as follower:
        while not follower.caught_up:
            for record in await follower.fetch(limit=_BATCH, wait=0.2):
                version = version_of(record.headers)
                said[record.key] = Said(version or NEVER, _sealed(record.value))
    return said


def _sealed(value: bytes | None) -> bytes | None:
    if value is None:
        return None
    try:
        return msgspec.json.decode(value, type=SealedConnection).sealed
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return None
