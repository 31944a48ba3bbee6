"""Connected calls, looked after until their caller is gone.

LiveKit's webhooks say so, and so does the carrier; but webhooks get lost, and an agent that is left
alone stays in its room for ever and costs. So the room of every call that this process connected,
or found connected when it started, is asked about now and then.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from consumers.dispatch.effect import Complaints, Effects
from consumers.dispatch.plan import Presence
from router.clock import Clock
from router.errors import EffectError, StorageUnavailable
from router.events.model import Event
from router.observability import log as logs
from router.providers.livekit.client import Participant
from router.storage.claims import Claim

log = logs.get(__name__)

_INTERVAL: Final = 10.0  # seconds between two looks at a room, more with many rooms:
_PER_SECOND: Final = 5.0  # looks; LiveKit Cloud allows a project 1,000 requests a minute in all
_AT_ONCE: Final = 16
_LIMIT: Final = 20_000  # calls; more than one process can carry


@dataclass(slots=True)
class _Call:
    claim: Claim
    doubtful: bool  # whether a second agent may still turn up
    since: float  # monotonic
    expects_caller: bool  # by a SIP leg; where the provider carries the audio, none comes
    callers: dict[str, Participant] = field(default_factory=dict)  # by sid, all that were seen


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

    def add(self, claim: Claim, seen: Presence | None, *, doubtful: bool) -> None:
        """Look after a call from now on."""
        if len(self._calls) >= _LIMIT:
            log.error("follow.full", call_id=claim.call_id, limit=_LIMIT)
            return
        initiated = msgspec.json.decode(claim.initiated, type=Event)
        by_sip = initiated.data.media == "sip"
        call = _Call(claim, doubtful, self._clock.monotonic(), by_sip)
        self._calls[claim.call_id] = call
        if seen is not None:
            call.callers = {caller.sid: caller for caller in seen.callers}

    def forget(self, call_id: str) -> None:
        """The call is over."""
        self._calls.pop(call_id, None)

    async def run(self) -> None:
        """Ask about every room, again and again."""
        while True:
            await self._clock.sleep(max(_INTERVAL, len(self._calls) / _PER_SECOND))
            await asyncio.gather(*(self._check(call) for call in list(self._calls.values())))

    async def _check(self, call: _Call) -> None:
        async with self._at_once:
            try:
                await self._look(call)
            except (EffectError, StorageUnavailable) as error:
                self._complaints.complain("follow.failed", error)

    async def _look(self, call: _Call) -> None:
        room = call.claim.call_id
        seen = await self._effects.look(call.claim)
        if self._calls.get(room) is not call:
            return
        if seen.doubled and call.doubtful:
            await self._effects.tidy(call.claim)
        if seen.callers:
            call.callers.update((caller.sid, caller) for caller in seen.callers)
        elif call.callers:
            await self._effects.tell_left(room, call.callers.values())
            self.forget(room)
        elif not seen.agents:
            await self._close(room)  # nobody was seen, nobody is: the room is gone
        elif call.expects_caller and self._clock.monotonic() - call.since > self._patience:
            log.warning("caller.missing", call_id=room)
            await self._close(room)
