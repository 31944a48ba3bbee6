"""One member of a Kafka consumer group, rebuilt whenever aiokafka can't go on.

```
 none ──fetch──▶ joined ──an error, a dead coordinator, two failed probes──▶ none (after a pause)
```
A consumer of aiokafka 0.14 can stop for good without an error, so silence is not trusted: when
nothing came for `_QUIET` seconds, the broker is asked for the ends of our partitions. No answer
twice, or records that are there and do not come, and the consumer is made anew. What was handed out
and not committed then comes again.

Its settings, where they differ from aiokafka's defaults, and why: no auto commit (it commits what
is still being handled), `earliest` (a new group must not skip), no polling time-out that matters
(the runner keeps fetching while handlers work).
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError
from typing_extensions import override

from config.settings import KafkaSettings
from router.backoff import backoff, jitter
from router.errors import LogUnavailable, PartitionLost
from router.eventlog.base import Behind, OnRevoke, Position, Record
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

_QUIET: Final = 5.0  # seconds without a record before the broker is asked
_PROBE: Final = 5.0  # seconds that it may take to answer
_STRIKES: Final = 2
_COMMIT: Final = 5.0  # seconds; aiokafka's commit retries for ever
_GRACE: Final = 1.0  # seconds that a fetch may outlast its `wait` during a rebalance
_KEEPALIVE: Final = 30.0  # seconds between polls that fetch nothing
_MAX_POLL: Final = 120.0  # seconds; must be well above _KEEPALIVE

logger = log.get(__name__)


class KafkaReader:
    """See `base.Reader`. Connects with the first fetch, so that a broker may be away at start."""

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Sequence[str],
        *,
        group: str,
        on_revoke: OnRevoke | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._topics = list(topics)
        self._group = group
        self._on_revoke = on_revoke
        self._consumer: AIOKafkaConsumer | None = None
        self._assigned: frozenset[TopicPartition] = frozenset()  # also when Kafka put us out
        self._attempts = 0
        self._not_before = 0.0
        self._moved_at = 0.0  # when a record came last, or the broker said that there is none
        self._polled_at = 0.0
        self._strikes = 0
        self._heard_at = self._loop.time()
        self._unread = 0

    @property
    def behind(self) -> Behind:
        """See `base.Reader`."""
        return Behind(self._unread, self._loop.time() - self._heard_at)

    async def fetch(self, *, limit: int, wait: float) -> Sequence[Record]:
        """See `base.Reader`."""
        if limit == 0:
            await self._keep_alive()
            return ()
        consumer = self._consumer or await self._connect(wait)
        consumer.resume(*consumer.paused())
        records = await self._poll(consumer, limit=limit, wait=wait)
        if records:
            self._moved_at = self._heard_at = self._loop.time()
            self._strikes = self._attempts = 0
            self._unread = _unread_behind(consumer, records)
        elif self._loop.time() - self._moved_at > _QUIET:
            await self._probe(consumer)
        return records

    async def _keep_alive(self) -> None:
        # A poll of paused partitions drops what was fetched ahead, so it is done seldom.
        consumer = self._consumer
        if consumer is not None:
            self._heard_at = self._loop.time()  # silence means nothing where nothing is asked
        if consumer is not None and self._loop.time() - self._polled_at > _KEEPALIVE:
            consumer.pause(*consumer.assignment())
            await self._poll(consumer, limit=1, wait=0.0)
            self._moved_at = self._loop.time()
        else:
            await asyncio.sleep(0)

    async def _poll(self, consumer: AIOKafkaConsumer, *, limit: int, wait: float) -> list[Record]:
        self._polled_at = self._loop.time()
        try:
            # In a rebalance aiokafka waits for the new assignment, however long.
            async with asyncio.timeout(wait + _GRACE):
                found = await consumer.getmany(timeout_ms=int(wait * 1000), max_records=limit)
        except TimeoutError:
            return []
        except CLIENT_ERRORS as error:
            await self._drop(name_of(error))
            raise LogUnavailable(
                f"{brokers(self._settings)} can't be read: {why(error)}"
            ) from error
        return [to_record(message) for messages in found.values() for message in messages]

    async def _connect(self, wait: float) -> AIOKafkaConsumer:
        pause = self._not_before - self._loop.time()
        if pause > 0:
            await asyncio.sleep(min(pause, max(wait, 0.01)))
            if pause > wait:
                raise LogUnavailable("Kafka is away; the next attempt follows soon")
        try:
            return await self._join()
        except (*CLIENT_ERRORS, LogUnavailable) as error:
            self._pause()
            raise LogUnavailable(
                f"{brokers(self._settings)} does not answer: {why(error)}"
            ) from error

    async def _join(self) -> AIOKafkaConsumer:
        await ensure_topics(self._settings, self._topics)
        settings = self._settings
        consumer = AIOKafkaConsumer(
            **connection(settings),
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=int(settings.session_timeout * 1000),
            heartbeat_interval_ms=int(min(3.0, settings.session_timeout / 3) * 1000),
            rebalance_timeout_ms=int(settings.rebalance_timeout * 1000),
            max_poll_interval_ms=int(_MAX_POLL * 1000),
            fetch_max_wait_ms=100,
            partition_assignment_strategy=(StickyPartitionAssignor,),
        )
        consumer.subscribe(self._topics, listener=_Listener(self))
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT + settings.rebalance_timeout):
                await start(consumer)
        except BaseException:
            await end_consumer(consumer)
            raise
        self._moved_at = self._polled_at = self._loop.time()
        self._strikes = 0
        self._consumer = consumer
        return consumer

    async def _probe(self, consumer: AIOKafkaConsumer) -> None:
        try:
            async with asyncio.timeout(_PROBE):
                self._unread = await _count_unread(consumer, self._topics)
        except CLIENT_ERRORS as error:
            await self._strike(f"no answer to a probe: {name_of(error)}")
        else:
            if self._unread > 0:
                await self._strike("records are there and do not come")
            elif self._unread < 0:
                await self._drop("the topic was deleted")
                raise LogUnavailable("Kafka's consumer is made anew")
            else:
                self._strikes = 0
                self._heard_at = self._loop.time()
        self._moved_at = self._loop.time()

    async def _strike(self, why: str) -> None:
        self._strikes += 1
        if self._strikes >= _STRIKES:
            await self._drop(why)
            raise LogUnavailable("Kafka's consumer is made anew")

    async def _drop(self, why: str) -> None:
        """Forget this consumer: what is in hand belongs to somebody else from now on."""
        consumer, self._consumer = self._consumer, None
        logger.warning("reader.rebuilds_consumer", group=self._group, why=why)
        self._pause()
        if consumer is not None:
            await self.revoked(self._assigned)
            await end_consumer(consumer)

    def _pause(self) -> None:
        self._attempts += 1
        self._not_before = self._loop.time() + jitter(backoff(self._attempts))

    async def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """Let the member bring its work to an end, for half of what the rebalance allows."""
        pairs = [(tp.topic, tp.partition) for tp in partitions]
        seconds = self._settings.rebalance_timeout / 2
        if pairs and self._on_revoke is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._on_revoke(pairs, seconds)

    def assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """A rebalance is over: give the new partitions time before silence means anything."""
        self._assigned = frozenset(partitions)
        self._moved_at = self._loop.time()

    async def commit(self, positions: Sequence[Position]) -> None:
        """See `base.Reader`."""
        consumer = self._consumer
        owned = consumer.assignment() if consumer is not None else frozenset()
        offsets = {TopicPartition(p.topic, p.partition): p.offset + 1 for p in positions}
        lost = offsets.keys() - owned
        kept = {partition: offsets[partition] for partition in offsets.keys() & owned}
        if consumer is not None and kept:
            try:
                async with asyncio.timeout(_COMMIT):
                    await consumer.commit(kept)
            except (CommitFailedError, IllegalStateError) as error:
                raise _lost(offsets) from error
            except CLIENT_ERRORS as error:
                raise LogUnavailable(f"Kafka took no commit: {name_of(error)}") from error
        if lost:
            raise _lost(lost)

    async def close(self) -> None:
        """Leave the group, so that others need not wait for the session to run out; bounded."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await end_consumer(consumer)


