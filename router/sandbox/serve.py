"""Serving an aiohttp application on loopback, for the stand-ins."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

HOST = "127.0.0.1"


@asynccontextmanager
async def serve(app: web.Application, port: int) -> AsyncIterator[str]:
    """Serve `app` on loopback; yields its URL. `port` 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """
    # Handlers that hang on purpose must not hold up the end.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, port)
        await site.start()
        yield f"http://{HOST}:{runner.addresses[0][1]}"
    finally:
        await asyncio.shield(runner.cleanup())
