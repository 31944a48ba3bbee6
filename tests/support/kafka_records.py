"""Records for tests of the log, and reading them back with a deadline that fails by name."""

import asyncio
import uuid
from collections.abc import Sequence

from router.clock import SYSTEM
from router.errors import LogUnavailable
from router.eventlog.base import EventLog, Follower, Position, Reader, Record

PATIENCE = 30.0  # seconds; a new consumer of a busy broker on two cores needs some


def new_topic() -> str:
    """A topic that no other test has."""
    return f"test.{uuid.uuid4()}"


def headers(identity: str) -> dict[str, str]:
    return {"ce_id": identity, "ce_type": "call.initiated", "ce_source": "/test"}


def make_record(topic: str, identity: str) -> Record:
    return Record(Position(topic, 0, 0), "key", b"value", headers(identity), SYSTEM.now())


async def append(log: EventLog, topic: str, key: str, identity: str) -> None:
    await log.append(topic, key, identity.encode(), headers(identity))


def ids(records: Sequence[Record]) -> list[str]:
    return [record.headers["ce_id"] for record in records]


def by_key(records: Sequence[Record]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for record in records:
        found.setdefault(record.key, []).append(record.headers["ce_id"])
    return found


def first_seen(identities: Sequence[str]) -> list[str]:
    """Without repeats, in the order of their first occurrence."""
    return list(dict.fromkeys(identities))


async def read(
    reader: Reader | Follower, count: int, *, patience: float = PATIENCE
) -> list[Record]:
    """Fetch until `count` different ids were seen.

    Raises:
        AssertionError: they did not come; says how many did.
    """
    found: list[Record] = []
    seen: set[str] = set()
    try:
        async with asyncio.timeout(patience):
            while len(seen) < count:
                records = await fetch(reader)
                found += records
                seen.update(ids(records))
    except TimeoutError:
        raise AssertionError(f"{len(seen)} of {count} records in {patience:g} s") from None
    return found


async def fetch(
    reader: Reader | Follower, *, limit: int = 500, wait: float = 0.2
) -> Sequence[Record]:
    """One fetch; a log that is away for now counts as empty."""
    try:
        return await reader.fetch(limit=limit, wait=wait)
    except LogUnavailable:
        await asyncio.sleep(0.05)
        return ()
