"""A clock that a test moves by hand."""

import asyncio
import heapq
import itertools

START = 1_800_000_000_000_000  # µs since epoch


class FakeClock:
    """`router.clock.Clock` beside a real network.

    `advance` wakes sleepers in the order of their time and lets each run before the next.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self._now

    def now(self) -> int:
        return START + round(self._now * 1_000_000)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        target = self._now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            due, _, future = heapq.heappop(self._sleepers)
            self._now = max(self._now, due)
            if not future.done():
                future.set_result(None)
                await settle()
        self._now = target
        await settle()


async def settle() -> None:
    """Let everything run that can run without time or network."""
    for _ in range(20):
        await asyncio.sleep(0)
