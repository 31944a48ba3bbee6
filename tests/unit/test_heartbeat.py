"""What an ingress without dispatch knows of the dispatch processes, by their heartbeats."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from typing_extensions import override

from router.dispatch_health import DATABASE, DispatchHealth
from router.errors import LogUnavailable, Transient
from router.eventlog.base import Lag, OpenLog, Record
from router.eventlog.heartbeat import SILENCE, Heartbeat, HeartbeatFollower, send_heartbeats
from router.events.types import HEALTH_TOPIC
from tests.support import fake_time
from tests.support.fake_log import FakeLog, Pair
from tests.support.fake_time import START, FakeClock


@dataclass
class _Log(FakeLog):
    """As a dispatch process has it; `lag` is its relay's."""

    seat: str = "one"
    lag: Lag = field(default_factory=lambda: Lag(0, 0.0))

    no_topic: bool = False  # nor may we make it; a relay would stop at the first record

    @property
    def relay(self) -> Any:
        return SimpleNamespace(lag=self.lag)

    @override
    async def read(self, places: dict[Pair, int], limit: int, wait: float) -> Sequence[Record]:
        if self.no_topic:
            raise LogUnavailable("Kafka refused to create topics")
        return await super().read(places, limit, wait)


@asynccontextmanager
async def _following(log: FakeLog) -> AsyncIterator[HeartbeatFollower]:
    follower = HeartbeatFollower(log, FakeClock())
    task = asyncio.create_task(follower.run())
    await asyncio.sleep(0.5)
    try:
        yield follower
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _tell(log: FakeLog, seat: str, trouble: str = "") -> None:
    number = len(log.all(HEALTH_TOPIC))
    value = msgspec.json.encode(Heartbeat(trouble))
    await log.append(HEALTH_TOPIC, seat, value, {"ce_id": f"id-{number}"})
    await asyncio.sleep(0.1)


def _log() -> _Log:
    return _Log(taken_at=FakeClock().now)


def test_silence_for_eight_seconds_is_trouble_until_the_next_good_sign() -> None:
    async def scenario() -> None:
        log = _log()
        async with _following(log) as follower:
            await _tell(log, "one")
            await asyncio.sleep(7.5)
            assert follower.trouble() == ""
            await asyncio.sleep(1.0)
            assert follower.trouble() == SILENCE
            await _tell(log, "two")
            assert follower.trouble() == ""

    fake_time.run(scenario())


def test_where_none_was_ever_heard_agents_are_promised() -> None:
    async def scenario() -> None:
        async with _following(_log()) as follower:
            await asyncio.sleep(3600.0)
            assert follower.trouble() == ""

    fake_time.run(scenario())


def test_one_that_dispatches_is_enough_and_trouble_has_its_reason() -> None:
    async def scenario() -> None:
        log = _log()
        async with _following(log) as follower:
            await _tell(log, "one", "the database can't be used")
            assert follower.trouble() == "the database can't be used"
            await _tell(log, "two")
            assert follower.trouble() == ""
            await asyncio.sleep(7.5)
            await _tell(log, "one", "the database can't be used")
            await asyncio.sleep(1.0)  # the other one is silent by now
            assert follower.trouble() == "the database can't be used"
            await _tell(log, "one")
            assert follower.trouble() == ""

    fake_time.run(scenario())


@pytest.mark.parametrize(("age", "then"), [(60.0, SILENCE), (7200.0, "")])
def test_what_was_there_at_the_start_turns_nobody_away_at_once(age: float, then: str) -> None:
    """And what is hours old says nothing: of a version, say, that was replaced by an older one."""

    async def scenario() -> None:
        log = _Log(taken_at=lambda: START - round(age * 1_000_000))
        await _tell(log, "one")
        async with _following(log) as follower:
            assert follower.trouble() == ""
            await asyncio.sleep(9.0)
            assert follower.trouble() == then

    fake_time.run(scenario())


def test_while_kafka_is_away_no_sign_comes_and_its_return_is_noticed() -> None:
    async def scenario() -> None:
        log = _log()
        async with _following(log) as follower:
            await _tell(log, "one")
            log.unavailable = True
            await asyncio.sleep(5.0)
            assert follower.trouble() == ""
            await asyncio.sleep(5.0)
            assert follower.trouble() == SILENCE
            log.unavailable = False
            await _tell(log, "one")
            await asyncio.sleep(1.5)
            assert follower.trouble() == ""
        log.unavailable = True
        async with _following(log) as follower:  # started meanwhile: it knows nothing
            await asyncio.sleep(60.0)
            assert follower.trouble() == ""

    fake_time.run(scenario())


@pytest.mark.parametrize("value", [None, b"", b"no JSON", b"[]", b'{"trouble": 1}', b"[" * 5000])
def test_a_record_that_is_no_heartbeat_says_nothing(value: bytes | None) -> None:
    async def scenario() -> None:
        log = _log()
        async with _following(log) as follower:
            await log.append(HEALTH_TOPIC, "one", value, {"ce_id": "x"})
            await asyncio.sleep(9.0)
            assert follower.trouble() == ""
            await _tell(log, "one")
            await asyncio.sleep(9.0)
            assert follower.trouble() == SILENCE

    fake_time.run(scenario())


def test_a_dispatch_process_tells_its_trouble_and_nothing_while_kafka_is_away() -> None:
    async def scenario() -> None:
        log, clock, stop = _log(), FakeClock(), asyncio.Event()
        health = DispatchHealth(clock)
        sending = asyncio.create_task(send_heartbeats(cast("OpenLog", log), health, clock, stop))
        async with _following(log) as follower:
            for _ in range(10):
                with health.trying(DATABASE):
                    await asyncio.sleep(2.0)
            assert follower.trouble() == ""
            for _ in range(2):
                with suppress(Transient), health.trying(DATABASE):
                    raise Transient("away")
            await asyncio.sleep(2.1)
            assert follower.trouble() == "the database can't be used"
            log.unavailable = True
            await asyncio.sleep(2.1)
            log.unavailable = False
            log.lag = Lag(4, 9.0)
            told = len(log.all(HEALTH_TOPIC))
            assert 10 <= told <= 13
            await asyncio.sleep(60.0)
            assert len(log.all(HEALTH_TOPIC)) == told
            log.lag = Lag(0, 0.0)
            await asyncio.sleep(2.1)
            assert {record.key for record in log.all(HEALTH_TOPIC)} == {"one"}
            assert len(log.all(HEALTH_TOPIC)) > told
            stop.set()
            await asyncio.wait_for(sending, 3.0)

    fake_time.run(scenario())


def test_without_its_topic_nothing_is_put_in_the_way_of_other_records() -> None:
    async def scenario() -> None:
        log, clock, stop = _log(), FakeClock(), asyncio.Event()
        log.no_topic = True
        health = DispatchHealth(clock)
        sending = asyncio.create_task(send_heartbeats(cast("OpenLog", log), health, clock, stop))
        await asyncio.sleep(60.0)
        assert log.all(HEALTH_TOPIC) == []
        log.no_topic = False
        await asyncio.sleep(10.0)
        assert log.all(HEALTH_TOPIC)
        stop.set()
        await asyncio.wait_for(sending, 3.0)

    fake_time.run(scenario())
