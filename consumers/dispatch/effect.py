"""What the dispatch consumer does to the world: LiveKit's rooms, and the log.

Nothing here retries a call of LiveKit: whether a repetition is right depends on what is known of
the call, and that is `consumers.dispatch.plan`'s to decide.
"""

from collections.abc import Collection, Iterable, Sequence
from random import Random
from typing import Final

import msgspec

from consumers.backoff import backoff, jitter
from consumers.dispatch.plan import Presence, job_metadata, presence, superfluous
from consumers.dispatch.ports import AgentRooms
from router.clock import Clock
from router.errors import LogUnavailable, Permanent
from router.eventlog.base import EventLog
from router.events.codec import encode
from router.events.model import Event
from router.events.types import CALLS_TOPIC, EventType
from router.observability import log as logs
from router.providers.livekit.client import Participant
from router.providers.livekit.events import participant_event
from router.providers.livekit.rooms import is_dialled, is_ringing
from router.routing.spec import JOB_LIMIT
from router.storage.claims import Claim

log = logs.get(__name__)

_APPENDS: Final = 4


class Effects:
    """LiveKit and the log, in the terms of a call's claim."""

    def __init__(
        self, rooms: AgentRooms, event_log: EventLog, clock: Clock, random: Random
    ) -> None:
        self.rooms = rooms
        self._log = event_log
        self._clock = clock
        self._random = random

    async def look(self, claim: Claim) -> Presence:
        """Who of the call is in its room."""
        found = await self.rooms.participants(claim.call_id)
        return presence(found, claim.livekit_agent_name)

    async def create(self, claim: Claim, initiated: Event, attempt: int) -> str:
        """Dispatch the agent into the call's room; the dispatch's id.

        Raises:
            Permanent: also when the metadata is too large; a mapping file with such is refused.
        """
        metadata = msgspec.json.encode(job_metadata(claim, initiated, attempt))
        if len(metadata) > JOB_LIMIT:
            raise Permanent(
                f"metadata of {len(metadata)} bytes is more than a job takes ({JOB_LIMIT}): make "
                "the agent's smaller"
            )
        return await self.rooms.create_dispatch(
            room=claim.call_id, agent_name=claim.livekit_agent_name, metadata=metadata.decode()
        )

    async def find(self, claim: Claim) -> str | None:
        """The dispatch that an attempt of unknown outcome made, "" for an agent without one.

        The dispatch of the attempt before, if the claim names one, is withdrawn on the way.
        """
        if claim.dispatch_id:
            await self.rooms.delete_dispatch(room=claim.call_id, dispatch_id=claim.dispatch_id)
        for dispatch_id in await self._dispatches(claim):
            if dispatch_id != claim.dispatch_id:
                return dispatch_id
        if claim.dispatch_id:
            return None  # an agent still in the room is the withdrawn one, on its way out
        agents = (await self.look(claim)).agents
        return "" if any(agent.agent_name for agent in agents) else None

    async def tidy(self, claim: Claim) -> int:
        """Withdraw every dispatch of the call but the claim's; how many there were.

        An agent was adopted without its dispatch (the claim names none): the first one stays.
        """
        found = await self._dispatches(claim)
        keep = claim.dispatch_id or next(iter(found), "")
        return await self._withdraw(claim, [each for each in found if each != keep])

    async def part(self, claim: Claim, seen: Presence, *, patient: bool) -> bool:
        """Leave one of several agents; False: it is not known yet which one.

        First their dispatches are withdrawn; who has none any more is put out. Not `patient`: the
        recorded dispatch's agent is waited for no longer.
        """
        if await self.tidy(claim):
            return True  # on their way out
        gone = superfluous(seen.agents, await self._own(claim))
        if gone is None and not patient:
            gone = superfluous(seen.agents, ())
        for agent in gone or ():
            log.warning("agent.put_out", call_id=claim.call_id)
            await self.rooms.remove_participant(room=claim.call_id, identity=agent.identity)
        return gone is not None

    async def _own(self, claim: Claim) -> Collection[str] | None:
        """Identities of the agents of the claim's dispatch, None while LiveKit names none."""
        for each in await self.rooms.dispatches(claim.call_id):
            if each.id == claim.dispatch_id:
                return each.agents or None
        return ()

    async def turn_away(self, claim: Claim) -> None:
        """Put out the callers whom nobody has answered: their carrier asks at once what is next.

        A person in the room may have answered in the agent's stead; such a call goes on, and whom
        that person is dialling is no caller.
        """
        for caller in (await self.look(claim)).callers:
            if is_ringing(caller) and not is_dialled(caller):
                await self.rooms.remove_participant(room=claim.call_id, identity=caller.identity)

    async def withdraw(self, claim: Claim) -> None:
        """Withdraw every dispatch of the call."""
        await self._withdraw(claim, await self._dispatches(claim))

    async def _withdraw(self, claim: Claim, dispatch_ids: Sequence[str]) -> int:
        for dispatch_id in dispatch_ids:
            await self.rooms.delete_dispatch(room=claim.call_id, dispatch_id=dispatch_id)
        return len(dispatch_ids)

    async def _dispatches(self, claim: Claim) -> list[str]:
        found = await self.rooms.dispatches(claim.call_id)
        return [each.id for each in found if each.agent_name == claim.livekit_agent_name]

    async def tell_presence(self, room: str, seen: Presence) -> None:
        """Append what was seen in the room, as LiveKit's webhooks would have said it."""
        for agent in seen.agents:
            await self._tell_participant(EventType.AGENT_JOINED, room, agent)
            if agent.publishes_audio:
                await self._tell_participant(EventType.AGENT_READY, room, agent)
        for caller in seen.callers:
            await self._tell_participant(EventType.SIP_JOINED, room, caller)

    async def tell_left(self, room: str, callers: Iterable[Participant]) -> bool:
        """Append that these SIP legs are gone; whether that makes somebody look at the room.

        It does not where the log has heard of the caller before, nor for a leg that was dialled.
        """
        news = False
        for caller in callers:
            left = participant_event(EventType.SIP_LEFT, room, caller, time=self._clock.now())
            news |= await self._append(left) and left.type is EventType.SIP_LEFT
        return news

    async def _tell_participant(self, kind: EventType, room: str, who: Participant) -> None:
        await self.tell(participant_event(kind, room, who, time=self._clock.now()))

    async def tell(self, event: Event) -> None:
        """Append an event; when the log can't take it after some tries, the call matters more."""
        await self._append(event)

    async def _append(self, event: Event) -> bool:
        """Whether the log has taken it and did not have it before."""
        headers, value = encode(event)
        for attempt in range(1, _APPENDS + 1):
            try:
                appended = await self._log.append(CALLS_TOPIC, event.key, value, headers)
            except LogUnavailable:
                await self._clock.sleep(jitter(backoff(attempt), self._random))
            else:
                return appended.existing is None
        log.error("event.untold", event_type=event.type.value, call_id=event.key)
        return False
