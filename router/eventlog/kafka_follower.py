"""Reads all partitions of some topics without a group: the route table, `tail`.

It knows its place in each partition, whatever becomes of its consumer: an outage, a probe without
an answer, a rebuild cost no record twice. A broker that is merely slow costs nothing at all; only
the second probe in a row without an answer ends a consumer.

A consumer that breaks, or a topic that was deleted and made anew (its end lies before our place),
is met by a new consumer: from our place where that still exists, else from the beginning. A topic
that was made anew and has already grown past our place can't be told from the old one: aiokafka
speaks no version of the protocol that names topics by id (KIP-516).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from config.settings import KafkaSettings
from router.backoff import backoff, jitter
from router.errors import LogUnavailable
from router.eventlog.base import Record
from router.eventlog.kafka_client import (
    REQUEST_TIMEOUT,
    brokers,
    connection,
    ensure_topics,
    start,
)
from router.eventlog.kafka_consumer import end_consumer, to_record
from router.eventlog.kafka_errors import CLIENT_ERRORS, name_of, why
from router.observability import log

_QUIET: Final = 2.0  # seconds without a record before the broker is asked
_PROBE: Final = 5.0  # seconds that it may take to answer
_GRACE: Final = 1.0
_STRIKES: Final = 2

Ends = Mapping[TopicPartition, int]

logger = log.get(__name__)


class KafkaFollower:
    """See `base.Follower`. `last` starts that many records before each partition's end instead."""

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Sequence[str],
        *,
        after: Mapping[tuple[str, int], int],
        last: int | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._topics = list(topics)
        self._next = {TopicPartition(*pair): offset + 1 for pair, offset in after.items()}
        self._start: Callable[[TopicPartition, int], int] = self._from_position
        if last is not None:
            self._start = lambda tp, end: self._next.get(tp, max(0, end - last))
        self._consumer: AIOKafkaConsumer | None = None
        self._goal: Ends | None = None  # the ends at the first opening
        self._caught_up = False
        self._attempts = 0
        self._not_before = 0.0
        self._moved_at = 0.0
        self._strikes = 0

    def _from_position(self, partition: TopicPartition, end: int) -> int:
        place = self._next.get(partition, 0)
        return place if place <= end else 0  # shorter than our place: another log

    @property
    def caught_up(self) -> bool:
        """See `base.Follower`."""
        return self._caught_up

    async def fetch(self, *, limit: int, wait: float) -> Sequence[Record]:
        """See `base.Follower`."""
        try:
            consumer = self._consumer or await self._connect(wait)
            records = await self._poll(consumer, limit, wait)
            if not records:
                await self._check(consumer)
        except (*CLIENT_ERRORS, LogUnavailable) as error:
            await self._drop(name_of(error))
            raise LogUnavailable(
                f"{brokers(self._settings)} can't be read: {why(error)}"
            ) from error
        if records:
            self._moved_at = self._loop.time()
            self._attempts = self._strikes = 0
        for record in records:
            topic, partition, offset = record.position
            self._next[TopicPartition(topic, partition)] = offset + 1
        return records

    async def _poll(self, consumer: AIOKafkaConsumer, limit: int, wait: float) -> list[Record]:
        try:
            async with asyncio.timeout(wait + _GRACE):
                found = await consumer.getmany(timeout_ms=int(wait * 1000), max_records=limit)
        except TimeoutError:
            return []
        return [to_record(message) for messages in found.values() for message in messages]

    async def _connect(self, wait: float) -> AIOKafkaConsumer:
        pause = self._not_before - self._loop.time()
        if pause > 0:
            await asyncio.sleep(min(pause, max(wait, 0.01)))
        await ensure_topics(self._settings, self._topics)
        consumer = AIOKafkaConsumer(
            *self._topics,  # without a group: all their partitions are assigned to us
            **connection(self._settings),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
        )
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                await start(consumer)
                await self._seek(consumer)
        except BaseException:
            await end_consumer(consumer)
            raise
        self._consumer = consumer
        self._moved_at = self._loop.time()
        self._strikes = 0
        return consumer

    async def _seek(self, consumer: AIOKafkaConsumer) -> None:
        ends = await consumer.end_offsets(list(consumer.assignment()))
        for partition, end in ends.items():
            consumer.seek(partition, self._start(partition, end))
        if self._goal is None:
            self._goal = ends

    async def _check(self, consumer: AIOKafkaConsumer) -> None:
        """Nothing came: are we at the goal, and does the broker say that there is nothing?"""
        try:
            async with asyncio.timeout(_PROBE):
                if not self._caught_up and self._goal is not None:
                    places = [await consumer.position(tp) >= end for tp, end in self._goal.items()]
                    self._caught_up = all(places)
                if self._loop.time() - self._moved_at <= _QUIET:
                    return
                ends = await consumer.end_offsets(list(consumer.assignment()))
                gaps = [end - await consumer.position(tp) for tp, end in ends.items()]
        except TimeoutError:
            self._strike("no answer to a probe")
        else:
            if any(gap < 0 for gap in gaps):
                raise LogUnavailable("the topic was made anew")
            if any(gaps):
                self._strike("records are there and do not come")
            else:
                self._strikes = 0
        self._moved_at = self._loop.time()

    def _strike(self, why: str) -> None:
        self._strikes += 1
        if self._strikes >= _STRIKES:
            raise LogUnavailable(why)

    async def _drop(self, why: str) -> None:
        consumer, self._consumer = self._consumer, None
        self._attempts += 1
        self._not_before = self._loop.time() + jitter(backoff(self._attempts))
        logger.warning("follower.rebuilds_consumer", topics=self._topics, why=why)
        if consumer is not None:
            await end_consumer(consumer)

    async def close(self) -> None:
        """Disconnect; bounded."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await end_consumer(consumer)
