"""Every event about a call → the call's record."""

import asyncio

from typing_extensions import override

from consumers.calls.plan import fold
from consumers.consumer import Consumer, Done, Outcome
from router.events.model import Event
from router.storage import calls
from router.storage.engine import Database


class Recorder(Consumer):
    """The calls consumer: a repeated event changes nothing, so there is nothing to fence."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def handle(self, event: Event) -> Outcome:
        """Keep the event and fold its call anew. Raises StorageUnavailable."""
        if event.call_id:
            await calls.record(self._database, event, fold)
        return Done()

    @override
    async def run(self) -> None:
        await asyncio.Event().wait()  # nothing to do beside
