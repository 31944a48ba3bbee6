"""Calls that should be over: their carrier is asked, because callbacks get lost.

| the carrier says                     | then                                                     |
|--------------------------------------|----------------------------------------------------------|
| the call is over                     | `call.ended` with what it says                           |
| it knows no such call                | `call.ended`, lost, unless its caller is in the room     |
| the call goes on                     | it is asked again after 1, 2, 4 and then every 8 minutes |
| nothing (it fails, or can't be asked)| the same, and after `calls.max_duration`: lost           |

The event goes onto the log like any other: the dispatch consumer then closes the room and the
claim, and the record ends. Its id follows from the call, so that telling it again changes nothing.

The room is closed with whoever is in it, so "no such call" alone is not enough: with a wrong URL or
another account's key it is said of every call, and by Twilio of those over a trunk until they are
over. LiveKit is asked as well, and a caller whom it sees in the room is there.

One process does this (`router.storage.leader`); what it knows of earlier answers is its own, and
another one begins by asking. Each carrier has its own queue, so one that is slow holds up only its
own calls, and what does not fit into that queue is found again in the next round.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from config.settings import CallsSettings
from consumers.calls.history import SOURCE
from consumers.calls.plan import fold
from consumers.throttled_log import ThrottledLog
from router.clock import Clock
from router.errors import LogFailed, Permanent, StorageError
from router.eventlog.base import EventLog
from router.events.call import CallRecord
from router.events.codec import encode
from router.events.ids import event_id
from router.events.model import Event, EventData
from router.events.types import CALLS_TOPIC, EventType
from router.observability import log as logs
from router.provider import CallRef, Carrier, Standing
from router.providers.livekit.rooms import PROVIDER
from router.storage import calls
from router.storage.engine import Database
from router.storage.leader import leader

log = logs.get(__name__)

_LEASE: Final = "calls-sweep"
_EVERY: Final = 30.0  # seconds between two rounds
_SOON: Final = 1.0  # seconds between two pages of a round
_PAGE: Final = 500  # calls
_QUEUE: Final = 100  # calls of one carrier that wait to be asked about
_AT_ONCE: Final = 8  # questions to one carrier
_FIRST: Final = 60.0  # seconds from the first answer "it goes on" to the next question, doubling
_LONGEST: Final = 480.0  # Telnyx forgets a call ten minutes after its end
_REMEMBERED: Final = 20_000  # calls; who is forgotten is asked about sooner
_MICROS: Final = 1_000_000

_ASKED: Final = "nobody told its end; the carrier, asked about it, says that it is over"
_UNKNOWN: Final = "nobody told its end; the carrier, asked about it, knows no such call"
_TOO_LONG: Final = "nobody told its end, and it is older than calls.max_duration"

Ask = Callable[[CallRef], Awaitable[Standing | None]]


@dataclass(slots=True)
class _Desk:
    """Where calls of one carrier are asked about."""

    ask: Ask | None
    turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    queue: set[str] = field(default_factory=set)  # call_ids


class Sweeper:
    """See above. `carriers`: by the provider's name."""

    def __init__(
        self,
        database: Database,
        event_log: EventLog,
        carriers: Mapping[str, Carrier],
        settings: CallsSettings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._log = event_log
        self._clock = clock
        self._sweep_after = round(settings.sweep_after * _MICROS)
        self._max_duration = round(settings.max_duration * _MICROS)
        self._every = min(_EVERY, settings.sweep_after)
        self._desks = {name: _Desk(carrier.standing) for name, carrier in carriers.items()}
        self._no_desk = _Desk(None)
        self._next: OrderedDict[str, tuple[float, float]] = OrderedDict()  # when, pause after it
        self._problems = ThrottledLog(clock)

    async def run(self) -> None:
        """Sweep whenever this process leads, until cancelled.

        Raises:
            ExceptionGroup: of `LogFailed`; the process must end.
        """
        while True:
            try:
                async with leader(self._database, _LEASE) as leading:
                    if leading:
                        await self._lead()
            except StorageError as error:
                self._problems.warn("sweep.waiting", error)
            await self._clock.sleep(self._every)

    async def _lead(self) -> None:
        page: Sequence[CallRecord] = ()
        async with asyncio.TaskGroup() as questions:
            while True:
                is_last = len(page) < _PAGE
                await self._clock.sleep(self._every if is_last else _SOON)
                after = (0, "") if is_last else (page[-1].initiated_at, page[-1].call_id)
                try:
                    page = await self._unended(after)
                except StorageError as error:
                    self._problems.warn("sweep.waiting", error)
                    continue
                for record in page:
                    self._consider(record, questions)

    async def _unended(self, after: tuple[int, str]) -> Sequence[CallRecord]:
        before = self._clock.now() - self._sweep_after
        return await calls.unended(self._database, began_before=before, after=after, limit=_PAGE)

    def _consider(self, record: CallRecord, questions: asyncio.TaskGroup) -> None:
        desk = self._desks.get(record.provider, self._no_desk)
        due, _ = self._next.get(record.call_id, (0.0, _FIRST))
        if due > self._clock.monotonic() or record.call_id in desk.queue:
            return
        if len(desk.queue) < _QUEUE and (desk.ask or self._is_too_long(record)):
            desk.queue.add(record.call_id)
            task = questions.create_task(self._ask(desk, record))
            # Not at the task's own end: one that is cancelled early never begins.
            task.add_done_callback(lambda _: desk.queue.discard(record.call_id))

    async def _ask(self, desk: _Desk, record: CallRecord) -> None:
        try:
            async with desk.turn:
                await self._settle(desk.ask, record)
        except LogFailed:
            raise
        except Exception as error:  # noqa: BLE001  one answer must not end the asking
            self._problems.warn("sweep.failed", error)
        self._wait(record.call_id)

    def _wait(self, call_id: str) -> None:
        """Also after the answer that it is over: the record learns that in a moment."""
        _, pause = self._next.pop(call_id, (0.0, _FIRST))
        self._next[call_id] = (self._clock.monotonic() + pause, min(2 * pause, _LONGEST))
        if len(self._next) > _REMEMBERED:
            self._next.popitem(last=False)

    async def _settle(self, ask: Ask | None, record: CallRecord) -> None:
        told = await calls.events(self._database, record.call_id)
        known = fold(told)
        if known is not None and known.state == "ended":
            return  # somebody told its end while it waited for its turn
        try:
            standing = await self._standing(ask, record, told)
        except Exception:
            if not self._is_too_long(record):
                raise
            standing = _GOES_ON
        if standing is None:
            await self._tell(_lost(record, told, _UNKNOWN))
        elif standing.over:
            await self._tell(_over(record, standing, self._clock.now()))
        elif self._is_too_long(record):
            await self._tell(_lost(record, told, _TOO_LONG))

    async def _standing(
        self, ask: Ask | None, record: CallRecord, told: Sequence[Event]
    ) -> Standing | None:
        """What the carrier says; Permanent where it knows no such call and the caller is there."""
        if ask is None:
            return _GOES_ON
        reference = _reference(record, told)
        standing = await ask(reference)
        rooms = self._desks.get(PROVIDER, self._no_desk)
        if standing is None and rooms.ask is not None:
            seen = await rooms.ask(reference)
            if seen is not None and not seen.over:
                name = record.provider
                raise Permanent(
                    f"{name} knows no such call, but its caller is in the room: do the URL and the "
                    f"key in providers.{name} belong to the account that the call came from?"
                )
        return standing

    def _is_too_long(self, record: CallRecord) -> bool:
        return self._clock.now() - record.initiated_at > self._max_duration

    async def _tell(self, event: Event) -> None:
        headers, value = encode(event)
        await self._log.append(CALLS_TOPIC, event.key, value, headers)
        log.info(
            "call.swept",
            call_id=event.key,
            disposition=event.data.disposition or "",
            reason=event.data.reason,
        )


_GOES_ON: Final = Standing(over=False)


def _reference(record: CallRecord, told: Sequence[Event]) -> CallRef:
    """The call as its carrier knows it; `control_id` is the call's own, not one of its legs'."""
    theirs = [event.data for event in told if event.source == record.provider]
    began = [e.data for e in told if e.type is EventType.CALL_INITIATED]
    return CallRef(
        call_id=record.call_id,
        provider_call_id=record.provider_call_id,
        provider_account=record.provider_account,
        control_id=next((data.control_id for data in (*began, *theirs) if data.control_id), ""),
        room=next((event.data.room for event in told if event.data.room), ""),
        connection_id=record.connection_id,
    )


def _over(record: CallRecord, standing: Standing, now: int) -> Event:
    return _ended(
        record,
        standing.ended_at or now,
        EventData(disposition=standing.disposition, duration=standing.duration, reason=_ASKED),
    )


def _lost(record: CallRecord, told: Sequence[Event], why: str) -> Event:
    """Over since it was last heard of: nobody knows better."""
    last = max((event.time for event in told), default=record.initiated_at)
    return _ended(record, last, EventData(disposition="lost", reason=why))


def _ended(record: CallRecord, time: int, data: EventData) -> Event:
    return Event(
        id=event_id(SOURCE, record.call_id, "swept"),
        type=EventType.CALL_ENDED,
        source=SOURCE,
        time=time,
        key=record.call_id,
        data=msgspec.structs.replace(
            data,
            call_id=record.call_id,
            provider_call_id=record.provider_call_id,
            provider_account=record.provider_account,
            account_id=record.account_id,
            connection_id=record.connection_id,
        ),
    )
