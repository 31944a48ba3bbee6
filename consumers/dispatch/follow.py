"""Connected calls, looked after until their caller is gone.

LiveKit's webhooks say so, and so does the carrier; but webhooks get lost, and an agent that is left
alone stays in its room for ever and costs. So the rooms of the calls that this process connected,
or found connected when it started, are listed now and then, all in one request. A room is looked
into where the list has another number of people than were seen, or where there is doubt.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from consumers.complaints import Complaints
from consumers.dispatch.effect import Effects
from consumers.dispatch.plan import Presence, is_carried
from router.clock import Clock
from router.errors import EffectError, StorageUnavailable
from router.observability import log as logs
from router.providers.livekit.client import Participant
from router.storage.claims import Claim

log = logs.get(__name__)

_INTERVAL: Final = 10.0  # seconds between two lists
_LOOKS: Final = 50  # after each; LiveKit Cloud allows a project 1,000 requests a minute in all
_AT_ONCE: Final = 16
_UNDECIDED: Final = 30.0  # seconds that a second agent is borne until it is known which one stays
_LIMIT: Final = 20_000  # calls; more than one process can carry


@dataclass(slots=True)
class _Call:
    claim: Claim
    doubtful: bool  # whether a second agent may still turn up
    since: float  # monotonic
    expects_caller: bool  # by a SIP leg; where the provider carries the audio, none comes
    callers: dict[str, Participant] = field(default_factory=dict)  # by sid, all that were seen
    there: int = 0  # callers at the last look
    looked_at: float = float("-inf")  # monotonic

    def is_suspect(self, listed: int | None) -> bool:
        """Whether its room must be looked into, when so many people are listed; None: no room.

        LiveKit's list is some seconds old and leaves agents out. Were they counted, each room would
        be looked into each time: dearer, never wrong.
        """
        return self.doubtful or not self.there or listed != self.there


class Follow:
    """The rooms of connected calls. `close` ends a call whose caller never came."""

    def __init__(
        self,
        effects: Effects,
        complaints: Complaints,
        clock: Clock,
        *,
        patience: float,
        close: Callable[[str], Awaitable[None]],
    ) -> None:
        self._effects = effects
        self._complaints = complaints
        self._clock = clock
        self._patience = patience  # seconds that a caller may take to come
        self._close = close
        self._calls: dict[str, _Call] = {}
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    def __len__(self) -> int:
        """How many calls are looked after."""
        return len(self._calls)

    def add(self, claim: Claim, seen: Presence | None, *, doubtful: bool) -> None:
        """Look after a call from now on."""
        if len(self._calls) >= _LIMIT:
            log.error("follow.full", call_id=claim.call_id, limit=_LIMIT)
            return
        by_sip = not is_carried(claim)
        call = _Call(claim, doubtful, self._clock.monotonic(), by_sip)
        self._calls[claim.call_id] = call
        if seen is not None:
            call.callers = {caller.sid: caller for caller in seen.callers}
            call.there = len(seen.callers)

    def forget(self, call_id: str) -> None:
        """The call is over."""
        self._calls.pop(call_id, None)

    async def run(self) -> None:
        """List the rooms and look into the suspect ones, again and again."""
        while True:
            await self._clock.sleep(_INTERVAL)
            try:
                suspects = await self._suspects()
            except EffectError as error:
                self._complaints.complain("follow.failed", error)
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
        return sorted(suspects, key=lambda call: call.looked_at)[:_LOOKS]

    async def _check(self, call: _Call) -> None:
        async with self._at_once:
            try:
                await self._look(call)
            except (EffectError, StorageUnavailable) as error:
                self._complaints.complain("follow.failed", error)

    async def _look(self, call: _Call) -> None:
        room = call.claim.call_id
        call.looked_at = self._clock.monotonic()
        seen = await self._effects.look(call.claim)
        call.there = len(seen.callers)
        if self._calls.get(room) is not call:
            return
        patient = self._clock.monotonic() - call.since < _UNDECIDED
        if seen.doubled and not await self._effects.part(call.claim, seen, patient=patient):
            call.doubtful = True
        if seen.callers:
            call.callers.update((caller.sid, caller) for caller in seen.callers)
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
