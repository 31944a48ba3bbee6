"""LiveKit takes any 4xx for delivered and never tries again: our own faults must be a 503."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from router.errors import LogFailed, LogUnavailable, StorageUnavailable
from router.events.types import CALLS_TOPIC
from tests.providers.found import Payload, StillClock, cases, overrides, payloads
from tests.support.fake_log import FakeLog
from tests.support.ingress import FaultyLog, Ingress, ingress, logged

CASE = cases()["livekit"]
CLOCK = StillClock(CASE.received_at)
EVERY = [payload for payload in payloads() if payload.provider == "livekit" and payload.is_readable]


async def post(node: Ingress, payload: Payload) -> int:
    raw = payload.raw
    signed = {"Authorization": raw.header("Authorization")}
    return (await node.post(raw.target, raw.body, signed))[0]


@pytest.mark.parametrize(
    "error",
    [
        LogUnavailable("the queue is full"),
        LogFailed("fsync"),
        StorageUnavailable("away"),
        RuntimeError("unforeseen"),
    ],
)
async def test_what_the_log_cannot_take_is_to_come_again(tmp_path: Path, error: Exception) -> None:
    events = FaultyLog(error=error)
    settings = overrides(CASE)
    async with ingress(tmp_path, events=events, settings=settings, clock=CLOCK) as node:
        with logged():
            assert {await post(node, payload) for payload in EVERY} == {503}
        events.error = None
        assert {await post(node, payload) for payload in EVERY} == {200}


async def test_what_takes_too_long_is_to_come_again(tmp_path: Path) -> None:
    events = FaultyLog(go=asyncio.Event())
    settings = overrides(CASE)
    patience: dict[str, Any] = {"request_timeout": 0.05}
    async with ingress(tmp_path, events=events, settings=settings, clock=CLOCK, **patience) as node:
        assert await post(node, EVERY[0]) == 503
        assert events.go is not None
        events.go.set()


async def test_events_need_no_routes(tmp_path: Path) -> None:
    """None of them asks for a decision, so a node that has no route table yet takes them all."""
    log, settings = FakeLog(), overrides(CASE)
    async with ingress(tmp_path, events=log, settings=settings, clock=CLOCK) as node:
        node.ready = False
        assert {await post(node, payload) for payload in EVERY} == {200}
    stored = {event.id for event in log.events(CALLS_TOPIC)}
    assert stored == {event["id"] for payload in EVERY for event in payload.golden["events"]}
