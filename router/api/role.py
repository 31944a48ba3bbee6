"""The role `api`: the dialects with a database of their own, and what is done beside requests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from aiohttp import web

from config.settings import HttpSettings, Settings
from router.api.app import Api, dialects
from router.clock import Clock
from router.control import orders, refresh, tokens
from router.control.context import Control, control_of
from router.errors import StorageError
from router.observability import log
from router.storage import idempotency
from router.storage.engine import open_database
from router.supervisor import Work

logger = log.get(__name__)

_WRITE_USED: Final = 10.0  # seconds between two notes of which tokens were used
_REFRESH: Final = 10.0  # seconds between two looks for changes of documents that were left undone
_PRUNE: Final = 3600.0  # seconds between two removals of old Idempotency-Keys


class ApiRole:
    """What a process with the role `api` has. Made by `open_api`."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._api = Api(control, dialects())

    @property
    def own_listener(self) -> HttpSettings | None:
        """Where it listens; None: beside the webhooks."""
        settings = self._control.settings
        if not settings.api.port:
            return None
        host = settings.api.host or settings.http.host
        return settings.http.model_copy(update={"host": host, "port": settings.api.port})

    def mount(self, app: web.Application) -> None:
        """Add its paths."""
        self._api.mount(app)

    def work(self) -> Mapping[str, Work]:
        """What goes on beside the requests, once the database is prepared; each without end."""
        database = self._control.database
        return {
            "orders": partial(orders.recover_loop, self._control),
            "refreshes": partial(self._again, _REFRESH, partial(refresh.recover, self._control)),
            "token_use": partial(
                self._again, _WRITE_USED, partial(tokens.write_used, self._control)
            ),
            "idempotency_keys": partial(self._again, _PRUNE, partial(idempotency.prune, database)),
        }

    def facts(self) -> Mapping[str, Any]:
        """For /readyz."""
        return {"in_flight": self._api.in_flight}

    async def _again(self, seconds: float, work: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await work()
            except StorageError as error:  # which /readyz tells
                logger.info("api.work_waits", why=str(error))
            await self._control.clock.sleep(seconds)


@asynccontextmanager
async def open_api(
    settings: Settings, keys: Sequence[bytes], clock: Clock, filled: asyncio.Event | None = None
) -> AsyncIterator[ApiRole]:
    """The role, until the end of the block; nothing is asked of the database yet.

    It has connections of its own: its clients never keep a call's claim waiting for one. `filled`
    is the event of the node's other connections (`router.storage.engine.Database`).
    """
    async with open_database(settings, filled=filled) as database:
        yield ApiRole(control_of(settings, database, keys, clock))
