"""An idempotent aiokafka producer as the relay wants it (`shipment.Producer`)."""

import asyncio
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from config.settings import KafkaSettings
from router.errors import LogUnavailable
from router.eventlog.base import Record
from router.eventlog.dead_letter import MAX_DEAD_RECORD
from router.eventlog.kafka_client import (
    REQUEST_TIMEOUT,
    brokers,
    connection,
    ensure_topics,
    start,
)
from router.eventlog.kafka_errors import CLIENT_ERRORS, Verdict, verdict, why
from router.eventlog.topics import TOPICS

# With aiokafka's 16 KiB one busy partition takes a ninth of the records a second (measured).
_BATCH_BYTES: Final = 262_144
_AGAIN: Final = 0.1  # seconds between attempts to end the sender's tasks


class KafkaProducer:
    """One connected producer. A topic that is not among ours is made before its first record."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._topics: set[str] = {topic.name for topic in TOPICS}
        self._producer = AIOKafkaProducer(
            **connection(settings),
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=_BATCH_BYTES,
            max_request_size=MAX_DEAD_RECORD + 100_000,
        )
        self._requests: set[asyncio.Task[object]] = set()
        self._track_requests()

    async def start(self) -> None:
        """Make the topics that are missing, and connect.

        Raises:
            LogUnavailable: no broker; the producer is ended.
        """
        try:
            await ensure_topics(self._settings, sorted(self._topics))
            async with asyncio.timeout(REQUEST_TIMEOUT):
                await start(self._producer)
        except CLIENT_ERRORS as error:
            await self.end()
            raise LogUnavailable(
                f"{brokers(self._settings)} does not answer: {why(error)}"
            ) from error
        except BaseException:
            await self.end()
            raise

    async def send(self, record: Record) -> "asyncio.Future[object]":
        """See `shipment.Producer`. Raises what `verdict` can judge: it was not handed over."""
        topic = record.position.topic
        if topic not in self._topics:
            await ensure_topics(self._settings, [topic])
            self._topics.add(topic)
        future = await self._producer.send(
            topic,
            key=record.key.encode(),  # never None: a compacted topic has no place for it
            value=record.value,
            timestamp_ms=record.time // 1000,
            headers=[(name, value.encode()) for name, value in record.headers.items()],
        )
        acknowledged: asyncio.Future[object] = future
        return acknowledged

    def verdict(self, error: BaseException) -> Verdict:
        """See `shipment.Producer`."""
        return verdict(error)

    @property
    def alive(self) -> bool:
        """Whether its sender task runs; it does not come back once it has ended."""
        task = self._producer._sender.sender_task  # noqa: SLF001 there is no public way to see it
        return task is not None and not task.done()

    async def end(self) -> None:
        """See `shipment.Producer`.

        `stop()` would first deliver what waits: for ever while the broker is away, and when it is
        cancelled the sender goes on and delivers later. Requests are cancelled too, because one
        that is just connecting would still send. Futures of what was not delivered stay as they
        are.
        """
        sender = self._producer._sender.sender_task  # noqa: SLF001 there is no public way
        tasks = [] if sender is None else [sender]
        while running := [task for task in (*tasks, *self._requests) if not task.done()]:
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=_AGAIN)  # one may just be starting
        await self._producer.client.close()
        self._producer._closed = True  # noqa: SLF001 as `stop()` says it

    def _track_requests(self) -> None:
        """Know the tasks in which the sender makes its requests; aiokafka keeps them to itself."""
        sender: Any = self._producer._sender  # noqa: SLF001 there is no public way
        send = sender._send_produce_req  # noqa: SLF001 as above

        async def tracked(*arguments: object) -> None:
            task = asyncio.current_task()
            if task is not None:
                self._requests.add(task)
                task.add_done_callback(self._requests.discard)
            await send(*arguments)

        sender._send_produce_req = tracked  # noqa: SLF001 as above
