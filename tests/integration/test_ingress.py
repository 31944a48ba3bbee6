"""The webhook handler over a listening ingress: what is answered when, and what is kept."""

import asyncio
import gc
from pathlib import Path

import pytest

from router.errors import LogFailed, LogUnavailable
from router.events.codec import decode
from router.events.types import CALLS_TOPIC
from router.observability.log import Budget
from router.routing.table import Version
from tests.support.fake_log import FakeLog
from tests.support.ingress import (
    FALLBACK,
    NUMBER,
    FaultyLog,
    ingress,
    livekit_headers,
    logged,
    route,
)
from tests.support.nodes import eventually
from tests.support.twilio_requests import form, new_sid

LIVEKIT = b'{"event": "room_started", "id": "EV_1", "room": {"name": "somewhere"}}'


async def test_a_repeat_gets_the_same_bytes_though_route_and_process_changed(
    tmp_path: Path,
) -> None:
    sid = new_sid()
    async with ingress(tmp_path) as node:
        first = await node.twilio(CallSid=sid)
        node.routes.put(route(agent="bob", rev=2))
        assert await node.twilio(CallSid=sid) == first
        node.routes.remove(NUMBER, Version(1, 3))
        assert await node.twilio(CallSid=sid) == first
        assert first[0] == 200
        assert "<Sip" in first[1]
        assert "<Sip" not in (await node.twilio())[1]  # a new call goes by the new table
    port = node.port
    async with ingress(tmp_path) as node:
        node.routes.remove(NUMBER, Version(1, 3))
        again = await node.twilio(CallSid=sid)
    assert again[1].replace(str(node.port), str(port)) == first[1]


@pytest.mark.parametrize(
    "error",
    [LogUnavailable("full"), LogFailed("disk"), RuntimeError("a bug"), OSError(5, "I/O")],
    ids=lambda error: type(error).__name__,
)
async def test_a_log_that_refuses_is_a_503(tmp_path: Path, error: Exception) -> None:
    log = FaultyLog(error=error)
    with logged() as lines:
        async with ingress(tmp_path, events=log) as node:
            assert (await node.twilio())[0] == 503
            assert (await node.twilio("status", CallStatus="completed"))[0] == 503
            assert (await node.livekit(LIVEKIT))[0] == 503
            fallback = await node.twilio("fallback")
            log.error = None
            assert (await node.twilio())[0] == 200
    assert fallback[0] == 200
    assert f"<Number>{FALLBACK}</Number>" in fallback[1]
    assert log.begun == 4
    expected = 3 if isinstance(error, RuntimeError | OSError) else 0
    assert lines.text.count("Traceback") == expected  # our bugs have one, outages don't
    assert NUMBER[2:] not in lines.text


async def test_an_event_that_can_never_be_stored_is_not_asked_for_again(tmp_path: Path) -> None:
    async with ingress(tmp_path, events=FaultyLog(error=ValueError("not UTF-8"))) as node:
        assert (await node.livekit(LIVEKIT))[0] == 400


async def test_the_fallback_is_answered_while_the_log_hangs(tmp_path: Path) -> None:
    """And every place at the gate is taken by requests that wait for it."""
    log = FaultyLog(go=asyncio.Event())
    async with ingress(tmp_path, events=log, max_in_flight=3, request_timeout=5.0) as node:
        waiting = [asyncio.create_task(node.twilio()) for _ in range(3)]
        await eventually(lambda: log.begun == 3)
        assert (await node.twilio())[0] == 503  # shed
        assert (await node.twilio("fallback"))[0] == 200
        assert (await node.get("/healthz"))[0] == 200
        assert (await node.get("/readyz"))[0] == 200
        log.go.set()  # type: ignore[union-attr]
        assert [found[0] for found in await asyncio.gather(*waiting)] == [200, 200, 200]


async def test_an_event_outlives_the_request_whose_time_is_up(tmp_path: Path) -> None:
    log = FaultyLog(go=asyncio.Event())
    assert log.go is not None
    sid = new_sid()
    with logged() as lines:
        async with ingress(tmp_path, events=log, request_timeout=0.2) as node:
            assert (await node.twilio(CallSid=sid))[0] == 503
            assert (log.begun, log.ended) == (1, 0)
            log.go.set()
            assert (await node.twilio(CallSid=sid))[0] == 200
    assert isinstance(log.inner, FakeLog)
    assert len(log.inner.all(CALLS_TOPIC)) == 1
    assert [line["why"] for line in lines.of("webhook.refused")] == [
        "it took over http.request_timeout"
    ]


async def test_an_append_that_fails_after_its_request_is_no_unseen_error(tmp_path: Path) -> None:
    log = FaultyLog(go=asyncio.Event(), error=LogUnavailable("full"))
    assert log.go is not None
    unseen: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    async with ingress(tmp_path, events=log, request_timeout=0.1) as node:
        assert (await node.twilio())[0] == 503
        log.go.set()
        await asyncio.sleep(0.05)
    gc.collect()
    assert unseen == []


async def test_stopping_waits_for_appends_and_leaves_no_task(tmp_path: Path) -> None:
    log = FaultyLog(go=asyncio.Event())
    assert log.go is not None
    before = asyncio.all_tasks()
    async with ingress(tmp_path, events=log, shutdown_grace=2.0) as node:
        request = asyncio.create_task(node.twilio())
        await eventually(lambda: log.begun == 1)
        asyncio.get_running_loop().call_later(0.2, log.go.set)
    assert log.ended == 1
    assert (await request)[0] == 200  # it was in flight: it may finish
    await asyncio.sleep(0)
    assert asyncio.all_tasks() - before == set()


