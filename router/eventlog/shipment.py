"""One producer's life: the journal's records in order from a position on, until something breaks.

The relay (`relay.py`) starts the next shipment from the acknowledged prefix. Here is what counts as
broken, because aiokafka 0.14 recovers from none of it:

 - a record that was not taken, for whatever reason: an idempotent producer has used up its sequence
   number, so that partition refuses every later record (issue 1017); what the reason says about the
   record is the producer's `verdict`, and brokers refuse whole batches;
 - no acknowledgement for `stall_after` seconds while records wait: covers brokers that moved behind
   the same bootstrap address (issue 459), batches that never expire (issue 1101);
 - a sender task that has ended.

A time-out says nothing about a record (it may be written or not), so nothing is ever sent twice by
one producer: what is unknown is sent again by the next one, with the same id and in the same order.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

from aiokafka.structs import RecordMetadata

from router.errors import LogError
from router.eventlog.base import Position, Record
from router.eventlog.journal import Journal
from router.eventlog.kafka_errors import Verdict, name_of

_BATCH: Final = 500  # records read at once
_WINDOW: Final = 2000  # records sent and not acknowledged
_LOOK: Final = 0.25  # seconds between looks at the producer's health


class Producer(Protocol):
    """A connected producer, for one task."""

    async def send(self, record: Record) -> "asyncio.Future[object]":
        """Hand over one record; the future is its acknowledgement. May wait for room.

        Raises what `verdict` can judge: this very record was not handed over.
        """

    @property
    def alive(self) -> bool:
        """Whether it can still deliver anything."""

    def verdict(self, error: BaseException) -> Verdict:
        """What the error of a record (or of its neighbour in a batch) says about it."""

    async def end(self) -> None:
        """Return when nothing that was handed over can be delivered any more."""


Connect = Callable[[], Awaitable[Producer]]
"""Makes a producer. Raises LogUnavailable when there is no broker."""


class ShipmentBroken(Exception):
    """This producer is of no use any more."""


class Refused(NamedTuple):
    """What ended a shipment, where that was an answer about records."""

    verdict: Verdict
    reason: str  # the error's name
    seq: int  # the record that was refused alone, 0 where it was not alone
    upto: int  # the last record of those that were refused together


class _Sent(NamedTuple):
    seq: int
    future: "asyncio.Future[object]"


class Shipment:
    """Sends what comes after the seq `after`; `on_acked` gets the end of the acknowledged prefix,
    `on_placed` each record's seq and its place in Kafka.

    `prepare` turns a journal record into the one to send, or None: it is left out. With
    `one_by_one_upto` the records up to that seq are sent singly, which shows which of them is
    refused: brokers refuse whole batches.
    """

    def __init__(
        self,
        journal: Journal,
        producer: Producer,
        *,
        after: int,
        one_by_one_upto: int,
        prepare: Callable[[Record], Record | None],
        on_acked: Callable[[int], None],
        on_placed: Callable[[int, Position], None],
        stall_after: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._journal = journal
        self._producer = producer
        self._after = after
        self._one_by_one_upto = one_by_one_upto
        self._prepare = prepare
        self._on_acked = on_acked
        self._on_placed = on_placed
        self._stall_after = stall_after
        self._window: deque[_Sent] = deque()
        self._room = asyncio.Event()
        self._sending = False
        self._moved_at = self._loop.time()
        self._broken: asyncio.Future[None] = self._loop.create_future()
        self.refused: Refused | None = None

    async def run(self) -> None:
        """Until cancelled.

        Raises:
            ShipmentBroken: end the producer, then make another.
        """
        feed = asyncio.create_task(self._feed())
        try:
            while True:
                await asyncio.wait(
                    (feed, self._broken), timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED
                )
                for done in (self._broken, feed):
                    if done.done():
                        done.result()
                self._look()
        finally:
            feed.cancel()
            await asyncio.gather(feed, return_exceptions=True)
            self._broken.cancel()  # what fails from now on has no one to tell

    def _look(self) -> None:
        if not self._producer.alive:
            raise ShipmentBroken("the producer's sender has ended")
        waiting = self._sending or bool(self._window)
        if waiting and self._loop.time() - self._moved_at > self._stall_after:
            raise ShipmentBroken(f"no acknowledgement for {self._stall_after:g} s")

    async def _feed(self) -> None:
        after = self._after
        while True:
            records, after = await self._journal.read(after, limit=_BATCH)
            for record in records:
                await self._send(record)
            if not records:
                await self._journal.wait(after, timeout=60.0)

    async def _send(self, record: Record) -> None:
        seq = record.position.offset
        alone = seq <= self._one_by_one_upto
        while self._window and (alone or len(self._window) >= _WINDOW):
            self._room.clear()
            await self._room.wait()
        if not self._window:
            self._moved_at = self._loop.time()
        self._sending = True
        future = await self._hand_over(record)
        self._sending = False
        self._window.append(_Sent(seq, future))
        future.add_done_callback(self._answered)

    async def _hand_over(self, record: Record) -> "asyncio.Future[object]":
        prepared = self._prepare(record)
        if prepared is None:
            nothing: asyncio.Future[object] = self._loop.create_future()
            nothing.set_result(None)
            return nothing
        try:
            return await self._producer.send(prepared)
        except LogError:
            raise
        except Exception as error:
            seq = record.position.offset
            self.refused = Refused(self._producer.verdict(error), name_of(error), seq, seq)
            raise ShipmentBroken(f"a record was not handed over: {name_of(error)}") from error

    def _answered(self, future: "asyncio.Future[object]") -> None:
        if future.cancelled() or future.exception() is not None:
            self._break(future)
            return
        acked = 0
        while self._window and _taken(self._window[0].future):
            acked, taken = self._window.popleft()
            place = taken.result()
            if isinstance(place, RecordMetadata):
                self._on_placed(acked, Position(place.topic, place.partition, place.offset))
        if acked:
            self._moved_at = self._loop.time()
            self._room.set()
            self._on_acked(acked)

    def _break(self, future: "asyncio.Future[object]") -> None:
        if self._broken.done():
            return
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if error is not None and self._window:
            alone = self._window[0].seq if len(self._window) == 1 else 0
            self.refused = Refused(
                self._producer.verdict(error), name_of(error), alone, self._window[-1].seq
            )
        self._broken.set_exception(
            ShipmentBroken(f"a record was not taken: {type(error).__name__}")
        )


def _taken(future: "asyncio.Future[object]") -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
