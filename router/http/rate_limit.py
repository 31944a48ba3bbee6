"""How often one client may ask: a token bucket each, in memory, of this process alone.

A bucket holds `burst` requests and is filled evenly. Its headers are those of the IETF's draft
(draft-ietf-httpapi-ratelimit-headers-06): a window is the time that an empty bucket takes to fill.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple


class Room(NamedTuple):
    """What is left of a client's bucket."""

    allowed: bool
    limit: int
    remaining: int
    reset: float  # seconds until the bucket is full
    retry_after: float  # seconds until there is room for one more; 0: there is
    window: float  # seconds that an empty bucket takes to fill

    def headers(self) -> dict[str, str]:
        """For the answer."""
        return {
            "RateLimit-Policy": f"{self.limit};w={math.ceil(self.window)}",
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(math.ceil(self.reset)),
        }


class RateLimit:
    """Buckets by client, the least recently used forgotten: a full one is as good as none."""

    def __init__(
        self,
        *,
        per_minute: int,
        burst: int,
        clock: Callable[[], float],
        clients: int = 10_000,
    ) -> None:
        """`clock`: seconds that never go back."""
        self._rate = per_minute / 60
        self._burst = burst
        self._clock = clock
        self._clients = clients
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # level, when

    def look(self, client: Hashable) -> Room:
        """What is left; takes nothing."""
        level = self._level(client)
        return self._room(level, allowed=level >= 1)

    def take(self, client: Hashable) -> Room:
        """Take one if there is one."""
        level = self._level(client)
        allowed = level >= 1
        if allowed:
            level -= 1
            self._buckets[client] = (level, self._clock())
            self._buckets.move_to_end(client)
            while len(self._buckets) > self._clients:
                self._buckets.popitem(last=False)
        return self._room(level, allowed=allowed)

    def knows(self, client: Hashable) -> bool:
        """Whether it took one, not too long ago."""
        return client in self._buckets

    def _level(self, client: Hashable) -> float:
        level, when = self._buckets.get(client, (float(self._burst), self._clock()))
        return min(self._burst, level + (self._clock() - when) * self._rate)

    def _room(self, level: float, *, allowed: bool) -> Room:
        return Room(
            allowed=allowed,
            limit=self._burst,
            remaining=int(level),
            reset=(self._burst - level) / self._rate,
            retry_after=max(0.0, 1 - level) / self._rate,
            window=self._burst / self._rate,
        )
