"""What no handler could take: tried again in place, then moved to the dead topic."""

import asyncio

import pytest
from structlog.testing import capture_logs

from consumers.consumer import Done, GiveUp, Outcome, RetryIn
from router.errors import Ambiguous, LogUnavailable, StorageUnavailable, Transient
from router.eventlog.base import Record
from router.events.model import Event
from router.events.types import CALLS_TOPIC, dead_topic
from tests.support import fake_time
from tests.support.fake_consumer import (
    GROUP,
    FakeConsumer,
    call_event,
    nothing,
    runner,
    running,
)
from tests.support.fake_log import FakeLog

DEAD = dead_topic(CALLS_TOPIC)


def _check_dead(dead: Record, source: Record, reason: str) -> None:
    added = {k: v for k, v in dead.headers.items() if k.startswith("dlq.")}
    kept = {k: v for k, v in dead.headers.items() if not k.startswith("dlq.")}
    assert (dead.key, dead.value) == (source.key, source.value)
    assert kept.pop("ce_id") != source.headers["ce_id"]
    assert kept == {k: v for k, v in source.headers.items() if k != "ce_id"}
    assert added["dlq.ce_id"] == source.headers["ce_id"]
    assert added["dlq.topic"] == source.position.topic
    assert added["dlq.partition"] == str(source.position.partition)
    assert added["dlq.offset"] == str(source.position.offset)
    assert added["dlq.group"] == GROUP
    assert added["dlq.reason"] == reason
    assert int(added["dlq.attempts"]) >= 1
    assert added["dlq.first_failed_at"].startswith("2023-11-14T22:13:")


def test_give_up_moves_the_record_untouched_and_commits_it() -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=1)
        await log.add(CALLS_TOPIC, call_event("call", 0))

        async def refuse(event: Event) -> Outcome:
            return GiveUp("LiveKit refused the dispatch")

        async with running(runner(log, FakeConsumer(refuse))):
            await asyncio.sleep(2.0)
        (dead,) = log.all(DEAD)
        _check_dead(dead, log.all(CALLS_TOPIC)[0], "LiveKit refused the dispatch")
        assert dead.headers["dlq.attempts"] == "1"
        assert log.groups[GROUP].committed == {(CALLS_TOPIC, 0): 0}

    fake_time.run(scenario())


@pytest.mark.parametrize(
    ("headers", "value", "reason"),
    [
        ({"ce_id": "x"}, b"{}", "record lacks the header ce_type"),
        ({}, b'{"call_id": 5}', "record is unreadable: ValidationError"),
        ({}, b"\xff\x00", "record is unreadable: DecodeError"),
        ({"ce_time": "yesterday"}, b"{}", "record is unreadable: ValueError"),
    ],
)
def test_a_poisoned_record_is_moved_and_does_not_hold_up_its_key(
    headers: dict[str, str], value: bytes, reason: str
) -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=1)
        good = {
            "ce_id": "poison",
            "ce_type": "call.ringing",
            "ce_source": "/twilio",
            "ce_time": "2023-11-14T22:13:20.000000Z",
        }
        poison = headers if "ce_id" in headers else good | headers
        await log.append(CALLS_TOPIC, "call", value, poison)
        await log.add(CALLS_TOPIC, call_event("call", 1))
        consumer = FakeConsumer(nothing)
        async with running(runner(log, consumer)):
            await asyncio.sleep(2.0)
        (dead,) = log.all(DEAD)
        _check_dead(dead, log.all(CALLS_TOPIC)[0], reason)
        assert consumer.done == [call_event("call", 1).id]
        assert log.groups[GROUP].committed == {(CALLS_TOPIC, 0): 1}

    fake_time.run(scenario())


def test_retry_in_holds_up_its_key_only_and_keeps_the_order() -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=1)
        stubborn, after, other = call_event("a", 0), call_event("a", 1), call_event("b", 0)
        for event in (stubborn, after, other):
            await log.add(CALLS_TOPIC, event)
        consumer: FakeConsumer

        async def third_time(event: Event) -> Outcome:
            if event.id == stubborn.id and consumer.began.count(event.id) < 3:
                return RetryIn(2.0, "not yet")
            return Done()

        consumer = FakeConsumer(third_time)
        async with running(runner(log, consumer)):
            await asyncio.sleep(0.1)
            assert consumer.done == [other.id]
            await asyncio.sleep(5.0)
            assert consumer.done == [other.id, stubborn.id, after.id]
        assert log.all(DEAD) == []

    fake_time.run(scenario())


