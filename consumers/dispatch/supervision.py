"""Connected calls, looked after until their caller is gone.

An agent may be lost in the middle of a call: its process dies, its worker is deployed anew. The
caller is connected, so no dial time-out helps any more. Three things tell of it
- LiveKit's webhook: at once where the agent leaves, some 21 s late where its process was killed;
- an agent that answered us and does not any more (`AgentRooms.answers`): asked in turns, as often
  as the budget of polls allows, every half second where the calls are few;
- a look into the room, where anything is in doubt.
Where a caller is left alone the call goes back to those that wait for an agent (`replace`).

LiveKit's webhooks also say that a caller is gone, and so does the carrier; but webhooks get lost,
and an agent that is left alone stays in its room for ever and costs. So the rooms of the calls that
this process connected, or found connected when it started, are listed now and then, all in one
request. A room is looked into where the list has another number of people than were seen, or where
there is doubt.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from consumers.dispatch.effect import Effects
from consumers.dispatch.plan import Presence, is_carried
from consumers.throttled_log import ThrottledLog
from router.backoff import backoff, jitter
from router.clock import Clock
from router.errors import EffectError, StorageUnavailable
from router.observability import log as logs
from router.observability.metrics import CALLERS_IN_SILENCE, SILENT_CALLERS
from router.providers.livekit.client import Participant
from router.storage.claims import Claim

log = logs.get(__name__)

_INTERVAL: Final = 10.0  # seconds between two lists
_LOOKS: Final = 50  # after each, as far as the budget of polls goes
_AT_ONCE: Final = 16
_UNDECIDED: Final = 30.0  # seconds that a second agent is borne until it is known which one stays
_LIMIT: Final = 20_000  # calls; more than one process can carry
_PING_EVERY: Final = 0.5  # seconds between two questions to one agent
_PING_WITHIN: Final = 0.75  # seconds that an agent may take to answer; two in a row count
_GOODBYE: Final = 1.5  # seconds in which a caller hangs up to whom the agent has said goodbye
_TRIES: Final = 6  # at replacing an agent: some 5 s
_SILENCE: Final = 5.0  # seconds
_FORGOTTEN: Final = 120.0  # seconds

CLIENT_INITIATED: Final = "CLIENT_INITIATED"
"""LiveKit's word for who left on their own account: said goodbye, or was told to stop."""


