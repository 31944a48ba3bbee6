"""What this process takes at once, which aiohttp does not limit: connections and requests.

One more is refused before it costs: a connection is closed, a request is answered 503 before its
body is read. Never 429: Twilio has no answer to it.
"""

import asyncio
from typing import Final

from aiohttp import web
from typing_extensions import override

from router.ingress.webhook import Handler
from router.observability.metrics import SHED

_FULL: Final = {"Retry-After": "1"}


class Gate:
    """Lets at most `limit` requests into the handlers that it guards, all together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        await self._idle.wait()

    def guard(self, handler: Handler) -> Handler:
        """`handler` behind this gate."""

        async def guarded(request: web.Request) -> web.Response:
            if request.headers.get("Content-Encoding"):
                return web.Response(status=415, text="compressed bodies are not taken")
            if self._in_flight >= self._limit:
                SHED.labels("request").inc()
                return web.Response(status=503, text="full, please try again", headers=_FULL)
            self._in_flight += 1
            self._idle.clear()
            try:
                return await handler(request)
            finally:
                self._in_flight -= 1
                if not self._in_flight:
                    self._idle.set()

        return guarded


class CappedSite(web.TCPSite):
    """A TCP site that keeps at most `max_connections` open."""

    def __init__(
        self, runner: web.AppRunner, host: str, port: int, *, max_connections: int
    ) -> None:
        super().__init__(runner, host, port)
        self._limit = max_connections

    @override
    async def start(self) -> None:
        """Listen; see `web.BaseSite.start`."""
        await web.BaseSite.start(self)
        server = self._runner.server
        if server is None:
            raise RuntimeError("the runner is not set up")

        def protocol() -> asyncio.BaseProtocol:
            if len(server.connections) < self._limit:
                return server()
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
