"""Reads from the journal what Kafka has not taken in time, for the consumer that must not wait.

Each record is handed out once, when it is `takeover_after` seconds old and the relay has still not
moved it. It comes again through Kafka later; who uses this must know it by its id.
"""

import asyncio
from collections.abc import Sequence

from router.eventlog.base import Clock, Position, Record, RelayState
from router.eventlog.journal import Journal


class TakeoverReader:
    """See `base.Reader`. No group and no stored position: `commit` does nothing."""

    def __init__(
        self,
        journal: Journal,
        relay: RelayState,
        topics: Sequence[str],
        *,
        after_seconds: float,
        clock: Clock,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._journal = journal
        self._relay = relay
        self._topics = frozenset(topics)
        self._patience = int(after_seconds * 1_000_000)
        self._clock = clock
        self._cursor = relay.acked_seq

    async def fetch(self, *, limit: int, wait: float) -> Sequence[Record]:
        """See `base.Reader`."""
        deadline = self._loop.time() + wait
        while limit > 0:
            self._cursor = max(self._cursor, self._relay.acked_seq)
            records, end = await self._journal.read(self._cursor, limit=limit, topics=self._topics)
            now = self._clock()
            due = [record for record in records if record.time + self._patience <= now]
            if due:
                self._cursor = due[-1].position.offset
                return due
            left = deadline - self._loop.time()
            if left <= 0:
                break
            if records:
                until_due = (records[0].time + self._patience - now) / 1_000_000
                await asyncio.sleep(min(left, max(until_due, 0.001)))
            else:
                self._cursor = end
                await self._journal.wait(end, left)
        return ()

    async def commit(self, position: Position) -> None:
        """Nothing: the record's own position is committed when it comes through Kafka."""
        del position
