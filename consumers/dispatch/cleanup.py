"""All open rooms of the LiveKit project, held against our claims.

What closes a call's room may get lost: LiveKit drops a webhook that nobody took for 30 s, a process
dies between two steps. An agent that is left behind stays for ever and costs. So one process at a
time lists the rooms every 30 s (one request, whatever their number) and closes those of calls that
are settled without a conversation, or over, once no phone is in them.

A room is ours when its name is the call_id of one of our claims. All others are left alone: the
project may serve other deployments and people in browsers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from random import Random
from typing import Final, Protocol

from consumers.throttled_log import ThrottledLog
from router.backoff import jitter
from router.clock import Clock
from router.errors import EffectError, StorageUnavailable
from router.events.model import Event
from router.events.types import EventType
from router.observability import log as logs
from router.providers.livekit.client import Participant, PollBudget, Room
from router.providers.livekit.events import is_call
from router.providers.livekit.rooms import seen
from router.storage.claims import ClaimState

log = logs.get(__name__)

LEASE: Final = "rooms"
"""The name of the lead in `router.storage.leader`."""

_INTERVAL: Final = 30.0  # seconds between two lists
_GRACE: Final = 30_000_000  # µs; a room this young may still get its caller
_ENDED: Final[frozenset[ClaimState]] = frozenset(("over", "expired", "missing"))
_PER_QUERY: Final = 2000  # claims
_PER_LIST: Final = 100  # rooms, as far as the budget of polls goes
_AT_ONCE: Final = 8  # rooms being closed
_CAME: Final = ("participant_joined", "track_published")  # LiveKit's words

Lead = Callable[[], AbstractAsyncContextManager[bool]]
States = Callable[[Sequence[str]], Awaitable[Mapping[str, ClaimState]]]
Tell = Callable[[Event], Awaitable[None]]


class OpenRooms(Protocol):
    """What is needed of LiveKit: `LiveKitClient`. Every method may raise an EffectError."""

    async def rooms(self) -> Sequence[Room]:
        """All open rooms of the project."""

    async def participants(self, room: str) -> Sequence[Participant]:
        """Who is in the room; nobody when there is no such room."""

    async def delete_room(self, room: str) -> None:
        """Close the room and put everybody out; unknown is fine."""

    @property
    def polls(self) -> PollBudget:
        """What may be asked again and again."""


class RoomCleanup:
    """Closes what is left over (`run`), says whose agent is in a room of trunk mode (`after`)."""

    def __init__(
        self,
        livekit: OpenRooms,
        clock: Clock,
        random: Random,
        *,
        lead: Lead,
        states: States,
        tell: Tell,
    ) -> None:
        """`lead`: whether this process does it; `states`: of calls; `tell`: puts it on the log."""
        self._livekit = livekit
        self._clock = clock
        self._random = random
        self._lead = lead
        self._states = states
        self._tell = tell
        self._problems = ThrottledLog(clock)
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def run(self) -> None:
        """Tidy up until cancelled, in the one process that leads; outages are waited out."""
        while True:
            await self._pause()
            try:
                async with self._lead() as leads:
                    while leads:
                        await self._tidy()
                        await self._pause()
            except StorageUnavailable as error:
                self._problems.warn("rooms.waiting", error)

    async def after(self, event: Event) -> None:
        """Look into the room of trunk mode that an agent came to; other events are not for us.

        Raises:
            Transient, Ambiguous, Permanent: LiveKit did not say; to be done again.
        """
        data = event.data
        is_agents = event.type is EventType.PROVIDER_UNKNOWN and data.room and data.leg_id
        if is_agents and data.raw.get("event") in _CAME:
            await self.look(data.room)

    async def look(self, room: str) -> None:
        """Tell what the participants of a trunk-mode room say of its calls. Raises as `after`."""
        for event in seen(room, await self._livekit.participants(room), now=self._clock.now()):
            await self._tell(event)

    async def _pause(self) -> None:
        await self._clock.sleep(jitter(_INTERVAL, self._random))

    async def _tidy(self) -> None:
        try:
            found = await self._livekit.rooms()
            old = self._clock.now() - _GRACE
            names = [room.name for room in found if is_call(room.name) and room.created_at < old]
            ended: list[str] = []
            for start in range(0, len(names), _PER_QUERY):
                states = await self._states(names[start : start + _PER_QUERY])
                ended += [name for name, state in states.items() if state in _ENDED]
            # Any of them: those that a phone keeps open must not keep the others waiting.
            chosen = self._random.sample(ended, min(len(ended), _PER_LIST))
            affordable = [name for name in chosen if self._livekit.polls.spend()]
            await asyncio.gather(*map(self._close_if_left, affordable))
        except (EffectError, StorageUnavailable) as error:
            self._problems.warn("rooms.failed", error)

    async def _close_if_left(self, call_id: str) -> None:
        async with self._at_once:
            try:
                present = await self._livekit.participants(call_id)
                if any(who.kind == "SIP" for who in present):
                    return  # agents dial out too, for transfers
                await self._livekit.delete_room(call_id)
            except EffectError as error:
                self._problems.warn("rooms.failed", error)
            else:
                log.warning("room.closed", call_id=call_id, present=len(present))
