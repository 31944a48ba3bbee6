"""Time as a dependency, so that tests need not wait for it."""

import asyncio
import time
from typing import Final, Protocol

from typing_extensions import override


class Clock(Protocol):
    """What the code may know of time."""

    def now(self) -> int:
        """Microseconds since the epoch, UTC: for facts that are written down."""

    def monotonic(self) -> float:
        """Seconds that never go back: for deadlines."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock(Clock):
    """The machine's."""

    @override
    def now(self) -> int:
        """See `Clock`."""
        return time.time_ns() // 1000

    @override
    def monotonic(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    @override
    async def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        await asyncio.sleep(seconds)


SYSTEM: Final = SystemClock()
