"""The route table that the ingress decides from: number → route, in memory, no I/O.

A change is applied between two requests (one thread, one assignment), and only if its version is
newer than what the table holds: the log may deliver twice or late (`router.eventlog.base`).
"""

from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from sys import intern
from typing import Any, Final, NamedTuple

import msgspec

from router.events.ids import DEFAULT_ACCOUNT

_SHARED_LIMIT: Final = 1024

FIRST_EPOCH: Final = 1
"""Of every database that was never restored, and of records that name no epoch."""


class Version(NamedTuple):
    """Which of two changes of a number holds: the one whose version is greater.

    `rev` grows with every change that the database makes. A database that was restored from a
    backup would give the same revs once more, so it takes a new epoch first.
    """

    epoch: int
    rev: int


NEVER: Final = Version(0, 0)
"""Before every change."""


class Target(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What answers: a LiveKit agent with the metadata for its job."""

    agent: str  # our name, unique in its account
    livekit_agent_name: str
    metadata: Mapping[str, Any] = {}
    agent_id: str = ""  # UUID; "" in routes that are older than agents' ids


class Route(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Where one number leads: targets in order, then the fallback number."""

    number: str
    provider: str
    rev: int  # grows with every change of the whole mapping
    targets: tuple[Target, ...] = ()
    fallback: str = ""
    epoch: int = FIRST_EPOCH
    account_id: str = DEFAULT_ACCOUNT  # whose number it is
    connection_id: str = ""  # of the account at the provider; "": the operator's own, in settings

    @property
    def version(self) -> Version:
        """Of the change that made it."""
        return Version(self.epoch, self.rev)


class RouteTable:
    """Number → route, and the version of the newest change that it has seen."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self._removed: dict[str, Version] = {}  # against routes that come late
        self._shared: dict[bytes, tuple[Target, ...]] = {}  # many numbers, few agents
        self.newest = NEVER
        self.fingerprint = 0  # of all routes: equal to the database's when nothing is missing

    def __len__(self) -> int:
        return len(self._routes)

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes.values())

    @property
    def version(self) -> int:
        """The rev of the newest change, 0 before the first."""
        return self.newest.rev

    def get(self, number: str) -> Route | None:
        """The route of an E.164 number."""
        return self._routes.get(number)

    def version_of(self, number: str) -> Version:
        """The newest change of this number that was applied."""
        route = self._routes.get(number)
        return route.version if route is not None else self._removed.get(number, NEVER)

    def put(self, route: Route) -> bool:
        """Take a route; False when the table already knows a newer one."""
        version = route.version
        if version <= self.version_of(route.number):
            return False
        self._removed.pop(route.number, None)
        self._forget(route.number)
        self._routes[route.number] = self._slim(route)
        self.fingerprint ^= mark(route.number, version)
        self.newest = max(self.newest, version)
        return True

    def _slim(self, route: Route) -> Route:
        """The same route, its targets shared with all equal ones: a third of the memory."""
        if len(self._shared) > _SHARED_LIMIT + len(self._routes):
            self._shared.clear()
        targets = self._shared.setdefault(msgspec.json.encode(route.targets), route.targets)
        return msgspec.structs.replace(
            route,
            targets=targets,
            provider=intern(route.provider),
            account_id=intern(route.account_id),
            connection_id=intern(route.connection_id),
        )

    def remove(self, number: str, version: Version) -> bool:
        """Forget a number; False when the table already knows a newer change."""
        if version <= self.version_of(number):
            return False
        self._forget(number)
        self._removed[number] = version
        self.newest = max(self.newest, version)
        return True

    def _forget(self, number: str) -> None:
        before = self._routes.pop(number, None)
        if before is not None:
            self.fingerprint ^= mark(number, before.version)

    def removed(self) -> Mapping[str, Version]:
        """Numbers that were removed, with the version of the removal."""
        return self._removed


def mark(number: str, version: Version) -> int:
    """What one route adds (XOR) to the fingerprint: 63 bits that name neither number nor rev."""
    epoch, rev = version
    stamp = f"{rev}" if epoch == FIRST_EPOCH else f"{rev}\x1f{epoch}"
    digest = blake2b(f"{number}\x1f{stamp}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def fingerprint(versions: Iterable[tuple[str, Version]]) -> int:
    """The fingerprint of a table that holds just these numbers at these versions."""
    whole = 0
    for number, version in versions:
        whole ^= mark(number, version)
    return whole
