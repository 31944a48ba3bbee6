"""The runner when partitions come and go, and when the process dies."""

import asyncio

from consumers.consumer import Done, Outcome, RetryIn
from consumers.runner import Limits
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
    await asyncio.sleep(2.0)
    return Done()


def test_revoke_drains_commits_and_starts_nothing_more() -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=1)
        for n in range(3):
            await log.add(CALLS_TOPIC, call_event("same", n))
        consumer = FakeConsumer(_slow)
        async with running(runner(log, consumer)):
            await asyncio.sleep(1.0)
            await log.revoke(GROUP)
            assert asyncio.get_running_loop().time() < 2.5
            assert len(consumer.done) == 1
            assert log.groups[GROUP].committed == {(CALLS_TOPIC, 0): 0}
            await asyncio.sleep(10.0)
            assert len(consumer.began) == 1

    fake_time.run(scenario())


def test_revoke_returns_at_its_deadline_and_a_late_completion_changes_nothing() -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=1)
        await log.add(CALLS_TOPIC, call_event("call", 0))

        async def slower_than_the_drain(event: Event) -> Outcome:
            await asyncio.sleep(15.0)
            return Done()

        consumer = FakeConsumer(slower_than_the_drain)
        async with running(runner(log, consumer)):
            await asyncio.sleep(1.0)
            await log.revoke(GROUP)
            assert 5.5 <= asyncio.get_running_loop().time() <= 6.5
            await log.rebalance(GROUP)  # it comes back: read and handled again
            await asyncio.sleep(12.0)
            assert len(consumer.done) == 1
            assert log.groups[GROUP].committed == {}
            await asyncio.sleep(14.0)
            assert consumer.done == consumer.began == [call_event("call", 0).id] * 2
            assert log.groups[GROUP].committed == {(CALLS_TOPIC, 0): 0}

    fake_time.run(scenario())


def test_revoke_ends_the_pause_between_attempts() -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=1)
        await log.add(CALLS_TOPIC, call_event("call", 0))

        async def later(event: Event) -> Outcome:
            return RetryIn(20.0, "later")

        consumer = FakeConsumer(later)
        async with running(runner(log, consumer)):
            await asyncio.sleep(1.0)
            await log.revoke(GROUP)
            assert asyncio.get_running_loop().time() < 1.1
        assert log.groups[GROUP].committed == {}

    fake_time.run(scenario())


def test_two_members_share_and_a_second_one_that_joins_takes_over() -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=4)
        first, second = FakeConsumer(nothing), FakeConsumer(nothing)
        events = [call_event(f"call-{n}", 0) for n in range(24)]
        async with running(runner(log, first)):
            for event in events[:8]:
                await log.add(CALLS_TOPIC, event)
            await asyncio.sleep(0.1)
            async with running(runner(log, second)):
                await asyncio.sleep(0.1)
                for event in events[8:16]:
                    await log.add(CALLS_TOPIC, event)
                await asyncio.sleep(2.0)
            for event in events[16:]:
                await log.add(CALLS_TOPIC, event)
            await asyncio.sleep(2.0)
        assert first.done
        assert second.done
        assert sorted(first.done + second.done) == sorted(event.id for event in events)

    fake_time.run(scenario())


def test_a_lost_partition_is_forgotten() -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=1)
        await log.add(CALLS_TOPIC, call_event("call", 0))
        consumer = FakeConsumer(nothing)
        async with running(runner(log, consumer)):
            await asyncio.sleep(0.1)
            (member,) = log.groups[GROUP].members
            member.owned.clear()  # evicted without a word (aiokafka P12): the commit will tell
            await asyncio.sleep(2.0)
            assert log.groups[GROUP].committed == {}
            await log.rebalance(GROUP)
            await asyncio.sleep(2.0)
            assert len(consumer.done) == 2
            assert log.groups[GROUP].committed == {(CALLS_TOPIC, 0): 0}

    fake_time.run(scenario())