async def test_a_log_that_never_answers_can_not_hold_the_end(tmp_path: Path) -> None:
    log = FaultyLog(go=asyncio.Event())
    before = asyncio.all_tasks()
    loop = asyncio.get_running_loop()
    async with ingress(tmp_path, events=log, shutdown_grace=0.6) as node:
        request = asyncio.create_task(node.twilio())
        await eventually(lambda: log.begun == 1)
        began = loop.time()
    assert loop.time() - began < 2.0
    with pytest.raises(Exception, match="disconnected"):
        await request
    await asyncio.sleep(0.01)
    assert asyncio.all_tasks() - before == set()


async def test_without_routes_no_call_is_turned_away(tmp_path: Path) -> None:
    """An apology would be wrong for good; a 503 makes Twilio ask the fallback."""
    async with ingress(tmp_path, events=FakeLog()) as node:
        node.ready = False
        assert (await node.twilio())[0] == 503
        assert (await node.twilio("dial?stage=agent", DialCallStatus="no-answer"))[0] == 503
        assert (await node.twilio("status", CallStatus="completed"))[0] == 204
        assert (await node.livekit(LIVEKIT))[0] == 200
        assert (await node.twilio("fallback"))[0] == 200
        node.ready = True
        assert (await node.twilio())[0] == 200


async def test_strangers_fill_no_log(tmp_path: Path) -> None:
    with logged() as lines:
        async with ingress(tmp_path, events=FakeLog()) as node:
            for _ in range(100):
                assert (await node.post("/webhooks/twilio/voice", b"a=b", {}))[0] == 403
    assert 0 < len(lines.of("webhook.refused")) <= 20


def test_a_budget_says_what_it_left_out() -> None:
    now = 0.0
    budget = Budget(lambda: now)
    assert [budget.spend("a") for _ in range(22)] == [0] * 20 + [None] * 2
    assert budget.spend("b") == 0
    now = 11.0
    assert budget.spend("a") == 2
    assert budget.spend("a") == 0


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe",
        b'{"room":' * 20_000,
        b'{"event": "x", "id": "1", "room": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001,
        b'{"event": "x", "id": "1", "createdAt": ' + b"9" * 5_000 + b"}",
        b'{"event": "x", "id": "1", "createdAt": "9223372036854775807"}',
        b'{"event": "x", "id": "1", "createdAt": "-9223372036854775808"}',
        b'{"event": "x", "id": "1", "createdAt": NaN}',
        b'{"event": "x", "id": "1", "createdAt": Infinity}',
        b'{"event": "x", "id": "1", "numDropped": 1e400}',
        b'{"event": "\\ud800", "id": "1"}',
        b'{"event": "x\\u0000", "id": "\\u0000"}',
        b'{"event": "room_started", "id": "1", "room": {"name": "\\udfff"}}',
        b'{"event": "x", "id": "1", "participant": {"kind": 99999}}',
        b'{"event": "x", "id": "1", "event": 7}',
        b"[]",
        b"null",
        b"",
    ],
)
async def test_signed_nonsense_is_never_our_fault(tmp_path: Path, body: bytes) -> None:
    with logged() as lines:
        async with ingress(tmp_path) as node:
            found = await node.livekit(body)
    assert found[0] in (200, 400), found
    assert "Traceback" not in lines.text


async def test_paths_and_methods(tmp_path: Path) -> None:
    async with ingress(tmp_path, events=FakeLog()) as node:
        assert (await node.get("/nothing"))[0] == 404
        assert (await node.get("/webhooks/twilio/voice"))[0] == 405
        assert (await node.get("/webhooks/twilio/%2e%2e/voice"))[0] == 404
        assert (await node.post("/healthz", b"", {}))[0] == 405
        assert await node.get("/healthz") == (200, "ok")
        node.ready = False
        assert (await node.get("/readyz"))[0] == 503


async def test_metrics_name_nobody(tmp_path: Path) -> None:
    sid = new_sid()
    async with ingress(tmp_path) as node:
        assert (await node.twilio(CallSid=sid))[0] == 200
        assert (await node.livekit(LIVEKIT))[0] == 200
        _, metrics = await node.get("/metrics")
    assert 'switchboard_webhooks_total{kind="voice",provider="twilio",status="200"}' in metrics
    for secret in (sid, NUMBER[1:], form()["From"][1:], form()["AccountSid"]):
        assert secret not in metrics


async def test_what_the_journal_holds_decodes_to_what_was_answered(tmp_path: Path) -> None:
    async with ingress(tmp_path) as node:
        _, twiml = await node.twilio()
        async with node.events.follow([CALLS_TOPIC], after={}) as follower:
            [record] = await follower.fetch(limit=10, wait=5.0)
    event = decode(record.key, record.headers, record.value)
    assert event.call_id in twiml
    assert event.data.decision is not None
    assert event.data.decision.agent == "anna"
    assert "CallToken" not in event.data.raw


async def test_a_livekit_webhook_with_another_body_is_refused(tmp_path: Path) -> None:
    async with ingress(tmp_path, events=FakeLog()) as node:
        signed = livekit_headers(LIVEKIT)
        assert (await node.post("/webhooks/livekit", LIVEKIT + b" ", signed))[0] == 403
