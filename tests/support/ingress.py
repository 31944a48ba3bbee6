"""An ingress that listens for real: our app on a free port, over a journal or a faulty log."""

import asyncio
import io
import json
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
from livekit import api

from config.settings import LogSettings, Settings
from router.clock import Clock, SystemClock
from router.eventlog.base import Appended, EventLog, Follower, OnRevoke, Reader
from router.eventlog.open import open_log
from router.http.server import base_app, listening
from router.ingress.app import add_webhooks
from router.ingress.webhook import Webhooks
from router.observability import log as logs
from router.provider import NO_CONNECTIONS, ConnectionBook
from router.providers import context_of
from router.routing.table import Route, RouteTable, Target
from router.runtime import sources_of
from router.secrets import SipCredentials
from tests.support.fake_log import FakeLog
from tests.support.nodes import KEY, SECRET, free_port, node_settings
from tests.support.settings import merged
from tests.support.twilio_requests import form, headers, new_sid, sign

NUMBER, FALLBACK = "+14155550100", "+14155550199"


@dataclass
class FaultyLog:
    """`EventLog` before another one: raises `error`; appends, but says so only when `go` is set."""

    inner: EventLog = field(default_factory=FakeLog)
    error: Exception | None = None
    go: asyncio.Event | None = None
    begun: int = 0
    ended: int = 0

    async def append(
        self, topic: str, key: str, value: bytes | None, headers: Mapping[str, str]
    ) -> Appended:
        self.begun += 1
        if self.error is not None:
            await self._told()
            raise self.error
        appended = await self.inner.append(topic, key, value, headers)
        await self._told()
        self.ended += 1
        return appended

    async def _told(self) -> None:
        if self.go is not None:
            await self.go.wait()

    def reader(
        self, topics: Sequence[str], *, group: str, on_revoke: OnRevoke | None = None
    ) -> AbstractAsyncContextManager[Reader]:
        return self.inner.reader(topics, group=group, on_revoke=on_revoke)

    def follow(
        self, topics: Sequence[str], *, after: Mapping[tuple[str, int], int]
    ) -> AbstractAsyncContextManager[Follower]:
        return self.inner.follow(topics, after=after)


@dataclass
class Ingress:
    """What a test needs of a listening ingress."""

    port: int
    events: EventLog
    routes: RouteTable
    session: aiohttp.ClientSession
    ready: bool = True
    has_keys: bool = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def twilio(self, kind: str = "voice", **fields: str) -> tuple[int, str]:
        """Post a signed webhook; status and body of the answer."""
        path = f"/webhooks/twilio/{kind}"
        whole = form(CallSid=new_sid()) | fields
        signed = headers(sign(path, whole, base=self.url))
        return await self.post(path, urlencode(whole).encode(), signed)

    async def livekit(self, body: bytes) -> tuple[int, str]:
        """Post a signed LiveKit webhook."""
        return await self.post("/webhooks/livekit", body, livekit_headers(body))

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
        async with self.session.post(self.url + path, data=body, headers=headers) as answer:
            return answer.status, await answer.text()

    async def get(self, path: str) -> tuple[int, str]:
        async with self.session.get(self.url + path) as answer:
            return answer.status, await answer.text()


@asynccontextmanager
async def ingress(
    folder: Path,
    *,
    events: EventLog | None = None,
    settings: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
    connections: ConnectionBook = NO_CONNECTIONS,
    **http: Any,
) -> AsyncIterator[Ingress]:
    """An ingress with `http` settings over `events`, or over a journal in `folder`.

    `settings` are overrides beside those of `http`; the clock is the machine's unless given.
    """
    port = free_port()
    own = merged({"http": {"port": port} | http}, settings or {})
    found = node_settings(folder, port=port, livekit_url="http://127.0.0.1:1", **own)
    async with AsyncExitStack() as stack:
        if events is None:
            events = await stack.enter_async_context(open_log(found))
        listener = _listening(found, port, events, clock or SystemClock(), connections)
        yield await stack.enter_async_context(listener)


@asynccontextmanager
async def _listening(
    settings: Settings, port: int, events: EventLog, clock: Clock, connections: ConnectionBook
) -> AsyncIterator[Ingress]:
    routes = RouteTable()
    routes.put(route())
    # A connection a request: a kept one may be closed by the server just as it is used again.
    connector = aiohttp.TCPConnector(force_close=True)
    patience = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=connector, timeout=patience) as session:
        found = Ingress(port, events, routes, session)
        webhooks = Webhooks(
            events=events,
            routes=routes,
            ready=lambda: found.ready,
            clock=clock,
            body_timeout=settings.http.body_timeout,
            request_timeout=settings.http.request_timeout,
            has_keys=lambda: found.has_keys,
        )
        app = base_app(settings.http, health=lambda: (found.ready, {}))
        credentials = SipCredentials("sip-user", "sip-password")
        context = context_of(settings, credentials, clock, connections)
        add_webhooks(app, settings.http, webhooks, sources_of(context))
        async with listening(app, settings.http):
            yield found


def route(number: str = NUMBER, *, agent: str = "anna", rev: int = 1) -> Route:
    """A route to `agent`, with the fallback."""
    target = Target(agent=agent, livekit_agent_name=agent)
    return Route(number=number, provider="twilio", rev=rev, targets=(target,), fallback=FALLBACK)


def livekit_headers(body: bytes) -> dict[str, str]:
    """What LiveKit's own library signs a webhook with."""
    token = api.AccessToken(KEY, SECRET).with_ttl(timedelta(minutes=5))
    token.with_sha256(b64encode(sha256(body).digest()).decode())
    return {"Authorization": token.to_jwt(), "Content-Type": "application/webhook+json"}


async def exchange(port: int, *parts: bytes, pause: float = 0.0, patience: float = 10.0) -> bytes:
    """Send raw bytes part by part; everything that came back until the server closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = bytearray()

    async def read() -> None:
        with suppress(ConnectionError):  # a close that left unread bytes behind is a reset
            while piece := await reader.read(65536):
                got.extend(piece)

    reading = asyncio.create_task(read())
    try:
        async with asyncio.timeout(patience):
            for part in parts:
                if not reading.done():
                    writer.write(part)
                    await asyncio.sleep(pause)
            await reading
    finally:
        writer.close()
    return bytes(got)


def status(answer: bytes) -> int:
    """Of the first answer in raw bytes, 0 for none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


@dataclass
class Lines:
    """What the process logged."""

    stream: io.StringIO

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    def of(self, event: str) -> list[dict[str, Any]]:
        """The lines of one event."""
        lines = [json.loads(line) for line in self.text.splitlines()]
        return [line for line in lines if line["event"].startswith(event)]


@contextmanager
def logged() -> Iterator[Lines]:
    """The process's log inside the block, as `switchboard up` writes it."""
    lines, before = Lines(io.StringIO()), sys.stderr
    sys.stderr = lines.stream
    try:
        logs.configure(LogSettings(format="json", level="info"))
        yield lines
    finally:
        sys.stderr = before
        logs.configure(LogSettings(format="json", level="info"))
