"""How an ingress knows whether the dispatch processes live: a heartbeat of each, over Kafka.

Every process with the role dispatch says every two seconds, on `telephony.health`, whether it can
bring agents (`router.dispatch_health`). A process that answers calls and dispatches none listens:
without a good sign for eight seconds nobody dispatches, and its callers go to the fallback at once.
So it is while Kafka is away for that long: a call would not reach the dispatch processes.

Where no heartbeat was ever heard it promises as ever: the dispatch processes may be of a version
that has none, and nothing is known of them where Kafka is away since our start. What counts is when
a sign *arrives*, by our own monotonic clock: no wall clock that is wrong sends a caller away. An
old sign that is read at our start counts for eight seconds, so nobody is turned away for a restart.
"""

import asyncio
from contextlib import suppress
from typing import Final
from uuid import uuid4

import msgspec

from router.clock import Clock
from router.dispatch_health import DispatchHealth
from router.errors import LogUnavailable
from router.eventlog.base import EventLog, Follower, OpenLog, Record
from router.events.codec import CONTENT_TYPE, to_rfc3339
from router.events.types import HEALTH_TOPIC
from router.observability import log
from router.observability.metrics import DISPATCHING

logger = log.get(__name__)

_EVERY: Final = 2.0  # seconds between the heartbeats of a process
_SILENT: Final = 8.0  # seconds without a good one
_FORGOTTEN: Final = 3600.0  # seconds; a leftover of this age says nothing of how things are now
_RETRY: Final = 1.0
_BATCH: Final = 1000

SILENCE: Final = "no dispatch process gives a sign of life"


class Heartbeat(msgspec.Struct, frozen=True):
    """The value of a record; its key is the process's seat. `trouble` "": it brings agents."""

    trouble: str = ""


async def send_heartbeats(
    events: OpenLog, health: DispatchHealth, clock: Clock, stop: asyncio.Event
) -> None:
    """Tell every two seconds how this process is, until `stop` is set.

    What can't reach Kafka is worth nothing later: while it is away the journal gets none.

    Raises:
        LogFailed: the journal's disk failed.
    """
    await _until_topic_is_there(events, clock)
    while not stop.is_set():
        if events.relay is not None and events.relay.lag.age < _SILENT:
            headers = {
                "ce_specversion": "1.0",
                "ce_id": uuid4().hex,
                "ce_type": "dispatch.health",
                "ce_source": "/switchboard",
                "ce_time": to_rfc3339(clock.now()),
                "content-type": CONTENT_TYPE,
            }
            value = msgspec.json.encode(Heartbeat(health.trouble()))
            with suppress(LogUnavailable):  # the next one may do better
                await events.append(HEALTH_TOPIC, events.seat, value, headers)
        await clock.sleep(_EVERY)


async def _until_topic_is_there(events: EventLog, clock: Clock) -> None:
    # A follower makes it. Where Kafka refuses that, its first record would hold up the relay, and
    # with it all that is behind: then there are no heartbeats, and all else goes on.
    while True:
        try:
            async with events.follow([HEALTH_TOPIC], after={}) as follower:
                await follower.fetch(limit=1, wait=0.0)
        except LogUnavailable:
            logger.warning("heartbeat.no_topic", retry_in=_SILENT)
            await clock.sleep(_SILENT)
        else:
            return


class HeartbeatFollower:
    """Of a process with the role ingress and without dispatch."""

    def __init__(self, events: EventLog, clock: Clock) -> None:
        self._log = events
        self._clock = clock
        self._last: dict[str, tuple[float, str]] = {}  # seat → when it was heard, and its trouble
        self._known = False  # whether there are heartbeats at all
        self._why = ""

    def trouble(self) -> str:
        """Why nobody dispatches at the moment, for people; "": somebody does, or nobody knows."""
        why = self._sign(self._clock.monotonic())
        if why and not self._why:
            logger.error("dispatch.stalled", why=why)
        elif self._why and not why:
            logger.info("dispatch.goes_on")
        self._why = why
        DISPATCHING.set(0 if why else 1)
        return why

    def _sign(self, now: float) -> str:
        self._last = {
            seat: (at, trouble) for seat, (at, trouble) in self._last.items() if now - at <= _SILENT
        }
        troubles = [trouble for _, trouble in self._last.values()]
        if not self._known or "" in troubles:
            return ""
        return troubles[0] if troubles else SILENCE

    async def run(self) -> None:
        """Listen until cancelled."""
        async with self._log.follow([HEALTH_TOPIC], after={}) as follower:
            while True:
                try:
                    await self._read(follower)
                except LogUnavailable:  # the same follower again: it knows how far it came
                    await self._clock.sleep(_RETRY)

    async def _read(self, follower: Follower) -> None:
        while True:
            for record in await follower.fetch(limit=_BATCH, wait=1.0):
                self._heard(record)
            await asyncio.sleep(0)  # webhooks are answered meanwhile

    def _heard(self, record: Record) -> None:
        age = (self._clock.now() - record.time) / 1_000_000
        if record.value is None or age > _FORGOTTEN:
            return
        try:
            heartbeat = msgspec.json.decode(record.value, type=Heartbeat)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            logger.warning("heartbeat.unreadable", offset=record.position.offset)
            return
        if not self._known:
            logger.info("heartbeats.heard")
        self._known = True
        self._last[record.key] = (self._clock.monotonic(), heartbeat.trouble)
