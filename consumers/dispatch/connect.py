"""One call, from its claim until it is settled: the loop around `consumers.dispatch.plan`.

Each turn looks at what is known, takes one step and writes it down. Every write carries the claim's
fence; where it is refused, somebody else decides about the call now, and this loop ends after
withdrawing what it alone knows of. A step that fails is not repeated as such: the next turn decides
anew, from what is then known.

The deadline written into the claim is a little later than the one kept here, so that other
processes take a call over only from one that is dead or stuck.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Final

import msgspec

from config.settings import DispatchSettings
from consumers.backoff import backoff, jitter
from consumers.complaints import Complaints
from consumers.dispatch.effect import Effects
from consumers.dispatch.plan import Facts, Presence, Step, next_step, own_event
from consumers.dispatch.ports import ClaimStore
from router.clock import Clock
from router.errors import Ambiguous, EffectError, Permanent, StorageUnavailable
from router.events.model import Event
from router.events.phone import mask_in
from router.events.types import EventType
from router.observability import log as logs
from router.observability.metrics import AGENT_READY_SECONDS, DISPATCHES
from router.storage.claims import Claim, ClaimState

log = logs.get(__name__)

_DEAF: Final = 5  # turns that failed in a row
_HANDOVER: Final = 1.0  # seconds after our own deadline before others may act
_MICROS: Final = 1_000_000


def _words(error: Permanent) -> str:
    """Why LiveKit refused, in its own words; they may repeat what was sent to it."""
    return mask_in(str(error).removeprefix("LiveKit: "))[:200]


class _Lost(Exception):
    """The claim belongs to a successor, or the call is settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What every connection works with."""

    claims: ClaimStore
    effects: Effects
    complaints: Complaints
    clock: Clock
    random: Random
    settings: DispatchSettings
    poll_interval: float  # seconds


class Connection:
    """A call that waits for its agent."""

    def __init__(self, means: Means, claim: Claim, *, fresh: bool) -> None:
        self._means = means
        self._initiated = msgspec.json.decode(claim.initiated, type=Event)
        # What a former owner did is not known. Nor is it certain that its deadline is ahead.
        self._certain = fresh
        self._deadline = means.clock.monotonic()
        self._created: str | None = None  # a dispatch that the claim does not name yet
        self._tidied = False  # one dispatch was all there was
        self._failures = 0  # turns in a row
        self._heard = False
        self._over = False
        self._written_at = means.clock.monotonic()
        self._woken = asyncio.Event()
        self.claim = claim
        self.seen: Presence | None = None  # at the last look
        self.doubtful = not fresh  # whether more may have been created than the claim ever named

    def hear(self) -> None:
        """LiveKit's webhook says that an agent can be heard."""
        self._heard = True
        self._woken.set()

    def end(self) -> None:
        """The call is over, and its claim says so."""
        self._over = True
        self._woken.set()

    async def run(self) -> None:
        """Until the claim is settled or lost."""
        with suppress(_Lost):
            while not self.claim.final:
                try:
                    pause = await self._turn()
                    self._failures = 0
                except (EffectError, StorageUnavailable) as error:
                    self._failures += 1
                    self._means.complaints.complain("dispatch.failed", error)
                    pause = jitter(backoff(self._failures), self._means.random)
                await self._sleep(pause)

    async def release(self) -> None:
        """Let another process have the call at once: this one stops."""
        if not self.claim.final:
            left = max(0.0, self._deadline - self._means.clock.monotonic())
            await self._means.claims.advance(
                self.claim, state=self.claim.state, lease=0.0, due_in=left
            )

    async def _turn(self) -> float:
        if self._created is not None:
            await self._record(self._created)
        elif self._over:
            raise _Lost
        match next_step(await self._facts()):
            case Step.WAIT:
                return self._means.poll_interval
            case Step.TIDY:
                return await self._tidy()
            case Step.FIND:
                await self._find()
            case Step.CREATE:
                await self._create()
            case Step.AGAIN:
                await self._again()
            case last:
                await self._settle(last)
        return 0.0

    async def _settle(self, step: Step) -> None:
        match step:
            case Step.READY:
                await self._ready()
            case Step.EXPIRE:
                await self._expire()
            case _:
                await self._missing("no agent could be heard in time")

    async def _facts(self) -> Facts:
        # Of a second dispatch it could be the first one's agent that was heard, late.
        heard = self._heard and self.claim.attempt == 1
        self.seen = None
        if self.claim.state == "dispatched":
            self.seen = await self._look()
        if self.seen is not None and self.seen.doubled and not self._tidied:
            self._certain = False
        age = self._means.clock.now() - self._initiated.time
        return Facts(
            state=self.claim.state,
            attempt=self.claim.attempt,
            certain=self._certain,
            old=age > self._means.settings.ring_window * _MICROS,
            late=self._means.clock.monotonic() >= self._deadline,
            deaf=self._failures >= _DEAF,
            heard=heard,
            presence=self.seen,
        )

    async def _look(self) -> Presence | None:
        try:
            return await self._means.effects.look(self.claim)
        except EffectError as error:
            self._means.complaints.complain("look.failed", error)
            return None

    async def _find(self) -> None:
        found = await self._means.effects.find(self.claim)
        if found is None:
            self._certain = True
        else:
            self._created = found

    async def _create(self) -> None:
        await self._hold(self._means.settings.lease / 2)
        try:
            self._created = await self._means.effects.create(
                self.claim, self._initiated, max(1, self.claim.attempt)
            )
        except Ambiguous:
            self._certain = False
            self.doubtful = True
            raise
        except Permanent as error:
            await self._missing(f"LiveKit refused the dispatch: {_words(error)}")

    async def _record(self, dispatch_id: str) -> None:
        """Write a created dispatch down. Raises _Lost, the dispatch withdrawn, when it is late."""
        attempt = max(1, self.claim.attempt)
        await self._tell(EventType.AGENT_DISPATCHED, attempt, "")
        deadline = self._means.settings.deadline
        moved = await self._means.claims.advance(
            self.claim,
            state="dispatched",
            lease=self._means.settings.lease,
            dispatch_id=dispatch_id,
            attempt=attempt,
            due_in=deadline + _HANDOVER,
        )
        if moved is None:
            await self._give_back(dispatch_id)
            raise _Lost
        self._take(moved)
        self._created = None
        self._certain = not self.doubtful
        self._deadline = self._means.clock.monotonic() + deadline

    async def _give_back(self, dispatch_id: str) -> None:
        """Withdraw a dispatch that came too late, unless the claim's holder has it or may yet.

        A holder that is still dispatching asks which dispatches there are before it is content.
        """
        claim = await self._means.claims.get(self.claim.call_id)
        if claim is not None and claim.state in ("claimed", "dispatching"):
            return
        kept = claim is not None and claim.state in ("dispatched", "ready")
        if kept and claim is not None and claim.dispatch_id == dispatch_id:
            return
        rooms = self._means.effects.rooms
        await rooms.delete_dispatch(room=self.claim.call_id, dispatch_id=dispatch_id)
        if claim is None or claim.state == "over":
            # The dispatch made the room anew, with an agent and without a caller.
            await rooms.delete_room(self.claim.call_id)

    async def _tidy(self) -> float:
        await self._hold()
        withdrawn = await self._means.effects.tidy(self.claim)
        self._certain = self._tidied = withdrawn == 0
        if self._tidied and self.seen is not None and self.seen.doubled:
            parted = await self._means.effects.part(self.claim, self.seen, patient=True)
            self.doubtful = self.doubtful or not parted
        # Who was withdrawn is listed for a moment longer.
        return self._means.poll_interval if withdrawn else 0.0

    async def _again(self) -> None:
        DISPATCHES.labels("again").inc()
        log.warning("agent.late", call_id=self.claim.call_id, attempt=self.claim.attempt)
        self._certain = False  # until the late dispatch is withdrawn
        await self._write("dispatching", attempt=self.claim.attempt + 1)

    async def _ready(self) -> None:
        if self.seen is not None:
            await self._means.effects.tell_presence(self.claim.call_id, self.seen)
        await self._write("ready")
        DISPATCHES.labels("ready").inc()
        AGENT_READY_SECONDS.observe((self._means.clock.now() - self._initiated.time) / _MICROS)

    async def _missing(self, reason: str) -> None:
        # The event has the caller turned away and what was dispatched withdrawn: LiveKit may take
        # longer for that than the claim is ours.
        await self._hold()
        await self._tell(EventType.AGENT_MISSING, 0, reason)
        await self._write("missing")
        DISPATCHES.labels("missing").inc()
        log.error("agent.missing", call_id=self.claim.call_id, reason=reason)

    async def _expire(self) -> None:
        await self._hold()
        await self._tell(
            EventType.CALL_EXPIRED, 0, "read after the ring window; nothing was started"
        )
        await self._write("expired")
        DISPATCHES.labels("expired").inc()

    async def _hold(self, unless_within: float = 0.0) -> None:
        """Renew the lease, unless that was done so recently (seconds). Raises _Lost."""
        if self._means.clock.monotonic() - self._written_at >= unless_within:
            await self._write(self.claim.state)

    async def _write(self, state: ClaimState, *, attempt: int | None = None) -> None:
        """Move the claim on. Raises _Lost."""
        lease = self._means.settings.lease
        self._take(
            await self._means.claims.advance(self.claim, state=state, lease=lease, attempt=attempt)
        )

    def _take(self, moved: Claim | None) -> None:
        if moved is None:
            raise _Lost
        self.claim = moved
        self._written_at = self._means.clock.monotonic()

    async def _tell(self, kind: EventType, attempt: int, reason: str) -> None:
        now = self._means.clock.now()
        told = own_event(
            self.claim, self._initiated, kind, time=now, attempt=attempt, reason=reason
        )
        await self._means.effects.tell(told)

    async def _sleep(self, seconds: float) -> None:
        if not seconds:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()
