"""The runner: order per key, many keys at once, a bound on both, and commits. In virtual time."""

import asyncio

import msgspec
import pytest
from typing_extensions import override

from consumers.attempts import Places
from consumers.consumer import Done, Outcome
from consumers.runner import Limits
from router.errors import LogFailed, StorageUnavailable
from router.events.model import Event
from router.events.types import CALLS_TOPIC
from tests.support import fake_time
from tests.support.fake_consumer import (
    GROUP,
    LIMITS,
    FakeConsumer,
    call_event,
    nothing,
    runner,
    running,
)
from tests.support.fake_log import FakeLog


async def _slow(event: Event) -> Outcome:
    await asyncio.sleep(1.0)
    return Done()


def test_everything_is_handled_and_committed_at_stop() -> None:
    async def scenario() -> None:
        log = FakeLog(gap=3)
        events = [call_event(f"call-{n % 5}", n) for n in range(40)]
        for event in events:
            await log.add(CALLS_TOPIC, event)
        consumer = FakeConsumer(nothing)
        async with running(runner(log, consumer)):
            await asyncio.sleep(0.3)
        assert sorted(consumer.done) == sorted(event.id for event in events)
        ends = {pair: entries[-1].position.offset for pair, entries in log.records.items()}
        assert log.groups[GROUP].committed == ends

    fake_time.run(scenario())


def test_a_key_is_handled_in_order_and_keys_side_by_side() -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=1)
        events = [call_event(key, n) for n in range(3) for key in ("a", "b", "c")]
        for event in events:
            await log.add(CALLS_TOPIC, event)
        consumer = FakeConsumer(_slow)
        async with running(runner(log, consumer, LIMITS)) as task:
            await asyncio.sleep(3.6)  # three in a row, each a second
            assert not task.done()
            for key in ("a", "b", "c"):
                mine = [event.id for event in events if event.key == key]
                assert [done for done in consumer.done if done in mine] == mine
        assert consumer.busiest == 3

    fake_time.run(scenario())


def test_no_more_than_the_cap_and_the_membership_is_kept_meanwhile() -> None:
    async def scenario() -> None:
        log = FakeLog()
        for n in range(20):
            await log.add(CALLS_TOPIC, call_event(f"call-{n}", 0))

        async def very_slow(event: Event) -> Outcome:
            await asyncio.sleep(10.0)
            return Done()

        consumer = FakeConsumer(very_slow)
        async with running(runner(log, consumer)):
            await asyncio.sleep(9.0)
            assert consumer.busy == LIMITS.in_flight
            (member,) = log.groups[GROUP].members
            assert member.keepalives >= 15  # every half second, although nothing moved
            await asyncio.sleep(25.0)
        assert consumer.busiest == LIMITS.in_flight
        assert len(consumer.done) == 20

    fake_time.run(scenario())


def test_commits_follow_every_second_and_stop_before_what_is_open() -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=1)
        for n in range(5):
            await log.add(CALLS_TOPIC, call_event(f"call-{n}", 0))

        async def third_is_slow(event: Event) -> Outcome:
            if event.key == "call-2":
                await asyncio.sleep(10.0)
            return Done()

        consumer = FakeConsumer(third_is_slow)
        async with running(runner(log, consumer)):
            await asyncio.sleep(2.0)
            assert len(consumer.done) == 4
            assert log.groups[GROUP].committed == {(CALLS_TOPIC, 0): 1}
            await asyncio.sleep(10.0)
            assert log.groups[GROUP].committed == {(CALLS_TOPIC, 0): 4}

    fake_time.run(scenario())


def test_stop_drains_what_runs_and_leaves_what_waits() -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=1)
        for n in range(3):
            await log.add(CALLS_TOPIC, call_event("same", n))
        consumer = FakeConsumer(_slow)
        async with running(runner(log, consumer)):
            await asyncio.sleep(0.5)
        assert len(consumer.done) == 1
        assert log.groups[GROUP].committed == {(CALLS_TOPIC, 0): 0}

        async with running(runner(log, consumer)):
            await asyncio.sleep(5.0)
        assert len(consumer.done) == 3

    fake_time.run(scenario())


