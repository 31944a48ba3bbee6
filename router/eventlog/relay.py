"""The relay: copies this process's journal into Kafka, in order, for as long as the process lives.

```
 connecting ──▶ shipping ──broken──▶ old producer ended ──pause──▶ connecting
```
The place to go on from is the end of the acknowledged prefix. It is stored in the journal a few
times a second, so a crash sends a little again, with the same ids: consumers know them.

Nothing that Kafka says about one record may stop what is behind it (`kafka_errors.verdict`). A
record that will never be taken goes to `<topic>.dead` instead (`dead_letter`), and stays in the
journal until retention. A time that is refused is replaced: the event keeps its own, `ce_time`.

Its age is kept in this process's own seconds: no wall clock, right or wrong, makes a backlog young.
"""

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import count
from typing import Final

from config.settings import KafkaSettings
from router.backoff import backoff, jitter
from router.clock import SYSTEM, Clock
from router.errors import LogError, LogFailed, LogUnavailable
from router.eventlog.base import Lag, Position, Record
from router.eventlog.dead_letter import TOO_LARGE, Refusal, prepare
from router.eventlog.journal import Journal
from router.eventlog.journal_writer import RELAY
from router.eventlog.shipment import Connect, Producer, Refused, Shipment, ShipmentBroken
from router.observability import log
from router.observability.metrics import RELAY_REFUSED
from router.supervisor import Supervisor

_STORE_EVERY: Final = 0.2  # seconds between writes of the position
_FLUSH: Final = 3.0  # seconds that a stop waits for what is not acknowledged yet
_END: Final = 5.0  # seconds that a stop waits for the producer
_CALM: Final = 30.0  # seconds of shipping after which the pauses start small again

_DOUBTS: Final = 3  # refusals alone after which a doubtful record is at fault itself
_PLACES: Final = 20_000  # of the newest records it is remembered where Kafka has them
_MARKS: Final = 512  # marks of a backlog's growth; every second one goes when there are more
_HOUR: Final = 3_600_000_000  # µs
_FURTHEST: Final = 8  # refusals of the time: up to 64 hours back, inside the retention of a week

logger = log.get(__name__)


def kafka_time(own: int, now: int, refusals: int) -> int:
    """The time (µs) to send with a record that the journal took at `own`.

    `refusals`: how often Kafka refused a time. It takes what is at most an hour ahead of its own
    clock, unless told otherwise (`message.timestamp.before.max.ms`, `after.max.ms`; topics that we
    made have the log's time and refuse none). Ours may have run ahead for a while: never later than
    now. Too old: now. Still ahead: some hours back.
    """
    if refusals == 0:
        return min(own, now)
    if refusals == 1:
        return now
    return now - (_HOUR << (min(refusals, _FURTHEST) - 2))


