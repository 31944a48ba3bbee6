"""Every event about a call → the call's record.

Events are stored some at a time: a transaction costs the same for one as for fifty, and records are
in no hurry, while a claim of the dispatch consumer, at the same database, is.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from typing_extensions import override

from consumers.calls.plan import TELLING, fold
from consumers.calls.sweep import Sweeper
from consumers.consumer import Consumer, Done, Outcome
from router.clock import Clock
from router.errors import StorageUnavailable
from router.events.model import Event
from router.storage import calls
from router.storage.engine import Database

_LINGER: Final = 0.025  # seconds that an event waits for company
_BATCH: Final = 100

_Waiting = tuple[Event, asyncio.Future[None]]


class Recorder(Consumer):
    """The calls consumer: a repeated event changes nothing, so there is nothing to fence."""

    def __init__(self, database: Database, clock: Clock, sweeper: Sweeper) -> None:
        self._database = database
        self._clock = clock
        self._sweeper = sweeper
        self._waiting: list[_Waiting] = []  # bounded by the runner's cap on events in flight
        self._came = asyncio.Event()

    @override
    async def handle(self, event: Event) -> Outcome:
        """Keep the event and fold its call anew. Raises StorageUnavailable."""
        if event.call_id:
            stored = asyncio.get_running_loop().create_future()
            self._waiting.append((event, stored))
            self._came.set()
            await stored
        return Done()

    @override
    async def run(self) -> None:
        """Store what comes and sweep, until cancelled. Raises ExceptionGroup of `LogFailed`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._store_batches())
            tasks.create_task(self._sweeper.run())

    async def _store_batches(self) -> None:
        while True:
            await self._came.wait()
            await self._clock.sleep(_LINGER)
            batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            if not self._waiting:
                self._came.clear()
            await self._store(batch)

    async def _store(self, batch: Sequence[_Waiting]) -> None:
        """Store a batch; where it is refused, each event alone: one must not spoil the others."""
        try:
            events = [event for event, _ in batch]
            await calls.record(self._database, events, fold, telling=TELLING)
        except Exception as error:  # noqa: BLE001 - whoever handed the event in gets it
            if len(batch) > 1 and not isinstance(error, StorageUnavailable):
                for one in batch:
                    await self._store([one])
                return
            for _, stored in batch:
                if not stored.done():
                    stored.set_exception(error)
        else:
            for _, stored in batch:
                if not stored.done():
                    stored.set_result(None)