class Silences:
    """Callers who were answered and hear nobody. Each must have an agent again, or somebody else,
    before `_SILENCE` seconds are over; who has not is counted.

    One whose agent's process died unnoticed is not among them: nobody knows it yet.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}
        self._counted: set[str] = set()

    def note(self, call_id: str, *, silent: bool) -> None:
        """What is known of a call now; of one that is over, False."""
        if silent:
            self._since.setdefault(call_id, self._clock.monotonic())
        else:
            self._since.pop(call_id, None)
            self._counted.discard(call_id)

    async def run(self) -> None:
        """Count, until cancelled."""
        while True:
            await self._clock.sleep(1.0)
            now = self._clock.monotonic()
            for call_id in [c for c, since in self._since.items() if since < now - _FORGOTTEN]:
                self.note(call_id, silent=False)  # another process has the call, or it is over
            long = {call for call, since in self._since.items() if since < now - _SILENCE}
            for call_id in long - self._counted:
                SILENT_CALLERS.inc()
                log.error("caller.in_silence", call_id=call_id, seconds=_SILENCE)
            self._counted |= long
            CALLERS_IN_SILENCE.set(len(long))


@dataclass(slots=True)
class _Call:
    claim: Claim
    doubtful: bool  # whether a second agent may still turn up
    since: float  # monotonic
    expects_caller: bool  # by a SIP leg; where the provider carries the audio, none comes
    callers: dict[str, Participant] = field(default_factory=dict)  # by sid, all that were seen
    there: int = 0  # callers at the last look
    alone: bool = False  # a caller, at the last look
    looked_at: float = float("-inf")  # monotonic
    agents: Sequence[str] = ()  # identities, at the last look
    answers: bool | None = None  # whether its agent ever answered; False: it can't
    pinged_at: float = float("-inf")
    pinging: bool = False

    def is_suspect(self, listed: int | None) -> bool:
        """Whether its room must be looked into, when so many people are listed; None: no room.

        LiveKit's list is some seconds old and leaves agents out. Were they counted, each room would
        be looked into each time: dearer, never wrong.
        """
        return self.doubtful or self.alone or not self.there or listed != self.there


class Supervision:
    """The rooms of connected calls.

    Args:
        patience: seconds that a caller may take to come.
        close: ends a call whose caller never came.
        replace: brings another agent to a caller who is alone.
    """

    def __init__(
        self,
        effects: Effects,
        problems: ThrottledLog,
        clock: Clock,
        random: Random,
        silences: Silences,
        *,
        patience: float,
        close: Callable[[str], Awaitable[None]],
        replace: Callable[[str], Awaitable[None]],
    ) -> None:
        self._effects = effects
        self._problems = problems
        self._clock = clock
        self._random = random
        self._silences = silences
        self._patience = patience
        self._close = close
        self._replace = replace
        self._calls: dict[str, _Call] = {}
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many calls are looked after."""
        return len(self._calls)

    def add(self, claim: Claim, seen: Presence | None, *, doubtful: bool) -> None:
        """Look after a call from now on."""
        if len(self._calls) >= _LIMIT:
            log.error("supervision.full", call_id=claim.call_id, limit=_LIMIT)
            return
        by_sip = not is_carried(claim)
        call = _Call(claim, doubtful, self._clock.monotonic(), by_sip)
        self._calls[claim.call_id] = call
        if seen is not None:
            self._remember(call, seen)

    def forget(self, call_id: str) -> None:
        """The call is over, or waits for another agent."""
        self._calls.pop(call_id, None)

    def somebody_left(self, claim: Claim, reason: str) -> None:
        """An agent left a call that was connected, or whom it had brought in; `reason`: LiveKit's.

        Whoever left on their own account may have said goodbye: then the caller is about to hang
        up. It can't be told from an agent that was stopped by a deployment, so a moment later it is
        replaced all the same.
        """
        if claim.call_id not in self._calls:
            self.add(claim, None, doubtful=True)
        call = self._calls.get(claim.call_id)
        if call is not None and (call.expects_caller or reason != CLIENT_INITIATED):
            pause = _GOODBYE if reason == CLIENT_INITIATED else 0.0
            self._spawn(self._after_loss(call, pause))

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._list())
                tasks.create_task(self._ping())
        finally:
            for task in self._tasks:
                task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _list(self) -> None:
        while True:
            await self._clock.sleep(_INTERVAL)
            try:
                suspects = await self._suspects()
            except EffectError as error:
                self._problems.warn("supervision.failed", error)
            else:
                await asyncio.gather(*map(self._check, suspects))

    async def _suspects(self) -> Sequence[_Call]:
        """The calls to look at now: those that waited longest, so that each has its turn."""
        calls = dict(self._calls)
        if not calls:
            return ()
        found = await self._effects.rooms.rooms(list(calls))
        listed = {room.name: room.participants for room in found}
        suspects = [call for name, call in calls.items() if call.is_suspect(listed.get(name))]
        oldest = sorted(suspects, key=lambda call: call.looked_at)[:_LOOKS]
        return [call for call in oldest if self._effects.rooms.polls.spend()]

    async def _check(self, call: _Call) -> None:
        async with self._at_once:
            try:
                await self._look(call)
            except (EffectError, StorageUnavailable) as error:
                self._problems.warn("supervision.failed", error)

    async def _look(self, call: _Call) -> None:
        room = call.claim.call_id
        seen = await self._effects.look(call.claim)
        if self._calls.get(room) is not call:
            return
        self._remember(call, seen)
        patient = self._clock.monotonic() - call.since < _UNDECIDED
        if seen.doubled and not await self._effects.part(call.claim, seen, patient=patient):
            call.doubtful = True
        if seen.alone:  # since a moment, perhaps, and for whatever reason
            self._spawn(self._after_loss(call, _GOODBYE))
        elif seen.callers:
            pass
        elif call.callers and call.expects_caller:
            if await self._effects.tell_left(room, call.callers.values()):
                self.forget(room)
            else:  # the log knew: no event will come of it that closes the room
                await self._close(room)
        elif not seen.agents:
            await self._close(room)  # nobody was seen, nobody is: the room is gone
        elif call.expects_caller and self._clock.monotonic() - call.since > self._patience:
            log.warning("caller.missing", call_id=room)
            await self._close(room)

    def _remember(self, call: _Call, seen: Presence) -> None:
        call.looked_at = self._clock.monotonic()
        call.there = len(seen.callers)
        call.alone = seen.alone
        call.callers.update((caller.sid, caller) for caller in seen.callers)
        call.agents = [agent.identity for agent in seen.agents]
        self._silences.note(call.claim.call_id, silent=seen.silent)

    async def _after_loss(self, call: _Call, pause: float) -> None:
        """Look whether the caller is alone, and have the agent replaced.

        That needs the database; while it is away the caller is not kept waiting for it.
        """
        await self._clock.sleep(pause)
        seen: Presence | None = None
        for attempt in range(1, _TRIES + 1):
            if self._calls.get(call.claim.call_id) is not call:
                return
            try:
                seen = await self._effects.look(call.claim)
                self._remember(call, seen)
                if seen.alone or not (call.expects_caller or seen.agents):
                    await self._lost(call)
            except (EffectError, StorageUnavailable) as error:
                self._problems.warn("supervision.failed", error)
                await self._clock.sleep(jitter(backoff(attempt), self._random))
            else:
                return
        call.doubtful = True  # the next list has it looked into
        if seen is not None and seen.silent and seen.alone:
            try:
                await self._effects.send_on(call.claim, seen, insist=False)
            except EffectError as error:
                self._problems.warn("supervision.failed", error)

    async def _lost(self, call: _Call) -> None:
        """Raises StorageUnavailable; the call stays suspect then."""
        log.warning("agent.lost", call_id=call.claim.call_id)
        await self._replace(call.claim.call_id)
        if self._calls.get(call.claim.call_id) is call:
            self.forget(call.claim.call_id)

    async def _ping(self) -> None:
        """Ask the agents in turns whether they are there, as far as the budget goes."""
        while True:
            await self._clock.sleep(_PING_EVERY / 2)
            before = self._clock.monotonic() - _PING_EVERY
            due = [
                call
                for call in self._calls.values()
                if call.agents
                and not call.pinging
                and call.answers is not False
                and call.pinged_at <= before
            ]
            for call in sorted(due, key=lambda call: call.pinged_at)[:_AT_ONCE]:
                if not self._effects.rooms.polls.spend(can_wait=True):
                    break
                call.pinging = True
                self._spawn(self._ping_one(call))

    async def _ping_one(self, call: _Call) -> None:
        room, identity = call.claim.call_id, call.agents[0]
        rooms = self._effects.rooms
        call.pinged_at = self._clock.monotonic()
        try:
            answer = await rooms.answers(room=room, identity=identity, within=_PING_WITHIN)
            if answer is False and call.answers:
                answer = await rooms.answers(room=room, identity=identity, within=_PING_WITHIN)
                if answer is False:
                    await self._dead(call, identity)
            elif answer is not None:
                call.answers = answer
            elif call.answers:  # it may have left, for whatever reason
                await self._after_loss(call, _GOODBYE)
        finally:
            call.pinging = False

    async def _dead(self, call: _Call, identity: str) -> None:
        """An agent that answered does not any more: its process is gone, its picture stays."""
        log.warning("agent.dead", call_id=call.claim.call_id)
        self._effects.is_dead(identity)
        try:
            await self._effects.rooms.remove_participant(room=call.claim.call_id, identity=identity)
        except EffectError as error:
            self._problems.warn("supervision.failed", error)
            return
        await self._after_loss(call, 0.0)
