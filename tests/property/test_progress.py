"""No committed offset ever passes an incomplete one: the bookkeeping alone, and the whole runner
under slow, failing and repeated handlers, rebalances and crashes.
"""

import asyncio
from random import Random

from hypothesis import given, note, settings
from hypothesis import strategies as st

from consumers.consumer import Done, GiveUp, Outcome, RetryIn
from consumers.progress import Progress
from consumers.runner import Limits
from router.errors import LogUnavailable, Transient
from router.eventlog.base import Position
from router.events.model import Event
from router.events.types import CALLS_TOPIC, dead_topic
from tests.support import fake_time
from tests.support.fake_consumer import GROUP, FakeConsumer, call_event, runner, running
from tests.support.fake_log import FakeLog


@given(
    gaps=st.lists(st.integers(1, 4), min_size=1, max_size=40),
    order=st.randoms(use_true_random=False),
)
def test_committable_is_just_below_the_lowest_incomplete(gaps: list[int], order: Random) -> None:
    progress = Progress()
    started: list[int] = []
    finished: set[int] = set()
    offset = order.randrange(5)
    while gaps or len(finished) < len(started):
        if gaps and (order.random() < 0.5 or len(finished) == len(started)):
            offset += gaps.pop()
            progress.start(offset)
            started.append(offset)
        else:
            chosen = order.choice([o for o in started if o not in finished])
            progress.done(chosen)
            finished.add(chosen)
        incomplete = [o for o in started if o not in finished]
        below = [o for o in started if not incomplete or o < incomplete[0]]
        assert progress.committable() == (below[-1] if below else None)


def _check(log: FakeLog, consumers: list[FakeConsumer], position: Position) -> None:
    done = {record.headers["dlq.ce_id"] for record in log.all(dead_topic(CALLS_TOPIC))}
    done.update(event_id for consumer in consumers for event_id in consumer.done)
    for record in log.records[position.topic, position.partition]:
        if record.position.offset <= position.offset:
            assert record.headers["ce_id"] in done


def _script(random: Random) -> FakeConsumer:
    async def moody(event: Event) -> Outcome:
        await asyncio.sleep(random.choice([0.0, 0.01, 0.3, 4.0, 30.0]))
        match random.randrange(10):
            case 0:
                return RetryIn(random.choice([0.1, 3.0]), "moody")
            case 1:
                return GiveUp("moody")
            case 2:
                raise Transient("moody")
            case 3:
                raise ZeroDivisionError
            case 4:
                raise LogUnavailable("moody")
            case _:
                return Done()

    return FakeConsumer(moody)


_LIMITS = Limits(in_flight=5, time_limit=10.0, grace=2.0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 40), gap=st.integers(1, 3))
def test_no_commit_passes_an_incomplete_record(seed: int, count: int, gap: int) -> None:
    random = Random(seed)
    note(f"seed {seed}")

    async def scenario() -> None:
        log = FakeLog(gap=gap)
        consumers: list[FakeConsumer] = []
        log.before_commit = lambda position: _check(log, consumers, position)
        for n in range(count):
            await log.add(CALLS_TOPIC, call_event(f"call-{random.randrange(6)}", n))
        await _disturb(log, consumers, random)
        consumers.append(_script(random))
        async with running(runner(log, consumers[-1], _LIMITS, retry_for=5.0)):
            await asyncio.sleep(2000.0)
        ends = {
            pair: entries[-1].position.offset
            for pair, entries in log.records.items()
            if pair[0] == CALLS_TOPIC
        }
        assert log.groups[GROUP].committed == ends

    fake_time.run(scenario())


async def _disturb(log: FakeLog, consumers: list[FakeConsumer], random: Random) -> None:
    """Up to three members that are dealt other partitions, rewound and killed."""
    tasks = []
    for turn in range(random.randrange(4)):
        consumers.append(_script(random))
        member = runner(log, consumers[-1], _LIMITS, retry_for=5.0)
        tasks.append(asyncio.create_task(member.run(asyncio.Event())))
        await asyncio.sleep(random.choice([0.1, 2.0, 7.0]))
        match random.randrange(3):
            case 0:
                await log.rebalance(GROUP, turn=turn)
            case 1:
                log.rewind(GROUP)
            case _:
                await log.revoke(GROUP)
                await log.rebalance(GROUP)
        await asyncio.sleep(random.choice([0.1, 3.0]))
    for task in tasks:
        task.cancel()
        (end,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(end, asyncio.CancelledError), end
