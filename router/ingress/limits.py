"""A cap on open connections, which aiohttp does not have: one more is closed before it costs."""

import asyncio

from aiohttp import web
from typing_extensions import override

from router.observability.metrics import SHED


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
