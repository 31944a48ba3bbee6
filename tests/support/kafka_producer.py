"""A producer that obeys a test: typed against `shipment.Producer`."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from aiokafka import errors

from router.errors import LogUnavailable
from router.eventlog.base import Record
from router.eventlog.kafka_errors import Verdict, verdict


@dataclass
class FakeBroker:
    """Takes records of all its producers; the switches say how."""

    taken: list[Record] = field(default_factory=list)
    producers: list["FakeProducer"] = field(default_factory=list)
    away: bool = False  # no new connection
    mute: bool = False  # takes no record, says nothing
    largest: dict[str, int] = field(default_factory=dict)  # topic → bytes of a value
    refuse: Callable[[Record], Exception | None] = lambda record: None

    async def connect(self) -> "FakeProducer":
        if self.away:
            raise LogUnavailable("the fake broker is away")
        if any(not producer.ended for producer in self.producers):
            raise RuntimeError("the old producer was not ended")
        producer = FakeProducer(self)
        self.producers.append(producer)
        return producer

    def ids(self, topic: str) -> list[str]:
        """What was taken for a topic, in order."""
        return [r.headers["ce_id"] for r in self.taken if r.position.topic == topic]


class FakeProducer:
    """One connection. After a refusal it takes nothing more, as an idempotent one of aiokafka."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self.alive = True
        self.ended = False
        self.poisoned = False
        self.waiting: list[tuple[Record, asyncio.Future[object]]] = []

    async def send(self, record: Record) -> "asyncio.Future[object]":
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.waiting.append((record, future))
        asyncio.get_running_loop().call_soon(self.deliver)
        return future

    def deliver(self) -> None:
        """Answer what waits: all of it is one batch."""
        if self._broker.mute or self.ended or not self.alive:
            return
        batch, self.waiting = self.waiting, []
        error = self._refusal([record for record, _ in batch])
        if error is not None:
            self.poisoned = True
            for _, future in batch:
                future.set_exception(error)
            return
        for record, future in batch:
            self._broker.taken.append(record)
            future.set_result(None)

    def _refusal(self, batch: list[Record]) -> Exception | None:
        if self.poisoned:
            return errors.OutOfOrderSequenceNumber()
        for record in batch:
            if len(record.value or b"") > self._broker.largest.get(record.position.topic, 1 << 60):
                return errors.MessageSizeTooLargeError()
            if (error := self._broker.refuse(record)) is not None:
                return error
        return None

    def verdict(self, error: BaseException) -> Verdict:
        return verdict(error)

    async def end(self) -> None:
        self.ended = True
