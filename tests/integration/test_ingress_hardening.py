"""The listener under attack: slow, oversized, malformed and vanishing clients, over raw sockets."""

import asyncio
import gc
import socket
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.support.fake_log import FakeLog
from tests.support.ingress import FaultyLog, Ingress, exchange, ingress, logged, status
from tests.support.nodes import eventually
from tests.support.twilio_requests import form, new_sid, sign

VOICE = "/webhooks/twilio/voice"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Ingress]:
    async with ingress(
        tmp_path, events=FakeLog(), body_timeout=0.5, header_timeout=0.6, max_body_bytes=4096
    ) as node:
        yield node


def head(*more: str, path: str = VOICE, host: str = "Host: x") -> bytes:
    lines = [f"POST {path} HTTP/1.1", host, *more]
    return ("\r\n".join(line for line in lines if line) + "\r\n\r\n").encode()


def signed(node: Ingress, sid: str) -> tuple[bytes, str]:
    """A body, and the header that signs it."""
    fields = form(CallSid=sid)
    return urlencode(fields).encode(), f"X-Twilio-Signature: {sign(VOICE, fields, base=node.url)}"


FORM = "Content-Type: application/x-www-form-urlencoded"
FORGED = f"X-Twilio-Signature: {'A' * 27}="  # of the right shape: the body must be read


async def test_a_body_that_drips_is_cut_at_its_deadline(node: Ingress) -> None:
    began = time.monotonic()
    drips = [b"a=1&"] * 8
    answer = await exchange(
        node.port, head(FORM, FORGED, "Content-Length: 4000"), *drips, pause=0.2
    )
    assert status(answer) == 503
    assert time.monotonic() - began < 4.0


async def test_headers_that_drip_are_cut_at_their_deadline(node: Ingress) -> None:
    began = time.monotonic()
    lines = [f"X-{number}: 1\r\n".encode() for number in range(100)]
    answer = await exchange(node.port, f"POST {VOICE} HTTP/1.1\r\n".encode(), *lines[:8], pause=0.2)
    assert status(answer) == 0  # closed, nothing was understood
    assert time.monotonic() - began < 3.0


async def test_the_next_requests_headers_have_a_deadline_too(node: Ingress) -> None:
    """On a connection that was kept alive after a good request."""
    good = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    began = time.monotonic()
    answer = await exchange(node.port, good, b"GET /healthz HT", *[b"T"] * 6, pause=0.2)
    assert answer.count(b"\r\nServer: ") == 1
    assert time.monotonic() - began < 3.0


async def test_an_oversized_body_is_413_whatever_it_says_of_itself(node: Ingress) -> None:
    body = b"x" * 10_000
    told = await exchange(node.port, head(FORM, f"Content-Length: {len(body)}"), body)
    assert status(told) == 413
    chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
    untold = await exchange(node.port, head(FORM, "Transfer-Encoding: chunked"), chunk * 3)
    assert status(untold) == 413


async def test_a_chunked_body_is_read_whole(node: Ingress) -> None:
    body, signature = signed(node, new_sid())
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:9], body[9:]))
    answer = await exchange(
        node.port,
        head(FORM, signature, "Transfer-Encoding: chunked", "Connection: close"),
        chunks + b"0\r\n\r\n",
    )
    assert status(answer) == 200


async def test_a_broken_chunk_is_refused_without_a_traceback(node: Ingress) -> None:
    start = head(FORM, FORGED, "Transfer-Encoding: chunked") + b"3\r\nabc\r\n"
    broken = [b"zz\r\nabc\r\n", b"5\r\nabcdefgh\r\n", b"-1\r\n", b"1;" + b"x" * 9000]
    with logged() as lines:
        answers = await asyncio.gather(
            *[exchange(node.port, start, rest, pause=0.05) for rest in broken]
        )
    # The parser's error waits behind the request whose body never ends: its deadline comes first.
    assert {status(answer) for answer in answers} <= {400, 503}
    assert "Traceback" not in lines.text


async def test_compression_is_refused_before_the_body_is_read(node: Ingress) -> None:
    request = head("Content-Encoding: gzip", "Content-Length: 4000", "Connection: close")
    assert status(await exchange(node.port, request)) == 415


