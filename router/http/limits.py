"""What this process takes at once, which aiohttp does not limit: connections, bodies and requests.

One more connection is closed, one more request is answered 503. Never 429: Twilio has no answer to
it. A request whose body is still on its way has no place among those that are worked on (`Gate`):
senders that are slow, by intent or not, would keep out those that are not. They have a place of
their own (`Bodies`), which the one that has waited longest loses to the newest: a real body is
complete milliseconds after its head.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import StreamReader, web
from typing_extensions import override

from router.errors import BadPayload, PayloadTooLarge, WebhookError
from router.http.protocol import Connection, continues
from router.observability.metrics import SHED

_PIECE: Final = 256  # bytes: smaller packets or chunks cost more to put together than to verify
_PIECES: Final = 64  # are free


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


@dataclass(frozen=True, slots=True)
class Admission:
    """What a request must pass: the gate, the place for a body on its way, the bytes of a body."""

    gate: Gate
    bodies: Bodies
    max_body: int


async def read_body(
    http: web.Request,
    admission: Admission,
    seconds: float,
    *,
    check_head: Callable[[], None] = lambda: None,
) -> bytes:
    """The body, if it is here within `seconds`. `check_head` may refuse it before it is read.

    Raises:
        WebhookError: the body is too large, too slow or badly framed, or the head is refused.
        ConnectionResetError: the sender has gone.
    """
    content, limit = http.content, admission.max_body
    if (http.content_length or 0) > limit or content.total_bytes > limit:
        raise _too_large(limit)
    try:
        if content.is_eof():  # it came with the head, as most do: nothing to wait for
            return content.read_nowait()
        check_head()
        if http.transport is None:
            raise ConnectionResetError("the sender has gone")
        async with admission.bodies.place(seconds):
            await continues(http)
            return await _pieces(content, limit)
    except web.RequestPayloadError as error:  # of aiohttp's parser in Python
        raise BadPayload("the body is not framed as its headers say") from error


async def _pieces(content: StreamReader, limit: int) -> bytes:
    body, pieces = bytearray(), 0
    while not content.at_eof():
        piece, _ = await content.readchunk()
        body += piece
        pieces += 1
        if len(body) > limit:
            raise _too_large(limit)
        if pieces > _PIECES + len(body) // _PIECE:
            raise TooSlow("the body comes in too many small pieces")
    return bytes(body)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limit} bytes, the most that is taken here")


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
