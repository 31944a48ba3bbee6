"""All calls of this process: those that wait for their agent, and those that are connected.

Each waiting call has a task of its own (`PendingCall`), so a slow room holds up no other; there are
at most `dispatch.concurrency` of them. Beside them two loops: one takes over what a dead process
left behind (`ClaimStore.due`), one looks after the connected calls (`Supervision`).
"""

import asyncio
from collections import OrderedDict, deque
from contextlib import suppress
from typing import Final

import msgspec

from consumers.dispatch.pending import Context, PendingCall
from consumers.dispatch.plan import MAX_ROUNDS, Presence, next_round, rounds_before
from consumers.dispatch.supervision import Supervision
from router.backoff import jitter
from router.dispatch_health import DATABASE, LIVEKIT_API
from router.errors import EffectError, SwitchboardError
from router.events.model import Event
from router.observability import log as logs
from router.observability.metrics import CALLS_IN_PROGRESS, DISPATCHES
from router.storage.claims import Claim

log = logs.get(__name__)

_TAKE_OVER_EVERY: Final = 1.0  # seconds
_PROBE_EVERY: Final = 5.0  # seconds; a dozen of the 1,000 requests that LiveKit Cloud allows
_PROBE_AGAIN: Final = 1.0  # seconds after one that failed
_NO_ROOM: Final = "switchboard-probe"
_REMEMBERED: Final = 1000  # calls
_PRUNE_EVERY: Final = 3600.0  # seconds
_KEPT: Final = 14 * 86400.0  # seconds; longer than any log holds a `call.initiated` (kafka: 7 days)
_CLOSED: Final = 10_000  # calls that are remembered as closed
_LOSSES: Final = 3  # agents of one call
_LOSSES_WITHIN: Final = 60.0  # seconds
_TAKE_OVER: Final = 32  # claims at once, so that several processes share what one left


