"""One record, from the reader to its end: decoded, handled until it is done, or moved to the dead
topic. Nothing here raises, except `LogFailed` (the disk is gone: the process must end).

| what happened                                          | then                                  |
|--------------------------------------------------------|---------------------------------------|
| `Done`                                                 | done                                  |
| `RetryIn`, something is away or slow, the time limit   | again after a pause, without end      |
| unreadable, `GiveUp`, `Permanent`                      | dead topic                            |
| any other error, a fault of ours                       | again for `retry_for`, then dead topic|

Slowness is never a reason for the dead topic: nobody reads an event again from there by itself, and
an outage would send everything there. Whoever must not act late looks at the event's age.
"""

import asyncio
import traceback
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random
from typing import Final

from consumers.consumer import Consumer, Done, GiveUp, Outcome, RetryIn
from router.backoff import backoff, jitter
from router.clock import Clock
from router.errors import (
    Ambiguous,
    BadPayload,
    LogFailed,
    LogUnavailable,
    Permanent,
    StorageUnavailable,
    Transient,
)
from router.eventlog.base import EventLog, Record
from router.eventlog.dead_letter import Failure, dead_headers
from router.events.codec import decode
from router.events.model import Event
from router.events.types import dead_topic
from router.observability import log as logs
from router.observability.metrics import HANDLED

log = logs.get(__name__)


_SOON: Final = 20  # attempts; some 30 seconds
_LATER: Final = 15.0  # seconds between attempts after that: an outage, with many records in hand
_SHARE: Final = 4  # of so many places one is for those that nobody waits for


@dataclass(frozen=True, slots=True)
class _Failed:
    """The handler has a fault."""

    seconds: float
    reason: str


class Places:
    """At most `count` handlers at once: first the newest of those that somebody waits for."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()
        self._given = 0

    @asynccontextmanager
    async def held(self, *, urgent: bool) -> AsyncIterator[None]:
        """Wait for a place and keep it during the block."""
        await self._wait(urgent=urgent)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, *, urgent: bool) -> None:
        if self._free:
            self._free -= 1
            return
        place = asyncio.get_running_loop().create_future()
        (self._urgent if urgent else self._others).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._urgent or self._others:
            self._given += 1
            others = self._others and (not self._urgent or self._given % _SHARE == 0)
            place = self._others.popleft() if others else self._urgent.pop()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


class Attempts:
    """Brings the records of one group to their end.

    `at_once` handlers run at a time, `time_limit` is what one call of the handler may take,
    `retry_for` how long a record is tried whose handler has a fault; both in seconds.
    """

    def __init__(
        self,
        group: str,
        consumer: Consumer,
        event_log: EventLog,
        clock: Clock,
        *,
        at_once: int,
        time_limit: float,
        retry_for: float,
        random: Random,
    ) -> None:
        self._group = group
        self._consumer = consumer
        self._log = event_log
        self._clock = clock
        self._places = Places(at_once)
        self._time_limit = time_limit
        self._retry_for = retry_for
        self._random = random
        self._done = HANDLED.labels(group, "done")
        self._dead = HANDLED.labels(group, "dead")

    def read(self, record: Record) -> Event | GiveUp:
        """The event in a record, or why it can't be read."""
        try:
            return decode(record.key, record.headers, record.value)
        except BadPayload as error:
            return GiveUp(str(error))  # names the header, never its value

    async def finish(self, record: Record, event: Event | GiveUp, closing: asyncio.Event) -> bool:
        """Handle `record`, read as `event`, until it is done or dead.

        Returns:
            False when `closing` was set first: it is not done, whoever reads it next begins anew.
        """
        first_failed_at = 0
        attempt = 0
        deadline = self._clock.monotonic() + self._retry_for
        while not closing.is_set():
            attempt += 1
            outcome = (
                event if isinstance(event, GiveUp) else await self._turn(event, attempt, closing)
            )
            if isinstance(outcome, Done):
                self._done.inc()
                return True
            first_failed_at = first_failed_at or self._clock.now()
            if isinstance(outcome, GiveUp) or self._is_late(outcome, deadline):
                failure = Failure(self._group, outcome.reason, attempt, first_failed_at)
                return await self._dead_letter(record, failure, closing)
            await _pause(jitter(outcome.seconds, self._random), closing)
        return False

    def _is_late(self, outcome: RetryIn | _Failed, deadline: float) -> bool:
        is_fault = isinstance(outcome, _Failed)
        return is_fault and self._clock.monotonic() + outcome.seconds > deadline

    async def _turn(self, event: Event, attempt: int, closing: asyncio.Event) -> Outcome | _Failed:
        async with self._places.held(urgent=self._consumer.is_urgent(event)):
            if closing.is_set():
                return RetryIn(0.0, "the partition goes to another member")
            return await self._attempt(event, attempt)

    async def _attempt(self, event: Event, attempt: int) -> Outcome | _Failed:
        pause = backoff(attempt) if attempt < _SOON else _LATER
        try:
            async with asyncio.timeout(self._time_limit):
                return await self._consumer.handle(event)
        except LogFailed:
            raise
        except TimeoutError:
            log.warning("handler.timeout", group=self._group, event_id=event.id)
            return RetryIn(pause, "the handler took longer than its time limit")
        except Permanent as error:
            log.error("handler.refused", group=self._group, event_id=event.id, why=str(error))  # noqa: TRY400 - what is known is in its text
            return GiveUp("refused for good")
        except (Transient, Ambiguous, StorageUnavailable, LogUnavailable) as error:
            name = type(error).__name__
            if attempt == 1:  # an outage must not write a line for every try of every event
                log.warning("handler.retry", group=self._group, event_id=event.id, error=name)
            return RetryIn(pause, name)
        except Exception as error:  # noqa: BLE001  one bad event must not end the consumer
            self._unexpected(event, error)
            return _Failed(pause, f"the handler failed: {type(error).__name__}")

    def _unexpected(self, event: Event, error: Exception) -> None:
        # The message of a foreign error can hold what it was given: a number, a payload. Only the
        # error's type and place are safe to write down.
        frames = traceback.extract_tb(error.__traceback__)
        log.error(
            "handler.failed",
            group=self._group,
            event_id=event.id,
            event_type=event.type.value,
            error=type(error).__name__,
            at=f"{frames[-1].name}:{frames[-1].lineno}" if frames else "",
        )

    async def _dead_letter(self, record: Record, failure: Failure, closing: asyncio.Event) -> bool:
        # Without end, unlike other retries: to go on without the dead record would lose the event,
        # and what can't be appended to can't be consumed from for long either.
        topic = dead_topic(record.position.topic)
        headers = dead_headers(record, failure)
        attempt = 0
        while not closing.is_set():
            attempt += 1
            try:
                await self._log.append(topic, record.key, record.value, headers)
            except LogUnavailable:
                await _pause(jitter(backoff(attempt), self._random), closing)
                continue
            self._dead.inc()
            log.error(
                "event.dead",
                group=self._group,
                event_id=headers["dlq.ce_id"],
                reason=failure.reason,
                attempts=failure.attempts,
            )
            return True
        return False


async def _pause(seconds: float, closing: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await closing.wait()