def test_a_rebuilt_reader_that_reads_again_is_followed() -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=1)
        for n in range(3):
            await log.add(CALLS_TOPIC, call_event("same", n))
        consumer = FakeConsumer(_slow)
        async with running(runner(log, consumer)):
            await asyncio.sleep(0.5)
            log.rewind(GROUP)
            await asyncio.sleep(12.0)
            assert log.groups[GROUP].committed == {(CALLS_TOPIC, 0): 2}
        in_order = [call_event("same", n).id for n in range(3)]
        assert consumer.done == [in_order[0], *in_order]  # only what had begun is handled twice
        assert consumer.busiest == 1

    fake_time.run(scenario())


def test_a_crash_repeats_and_never_skips() -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=1)
        events = [call_event(f"call-{n % 4}", n) for n in range(30)]
        for event in events:
            await log.add(CALLS_TOPIC, event)
        consumer = FakeConsumer(_slow)
        limits = Limits(in_flight=6, time_limit=20.0, grace=LIMITS.grace)
        for _ in range(3):
            task = asyncio.create_task(runner(log, consumer, limits).run(asyncio.Event()))
            await asyncio.sleep(5.1)
            task.cancel()
            await asyncio.wait([task])
        async with running(runner(log, consumer, limits)):
            await asyncio.sleep(60.0)
        assert set(consumer.done) == {event.id for event in events}
        assert log.groups[GROUP].committed == {(CALLS_TOPIC, 0): 29}

    fake_time.run(scenario())


def test_a_revoke_that_is_cut_off_forgets_all_the_same() -> None:
    """Nothing may be passed over when the partitions come back (records were, in silence)."""

    async def scenario() -> None:
        log = FakeLog(partitions=2, revoke_within=6.0)
        for n in range(8):
            await log.add(CALLS_TOPIC, call_event(f"call-{n}", 0))

        async def slower_than_any_revoke(event: Event) -> Outcome:
            await asyncio.sleep(0.5 if event.key != "call-0" else 15.0)
            return Done()

        consumer = FakeConsumer(slower_than_any_revoke)
        async with running(runner(log, consumer)):
            await asyncio.sleep(0.2)
            log.commit_takes = 1000.0  # the coordinator does not answer
            before = asyncio.get_running_loop().time()
            await log.revoke(GROUP)
            assert asyncio.get_running_loop().time() - before <= log.revoke_within + 0.1
            log.commit_takes = 0.0
            for pair, entries in log.records.items():  # another member handled them meanwhile
                log.groups[GROUP].committed[pair] = entries[-1].position.offset
            await log.rebalance(GROUP)
            for n in range(8, 20):
                await log.add(CALLS_TOPIC, call_event(f"call-{n}", 0))
            await asyncio.sleep(40.0)
            ends = {pair: entries[-1].position.offset for pair, entries in log.records.items()}
            assert log.groups[GROUP].committed == ends
        assert set(consumer.done) >= {call_event(f"call-{n}", 0).id for n in range(8, 20)}

    fake_time.run(scenario())


def test_a_slow_coordinator_holds_up_no_record() -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=4, commit_takes=4.0)
        consumer = FakeConsumer(nothing)
        async with running(runner(log, consumer)):
            for n in range(50):
                await log.add(CALLS_TOPIC, call_event(f"call-{n}", 0))
                await asyncio.sleep(0.2)
                assert len(consumer.done) == n + 1
            ends = {pair: entries[-1].position.offset for pair, entries in log.records.items()}
            await asyncio.sleep(9.0)
            assert log.groups[GROUP].committed == ends
            assert log.groups[GROUP].requests <= 5  # one for all partitions

    fake_time.run(scenario())


def test_of_one_commit_only_the_lost_partition_is_forgotten() -> None:
    async def scenario() -> None:
        log = FakeLog(partitions=2)
        consumer = FakeConsumer(nothing)
        async with running(runner(log, consumer)):
            for n in range(10):
                await log.add(CALLS_TOPIC, call_event(f"call-{n}", 0))
            await asyncio.sleep(0.1)
            (member,) = log.groups[GROUP].members
            del member.owned[CALLS_TOPIC, 0]
            await asyncio.sleep(1.0)
            ends = {pair: entries[-1].position.offset for pair, entries in log.records.items()}
            assert log.groups[GROUP].committed == {(CALLS_TOPIC, 1): ends[CALLS_TOPIC, 1]}

    fake_time.run(scenario())