def test_stop_does_not_wait_beyond_the_grace() -> None:
    async def scenario() -> None:
        log = FakeLog()
        await log.add(CALLS_TOPIC, call_event("endless", 0))

        async def endless(event: Event) -> Outcome:
            await asyncio.sleep(1000.0)
            return Done()

        consumer = FakeConsumer(endless)
        async with running(runner(log, consumer)):
            await asyncio.sleep(1.0)
            before = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - before <= LIMITS.grace + 0.6
        assert consumer.busy == 0
        assert log.groups[GROUP].committed == {}

    fake_time.run(scenario())


def test_an_unreadable_log_is_asked_again() -> None:
    async def scenario() -> None:
        log = FakeLog()
        await log.add(CALLS_TOPIC, call_event("call", 0))
        log.unavailable = True
        consumer = FakeConsumer(nothing)
        async with running(runner(log, consumer)):
            await asyncio.sleep(30.0)
            assert consumer.done == []
            log.unavailable = False
            await asyncio.sleep(2.5)
            assert len(consumer.done) == 1
            log.unavailable = True  # the commit fails now, and is made up for later
            await asyncio.sleep(10.0)
            log.unavailable = False
            await asyncio.sleep(4.0)
            assert list(log.groups[GROUP].committed.values()) == [0]

    fake_time.run(scenario())


def test_a_failed_disk_ends_the_runner() -> None:
    async def scenario() -> None:
        log = FakeLog()
        await log.add(CALLS_TOPIC, call_event("call", 0))

        async def broken(event: Event) -> Outcome:
            raise LogFailed("fsync failed")

        with pytest.RaisesGroup(LogFailed):
            await runner(log, FakeConsumer(broken)).run(asyncio.Event())
        assert log.groups[GROUP].committed == {}

    fake_time.run(scenario())


@pytest.mark.parametrize(("size", "taken"), [(10, 100), (5000, 10)])
def test_records_are_taken_ahead_of_their_turn_until_they_are_too_many_or_too_large(
    size: int, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.runner._BYTES_IN_HAND", 50_000)
    monkeypatch.setattr("consumers.runner._FETCHED", 10)
    seen: list[str] = []

    class Seeing(FakeConsumer):
        @override
        def foresee(self, event: Event) -> None:
            seen.append(event.key)

    async def scenario() -> None:
        log = FakeLog(partitions=1)
        for n in range(200):
            event = call_event(f"call-{n}", 0)
            data = msgspec.structs.replace(event.data, raw={"x": "y" * size})
            await log.add(CALLS_TOPIC, msgspec.structs.replace(event, data=data))
        consumer = Seeing(_slow)
        limits = Limits(in_flight=8, time_limit=20.0, grace=3.0, in_hand=100)
        async with running(runner(log, consumer, limits)):
            await asyncio.sleep(0.9)
            assert len(seen) == taken
            assert consumer.busiest == 8
            await asyncio.sleep(29.0)
            assert len(consumer.done) == 200

    fake_time.run(scenario())


def test_a_record_that_is_tried_again_and_again_takes_no_place_from_others() -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=1)
        for n in range(50):
            await log.add(CALLS_TOPIC, call_event(f"stuck-{n}", 0))
        await log.add(CALLS_TOPIC, call_event("well", 0))

        async def stuck(event: Event) -> Outcome:
            if event.key == "well":
                return Done()
            raise StorageUnavailable("away")

        consumer = FakeConsumer(stuck)
        limits = Limits(in_flight=8, time_limit=20.0, grace=3.0, in_hand=100)
        async with running(runner(log, consumer, limits)):
            await asyncio.sleep(0.5)
            assert consumer.done == [call_event("well", 0).id]

    fake_time.run(scenario())


def test_places_go_to_the_newest_that_is_urgent_and_to_others_now_and_then() -> None:
    async def scenario() -> None:
        places, order = Places(1), list[str]()

        async def work(name: str, *, urgent: bool) -> None:
            async with places.held(urgent=urgent):
                order.append(name)
                await asyncio.sleep(0.1)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(work("first", urgent=False))
            for n in range(3):
                tasks.create_task(work(f"old-{n}", urgent=False))
            for n in range(5):
                tasks.create_task(work(f"live-{n}", urgent=True))
            await asyncio.sleep(0.05)
            gone = tasks.create_task(work("gone", urgent=True))
            await asyncio.sleep(0.01)
            gone.cancel()
        assert order == [
            *("first", "live-4", "live-3", "old-0", "live-2", "live-1", "live-0"),
            *("old-1", "old-2"),
        ]
        async with places.held(urgent=False):
            pass  # none was lost

    fake_time.run(scenario())