class _Backlog:
    """How long the oldest record has waited, by marks of when the end of the journal was where."""

    def __init__(self) -> None:
        self._marks: list[tuple[int, float]] = []  # (seq of the end, when it was first seen)
        self._every = 0.0  # seconds between marks, more in a long outage

    def look(self, acked: int, end: int, now: float) -> float:
        """Seconds that the record behind `acked` has waited, 0.0 for none."""
        done = 0
        while done < len(self._marks) and self._marks[done][0] <= acked:
            done += 1
        del self._marks[:done]
        if not self._marks:
            self._every = 0.0
        if end > acked and (not self._marks or self._is_next(end, now)):
            self._marks.append((end, now))
            if len(self._marks) > _MARKS:
                del self._marks[1::2]
                self._every = 2 * (now - self._marks[0][1]) / _MARKS
        return now - self._marks[0][1] if self._marks else 0.0

    def _is_next(self, end: int, now: float) -> bool:
        seq, seen = self._marks[-1]
        return end > seq and now - seen >= self._every


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
        self._backlog = _Backlog()
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = count()
        self._refusals: dict[int, Refusal] = {}  # by seq
        self._doubts: dict[int, int] = {}  # seq → how often it was refused alone
        self._time_refusals = 0
        self._one_by_one_upto = 0
        self._places: dict[int, Position] = {}
        self.trouble = ""

    @property
    def acked_seq(self) -> int:
        """Everything up to this offset of the journal is in Kafka."""
        return self._acked

    @property
    def lag(self) -> Lag:
        """What waits for Kafka."""
        end = self._journal.last_seq
        age = self._backlog.look(self._acked, end, self._loop.time())
        return Lag(max(0, end - self._acked), age)

    def place(self, seq: int) -> Position | None:
        """Where Kafka has a record of the journal; None when it has not, or long since."""
        return self._places.get(seq)

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
        self.trouble = ""
        for about in (self._refusals, self._doubts):
            for done in [at for at in about if at <= seq]:
                del about[done]

    def _on_placed(self, seq: int, place: Position) -> None:
        self._places[seq] = place
        if len(self._places) > _PLACES:
            del self._places[next(iter(self._places))]

    async def ship(self) -> None:
        """Keep a shipment going until cancelled."""
        attempt = 0
        while True:
            started = self._loop.time()
            try:
                await self._ship_with(await self._connect())
            except LogFailed:
                raise  # the journal has set `failed`: the process is ending
            except Exception as error:  # noqa: BLE001 aiokafka raises what it does not document
                self.trouble = self.trouble or _told(error)
                logger.warning("relay.interrupted", why=_told(error), waiting=self.lag.events)
            attempt += 1
            if self._loop.time() - started > _CALM:
                attempt = self._time_refusals = 0
            await asyncio.sleep(jitter(backoff(attempt)))

    async def _ship_with(self, producer: Producer) -> None:
        shipment = Shipment(
            self._journal,
            producer,
            after=self._acked,
            one_by_one_upto=self._one_by_one_upto,
            prepare=self._prepare,
            on_acked=self._on_acked,
            on_placed=self._on_placed,
            stall_after=self._settings.stall_after,
        )
        try:
            await shipment.run()
        except ShipmentBroken:
            if shipment.refused is not None:
                self._judge(shipment.refused)
            raise
        finally:
            # Only when the old one can deliver nothing more may the next one send.
            await producer.end()

    def _prepare(self, record: Record) -> Record | None:
        time = kafka_time(record.time, self._clock.now(), self._time_refusals)
        return prepare(replace(record, time=time), self._refusals)

    def _judge(self, refused: Refused) -> None:
        match refused.verdict:
            case "time":
                self._time_refusals += 1
                self.trouble = "Kafka refuses the time of our records: look at this machine's clock"
            case "client":
                self.trouble = (
                    f"Kafka refuses us ({refused.reason}): look at [kafka] and its rights"
                )
            case "record" | "doubtful":
                self._suspect(refused)
            case "again":
                return
        logger.error("relay.refused", why=refused.reason, verdict=refused.verdict, seq=refused.seq)

    def _suspect(self, refused: Refused) -> None:
        seq = refused.seq
        if not seq:  # its batch was refused: singly the next time, to see which one it is
            self._one_by_one_upto = max(self._one_by_one_upto, refused.upto)
            return
        self._doubts[seq] = self._doubts.get(seq, 0) + 1
        if refused.verdict == "doubtful" and self._doubts[seq] < _DOUBTS:
            return
        del self._doubts[seq]
        reason = TOO_LARGE if "TooLarge" in refused.reason else f"refused: {refused.reason}"
        refusal = Refusal.after(self._refusals.get(seq), reason)
        self._refusals[seq] = refusal
        RELAY_REFUSED.labels(refusal.form).inc()
        logger.error("relay.dead_letter", seq=seq, form=refusal.form, why=refusal.reason)

    async def look_back(self) -> None:
        """At start: how long what is left from the life before has waited. Raises LogError."""
        records, _ = await self._journal.read(self._acked, limit=1)
        if records:
            waited = max(0.0, (self._clock.now() - records[0].time) / 1_000_000)
            self._backlog.look(self._acked, self._journal.last_seq, self._loop.time() - waited)

    async def keep_position(self) -> None:
        """Store how far it has come, and mark how the backlog grows, until cancelled."""
        stored = self._acked
        while True:
            await asyncio.sleep(_STORE_EVERY)
            self._backlog.look(self._acked, self._journal.last_seq, self._loop.time())
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
    journal: Journal,
    connect: Connect,
    settings: KafkaSettings,
    supervisor: Supervisor,
    *,
    clock: Clock = SYSTEM,
    name: str = "relay",
) -> AsyncIterator[Relay]:
    """A relay that runs until the block is left; leaving takes at most `_FLUSH + _END` seconds.

    `name` is what its tasks are called.

    Raises:
        LogUnavailable, LogFailed: the journal can't store the position.
    """
    await journal.move({RELAY: journal.position(RELAY) or 0})  # holds retention back from now on
    relay = Relay(journal, connect, settings, clock=clock)
    with suppress(LogUnavailable):
        await relay.look_back()
    works = {name: relay.ship, f"{name}_position": relay.keep_position}
    async with supervisor.running(works, end_within=_END):
        try:
            yield relay
        finally:
            await relay.flush()
