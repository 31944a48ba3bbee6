"""One call, from its claim until it is settled: the loop around `consumers.dispatch.plan`.

Each turn looks at what is known, takes one step and writes it down. Every write carries the claim's
fence; where it is refused, somebody else decides about the call now, and this loop ends after
withdrawing what it alone knows of. A step that fails is not repeated as such: the next turn decides
anew, from what is then known.

The deadline written into the claim is a little later than the one kept here, so that other
processes take a call over only from one that is dead or stuck.
"""

import asyncio
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from random import Random
from typing import Final

from config.settings import DispatchSettings
from consumers.dispatch.effect import Effects
from consumers.dispatch.plan import (
    Facts,
    Presence,
    Step,
    is_webhook,
    next_step,
    own_event,
    rounds_before,
)
from consumers.dispatch.store import ClaimStore
from consumers.dispatch.supervision import Silences
from consumers.throttled_log import ThrottledLog
from router.backoff import backoff, jitter
from router.clock import Clock
from router.dispatch_health import LIVEKIT_API, DispatchHealth
from router.errors import Ambiguous, EffectError, Permanent, StorageUnavailable, Transient
from router.events.codec import stored_event
from router.events.model import Event
from router.events.phone import mask_in
from router.events.types import EventType
from router.observability import log as logs
from router.observability.metrics import AGENT_READY_SECONDS, DISPATCHES
from router.storage.claims import Claim, ClaimState

log = logs.get(__name__)

_UNREACHABLE: Final = 5  # turns that failed in a row
_SELDOM: Final = 2.0  # seconds between polls of a call whose webhooks come
_REPLACED_WITHIN: Final = 12.0  # seconds in which a round after the first may begin something
_HANDOVER: Final = 1.0  # seconds after our own deadline before others may act
_MICROS: Final = 1_000_000


def _words(error: Permanent) -> str:
    """Why LiveKit refused, in its own words; they may repeat what was sent to it."""
    return mask_in(str(error).removeprefix("LiveKit: "))[:200]


class _Lost(Exception):
    """The claim belongs to a successor, or the call is settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the calls of a process work with."""

    claims: ClaimStore
    effects: Effects
    problems: ThrottledLog
    clock: Clock
    random: Random
    settings: DispatchSettings
    poll_interval: float  # seconds
    silences: Silences
    health: DispatchHealth | None = None

    def trying(self, what: str) -> AbstractContextManager[None]:
        """The block tries what each dispatch needs."""
        return self.health.trying(what) if self.health is not None else nullcontext()

    def age(self, event: Event) -> float:
        """Seconds since it happened."""
        return (self.clock.now() - event.time) / _MICROS


