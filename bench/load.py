"""The load generator: keep-alive connections that post ready-made requests, one after the other."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from typing_extensions import override

_TIMEOUT = 30.0  # seconds for one answer


class LoadFailed(RuntimeError):
    """An answer was not 2xx or stayed away: there is nothing to measure."""


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection; understands answers with a Content-Length, or without a body."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[int] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connect to a server on loopback."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, "127.0.0.1", port)
        return connection

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has another base

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(LoadFailed("the server closed a connection"))

    @override
    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, mark, body = self._buffer.partition(b"\r\n\r\n")
        if not mark or self._answer is None:
            return
        _, named, length = head.partition(b"Content-Length: ")
        if len(body) < (int(length.partition(b"\r")[0]) if named else 0):
            return
        self._buffer = b""
        self._answer.set_result(int(head[9:12]))

    async def post(self, request: bytes) -> None:
        """Send and wait for the answer. Raises LoadFailed."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        status = await self._answer
        if not 200 <= status < 300:
            raise LoadFailed(f"the server answered {status}")

    def close(self) -> None:
        """Close without a word."""
        if self._transport is not None:
            self._transport.close()


@dataclass(frozen=True, slots=True)
class Load:
    """What a closed loop did: `own_cpu` is the load generator's, seconds like all times."""

    elapsed: float
    latencies: Sequence[float]
    own_cpu: float


async def closed_loop(
    port: int, requests: Sequence[bytes], *, connections: int, seconds: float
) -> Load:
    """Each connection sends its next request when it has its answer, for `seconds` or to the end.

    Raises:
        LoadFailed: see there.
    """
    opened = [await Connection.open(port) for _ in range(connections)]
    latencies: list[float] = []
    source = iter(requests)
    cpu, started = time.process_time(), time.perf_counter()
    try:
        async with asyncio.timeout(seconds + _TIMEOUT), asyncio.TaskGroup() as tasks:
            for connection in opened:
                tasks.create_task(_repeat(connection, source, started + seconds, latencies))
    except* LoadFailed as failures:
        raise failures.exceptions[0] from None
    finally:
        for connection in opened:
            connection.close()
    return Load(time.perf_counter() - started, latencies, time.process_time() - cpu)


async def _repeat(
    connection: Connection, source: Iterator[bytes], until: float, latencies: list[float]
) -> None:
    while (sent := time.perf_counter()) < until:
        request = next(source, None)
        if request is None:
            return
        await connection.post(request)
        latencies.append(time.perf_counter() - sent)


async def open_loop(
    port: int, requests: Sequence[bytes], *, rate: float, latencies: list[float] | None = None
) -> list[float]:
    """Send `rate` requests a second, whether answered or not; when each was sent (monotonic).

    `latencies`: how long each took is added to it, from the moment when it was due.

    Raises:
        LoadFailed: see there.
    """
    idle: list[Connection] = []
    sent: list[float] = []

    async def one(request: bytes, due: float) -> None:
        connection = idle.pop() if idle else await Connection.open(port)
        sent.append(time.monotonic())
        await connection.post(request)
        idle.append(connection)
        if latencies is not None:
            latencies.append(time.monotonic() - due)

    begin = time.monotonic()
    try:
        async with asyncio.TaskGroup() as tasks:
            for index, request in enumerate(requests):
                due = begin + index / rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                tasks.create_task(one(request, due))
    except* LoadFailed as failures:
        raise failures.exceptions[0] from None
    finally:
        for connection in idle:
            connection.close()
    return sent
