"""What the dispatch consumer does to the world: LiveKit's rooms, the log, an answered caller.

Nothing here retries a call of LiveKit: whether a repetition is right depends on what is known of
the call, and that is `consumers.dispatch.plan`'s to decide.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from random import Random
from typing import Final, Protocol

import msgspec

from consumers.dispatch.job import job_metadata
from consumers.dispatch.plan import (
    Presence,
    dispatch_to_keep,
    own_event,
    presence,
    put_through,
    rounds_before,
    superfluous,
)
from router.backoff import backoff, jitter
from router.clock import Clock
from router.errors import EffectError, LogUnavailable, Permanent
from router.eventlog.base import EventLog
from router.events.codec import encode, stored_event
from router.events.model import Decision, Event
from router.events.types import CALLS_TOPIC, EventType
from router.observability import log as logs
from router.observability.metrics import SENT_ON
from router.provider import Carrier
from router.providers.livekit.client import Dispatch, Participant, PollBudget, Room
from router.providers.livekit.events import participant_event
from router.routing.spec import JOB_LIMIT
from router.storage.claims import Claim

log = logs.get(__name__)

_APPENDS: Final = 4
_REMEMBERED: Final = 1000  # agents that are dead


class AgentRooms(Protocol):
    """LiveKit's rooms and agent dispatches.

    Every method raises `Transient` (not done), `Ambiguous` (perhaps done) or `Permanent` (refused).
    """

    async def create_dispatch(self, *, room: str, agent_name: str, metadata: str) -> str:
        """Start one agent and return the dispatch's id. NOT idempotent: twice is two agents."""

    async def delete_dispatch(self, *, room: str, dispatch_id: str) -> None:
        """Withdraw a dispatch and the agent that it brought; unknown is fine.

        An agent that is on its way comes all the same.
        """

    async def remove_participant(self, *, room: str, identity: str) -> None:
        """Put somebody out of a room; unknown is fine."""

    async def dispatches(self, room: str) -> Sequence[Dispatch]:
        """The room's named dispatches; none when there is no such room."""

    async def rooms(self, names: Sequence[str]) -> Sequence[Room]:
        """The open ones of these rooms."""

    async def participants(self, room: str) -> Sequence[Participant]:
        """Who is in the room; nobody when there is no such room."""

    async def delete_room(self, room: str) -> None:
        """Close the room and put everybody out; unknown is fine."""

    async def answers(self, *, room: str, identity: str, within: float) -> bool | None:
        """Whether an agent's process answers in time, None: not known. Raises nothing."""

    async def transfer(self, *, room: str, identity: str, to: str) -> None:
        """Have a SIP leg connected to `to` (tel: or sip:) by its carrier."""

    @property
    def polls(self) -> PollBudget:
        """What may be asked again and again."""


class Effects:
    """LiveKit, the log and the carriers (by the provider's name), in the terms of a claim."""

    def __init__(
        self,
        rooms: AgentRooms,
        event_log: EventLog,
        carriers: Mapping[str, Carrier],
        clock: Clock,
        random: Random,
    ) -> None:
        self.rooms = rooms
        self._log = event_log
        self._carriers = carriers
        self._clock = clock
        self._random = random
        self._dead: OrderedDict[str, None] = OrderedDict()

    def is_dead(self, identity: str) -> None:
        """An agent's process is gone: whatever LiveKit lists, for some moments yet, is not it."""
        self._dead[identity] = None
        while len(self._dead) > _REMEMBERED:
            self._dead.popitem(last=False)

    async def look(self, claim: Claim) -> Presence:
        """Who of the call is in its room."""
        found = await self.rooms.participants(claim.call_id)
        alive = [who for who in found if who.identity not in self._dead]
        return presence(alive, claim.livekit_agent_name)

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
        """Withdraw every dispatch of the call but one; how many there were.

        The claim's stays, or that of the agent who can be heard where the claim's has none who can.
        An agent was adopted without its dispatch (the claim names none): the first one stays.
        """
        found = [
            each
            for each in await self.rooms.dispatches(claim.call_id)
            if each.agent_name == claim.livekit_agent_name
        ]
        if len(found) <= 1 and claim.dispatch_id in ("", *(each.id for each in found)):
            return 0
        heard = {a.identity for a in (await self.look(claim)).agents if a.publishes_audio}
        keep = dispatch_to_keep(found, claim.dispatch_id, heard)
        return await self._withdraw(claim, [each.id for each in found if each.id not in keep])

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

    async def turn_away(self, claim: Claim, seen: Presence) -> None:
        """Put out the callers whom nobody has answered: their carrier asks at once what is next.

        A person in the room may have answered in the agent's stead; such a call goes on, and whom
        that person is dialling is no caller.
        """
        for caller in seen.waiting:
            if caller.is_ringing:
                await self.hang_up(claim, caller)

    async def hang_up(self, claim: Claim, caller: Participant) -> None:
        """Put a SIP leg out of the room."""
        await self.rooms.remove_participant(room=claim.call_id, identity=caller.identity)

    async def send_on(self, claim: Claim, seen: Presence, *, insist: bool) -> None:
        """Put callers who were answered through to the fallback, or tell them that nobody is there.

        No dial time-out helps them any more. The carrier does it; where it can't, LiveKit asks it
        by SIP; at last they are hung up rather than left in silence.

        Raises:
            Transient, Ambiguous: only if `insist`: the carrier gave no answer, to be done again.
        """
        initiated = stored_event(claim.initiated)
        decision = put_through(initiated)
        answered = [caller for caller in seen.waiting if not caller.is_ringing]
        told = await self._redirect(initiated, decision, insist=insist)
        if not told and not await self._transfer(claim, answered, decision):
            for caller in answered:
                await self.hang_up(claim, caller)
            return
        SENT_ON.labels("fallback" if decision else "apology").inc()
        if decision is not None:
            forwarded = own_event(
                claim,
                initiated,
                EventType.CALL_FORWARDED,
                time=self._clock.now(),
                attempt=rounds_before(claim.attempt),
                reason=decision.reason,
                decision=decision,
            )
            await self.tell(forwarded)

    async def _redirect(self, initiated: Event, decision: Decision | None, *, insist: bool) -> bool:
        """Whether the carrier took the caller."""
        carrier = self._carriers.get(initiated.source)
        if carrier is None or carrier.redirect is None:
            return False
        try:
            await carrier.redirect(initiated, decision.fallback if decision else "")
        except EffectError as error:
            if insist and not isinstance(error, Permanent):
                raise
            log.error("redirect.failed", call_id=initiated.call_id, why=str(error))  # noqa: TRY400
            return False
        return True

    async def _transfer(
        self, claim: Claim, answered: Sequence[Participant], decision: Decision | None
    ) -> bool:
        """Whether LiveKit had the callers connected to the fallback."""
        if decision is None:
            return False
        try:
            for caller in answered:
                to = f"tel:{decision.fallback}"
                await self.rooms.transfer(room=claim.call_id, identity=caller.identity, to=to)
        except EffectError as error:
            log.error("transfer.failed", call_id=claim.call_id, why=str(error))  # noqa: TRY400
            return False
        return True

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
