"""An idempotent aiokafka producer as the relay wants it (`shipment.Producer`)."""

import asyncio
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from config.settings import KafkaSettings
from router.errors import LogUnavailable
from router.eventlog.base import Record
from router.eventlog.dead import MAX_DEAD_RECORD
from router.eventlog.kafka_client import REQUEST_TIMEOUT, connection, ensure_topics, name_of

# With aiokafka's 16 KiB one busy partition takes a ninth of the records a second (measured).
_BATCH_BYTES: Final = 262_144
_TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)


class KafkaProducer:
    """One connected producer. Topics that it has not met are created before their first record."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._topics: set[str] = set()
        self._producer = AIOKafkaProducer(
            **connection(settings),
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=_BATCH_BYTES,
            max_request_size=MAX_DEAD_RECORD + 100_000,
        )

    async def start(self) -> None:
        """Connect. Raises LogUnavailable; then the producer is ended."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                await self._producer.start()
        except (KafkaError, OSError, TimeoutError) as error:
            await self.end()
            raise LogUnavailable(f"no Kafka broker answers: {name_of(error)}") from error
        except BaseException:
            await self.end()
            raise

    async def send(self, record: Record) -> "asyncio.Future[object]":
        """See `shipment.Producer`. Raises LogUnavailable when the record was not handed over."""
        topic = record.position.topic
        if topic not in self._topics:
            await ensure_topics(self._settings, [topic])
            self._topics.add(topic)
        try:
            future = await self._producer.send(
                topic,
                key=record.key.encode(),  # never None: a compacted topic has no place for it
                value=record.value,
                timestamp_ms=record.time // 1000,
                headers=[(name, value.encode()) for name, value in record.headers.items()],
            )
        except KafkaError as error:
            raise LogUnavailable(f"Kafka takes no record: {name_of(error)}") from error
        acknowledged: asyncio.Future[object] = future
        return acknowledged

    def too_large(self, error: BaseException) -> bool:
        """See `shipment.Producer`."""
        return isinstance(error, _TOO_LARGE)

    @property
    def alive(self) -> bool:
        """Whether its sender task runs; it does not come back once it has ended."""
        task = self._producer._sender.sender_task  # noqa: SLF001 there is no public way to see it
        return task is not None and not task.done()

    async def end(self) -> None:
        """See `shipment.Producer`.

        `stop()` alone would first deliver what waits: for ever while the broker is away, and when
        it is cancelled the sender goes on and delivers later. So the sender is ended first;
        requests that are under way end with their connections.
        """
        sender = self._producer._sender  # noqa: SLF001 as above
        if sender.sender_task is not None:
            sender.sender_task.cancel()
            await self._producer.client.close()
            await asyncio.wait([sender.sender_task])
        gone = LogUnavailable("the producer was ended")
        self._producer._message_accumulator.fail_all(gone)  # noqa: SLF001 nothing is left to flush
        await self._producer.stop()