@pytest.mark.parametrize(
    "request_",
    [
        head("Content-Length: 3", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head("Content-Length: 3", "Content-Length: 4") + b"abcd",
        head("Content-Length: 3", "Content-Length: 3") + b"abc",
        head("Content-Length: -3"),
        head("Content-Length: +3") + b"abc",
        head("Content-Length: 0x3") + b"abc",
        head("Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
        head("Transfer-Encoding: xchunked") + b"0\r\n\r\n",
        head("Transfer-Encoding : chunked") + b"0\r\n\r\n",
        head(host=""),
        head("Host: y"),
        head("X-Long: " + "x" * 9000),
        head(path=VOICE + "?" + "x" * 9000),
        head(*[f"X-{number}: 1" for number in range(200)]),
        head("X-Nul: a\0b"),
        head(" folded: line"),
        head("no colon"),
        f"POST {VOICE} HTTP/1.1\nHost: x\n\n".encode(),
        f"POST {VOICE} HTTP/9.9\r\nHost: x\r\n\r\n".encode(),
        f"P\0ST {VOICE} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS, to a port that speaks none
        b"\r\n\r\n\0\0\0\0",
        head("Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
        head("Transfer-Encoding: gzip") + b"0\r\n\r\n",
        head("Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n",
        head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head("Content-Length: 3, 3") + b"abc",
        head("X-A: a", " folded: line"),
        head(host="Host: a, b"),
        head(host="Host: a/b"),
        head(host="Host: a b"),
        head(path="http://x" + VOICE),
        head(path="*"),
        head(path=VOICE + "#f"),
        f"POST {VOICE} HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode(),
        f"POST {VOICE}\r\n\r\n".encode(),
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/0.9\r\n\r\n",
        b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=lambda request: repr(request[:70]),
)
async def test_what_is_not_proper_http_is_400(node: Ingress, request_: bytes) -> None:
    with logged() as lines:
        answer = await exchange(node.port, request_)
        await asyncio.sleep(0.02)
    assert status(answer) == 400, answer
    assert answer.startswith(b"HTTP/1.")
    assert answer.count(b"\r\nServer: ") == 1  # nothing was smuggled behind it
    assert answer.endswith(b"\r\n\r\nnot understood: this is not a proper HTTP request")
    assert "Traceback" not in lines.text
    assert len(lines.text.splitlines()) <= 1


async def test_a_second_request_in_a_body_stays_a_body(node: Ingress) -> None:
    inner = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await exchange(
        node.port, head(FORM, f"Content-Length: {len(inner)}", "Connection: close"), inner
    )
    assert status(answer) == 403
    assert answer.count(b"\r\nServer: ") == 1


async def test_too_many_fields_are_refused(node: Ingress) -> None:
    body = b"&".join(b"f%d=1" % number for number in range(300))
    assert (await node.post(VOICE, body, {"Content-Type": FORM.partition(": ")[2]}))[0] == 403


async def test_load_is_shed_before_the_body_is_read(tmp_path: Path) -> None:
    log = FaultyLog(go=asyncio.Event())
    assert log.go is not None
    async with ingress(tmp_path, events=log, max_in_flight=2, request_timeout=5.0) as node:
        waiting = [asyncio.create_task(node.twilio()) for _ in range(2)]
        await eventually(lambda: log.begun == 2)
        began = time.monotonic()
        answer = await exchange(node.port, head("Content-Length: 100000", "Connection: close"))
        assert status(answer) == 503
        assert b"Retry-After: 1\r\n" in answer
        assert time.monotonic() - began < 3.5  # aiohttp lingers for a body that does not come
        log.go.set()
        await asyncio.gather(*waiting)


async def test_one_connection_too_many_is_closed(tmp_path: Path) -> None:
    async with ingress(tmp_path, events=FakeLog(), max_connections=5) as node:
        kept = [await asyncio.open_connection("127.0.0.1", node.port) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert await exchange(node.port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        for _, writer in kept:
            writer.close()
        await asyncio.sleep(0.1)
        assert (await node.get("/healthz"))[0] == 200


async def test_two_hundred_clients_that_vanish_leave_nothing(node: Ingress) -> None:
    before = asyncio.all_tasks()
    unseen: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    with logged() as lines:
        for number in range(200):
            await _vanish(node.port, reset=bool(number % 2))
        await eventually(lambda: asyncio.all_tasks() - before == set())
    gc.collect()
    assert unseen == []
    assert "Traceback" not in lines.text
    assert len(lines.text.splitlines()) <= 20
    assert (await node.twilio())[0] == 200


async def _vanish(port: int, *, reset: bool) -> None:
    """Send half of a body and go, by FIN or by RST."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head(FORM, "Content-Length: 4000") + b"a=1&")
    await writer.drain()
    if reset:
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


async def test_a_flood_of_slow_clients_does_not_delay_real_webhooks(tmp_path: Path) -> None:
    async with ingress(tmp_path, events=FakeLog(), body_timeout=5.0, header_timeout=5.0) as node:
        slow = [await asyncio.open_connection("127.0.0.1", node.port) for _ in range(400)]
        for number, (_, writer) in enumerate(slow):
            writer.write(b"POST /" if number % 2 else head(FORM, "Content-Length: 4000") + b"a")
        took = []
        for _ in range(20):
            began = time.monotonic()
            assert (await node.twilio())[0] == 200
            took.append(time.monotonic() - began)
        for _, writer in slow:
            writer.close()
    print(f"slowest of 20 beside 400 slow clients: {max(took) * 1000:.1f} ms")
    assert sorted(took)[10] < 0.5
