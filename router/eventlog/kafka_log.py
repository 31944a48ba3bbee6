"""The log over Kafka: appended to the journal, copied by the relay, read from Kafka.

`append` returns when the journal has the record on disk and, if `wait_for_kafka`, Kafka has
acknowledged it or `ack_deadline` passed. So an outage costs at most one deadline per event, and
nothing at all once the relay knows of it.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from config.settings import KafkaSettings
from router.clock import Clock
from router.eventlog.base import Appended, Follower, OnRevoke, Reader, Takeover
from router.eventlog.journal import Journal
from router.eventlog.kafka_client import GroupOffsets
from router.eventlog.kafka_follower import KafkaFollower
from router.eventlog.kafka_producer import KafkaProducer
from router.eventlog.kafka_reader import KafkaReader
from router.eventlog.relay import Relay
from router.eventlog.shipment import Connect, Producer
from router.eventlog.takeover import KafkaTakeover


def connector(settings: KafkaSettings) -> Connect:
    """Makes the relay's producers."""

    async def connect() -> Producer:
        producer = KafkaProducer(settings)
        await producer.start()
        return producer

    return connect


class KafkaLog:
    """`OpenLog` on a journal, its relay and Kafka."""

    def __init__(
        self,
        journal: Journal,
        relay: Relay,
        settings: KafkaSettings,
        *,
        wait_for_kafka: bool,
        clock: Clock,
        seat: str = "",
    ) -> None:
        self.seat = seat
        self._journal = journal
        self._settings = settings
        self._wait_for_kafka = wait_for_kafka
        self._clock = clock
        self.relay = relay
        self.failed = journal.failed

    async def append(
        self, topic: str, key: str, value: bytes | None, headers: Mapping[str, str]
    ) -> Appended:
        """As `EventLog.append`; a repeat waits for Kafka like the first one."""
        appended = await self._journal.append(topic, key, value, headers)
        if self._wait_for_kafka:
            await self.relay.wait_acked(appended.position.offset)
        return appended

    @asynccontextmanager
    async def reader(
        self, topics: Sequence[str], *, group: str, on_revoke: OnRevoke | None = None
    ) -> AsyncIterator[Reader]:
        """As `EventLog.reader`."""
        member = KafkaReader(self._settings, topics, group=group, on_revoke=on_revoke)
        try:
            yield member
        finally:
            await member.close()

    @asynccontextmanager
    async def follow(
        self, topics: Sequence[str], *, after: Mapping[tuple[str, int], int]
    ) -> AsyncIterator[Follower]:
        """As `EventLog.follow`."""
        follower = KafkaFollower(self._settings, topics, after=after)
        try:
            yield follower
        finally:
            await follower.close()

    def takeover(self, topics: Sequence[str], *, group: str) -> Takeover | None:
        """As `OpenLog.takeover`."""
        return KafkaTakeover(
            self._journal,
            self.relay,
            topics,
            after_seconds=self._settings.takeover_after,
            offsets=GroupOffsets(self._settings, group),
            clock=self._clock,
        )