def _lost(partitions: Iterable[TopicPartition]) -> PartitionLost:
    pairs = [(tp.topic, tp.partition) for tp in partitions]
    return PartitionLost("they belong to another member now", partitions=pairs)


def _unread_behind(consumer: AIOKafkaConsumer, records: Sequence[Record]) -> int:
    """Records behind these, as the answers say that brought them."""
    last = {(r.position.topic, r.position.partition): r.position.offset for r in records}
    ends = {pair: consumer.highwater(TopicPartition(*pair)) or 0 for pair in last}
    return sum(max(0, ends[pair] - offset - 1) for pair, offset in last.items())


async def _count_unread(consumer: AIOKafkaConsumer, topics: Sequence[str]) -> int:
    """Records that are there and did not come.

    Negative where a topic is not there, or ends before our place: it was deleted. aiokafka would
    look for it until its next rebalance.
    """
    if not set(topics) <= set(await consumer.topics()):
        return -1
    partitions = list(consumer.assignment())
    if not partitions:
        return 0
    ends = await consumer.end_offsets(partitions)
    gaps = [end - await consumer.position(partition) for partition, end in ends.items()]
    return min(gaps) if min(gaps) < 0 else sum(gaps)


class _Listener(ConsumerRebalanceListener):
    def __init__(self, reader: KafkaReader) -> None:
        self._reader = reader

    @override
    async def on_partitions_revoked(self, revoked: Any) -> None:
        await self._reader.revoked(revoked)

    @override
    async def on_partitions_assigned(self, assigned: Any) -> None:
        self._reader.assigned(assigned)
