"""The route table that the ingress decides from: number → route, in memory, no I/O.

A change is applied between two requests (one thread, one assignment), and only if its `rev` is
newer than what the table holds: the log may deliver twice or late (`router.eventlog.base`).
"""

from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from sys import intern
from typing import Any, Final

import msgspec

_SHARED_LIMIT: Final = 1024


class Target(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What answers: a LiveKit agent with the metadata for its job."""

    agent: str  # our name
    livekit_agent_name: str
    metadata: Mapping[str, Any] = {}


class Route(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Where one number leads: targets in order, then the fallback number."""

    number: str
    provider: str
    rev: int  # grows with every change of the whole mapping; the table's version is the highest
    targets: tuple[Target, ...] = ()
    fallback: str = ""


class RouteTable:
    """Number → route, and the version of the newest change that it has seen."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self._removed: dict[str, int] = {}  # number → rev of its tombstone, against late upserts
        self._shared: dict[bytes, tuple[Target, ...]] = {}  # many numbers, few agents
        self.version = 0
        self.fingerprint = 0  # of all routes: equal to the database's when nothing is missing

    def __len__(self) -> int:
        return len(self._routes)

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes.values())

    def get(self, number: str) -> Route | None:
        """The route of an E.164 number."""
        return self._routes.get(number)

    def rev(self, number: str) -> int:
        """The newest change of this number that was applied, 0 for none."""
        route = self._routes.get(number)
        return route.rev if route is not None else self._removed.get(number, 0)

    def put(self, route: Route) -> bool:
        """Take a route; False when the table already knows a newer one."""
        if route.rev <= self.rev(route.number):
            return False
        self._removed.pop(route.number, None)
        self._forget(route.number)
        self._routes[route.number] = self._slim(route)
        self.fingerprint ^= mark(route.number, route.rev)
        self.version = max(self.version, route.rev)
        return True

    def _slim(self, route: Route) -> Route:
        """The same route, its targets shared with all equal ones: a third of the memory."""
        if len(self._shared) > _SHARED_LIMIT + len(self._routes):
            self._shared.clear()
        targets = self._shared.setdefault(msgspec.json.encode(route.targets), route.targets)
        return msgspec.structs.replace(route, targets=targets, provider=intern(route.provider))

    def remove(self, number: str, rev: int) -> bool:
        """Forget a number; False when the table already knows a newer change."""
        if rev <= self.rev(number):
            return False
        self._forget(number)
        self._removed[number] = rev
        self.version = max(self.version, rev)
        return True

    def _forget(self, number: str) -> None:
        before = self._routes.pop(number, None)
        if before is not None:
            self.fingerprint ^= mark(number, before.rev)

    def removed(self) -> Mapping[str, int]:
        """Numbers that were removed, with the rev of the removal."""
        return self._removed


def mark(number: str, rev: int) -> int:
    """What one route adds (XOR) to the fingerprint: 63 bits that name neither number nor rev."""
    digest = blake2b(f"{number}\x1f{rev}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def fingerprint(revs: Iterable[tuple[str, int]]) -> int:
    """The fingerprint of a table that holds just these numbers at these revs."""
    whole = 0
    for number, rev in revs:
        whole ^= mark(number, rev)
    return whole
