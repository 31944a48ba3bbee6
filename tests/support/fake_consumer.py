"""A consumer for tests: does what its script says, and remembers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

from typing_extensions import override

from consumers.consumer import Consumer, ConsumerSpec, Done, GiveUp, Outcome
from consumers.runner import Limits, Runner
from router.events.ids import event_id
from router.events.model import Event, EventData
from router.events.types import CALLS_TOPIC, EventType
from router.resources import Resources
from tests.support.fake_log import FakeLog
from tests.support.fake_time import START, FakeClock

Script = Callable[[Event], Awaitable[Outcome]]

GROUP = "switchboard.test"
LIMITS = Limits(in_flight=8, time_limit=20.0, grace=3.0)


class FakeConsumer(Consumer):
    """`consumers.consumer.Consumer` that keeps a diary."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.began: list[str] = []
        self.done: list[str] = []  # ids whose handling ended in Done or GiveUp
        self.busy = 0
        self.busiest = 0

    @override
    async def handle(self, event: Event) -> Outcome:
        self.began.append(event.id)
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            outcome = await self._script(event)
        finally:
            self.busy -= 1
        if isinstance(outcome, Done | GiveUp):
            self.done.append(event.id)
        return outcome

    @override
    async def run(self) -> None:
        await asyncio.Event().wait()


async def nothing(event: Event) -> Outcome:
    """Every event is done at once."""
    return Done()


def call_event(key: str, number: int) -> Event:
    """The `number`th event of the call `key`."""
    return Event(
        id=event_id(key, str(number)),
        type=EventType.CALL_RINGING,
        source="twilio",
        time=START + number,
        key=key,
        data=EventData(call_id=key),
    )


def spec(retry_for: float = 30.0, *, takeover: bool = False) -> ConsumerSpec:
    return ConsumerSpec(
        name="test",
        role="calls",
        topics=(CALLS_TOPIC,),
        takeover=takeover,
        retry_for=retry_for,
        open=_open,
    )


@asynccontextmanager
async def _open(_resources: Resources) -> AsyncIterator[Consumer]:
    yield FakeConsumer(nothing)


def runner(
    log: FakeLog, consumer: Consumer, limits: Limits = LIMITS, retry_for: float = 30.0
) -> Runner:
    """A member of the group `GROUP` that reads the calls' topic."""
    return Runner(
        spec(retry_for),
        consumer,
        lambda on_revoke: log.reader((CALLS_TOPIC,), group=GROUP, on_revoke=on_revoke),
        log,
        FakeClock(),
        limits,
        Random(7),
    )


@asynccontextmanager
async def running(member: Runner) -> AsyncIterator[asyncio.Task[None]]:
    """`member` at work; stopped in good order at the end."""
    stop = asyncio.Event()
    task = asyncio.create_task(member.run(stop))
    try:
        yield task
    finally:
        stop.set()
        await task