def test_a_handler_with_a_fault_is_tried_again_for_a_bounded_time() -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=1)
        await log.add(CALLS_TOPIC, call_event("call", 0))

        async def fail(event: Event) -> Outcome:
            raise ZeroDivisionError("+14155550100")

        consumer = FakeConsumer(fail)
        async with running(runner(log, consumer, retry_for=10.0)):
            await asyncio.sleep(5.0)
            assert log.all(DEAD) == []
            assert log.groups[GROUP].committed == {}
            await asyncio.sleep(7.0)
        (dead,) = log.all(DEAD)
        _check_dead(dead, log.all(CALLS_TOPIC)[0], "the handler failed: ZeroDivisionError")
        assert 7 <= len(consumer.began) <= 16  # 0.1, 0.2, 0.4 … 2 s, half of it random
        assert dead.headers["dlq.attempts"] == str(len(consumer.began))
        assert log.groups[GROUP].committed == {(CALLS_TOPIC, 0): 0}

    with capture_logs() as lines:
        fake_time.run(scenario())
    assert lines
    assert "+14155550100" not in repr(lines)


@pytest.mark.parametrize(
    "slow",
    [
        Transient("busy"),
        Ambiguous("lost"),
        StorageUnavailable("away"),
        LogUnavailable("full"),
        TimeoutError(),
        RetryIn(1.0, "not yet"),
    ],
    ids=repr,
)
def test_what_is_away_or_slow_for_an_hour_sends_nothing_to_the_dead_topic(
    slow: Exception | RetryIn,
) -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=1)
        await log.add(CALLS_TOPIC, call_event("call", 0))
        is_back = False

        async def wait(event: Event) -> Outcome:
            if is_back:
                return Done()
            if isinstance(slow, RetryIn):
                return slow
            raise slow

        consumer = FakeConsumer(wait)
        async with running(runner(log, consumer, retry_for=10.0)):
            await asyncio.sleep(3600.0)
            assert log.all(DEAD) == []
            assert log.groups[GROUP].committed == {}
            is_back = True
            await asyncio.sleep(16.0)
            assert log.groups[GROUP].committed == {(CALLS_TOPIC, 0): 0}

    fake_time.run(scenario())


def test_a_handler_that_hangs_is_stopped_at_its_time_limit() -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=1)
        await log.add(CALLS_TOPIC, call_event("call", 0))
        consumer: FakeConsumer

        async def hang_once(event: Event) -> Outcome:
            if len(consumer.began) == 1:
                await asyncio.Event().wait()
            return Done()

        consumer = FakeConsumer(hang_once)
        async with running(runner(log, consumer)):
            await asyncio.sleep(19.0)
            assert consumer.busy == 1
            await asyncio.sleep(2.0)
            assert len(consumer.done) == 1

    fake_time.run(scenario())


def test_nothing_is_committed_until_the_dead_topic_has_it() -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=1)
        await log.add(CALLS_TOPIC, call_event("call", 0))

        async def refuse(event: Event) -> Outcome:
            log.unavailable = True
            return GiveUp("never")

        async with running(runner(log, FakeConsumer(refuse))):
            await asyncio.sleep(20.0)
            assert log.groups[GROUP].committed == {}
            log.unavailable = False
            await asyncio.sleep(6.0)
            assert len(log.all(DEAD)) == 1
            assert log.groups[GROUP].committed == {(CALLS_TOPIC, 0): 0}

    fake_time.run(scenario())


def test_a_record_that_dies_twice_is_in_the_dead_topic_once() -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=1)
        await log.add(CALLS_TOPIC, call_event("call", 0))

        async def refuse(event: Event) -> Outcome:
            return GiveUp("never")

        for _ in range(2):
            async with running(runner(log, FakeConsumer(refuse))):
                await asyncio.sleep(2.0)
            log.groups[GROUP].committed.clear()
        assert len(log.all(DEAD)) == 1

    fake_time.run(scenario())
