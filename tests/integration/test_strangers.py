"""What a stranger's request costs: what is refused by its head, unread; and what nobody repeats."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from router.http.limits import Bodies, TooSlow
from router.observability.metrics import REGISTRY
from tests.providers.case import Raw
from tests.providers.found import Payload, cases, overrides, payloads
from tests.support.fake_log import FakeLog
from tests.support.ingress import Ingress, exchange, ingress, logged, status
from tests.support.nodes import eventually
from tests.support.twilio_requests import form, headers, new_sid, sign

VOICE = "/webhooks/twilio/voice"
FORM = "Content-Type: application/x-www-form-urlencoded"
FORGED = f"X-Twilio-Signature: {'A' * 27}="


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Ingress]:
    async with ingress(tmp_path, events=FakeLog(), body_timeout=3.0) as node:
        yield node


def head(*more: str, path: str = VOICE, first: str = "") -> bytes:
    lines = [first or f"POST {path} HTTP/1.1", "Host: x", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def at_once(node: Ingress, *parts: bytes, patience: float = 1.0) -> bytes:
    """The answer, which must come although the rest of the request stays away."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    try:
        writer.write(b"".join(parts))
        async with asyncio.timeout(patience):
            return await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()


def _heads() -> list[Payload]:
    own: dict[tuple[str, str], Payload] = {}
    for payload in payloads():
        if payload.raw.body and payload.is_readable:
            own.setdefault((payload.provider, payload.endpoint.kind), payload)
    return list(own.values())


@pytest.mark.parametrize("payload", _heads(), ids=str)
async def test_without_a_proof_a_body_is_not_waited_for(tmp_path: Path, payload: Payload) -> None:
    """Each provider, each webhook: no signature, and one that can't be one."""
    case, raw = cases()[payload.provider], payload.raw
    shapeless = ["", "x", "é", "A" * 5000, "a.b.c", "=" * 28, "A" * 85 + "==="]
    names = [name for name in case.signed_headers if not name.endswith("Settings")]
    others = [raw.with_header(name, each) for name in names for each in shapeless]
    if not case.body_is_signed:  # the proof is in the path
        paths = ("/x", "/" + "x" * 64, raw.target[len("/webhooks/vocode") :] + "x")
        others = [Raw("POST", f"/webhooks/vocode{path}", [], b"") for path in paths]
    async with ingress(tmp_path, events=FakeLog(), settings=overrides(case)) as node:
        for other in others:
            lines = [f"{other.method} {other.target} HTTP/1.1", "Host: x", "Content-Length: 60000"]
            lines += [f"{n}: {v}" for n, v in other.headers if n.lower() in map(str.lower, names)]
            answer = await at_once(node, ("\r\n".join([*lines, "", ""])).encode())
            assert status(answer) == 403, other
            assert b"\r\nConnection: close\r\n" in answer


async def test_what_is_too_large_is_refused_unread_by_its_kind(node: Ingress) -> None:
    for kind, limit in (("voice", 65536), ("debugger", 262_144), ("events", 524_288)):
        path = f"/webhooks/twilio/{kind}"
        told = head(FORM, FORGED, f"Content-Length: {limit + 1}", path=path)
        assert status(await at_once(node, told)) == 413
        fits = head(FORM, FORGED, f"Content-Length: {limit}", path=path)
        with pytest.raises(TimeoutError):
            await at_once(node, fits, patience=0.2)


async def test_no_kind_of_webhook_takes_more_than_the_setting(tmp_path: Path) -> None:
    async with ingress(tmp_path, events=FakeLog(), max_body_bytes=2048) as node:
        told = head(FORM, FORGED, "Content-Length: 2049")
        assert status(await at_once(node, told)) == 413


async def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large(node: Ingress) -> None:
    start = head(FORM, FORGED, "Transfer-Encoding: chunked")
    chunk = b"2000\r\n" + b"x" * 0x2000 + b"\r\n"
    answer = await exchange(node.port, start, *[chunk] * 9, pause=0.02)
    assert status(answer) == 413


