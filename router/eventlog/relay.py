"""The relay: copies this process's journal into Kafka, in order, for as long as the process lives.

```
 connecting ──▶ shipping ──broken──▶ old producer ended ──pause──▶ connecting
```
The place to go on from is the end of the acknowledged prefix. It is stored in the journal a few
times a second, so a crash sends a little again, with the same ids: consumers know them.

A record that the broker refuses for its size would stop everything behind it. It goes to
`<topic>.dead` instead, and stays in the journal until retention.
"""

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Final

from config.settings import KafkaSettings
from router.errors import LogError, LogFailed, LogUnavailable
from router.eventlog.backoff import backoff
from router.eventlog.base import Clock, Lag, now_micros
from router.eventlog.dead import Verdict, prepare
from router.eventlog.journal import Journal
from router.eventlog.journal_writer import RELAY
from router.eventlog.shipment import Connect, Producer, Shipment, ShipmentBroken
from router.observability import log

_STORE_EVERY: Final = 0.2  # seconds between writes of the position
_FLUSH: Final = 3.0  # seconds that a stop waits for what is not acknowledged yet
_END: Final = 5.0  # seconds that a stop waits for the producer
_CALM: Final = 30.0  # seconds of shipping after which the pauses start small again

logger = log.get(__name__)


class Relay:
    """Made by `open_relay`. All of it runs in one event loop."""

    def __init__(
        self, journal: Journal, connect: Connect, settings: KafkaSettings, *, clock: Clock
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._journal = journal
        self._connect = connect
        self._settings = settings
        self._clock = clock
        self._acked = journal.position(RELAY) or 0
        self._oldest: int | None = None  # when the oldest record that waits was appended, µs
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = count()
        self._verdicts: dict[int, Verdict] = {}
        self._one_by_one_upto = 0

    @property
    def acked_seq(self) -> int:
        """Everything up to this offset of the journal is in Kafka."""
        return self._acked

    @property
    def lag(self) -> Lag:
        """What waits for Kafka."""
        events = max(0, self._journal.last_seq - self._acked)
        if not events or self._oldest is None:
            return Lag(events, 0.0)
        return Lag(events, max(0.0, (self._clock() - self._oldest) / 1_000_000))

    @property
    def healthy(self) -> bool:
        """Whether waiting for an acknowledgement is worth it: nothing waits past the deadline."""
        return self.lag.age < self._settings.ack_deadline

    async def wait_acked(self, seq: int) -> bool:
        """Whether Kafka has the record, waiting up to `ack_deadline` while the relay is healthy."""
        if seq <= self._acked:
            return True
        if not self.healthy:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.ack_deadline):
                await self._acknowledgement(seq)
        return seq <= self._acked

    async def drained(self) -> None:
        """Wait until Kafka has all that is in the journal now, however long."""
        if self._journal.last_seq > self._acked:
            await self._acknowledgement(self._journal.last_seq)

    def _acknowledgement(self, seq: int) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = self._loop.create_future()
        heapq.heappush(self._waiters, (seq, next(self._numbers), waiter))
        return waiter

    def _on_acked(self, seq: int) -> None:
        self._acked = seq
        while self._waiters and self._waiters[0][0] <= seq:
            waiter = heapq.heappop(self._waiters)[2]
            if not waiter.done():
                waiter.set_result(None)
        if self._verdicts:
            self._verdicts = {at: how for at, how in self._verdicts.items() if at > seq}

    async def ship(self) -> None:
        """Keep a shipment going until cancelled."""
        attempt = 0
        while True:
            started = self._loop.time()
            try:
                await self._ship_with(await self._connect())
            except LogFailed:
                return  # the journal has set `failed`: the process is ending
            except Exception as error:  # noqa: BLE001 aiokafka raises what it does not document
                logger.warning("relay.interrupted", why=_told(error), waiting=self.lag.events)
            attempt = 0 if self._loop.time() - started > _CALM else attempt + 1
            await asyncio.sleep(backoff(attempt))

    async def _ship_with(self, producer: Producer) -> None:
        shipment = Shipment(
            self._journal,
            producer,
            after=self._acked,
            one_by_one_upto=self._one_by_one_upto,
            prepare=lambda record: prepare(record, self._verdicts),
            on_acked=self._on_acked,
            stall_after=self._settings.stall_after,
        )
        try:
            await shipment.run()
        except ShipmentBroken:
            self._judge(shipment)
            raise
        finally:
            # Only when the old one can deliver nothing more may the next one send.
            await producer.end()

    def _judge(self, shipment: Shipment) -> None:
        if shipment.refused_seq:
            seen = self._verdicts.get(shipment.refused_seq)
            self._verdicts[shipment.refused_seq] = "bare" if seen == "dead" else "dead"
            logger.error("relay.record_too_large", seq=shipment.refused_seq)
        self._one_by_one_upto = max(self._one_by_one_upto, shipment.suspect_upto)

    async def keep_position(self) -> None:
        """Store how far it has come, and look how long the oldest has waited, until cancelled."""
        stored = self._acked
        while True:
            await asyncio.sleep(_STORE_EVERY)
            self._oldest = None
            if self._journal.last_seq > self._acked:
                records, _ = await self._journal.read(self._acked, limit=1)
                self._oldest = records[0].time if records else None
            if self._acked != stored:
                acked = self._acked
                with suppress(LogUnavailable):  # the next turn stores it
                    await self._journal.move({RELAY: acked})
                    stored = acked

    async def flush(self) -> None:
        """Wait a little for what is not acknowledged, and store the position."""
        with suppress(LogError):
            if self.healthy:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_FLUSH):
                        await self.drained()
            await self._journal.move({RELAY: self._acked})


def _told(error: Exception) -> str:
    # The texts of aiokafka can hold keys, which are phone numbers; ours never do.
    return str(error) if isinstance(error, LogError | ShipmentBroken) else type(error).__name__


@asynccontextmanager
async def open_relay(
    journal: Journal, connect: Connect, settings: KafkaSettings, *, clock: Clock = now_micros
) -> AsyncIterator[Relay]:
    """A relay that runs until the block is left; leaving takes at most `_FLUSH + _END` seconds.

    Raises:
        LogUnavailable, LogFailed: the journal can't store the position.
    """
    await journal.move({RELAY: journal.position(RELAY) or 0})  # holds retention back from now on
    relay = Relay(journal, connect, settings, clock=clock)
    tasks = [asyncio.create_task(relay.ship()), asyncio.create_task(relay.keep_position())]
    try:
        yield relay
    finally:
        await relay.flush()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_END)
