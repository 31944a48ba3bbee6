"""What this process takes at once, which aiohttp does not limit: connections, bodies and requests.

One more connection is closed, one more request is answered 503. Never 429: Twilio has no answer to
it. A request whose body is still on its way has no place among those that are worked on (`Gate`):
senders that are slow, by intent or not, would keep out those that are not. They have a place of
their own (`Bodies`), which the one that has waited longest loses to the newest: a real body is
complete milliseconds after its head.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from aiohttp import web
from typing_extensions import override

from router.errors import WebhookError
from router.ingress.protocol import Connection
from router.observability.metrics import SHED


class Full(WebhookError):
    """There is no place for one more request now; the sender may try again."""


class TooSlow(WebhookError):
    """The sender's fault, its network's, or ours: LiveKit would not come again after a 408."""


class _Places:
    """Counts what is in flight."""

    def __init__(self) -> None:
        self._idle = asyncio.Event()
        self._idle.set()
        self.count = 0

    def enter(self) -> None:
        self.count += 1
        self._idle.clear()

    def leave(self) -> None:
        self.count -= 1
        if not self.count:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        await self._idle.wait()


class Gate(_Places):
    """Lets at most `limit` requests in, whose bodies are complete."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def check(self) -> None:
        """Raise Full where there is no place now."""
        if self.count >= self._limit:
            SHED.labels("request").inc()
            raise Full("http.max_in_flight requests are being worked on")

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place inside the block. Raises Full."""
        self.check()
        self.enter()
        try:
            yield
        finally:
            self.leave()


class Bodies(_Places):
    """Lets at most `limit` requests wait for their bodies."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._waiting: dict[asyncio.Timeout, None] = {}  # the longest waiting first

    @asynccontextmanager
    async def place(self, seconds: float) -> AsyncIterator[None]:
        """A place inside the block, which reads a body, for at most `seconds`.

        Raises:
            TooSlow: its time is up, or it had waited longest when a place was needed.
        """
        self.enter()
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                self._make_room()
                self._waiting[deadline] = None
                yield
        except TimeoutError as error:
            raise TooSlow(
                "the body did not arrive within http.body_timeout"
                if deadline in self._waiting
                else "http.max_bodies bodies are on their way, this one the longest"
            ) from error
        finally:
            self._waiting.pop(deadline, None)
            self.leave()

    def _make_room(self) -> None:
        while len(self._waiting) >= self._limit:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.reschedule(asyncio.get_running_loop().time())
            SHED.labels("body").inc()


class CappedSite(web.TCPSite):
    """A TCP site that keeps at most `max_connections` open, each of them a `Connection`."""

    def __init__(
        self,
        runner: web.AppRunner,
        host: str,
        port: int,
        *,
        max_connections: int,
        options: Mapping[str, Any],
    ) -> None:
        """`options`: aiohttp's, of each connection."""
        super().__init__(runner, host, port)
        self._limit = max_connections
        self._options = options

    @override
    async def start(self) -> None:
        """Listen; see `web.BaseSite.start`."""
        await web.BaseSite.start(self)
        server = self._runner.server
        if server is None:
            raise RuntimeError("the runner is not set up")

        def protocol() -> asyncio.BaseProtocol:
            if len(server.connections) < self._limit:
                return Connection(server, **self._options)
            SHED.labels("connection").inc()
            return _Refused()

        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            protocol, self._host, self._port, backlog=self._backlog
        )


class _Refused(asyncio.Protocol):
    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
