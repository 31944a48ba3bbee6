"""Keeps this process's route table: follows `telephony.routes`, with a copy in the data folder.

Whichever is newer for a number (`Version`) holds. The copy is a line of JSON for every thousand
routes, then one with what was removed (`router.eventlog.compacted`).
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from typing_extensions import override

from router.clock import Clock
from router.eventlog.base import EventLog, Record
from router.eventlog.compacted import CompactedTable, Unusable, pages
from router.events.types import ROUTES_TOPIC
from router.observability.metrics import ROUTES, ROUTES_VERSION
from router.routing.table import FIRST_EPOCH, Route, RouteTable, Version
from router.storage.records import version_of


class _Copy(msgspec.Struct, frozen=True):
    """A line of the copy. A removal is its rev, or (epoch, rev) after the first epoch."""

    routes: Sequence[Route] = ()
    removed: dict[str, int | Version] = {}


class RouteFollower(CompactedTable):
    """Feeds `table` until cancelled. `ready` once the table may be decided from."""

    topic = ROUTES_TOPIC
    name = "routes"

    def __init__(self, table: RouteTable, events: EventLog, clock: Clock, path: Path) -> None:
        super().__init__(events, clock, path)
        self.table = table

    def facts(self) -> dict[str, Any]:
        """For /readyz."""
        age = self.age
        return {
            "numbers": len(self.table),
            "version": self.table.version,
            "epoch": self.table.newest.epoch,
            "fingerprint": f"{self.table.fingerprint:016x}",
            "current": self.caught_up_at is not None,
            "age_seconds": None if age is None else round(age, 1),
        }

    @override
    def measure(self) -> None:
        """See `CompactedTable`."""
        ROUTES.set(len(self.table))
        ROUTES_VERSION.set(self.table.version)

    @override
    def take(self, record: Record) -> bool:
        """See `CompactedTable`."""
        version = version_of(record.headers)
        if version is None:
            raise Unusable("no rev")
        if record.value is None:
            return self.table.remove(record.key, version)
        try:
            route = msgspec.json.decode(record.value, type=Route)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            raise Unusable("not a route") from None
        return self.table.put(route)

    @override
    def snapshot(self) -> Callable[[], Iterator[bytes]]:
        """See `CompactedTable`."""
        routes, removed = list(self.table), dict(self.table.removed())
        return lambda: map(msgspec.json.encode, _lines(routes, removed))

    @override
    def read_line(self, line: bytes) -> _Copy:
        """See `CompactedTable`."""
        return msgspec.json.decode(line, type=_Copy)

    @override
    def restore(self, line: _Copy) -> None:
        """See `CompactedTable`."""
        for route in line.routes:
            self.table.put(route)
        for number, version in line.removed.items():
            if isinstance(version, int):
                version = Version(FIRST_EPOCH, version)
            self.table.remove(number, version)


def _lines(routes: Sequence[Route], removed: dict[str, Version]) -> Iterator[_Copy]:
    for page in pages(routes):
        yield _Copy(page)
    yield _Copy(
        removed={
            number: version.rev if version.epoch == FIRST_EPOCH else version
            for number, version in removed.items()
        }
    )
