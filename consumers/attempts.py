"""One record, from the reader to its end: decoded, handled until it is done, or moved to the dead
topic. Nothing here raises, except `LogFailed` (the disk is gone: the process must end).
"""

import asyncio
import traceback
from contextlib import suppress
from random import Random

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


class Attempts:
    """Brings the records of one group to their end.

    `time_limit` is what one call of the handler may take, `retry_for` how long one record is tried
    before it goes to the dead topic; both in seconds.
    """

    def __init__(
        self,
        group: str,
        consumer: Consumer,
        event_log: EventLog,
        clock: Clock,
        *,
        time_limit: float,
        retry_for: float,
        random: Random,
    ) -> None:
        self._group = group
        self._consumer = consumer
        self._log = event_log
        self._clock = clock
        self._time_limit = time_limit
        self._retry_for = retry_for
        self._random = random
        self._done = HANDLED.labels(group, "done")
        self._dead = HANDLED.labels(group, "dead")

    async def finish(self, record: Record, closing: asyncio.Event) -> bool:
        """Handle `record` until it is done or dead.

        Returns:
            False when `closing` was set first: it is not done, whoever reads it next begins anew.
        """
        first_failed_at = 0
        attempt = 0
        deadline = self._clock.monotonic() + self._retry_for
        while not closing.is_set():
            attempt += 1
            outcome = await self._attempt(record, attempt)
            if isinstance(outcome, Done):
                self._done.inc()
                return True
            first_failed_at = first_failed_at or self._clock.now()
            late = isinstance(outcome, RetryIn) and self._late(outcome, deadline)
            if isinstance(outcome, GiveUp) or late:
                failure = Failure(self._group, outcome.reason, attempt, first_failed_at)
                return await self._dead_letter(record, failure, closing)
            await _pause(jitter(outcome.seconds, self._random), closing)
        return False

    def _late(self, outcome: RetryIn, deadline: float) -> bool:
        return self._clock.monotonic() + outcome.seconds > deadline

    async def _attempt(self, record: Record, attempt: int) -> Outcome:
        try:
            event = decode(record.key, record.headers, record.value)
        except BadPayload as error:
            return GiveUp(str(error))  # names the header, never its value
        pause = backoff(attempt)
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
            return RetryIn(pause, f"{name} until the time for retries was over")
        except Exception as error:  # noqa: BLE001  one bad event must not end the consumer
            self._unexpected(event, error)
            return RetryIn(pause, f"the handler failed: {type(error).__name__}")

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
