"""The HTTP listener that ingress and API share, hardened as a public one must be.

Limits that aiohttp does not set by itself: how many connections, bodies and requests (limits.py),
what of HTTP is understood and how the rest is refused (protocol.py), no tracebacks for what
strangers send. Deadlines of body and answer are those of who answers.
"""

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from types import MappingProxyType
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from config.settings import HttpSettings
from router.errors import ConfigError
from router.http.limits import Bodies, CappedSite, Gate
from router.http.protocol import Handler, guard
from router.observability.metrics import REGISTRY
from router.provider import Reply

Health = Callable[[], tuple[bool, Mapping[str, Any]]]
"""Whether this process can do its job, and the facts behind it."""

IN_FLIGHT: Final = web.AppKey("in_flight", list[Gate | Bodies])
"""What a stop waits for; whoever mounts routes adds its own."""

_KEEP_ALIVE_BEHIND_PROXY: Final = 75.0  # must exceed the proxy's own idle time-out


def base_app(
    settings: HttpSettings,
    health: Health,
    documents: Mapping[str, Reply] = MappingProxyType({}),
) -> web.Application:
    """What every listener answers: whether it lives, whether it is ready, metrics, `documents`.

    `documents`: path → what is read there and never changes: the published contracts.
    """
    app = web.Application(client_max_size=settings.max_body_bytes, client_max_fields=200)
    app[IN_FLIGHT] = []
    app.router.add_get("/healthz", _alive)
    app.router.add_get("/readyz", _ready(health))
    app.router.add_get("/metrics", _metrics)
    for path, document in documents.items():
        app.router.add_get(path, _document(document))
    return app


@asynccontextmanager
async def listening(
    app: web.Application, settings: HttpSettings, *, section: str = "http"
) -> AsyncIterator[int]:
    """Listen inside the block; yields the port. At its end requests in flight may finish.

    Leaving takes at most `shutdown_grace` seconds. `section`: of the settings that name the
    address, for messages.

    Raises:
        ConfigError: the address can't be listened on.
    """
    logging.getLogger("aiohttp.server").addFilter(_no_traceback)
    options = {
        "access_log": None,
        "keepalive_timeout": (
            _KEEP_ALIVE_BEHIND_PROXY if settings.behind_proxy else settings.header_timeout
        ),
        "max_line_size": 8190,
        "max_field_size": 8190,
        "max_headers": 64,
        "lingering_time": 2.0,
        "auto_decompress": False,
        "read_bufsize": 16_384,  # aiohttp parses no more than a 16th as many chunks in advance
    }
    runner = web.AppRunner(
        app,
        shutdown_timeout=settings.shutdown_grace / 4,  # aiohttp may take twice this
        handler_cancellation=False,
    )
    await runner.setup()
    server = runner.server
    if server is None:
        raise RuntimeError("the runner is not set up")
    guard(server)
    try:
        site = await _listen(runner, settings, options, section)
        try:
            yield int(runner.addresses[0][1])
        finally:
            await site.stop()
            await _idle(app, settings.shutdown_grace / 2)
    finally:
        await runner.cleanup()


async def _idle(app: web.Application, seconds: float) -> None:
    # From its clean-up on aiohttp drops what still arrives, so bodies must be here before.
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            for places in app.get(IN_FLIGHT, ()):
                await places.idle()


async def _listen(
    runner: web.AppRunner, settings: HttpSettings, options: Mapping[str, Any], section: str
) -> web.BaseSite:
    host, port, most = settings.host, settings.port, settings.max_connections
    site = CappedSite(runner, host, port, max_connections=most, options=options)
    try:
        await site.start()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            option = "with --port (http.port)" if section == "http" else f"for {section}.port"
            raise ConfigError(
                f"port {port} is taken by another program: stop it, or choose another {option}",
                key=f"{section}.port",
            ) from error
        raise ConfigError(
            f"can't listen on {host}:{port} ({section}.host, {section}.port): "
            f"{error.strerror or error}",
            key=f"{section}.host",
        ) from error
    return site


async def _alive(_request: web.Request) -> web.Response:
    return web.Response(text="ok")


def _ready(health: Health) -> Handler:
    async def ready(_request: web.Request) -> web.Response:
        able, facts = health()
        body = msgspec.json.encode({"ready": able, **facts})
        return web.Response(status=200 if able else 503, body=body, content_type="application/json")

    return ready


def _document(document: Reply) -> Handler:
    async def read(_request: web.Request) -> web.Response:
        headers = {"Content-Type": document.content_type}
        return web.Response(status=document.status, body=document.body, headers=headers)

    return read


async def _metrics(_request: web.Request) -> web.Response:
    return web.Response(
        body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST}
    )


def _no_traceback(record: logging.LogRecord) -> bool:
    # Malformed requests and vanished clients are a stranger's doing: a line, not a dozen.
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionError):
        record.msg = f"{record.msg} ({type(error).__name__})"
        record.exc_info = None
        record.exc_text = None
    return True
