"""How far this machine's clock is from the database's, which all processes have in common.

An event has the time of the process that took it, and whoever handles it takes its age by its own
clock. With a difference as large as the ring window live calls would look too old, or old ones
alive. So each process with a database measures its own, and says so where it is too much.
"""

from typing import Final

from sqlalchemy import select

from router.backoff import jitter
from router.clock import Clock
from router.errors import StorageError
from router.observability import log
from router.observability.metrics import CLOCK_AHEAD
from router.storage.engine import Database
from router.storage.sql import MICROS, now_micros

logger = log.get(__name__)

_EVERY: Final = 60.0  # seconds
_TOO_MUCH: Final = 2.0  # seconds


class ClockSkew:
    """Measured now and then. `ahead`: seconds that our clock is ahead of the database's."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.ahead = 0.0

    @property
    def trouble(self) -> str:
        """What is wrong with this machine's clock, for people; "" for nothing."""
        if abs(self.ahead) <= _TOO_MUCH:
            return ""
        way = "ahead of" if self.ahead > 0 else "behind"
        return f"this machine's clock is {abs(self.ahead):.1f} s {way} the database's: use NTP"

    async def run(self) -> None:
        """Measure until cancelled. SQLite's clock is this machine's."""
        while True:
            if self._database.dialect != "sqlite":
                await self._measure()
            await self._clock.sleep(jitter(_EVERY))

    async def _measure(self) -> None:
        try:
            async with self._database.read() as connection:
                before = self._clock.now()
                theirs = (await connection.execute(select(now_micros()))).scalar_one()
                ours = (before + self._clock.now()) // 2  # as of the middle of the question
        except StorageError:
            return  # others say that it is away
        was = self.trouble
        self.ahead = (ours - theirs) / MICROS
        CLOCK_AHEAD.set(self.ahead)
        if self.trouble and not was:
            logger.error("clock.wrong", why=self.trouble)