@pytest.mark.parametrize("size", [1, 20])
async def test_a_body_in_crumbs_is_not_put_together(node: Ingress, size: int) -> None:
    start = head(FORM, FORGED, "Transfer-Encoding: chunked")
    crumbs = (b"%x\r\n" % size + b"x" * size + b"\r\n") * (60_000 // size)
    answer = await exchange(node.port, start, crumbs, pause=0.02)
    assert status(answer) == 503


async def test_a_real_body_may_come_in_many_packets(node: Ingress) -> None:
    fields = form(CallSid=new_sid(), SipHeader_X="x" * 9000)
    signed = headers(sign(VOICE, fields, base=node.url))

    async def dripping() -> AsyncIterator[bytes]:
        body = urlencode(fields).encode()
        for at in range(0, len(body), 500):
            yield body[at : at + 500]
            await asyncio.sleep(0)

    async with node.session.post(node.url + VOICE, data=dripping(), headers=signed) as answer:
        assert answer.status == 200


async def test_slow_bodies_take_no_place_from_those_that_are_complete(tmp_path: Path) -> None:
    async with ingress(tmp_path, events=FakeLog(), max_in_flight=5, body_timeout=3.0) as node:
        start = head(FORM, FORGED, "Content-Length: 4000") + b"a"
        slow = [asyncio.create_task(exchange(node.port, start)) for _ in range(10)]
        await asyncio.sleep(0.1)
        assert [(await node.twilio())[0] for _ in range(5)] == [200] * 5
        assert not any(task.done() for task in slow)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


async def test_one_slow_body_too_many_ends_the_slowest(tmp_path: Path) -> None:
    """Also a real body comes after its head, and none of the slow ones keeps it out."""
    before = REGISTRY.get_sample_value("switchboard_shed_total", {"what": "body"}) or 0.0
    async with ingress(tmp_path, events=FakeLog(), max_bodies=3, body_timeout=3.0) as node:
        start = head(FORM, FORGED, "Content-Length: 4000") + b"a"
        slow = [asyncio.create_task(exchange(node.port, start, b"b", pause=0.05)) for _ in range(3)]
        await asyncio.sleep(0.2)
        fields = form(CallSid=new_sid())
        signed = headers(sign(VOICE, fields, base=node.url))

        async def parts() -> AsyncIterator[bytes]:
            body = urlencode(fields).encode()
            yield body[:100]
            await asyncio.sleep(0.1)
            yield body[100:]

        async with node.session.post(node.url + VOICE, data=parts(), headers=signed) as answer:
            assert answer.status == 200
        await eventually(lambda: sum(task.done() for task in slow) == 1)
        assert status(next(task for task in slow if task.done()).result()) == 503
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
    assert REGISTRY.get_sample_value("switchboard_shed_total", {"what": "body"}) == before + 1


async def test_places_for_bodies_are_given_back() -> None:
    bodies = Bodies(1)
    async with bodies.place(5.0):
        assert bodies.count == 1
    with pytest.raises(TooSlow, match="body_timeout"):
        async with bodies.place(0.0):
            await asyncio.sleep(5)

    async def overtaken() -> None:
        async with bodies.place(5.0):
            async with bodies.place(5.0):
                pass
            await asyncio.sleep(5)

    with pytest.raises(TooSlow, match="max_bodies"):
        await overtaken()
    async with asyncio.timeout(1.0):
        await bodies.idle()


async def test_a_refused_request_is_the_last_of_its_connection(node: Ingress) -> None:
    """What comes behind it may be its body, or what somebody hid there: nobody looks."""
    second = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    for start in (
        head(FORM, "Content-Length: 50"),
        head(FORM, "Transfer-Encoding: chunked"),
        head("Content-Length: 50", path="/nothing"),
        head("Content-Length: 50", first="PUT /healthz HTTP/1.1"),
        head("Content-Encoding: gzip", "Content-Length: 50"),
    ):
        answer = await exchange(node.port, start, second * 2, pause=0.05)
        assert answer.count(b"HTTP/1.1 ") == 1, start
        assert b"\r\nConnection: close\r\n" in answer


async def test_a_connection_with_a_small_refused_request_is_kept(node: Ingress) -> None:
    """Behind a proxy, strangers' requests must not cost the proxy its connections."""
    refused = head(FORM, "Content-Length: 3") + b"a=b"
    last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = await exchange(node.port, refused, last, pause=0.05)
    assert answer.count(b"HTTP/1.1 ") == 2


@pytest.mark.parametrize(
    ("request_", "status_"),
    [
        (b"MARK / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /MARK HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"DELETE /healthz?MARK HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        (b"TRACE /healthz HTTP/1.1\r\nHost: x\r\nX-A: MARK\r\nConnection: close\r\n\r\n", 405),
        (b"GET /healthz HTTP/1.1\r\nHost: MARK<>\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nMARK\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: MARK" + b"x" * 9000 + b"\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: MARK\0\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nExpect: MARK\r\n\r\n", 417),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: MARK\r\n\r\n", 400),
        (b"GET MARK HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /healthz HTTP/MARK\r\nHost: x\r\n\r\n", 400),
        (head(FORM, "X-Twilio-Signature: MARK", "Content-Length: 5") + b"MARK", 403),
        (head(FORM, "Content-Encoding: MARK", "Connection: close"), 415),
    ],
    ids=lambda value: repr(value)[:60],
)
async def test_no_answer_repeats_what_was_sent(
    node: Ingress, request_: bytes, status_: int
) -> None:
    with logged() as lines:
        answer = await exchange(node.port, request_.replace(b"Close", b"close"))
    assert status(answer) == status_
    assert b"MARK" not in answer
    assert b"MARK" not in lines.text.encode()
    assert b"Python" not in answer
    assert b"aiohttp" not in answer


async def test_a_fault_of_ours_is_503_in_the_same_words(tmp_path: Path) -> None:
    async with ingress(tmp_path, events=FakeLog()) as node:
        node.ready = _Broken()  # type: ignore[assignment]
        found = await node.get("/readyz")
    assert found == (503, "can't take this now, please try again")


class _Broken:
    def __bool__(self) -> bool:
        raise RuntimeError("MARK")


async def test_a_sender_that_asks_first_is_told_to_go_on_only_when_it_may(node: Ingress) -> None:
    asks = ("Expect: 100-continue", "Content-Length: 4000", "Connection: close")
    refused = await exchange(node.port, head(FORM, *asks))
    assert status(refused) == 403
    assert b"100 Continue" not in refused
    unknown = await exchange(node.port, head(*asks, path="/nothing"))
    assert status(unknown) == 404
    fields = form(CallSid=new_sid())
    signed = headers(sign(VOICE, fields, base=node.url))
    body = urlencode(fields)
    lines = [f"{name}: {value}" for name, value in signed.items()]
    start = head(*lines, asks[0], f"Content-Length: {len(body)}", asks[2])
    assert status(await at_once(node, start)) == 100
    taken = await exchange(node.port, start, body.encode(), pause=0.1)
    assert taken.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


async def test_an_upgrade_is_ignored_and_hides_nothing(node: Ingress) -> None:
    upgrade = ("Connection: Upgrade", "Upgrade: websocket")
    body = b"a=b"
    start = head(FORM, *upgrade, f"Content-Length: {len(body)}") + body
    last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = await exchange(node.port, start + last)
    assert status(answer) == 403
    assert answer.endswith(b"\r\n\r\nok")


async def test_http_1_0_is_answered_and_kept_alive_where_it_asks(node: Ingress) -> None:
    one = b"GET /healthz HTTP/1.0\r\n\r\n"
    kept = b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    assert (await exchange(node.port, one)).startswith(b"HTTP/1.0 200 OK\r\n")
    assert (await exchange(node.port, kept + one)).count(b"HTTP/1.0 200 OK\r\n") == 2


async def test_head_is_answered_without_a_body(node: Ingress) -> None:
    answer = await exchange(node.port, head("Connection: close", first="HEAD /healthz HTTP/1.1"))
    assert status(answer) == 200
    assert answer.endswith(b"\r\n\r\n")
    answer = await exchange(node.port, head("Connection: close", first=f"HEAD {VOICE} HTTP/1.1"))
    assert status(answer) == 405
    assert answer.endswith(b"\r\n\r\n")


async def test_no_unsigned_body_costs_more_than_a_real_webhook(node: Ingress) -> None:
    """CPU of this process, the client's included: the median of some, against a bound."""
    escapes = b"%41" * 230_000
    start = head(FORM, f"Content-Length: {len(escapes)}", "Connection: close")
    took = []
    for _ in range(9):
        began = time.process_time()
        assert status(await exchange(node.port, start + escapes)) == 413
        took.append(time.process_time() - began)
    assert sorted(took)[4] < 0.03  # 0.1 s when each was decoded
