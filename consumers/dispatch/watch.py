"""All calls of this process: those that wait for their agent, and those that are connected.

Each waiting call has a task of its own (`Connection`), so a slow room holds up no other; there are
at most `dispatch.concurrency` of them. Beside them two loops: one takes over what a dead process
left behind (`ClaimStore.due`), one looks after the connected calls (`Follow`).
"""

import asyncio
from contextlib import suppress
from typing import Final

import msgspec

from consumers.backoff import jitter
from consumers.dispatch.connect import Connection, Means
from consumers.dispatch.follow import Follow
from router.errors import SwitchboardError
from router.observability import log as logs
from router.observability.metrics import CALLS_IN_PROGRESS
from router.storage.claims import Claim

log = logs.get(__name__)

_TAKE_OVER_EVERY: Final = 1.0  # seconds
_REMEMBERED: Final = 1000  # calls
_PRUNE_EVERY: Final = 3600.0  # seconds
_KEPT: Final = 14 * 86400.0  # seconds; longer than any log holds a `call.initiated` (kafka: 7 days)
_TAKE_OVER: Final = 32  # claims at once, so that several processes share what one left


class Watch:
    """Runs the connections. `owner` names this process in the claims."""

    def __init__(self, means: Means, owner: str) -> None:
        self.owner = owner
        self._means = means
        self._slots = asyncio.Semaphore(means.settings.concurrency)
        self._waiting: dict[str, tuple[Connection, asyncio.Task[None]]] = {}
        self._follow = Follow(
            means.effects,
            means.complaints,
            means.clock,
            patience=means.settings.ring_window,
            close=self.close,
        )
        CALLS_IN_PROGRESS.set_function(lambda: len(self._waiting) + len(self._follow))

    async def reserve(self) -> None:
        """Wait for the place that `begin` or `free` gives back."""
        await self._slots.acquire()

    def free(self) -> None:
        """Give a reserved place back unused."""
        self._slots.release()

    def waits(self, call_id: str) -> bool:
        """Whether this process is bringing the call's agent."""
        return call_id in self._waiting

    def begin(self, claim: Claim, *, fresh: bool) -> None:
        """Bring the agent of a call that we claimed, in a reserved place.

        `fresh` says that nobody tried before. A connection that got stuck is replaced. Where this
        raises (the claim can't be read), the place is still the caller's to give back.
        """
        stuck = self._waiting.pop(claim.call_id, None)
        if stuck is not None:
            stuck[1].cancel()
        connection = Connection(self._means, claim, fresh=fresh)
        task = asyncio.create_task(self._bring(connection))
        # Not at the task's own end: one that is cancelled before it began has none.
        task.add_done_callback(lambda _: self._slots.release())
        self._waiting[claim.call_id] = (connection, task)

    def hear(self, call_id: str) -> None:
        """LiveKit's webhook says that the call's agent can be heard."""
        if call_id in self._waiting:
            self._waiting[call_id][0].hear()

    async def close(self, call_id: str) -> None:
        """The call is over: nobody brings an agent any more, and its room is closed.

        Raises:
            StorageUnavailable, Transient, Ambiguous, Permanent: to be done again, as a whole.
        """
        before = await self._means.claims.settle(call_id, "over")
        self._follow.forget(call_id)
        if call_id in self._waiting:
            self._waiting[call_id][0].end()
        if before is not None and before.fence == 0:
            return  # nobody ever claimed it, so nothing was made
        await self._means.effects.rooms.delete_room(call_id)

    async def run(self) -> None:
        """Take over, look after and forget, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._take_over())
            tasks.create_task(self._remember())
            tasks.create_task(self._follow.run())
            tasks.create_task(self._prune())

    async def release(self) -> None:
        """Stop the connections and let other processes have their calls at once."""
        left = list(self._waiting.values())
        self._waiting.clear()
        for _, task in left:
            task.cancel()
        await asyncio.gather(*(task for _, task in left), return_exceptions=True)
        for connection, _ in left:
            with suppress(SwitchboardError):  # the lease ends by itself
                await connection.release()

    async def _bring(self, connection: Connection) -> None:
        call_id = connection.claim.call_id
        try:
            await connection.run()
        except Exception as error:  # noqa: BLE001  the lease runs out, then it is tried again
            name = type(error).__name__  # its text may hold facts of the call
            log.error("connection.failed", call_id=call_id, error=name)  # noqa: TRY400
        finally:
            if self._waiting.get(call_id, (None,))[0] is connection:
                del self._waiting[call_id]
        claim = connection.claim
        if claim.state == "ready":
            # The agent of an attempt that was given up may come yet.
            doubtful = connection.doubtful or claim.attempt > 1
            self._follow.add(claim, connection.seen, doubtful=doubtful)

    async def _remember(self) -> None:
        """Look after the calls that were connected before this process started."""
        while True:
            try:
                for claim in await self._means.claims.connected(limit=_REMEMBERED):
                    self._follow.add(claim, None, doubtful=True)
            except SwitchboardError as error:
                self._means.complaints.complain("remember.failed", error)
                await self._means.clock.sleep(jitter(2 * _TAKE_OVER_EVERY, self._means.random))
            else:
                return

    async def _prune(self) -> None:
        while True:
            await self._means.clock.sleep(_PRUNE_EVERY)
            try:
                await self._means.claims.prune(_KEPT)
            except SwitchboardError as error:
                self._means.complaints.complain("prune.failed", error)

    async def _take_over(self) -> None:
        while True:
            try:
                await self._take_over_once()
            except SwitchboardError as error:
                self._means.complaints.complain("take_over.failed", error)
            await self._means.clock.sleep(jitter(2 * _TAKE_OVER_EVERY, self._means.random))

    async def _take_over_once(self) -> None:
        places = 0
        while places < _TAKE_OVER and not self._slots.locked():
            await self.reserve()
            places += 1
        try:
            if not places:
                return
            lease = self._means.settings.lease
            for claim in await self._means.claims.due(owner=self.owner, lease=lease, limit=places):
                log.warning("call.taken_over", call_id=claim.call_id, state=claim.state)
                try:
                    self.begin(claim, fresh=False)
                except msgspec.MsgspecError:  # a newer version wrote it, and will go on with it
                    log.error("claim.unreadable", call_id=claim.call_id)  # noqa: TRY400
                else:
                    places -= 1
        finally:
            for _ in range(places):
                self.free()
