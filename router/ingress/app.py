"""The HTTP application: webhooks, health, metrics; hardened as a public listener must be.

Limits that aiohttp does not set by itself: body deadline (webhook.py), connection cap (limits.py),
load shed before a body is read, no request compression, no tracebacks for what strangers send.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from config.settings import HttpSettings
from router.ingress.limits import CappedSite
from router.ingress.webhook import Handler, Webhooks
from router.observability.metrics import REGISTRY, SHED
from router.provider import WebhookSource

Health = Callable[[], tuple[bool, Mapping[str, Any]]]
"""Whether this process can do its job, and the facts behind it."""

_KEEP_ALIVE_BEHIND_PROXY: Final = 75.0  # must exceed the proxy's own idle time-out


def build_app(
    settings: HttpSettings,
    *,
    webhooks: Webhooks | None,
    sources: Sequence[WebhookSource],
    health: Health,
) -> web.Application:
    """All routes. `webhooks` None: a process without the ingress role, health and metrics only."""
    app = web.Application(client_max_size=settings.max_body_bytes, client_max_fields=200)
    app.middlewares.append(_guard(settings))
    app.router.add_get("/healthz", _alive)
    app.router.add_get("/readyz", _ready(health))
    app.router.add_get("/metrics", _metrics)
    if webhooks is not None:
        for source in sources:
            for kind in source.kinds:
                path = f"/webhooks/{source.name}" + (f"/{kind}" if kind else "")
                app.router.add_post(path, webhooks.handler(source, kind))
    return app


@asynccontextmanager
async def listening(app: web.Application, settings: HttpSettings) -> AsyncIterator[int]:
    """Listen inside the block; yields the port. At its end requests in flight may finish.

    Raises:
        OSError: the port is taken.
    """
    logging.getLogger("aiohttp.server").addFilter(_no_traceback)
    runner = web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=(
            _KEEP_ALIVE_BEHIND_PROXY if settings.behind_proxy else settings.header_timeout
        ),
        shutdown_timeout=settings.shutdown_grace / 2,  # aiohttp may take twice this
        max_line_size=8190,
        max_field_size=8190,
        max_headers=64,
        lingering_time=2.0,
        auto_decompress=False,
        handler_cancellation=False,
    )
    await runner.setup()
    try:
        await CappedSite(
            runner, settings.host, settings.port, max_connections=settings.max_connections
        ).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _guard(settings: HttpSettings) -> Any:
    in_flight = 0

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal in_flight
        if request.headers.get("Content-Encoding"):
            return web.Response(status=415, text="compressed bodies are not taken")
        if in_flight >= settings.max_in_flight:
            SHED.labels("request").inc()
            return web.Response(status=503, text="full, try again", headers={"Retry-After": "1"})
        in_flight += 1
        try:
            async with asyncio.timeout(settings.request_timeout):
                return await handler(request)
        except TimeoutError:
            return web.Response(status=503, text="took too long, please try again")
        finally:
            in_flight -= 1

    return guard


async def _alive(_request: web.Request) -> web.Response:
    return web.Response(text="ok")


def _ready(health: Health) -> Handler:
    async def ready(_request: web.Request) -> web.Response:
        able, facts = health()
        body = msgspec.json.encode({"ready": able, **facts})
        return web.Response(status=200 if able else 503, body=body, content_type="application/json")

    return ready


async def _metrics(_request: web.Request) -> web.Response:
    return web.Response(
        body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST}
    )


def _no_traceback(record: logging.LogRecord) -> bool:
    # Malformed requests and vanished clients are a stranger's doing: a line, not a dozen.
    record.exc_info = None
    record.exc_text = None
    return True