class ActiveCalls:
    """Runs them. `owner` names this process in the claims, and begins with its `seat`.

    What another owner with the same seat has is taken over at once, when this process starts: it
    was killed.
    """

    def __init__(self, context: Context, owner: str, seat: str = "") -> None:
        self.owner = owner
        self._seat = seat
        self._context = context
        self._slots = asyncio.Semaphore(context.settings.concurrency)
        self._waiting: dict[str, tuple[PendingCall, asyncio.Task[None]]] = {}
        self._supervision = Supervision(
            context.effects,
            context.problems,
            context.clock,
            context.random,
            context.silences,
            patience=context.settings.ring_window,
            close=self.close,
            replace=self.replace,
        )
        CALLS_IN_PROGRESS.set_function(lambda: len(self._waiting) + len(self._supervision))
        self._replaced: dict[str, deque[float]] = {}  # monotonic; of calls that go on
        self._closed: OrderedDict[str, None] = OrderedDict()  # calls whose room we closed
        self._left: OrderedDict[str, None] = OrderedDict()  # calls whose end was read

    def foresee_end(self, call_id: str) -> None:
        """The log has the end of a call, or that it went elsewhere: begin nothing for it.

        What is there is closed when that event is handled, which needs the database.
        """
        self._left[call_id] = None
        while len(self._left) > _CLOSED:
            self._left.popitem(last=False)
        if call_id in self._waiting:
            self._waiting[call_id][0].end()

    def is_left(self, call_id: str) -> bool:
        """Whether the log has the end of a call, as far as it was read."""
        return call_id in self._left

    async def reserve(self) -> None:
        """Wait for the place that `begin` or `free` gives back."""
        await self._slots.acquire()

    def free(self) -> None:
        """Give a reserved place back unused."""
        self._slots.release()

    def waits(self, call_id: str) -> bool:
        """Whether this process is bringing the call's agent."""
        return call_id in self._waiting

    def begin(self, claim: Claim, *, fresh: bool, hopeless: bool = False) -> None:
        """Bring the agent of a call that we claimed, in a reserved place.

        `fresh` says that nobody tried before, `hopeless` that nobody is to be tried any more. One
        that got stuck is replaced. Where this raises (the claim can't be read), the place is still
        the caller's to give back.
        """
        stuck = self._waiting.pop(claim.call_id, None)
        if stuck is not None:
            stuck[1].cancel()
        pending = PendingCall(self._context, claim, fresh=fresh, hopeless=hopeless)
        if self.is_left(claim.call_id):
            pending.end()
        task = asyncio.create_task(self._bring(pending))
        # Not at the task's own end: one that is cancelled before it began has none.
        task.add_done_callback(lambda _: self._slots.release())
        self._waiting[claim.call_id] = (pending, task)

    def hears_of(self, event: Event) -> None:
        """Something was told of who is in a call's room."""
        if event.call_id in self._waiting:
            self._waiting[event.call_id][0].hears_of(event)

    def supervise(self, claim: Claim, seen: Presence | None, *, doubtful: bool) -> None:
        """Look after a call whose agent can be heard."""
        self._supervision.add(claim, seen, doubtful=doubtful)

    async def somebody_left(self, event: Event) -> None:
        """An agent, or whom it brought in, left the room of a call. Raises StorageUnavailable."""
        if event.call_id in self._waiting or event.call_id in self._closed:
            return
        claim = await self._context.claims.get(event.call_id)
        if claim is not None and claim.state == "ready":
            self._supervision.somebody_left(claim, event.data.status)

    async def replace(self, call_id: str) -> None:
        """The agent of a connected call is lost, and its caller alone: bring another one.

        One that is lost again and again is not: then the caller goes to the fallback. The count is
        this process's own, so where calls move between processes there may be some more.

        Raises:
            StorageUnavailable: to be done again.
        """
        claim = await self._context.claims.get(call_id)
        if claim is None or claim.state != "ready":
            return
        now = self._context.clock.monotonic()
        lost = self._replaced.setdefault(call_id, deque(maxlen=_LOSSES))
        while len(self._replaced) > _CLOSED:  # those that others closed
            del self._replaced[next(iter(self._replaced))]
        is_looping = len(lost) == _LOSSES and now - lost[0] < _LOSSES_WITHIN
        hopeless = is_looping or rounds_before(claim.attempt) >= MAX_ROUNDS
        await self.reserve()
        begun = False
        try:
            reopened = await self._context.claims.reopen(
                claim,
                owner=self.owner,
                lease=self._context.settings.lease,
                attempt=next_round(claim.attempt),
            )
            if reopened is not None:
                lost.append(now)
                DISPATCHES.labels("lost").inc()
                self.begin(reopened, fresh=False, hopeless=hopeless)
                begun = True
        finally:
            if not begun:
                self.free()

    async def close(self, call_id: str) -> None:
        """The call is over: nobody brings an agent any more, and its room is closed, once.

        Raises:
            StorageUnavailable, Transient, Ambiguous, Permanent: to be done again, as a whole.
        """
        if call_id in self._closed:
            return
        before = await self._context.claims.settle(call_id, "over")
        self.is_over(call_id)
        if call_id in self._waiting:
            self._waiting[call_id][0].end()
        if before is None or before.fence:  # else nobody ever claimed it: nothing was made
            await self._context.effects.rooms.delete_room(call_id)
        self._closed[call_id] = None
        while len(self._closed) > _CLOSED:
            self._closed.popitem(last=False)

    def is_over(self, call_id: str) -> None:
        """Nobody is there to be looked after any more."""
        self._supervision.forget(call_id)
        self._replaced.pop(call_id, None)
        self._context.silences.note(call_id, silent=False)

    def has_closed(self, call_id: str) -> bool:
        """Whether this process closed the room of a call that is over."""
        return call_id in self._closed

    async def run(self) -> None:
        """Take over, look after and forget, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._take_over())
            tasks.create_task(self._probe())
            tasks.create_task(self._remember())
            tasks.create_task(self._supervision.run())
            tasks.create_task(self._context.silences.run())
            tasks.create_task(self._prune())

    async def release(self) -> None:
        """Stop bringing agents and let other processes have their calls at once."""
        left = list(self._waiting.values())
        self._waiting.clear()
        for _, task in left:
            task.cancel()
        await asyncio.gather(*(task for _, task in left), return_exceptions=True)
        for pending, _ in left:
            with suppress(SwitchboardError):  # the lease ends by itself
                await pending.release()

    async def _bring(self, pending: PendingCall) -> None:
        call_id = pending.claim.call_id
        try:
            await pending.run()
        except Exception as error:  # noqa: BLE001  the lease runs out, then it is tried again
            name = type(error).__name__  # its text may hold facts of the call
            log.error("dispatch.crashed", call_id=call_id, error=name)  # noqa: TRY400
        finally:
            if self._waiting.get(call_id, (None,))[0] is pending:
                del self._waiting[call_id]
        claim = pending.claim
        if claim.state not in ("ready", "missing"):
            self._context.silences.note(call_id, silent=False)  # it is another's, or over
        if claim.state == "ready":
            # The agent of an attempt that was given up may come yet.
            doubtful = pending.doubtful or claim.attempt > 1
            self.supervise(claim, pending.seen, doubtful=doubtful)
            if pending.has_news:  # told since the last look: somebody may have left
                self._supervision.somebody_left(claim, "")

    async def _remember(self) -> None:
        """Look after the calls that were connected before this process started."""
        while True:
            try:
                for claim in await self._context.claims.connected(limit=_REMEMBERED):
                    self._supervision.add(claim, None, doubtful=True)
            except SwitchboardError as error:
                self._context.problems.warn("remember.failed", error)
                await self._context.clock.sleep(jitter(2 * _TAKE_OVER_EVERY, self._context.random))
            else:
                return

    async def _probe(self) -> None:
        """Ask LiveKit where no call did for a while: no caller must find out that it is away."""
        health, wanted = self._context.health, _PROBE_EVERY
        while health is not None:
            await self._context.clock.sleep(_PROBE_AGAIN)
            if health.idle(LIVEKIT_API) < wanted:
                continue
            try:
                with health.trying(LIVEKIT_API, refusal_is_failure=True):
                    await self._context.effects.rooms.rooms([_NO_ROOM])
                wanted = _PROBE_EVERY
            except EffectError as error:
                self._context.problems.warn("probe.failed", error)
                wanted = 0.0

    async def _prune(self) -> None:
        while True:
            await self._context.clock.sleep(_PRUNE_EVERY)
            try:
                await self._context.claims.prune(_KEPT)
            except SwitchboardError as error:
                self._context.problems.warn("prune.failed", error)

    async def _take_over(self) -> None:
        seat = self._seat
        while True:
            try:
                if await self._take_over_once(seat):
                    seat = ""  # all of them: nobody else has this seat while we live
                elif seat and not self._slots.locked():
                    continue
            except SwitchboardError as error:
                self._context.problems.warn("take_over.failed", error)
            await self._context.clock.sleep(jitter(2 * _TAKE_OVER_EVERY, self._context.random))

    async def _take_over_once(self, seat: str) -> bool:
        """Whether all were taken that there are."""
        places = 0
        while places < _TAKE_OVER and not self._slots.locked():
            await self.reserve()
            places += 1
        try:
            if not places:
                return False
            with self._context.trying(DATABASE):
                found = await self._context.claims.due(
                    owner=self.owner, lease=self._context.settings.lease, limit=places, seat=seat
                )
            is_all = len(found) < places
            for claim in found:
                log.warning("call.taken_over", call_id=claim.call_id, state=claim.state)
                try:
                    self.begin(claim, fresh=False)
                except msgspec.MsgspecError:  # a newer version wrote it, and will go on with it
                    log.error("claim.unreadable", call_id=claim.call_id)  # noqa: TRY400
                else:
                    places -= 1
            return is_all
        finally:
            for _ in range(places):
                self.free()