class PendingCall:
    """A call that waits for its agent.

    `fresh`: nobody tried before. `hopeless`: agents of this call were lost too often, there is only
    the caller to be looked after.
    """

    def __init__(
        self, context: Context, claim: Claim, *, fresh: bool, hopeless: bool = False
    ) -> None:
        self._context = context
        self._hopeless = hopeless
        self._initiated = stored_event(claim.initiated)
        # What a former owner did is not known. Nor is it certain that its deadline is ahead.
        self._certain = fresh or hopeless
        self._began = self._deadline = self._poll_at = context.clock.monotonic()
        if not fresh and claim.due_at is not None:  # an agent that a former owner asked for
            ahead = (claim.due_at - context.clock.now()) / _MICROS - _HANDOVER
            self._deadline += min(max(0.0, ahead), context.settings.deadline)
        self._created: str | None = None  # a dispatch that the claim does not name yet
        self._tidied = False  # one dispatch was all there was
        self._failures = 0  # turns in a row
        self._heard = False
        self._over = False
        self.has_news = False  # a webhook came since the last look
        self._has_webhooks = False  # of this call: then polls are for those that get lost
        self._was_there = False  # an agent, in this attempt
        self._written_at = context.clock.monotonic()
        self._woken = asyncio.Event()
        self.claim = claim
        self.seen: Presence | None = None  # at the last look
        self.doubtful = not fresh  # whether more may have been created than the claim ever named

    def hears_of(self, event: Event) -> None:
        """Something was told of who is in the room."""
        self._has_webhooks = self._has_webhooks or is_webhook(event)
        if event.type is EventType.AGENT_READY:
            self._heard = True
        elif event.type is EventType.AGENT_JOINED:
            self._was_there = True
        elif event.type is not EventType.AGENT_LEFT:
            return
        self.has_news = event.type is not EventType.AGENT_JOINED
        if self.has_news:
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
                    self._context.problems.warn("dispatch.failed", error)
                    pause = jitter(backoff(self._failures), self._context.random)
                    if isinstance(error, Transient) and error.retry_after:
                        pause = max(pause, error.retry_after)
                await self._sleep(pause)

    async def release(self) -> None:
        """Let another process have the call at once: this one stops."""
        if not self.claim.final:
            left = max(0.0, self._deadline - self._context.clock.monotonic())
            await self._context.claims.advance(
                self.claim, state=self.claim.state, lease=0.0, due_in=left
            )

    async def _turn(self) -> float:
        if self._created is not None:
            await self._record(self._created)
        elif self._over:
            raise _Lost
        match next_step(await self._facts()):
            case Step.WAIT:
                return self._until_next_look()
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

    def _until_next_look(self) -> float:
        now = self._context.clock.monotonic()
        wake = min(self._poll_at, self._deadline) if self._deadline > now else self._poll_at
        return max(0.0, wake - now)

    async def _facts(self) -> Facts:
        late = self._context.clock.monotonic() >= self._deadline
        self.seen = None
        asked = self.claim.state == "dispatched" and self._is_worth_a_look(late=late)
        if asked:
            self.seen = await self._look()
        if self.seen is not None and self.seen.doubled and not self._tidied:
            self._certain = False
        was_there, seen = self._was_there, self.seen
        self._was_there = was_there or bool(seen and seen.agents)
        return Facts(
            state=self.claim.state,
            attempt=self.claim.attempt,
            certain=self._certain,
            old=self._is_old(),
            late=late,
            left=was_there and seen is not None and not seen.agents,
            unreachable=self._failures >= _UNREACHABLE,
            # Of a second dispatch it could be the first one's agent that was heard, late.
            heard=asked and self._heard and self.claim.attempt == 1,
            presence=self.seen,
        )

    def _is_worth_a_look(self, *, late: bool) -> bool:
        """What webhooks say, and a deadline, must be looked into; a poll has to be afforded."""
        now = self._context.clock.monotonic()
        is_due = now >= self._poll_at
        if is_due:
            interval = self._context.poll_interval
            self._poll_at = now + (max(interval, _SELDOM) if self._has_webhooks else interval)
        if self.has_news or late or not self._certain:
            self.has_news = False
            return True
        return is_due and self._context.effects.rooms.polls.spend()

    def _is_old(self) -> bool:
        """Whether nothing is to be begun any more: the caller has given up, or waited enough."""
        if rounds_before(self.claim.attempt):
            waited = self._context.clock.monotonic() - self._began
            return self._hopeless or waited > _REPLACED_WITHIN
        return self._context.age(self._initiated) > self._context.settings.ring_window

    async def _look(self) -> Presence | None:
        try:
            seen = await self._context.effects.look(self.claim)
        except EffectError as error:
            self._context.problems.warn("look.failed", error)
            return None
        self._context.silences.note(self.claim.call_id, silent=seen.silent)
        return seen

    async def _find(self) -> None:
        if self.claim.dispatch_id and await self._is_heard_after_all():
            return
        found = await self._context.effects.find(self.claim)
        if found is None:
            self._certain = True
        else:
            self._created = found

    async def _is_heard_after_all(self) -> bool:
        """Whether the agent that is about to be withdrawn can be heard by now: then it stays."""
        if not (await self._context.effects.look(self.claim)).ready:
            return False
        log.info("agent.kept", call_id=self.claim.call_id, attempt=self.claim.attempt)
        await self._dispatched(None)
        self._certain = False  # what else there is goes, before the call is called ready
        return True

    async def _create(self) -> None:
        await self._hold(self._context.settings.lease / 2)
        try:
            with self._context.trying(LIVEKIT_API):
                self._created = await self._context.effects.create(
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
        try:
            await self._dispatched(dispatch_id)
        except _Lost:
            await self._give_back(dispatch_id)
            raise
        self._created = None
        self._certain = not self.doubtful
        self._was_there = False

    async def _dispatched(self, dispatch_id: str | None) -> None:
        """Write down which dispatch is waited for, None: the one before. Raises _Lost."""
        deadline = self._context.settings.deadline
        self._take(
            await self._context.claims.advance(
                self.claim,
                state="dispatched",
                lease=self._context.settings.lease,
                dispatch_id=dispatch_id,
                attempt=max(1, self.claim.attempt),
                due_in=deadline + _HANDOVER,
            )
        )
        now = self._context.clock.monotonic()
        self._deadline, self._poll_at = now + deadline, now + self._context.poll_interval

    async def _give_back(self, dispatch_id: str) -> None:
        """Withdraw a dispatch that came too late, unless the claim's holder has it or may yet.

        A holder that is still dispatching asks which dispatches there are before it is content.
        """
        claim = await self._context.claims.get(self.claim.call_id)
        if claim is not None and claim.state in ("claimed", "dispatching"):
            return
        kept = claim is not None and claim.state in ("dispatched", "ready")
        if kept and claim is not None and claim.dispatch_id == dispatch_id:
            return
        is_missing = claim is not None and claim.state == "missing"
        if is_missing and (await self._context.effects.look(self.claim)).ready:
            return  # who can be heard stays: the caller may not be turned away yet
        rooms = self._context.effects.rooms
        await rooms.delete_dispatch(room=self.claim.call_id, dispatch_id=dispatch_id)
        if claim is None or claim.state == "over":
            # The dispatch made the room anew, with an agent and without a caller.
            await rooms.delete_room(self.claim.call_id)

    async def _tidy(self) -> float:
        await self._hold()
        withdrawn = await self._context.effects.tidy(self.claim)
        self.has_news = True  # who is left?
        self._certain = self._tidied = withdrawn == 0
        if self._tidied and self.seen is not None and self.seen.doubled:
            parted = await self._context.effects.part(self.claim, self.seen, patient=True)
            self.doubtful = self.doubtful or not parted
        # Who was withdrawn is listed for a moment longer.
        return self._context.poll_interval if withdrawn else 0.0

    async def _again(self) -> None:
        DISPATCHES.labels("again").inc()
        log.warning("agent.late", call_id=self.claim.call_id, attempt=self.claim.attempt)
        self._certain = False  # until the late dispatch is withdrawn
        await self._write("dispatching", attempt=self.claim.attempt + 1)

    async def _ready(self) -> None:
        self._context.silences.note(self.claim.call_id, silent=False)
        if self.seen is not None:
            await self._context.effects.tell_presence(self.claim.call_id, self.seen)
        await self._write("ready")
        DISPATCHES.labels("ready").inc()
        if not rounds_before(self.claim.attempt):
            age = self._context.clock.now() - self._initiated.time
            AGENT_READY_SECONDS.observe(age / _MICROS)

    async def _missing(self, reason: str) -> None:
        # The event has the caller turned away and what was dispatched withdrawn: LiveKit may take
        # longer for that than the claim is ours.
        await self._hold()
        self.seen = await self._look()
        if self.seen is not None and self.seen.ready:  # since the look that led here
            self.doubtful = self.doubtful or not self._certain
            await self._ready()
            return
        await self._tell(EventType.AGENT_MISSING, rounds_before(self.claim.attempt), reason)
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
        if self._context.clock.monotonic() - self._written_at >= unless_within:
            await self._write(self.claim.state)

    async def _write(self, state: ClaimState, *, attempt: int | None = None) -> None:
        """Move the claim on. Raises _Lost."""
        lease = self._context.settings.lease
        self._take(
            await self._context.claims.advance(
                self.claim, state=state, lease=lease, attempt=attempt
            )
        )

    def _take(self, moved: Claim | None) -> None:
        if moved is None:
            raise _Lost
        self.claim = moved
        self._written_at = self._context.clock.monotonic()

    async def _tell(self, kind: EventType, attempt: int, reason: str) -> None:
        now = self._context.clock.now()
        told = own_event(
            self.claim, self._initiated, kind, time=now, attempt=attempt, reason=reason
        )
        await self._context.effects.tell(told)

    async def _sleep(self, seconds: float) -> None:
        if not seconds:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()
