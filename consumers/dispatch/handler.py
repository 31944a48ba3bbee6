"""Events of calls → agents in rooms.

A `call.initiated` only claims its call here; bringing the agent takes seconds and outlives
rebalances, `ActiveCalls` does it. Once the claim is written the event has done its work: should
this process die, the claim is what another one goes on from.
"""

import asyncio
from collections.abc import Mapping
from typing import Final, cast

import msgspec
from typing_extensions import override

from consumers.consumer import Consumer, Done, Outcome, RetryIn
from consumers.dispatch.active import ActiveCalls
from consumers.dispatch.cleanup import RoomCleanup
from consumers.dispatch.commands import Commands
from consumers.dispatch.pending import Context
from consumers.dispatch.plan import (
    OURSELVES,
    Presence,
    Reaction,
    is_carried,
    is_command,
    is_left_by,
    presence,
    reaction,
)
from consumers.dispatch.store import ClaimedCalls
from router.dispatch_health import DATABASE
from router.events.ids import event_id
from router.events.model import Event, EventData
from router.events.types import EventType
from router.observability import log as logs
from router.observability.metrics import DISPATCHES
from router.provider import Carrier
from router.storage.claims import Claim

log = logs.get(__name__)

_SETTLING: Final = 0.1  # seconds; what the carrier is to do next with the caller waits behind this
_NAMING: Final = 1.0  # seconds until LiveKit is asked again which agent is whose
_UNDECIDED: Final = 10.0  # seconds that a second agent is borne until it is known which one stays
_CARRIER_HAS: Final = 10.0  # seconds to take an answered caller whom no agent is left for
_MICROS: Final = 1_000_000


class Dispatcher(Consumer):
    """The dispatch consumer. `carriers`: by the provider's name."""

    def __init__(
        self,
        context: Context,
        active: ActiveCalls,
        rooms: RoomCleanup,
        carriers: Mapping[str, Carrier],
    ) -> None:
        self._context = context
        self._active = active
        self._rooms = rooms
        self._commands = Commands(context, carriers)
        self._claimed = ClaimedCalls(context.claims)

    @override
    def foresee(self, event: Event) -> None:
        """A call that was sent on or ended, later in the log, starts nothing."""
        if not event.call_id:
            return
        if is_left_by(event):
            self._active.foresee_end(event.call_id)
        self._commands.foresee(event)

    @override
    def is_urgent(self, event: Event) -> bool:
        """Whether its caller may be waiting."""
        return not self._is_old(event)

    def _is_old(self, event: Event) -> bool:
        return self._context.age(event) > self._context.settings.ring_window

    @override
    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._active.run())
            tasks.create_task(self._rooms.run())

    @override
    async def handle(self, event: Event) -> Outcome:
        """See `consumers.dispatch.plan.Reaction`. Raises EffectError, StorageUnavailable.

        A carrier that takes commands is told at once what to do with the caller: that waits for
        nothing of ours, least of all for the database. Whatever fails, both are done again.
        """
        if not is_command(event):
            return await self._react(event)
        commanded, outcome = await asyncio.gather(
            self._commands.carry_out(event), self._react(event), return_exceptions=True
        )
        for each in (commanded, outcome):
            if isinstance(each, BaseException):
                raise each
        return cast("Outcome", outcome)

    async def _react(self, event: Event) -> Outcome:
        asked = reaction(event)
        if asked is not Reaction.NONE and self._is_old(event):
            # Of a backlog, mostly: nothing was begun for such a call, and nothing is.
            if not await self._claimed.has(event.call_id):
                if asked is Reaction.START:
                    await self._expire(event)
                return Done()
            if asked is Reaction.START:
                return Done()  # whoever claimed it goes on, or `ClaimStore.due` hands it out
        return await self._act(event, asked)

    async def _act(self, event: Event, asked: Reaction) -> Outcome:
        match asked:
            case Reaction.START:
                await self._start(event)
            case Reaction.HEAR | Reaction.CHECK_LATE:
                self._active.hears_of(event)
                return await self._check_late(event)
            case Reaction.CHECK_LOST:
                self._active.hears_of(event)
                await self._active.somebody_left(event)
            case Reaction.WITHDRAW:
                return await self._give_up(event)
            case Reaction.TURN_AWAY:
                await self._turn_away(event.call_id)
            case Reaction.CLOSE:
                await self._active.close(event.call_id)
            case Reaction.CHECK_EMPTY:
                await self._if_empty(event.call_id)
            case Reaction.NONE:
                await self._rooms.after(event)
        return Done()

    async def _expire(self, event: Event) -> None:
        """Say that a call was read too late. It costs one record of the log."""
        told = Event(
            id=event_id(OURSELVES, event.call_id, EventType.CALL_EXPIRED.value, "0"),
            type=EventType.CALL_EXPIRED,
            source=OURSELVES,
            time=self._context.clock.now(),
            key=event.key,
            data=EventData(
                call_id=event.call_id,
                provider_call_id=event.data.provider_call_id,
                provider_account=event.data.provider_account,
                account_id=event.data.account_id,
                connection_id=event.data.connection_id,
                reason="read after the ring window; nothing was started",
            ),
        )
        await self._context.effects.tell(told)
        DISPATCHES.labels("expired").inc()

    async def _start(self, event: Event) -> None:
        if self._active.is_left(event.call_id):
            DISPATCHES.labels("gone").inc()
            return
        await self._active.reserve()
        begun = False
        try:
            claim, fresh = await self._claim(event)
            if claim is not None:
                self._active.begin(claim, fresh=fresh)
                begun = True
        finally:
            if not begun:
                self._active.free()

    async def _claim(self, event: Event) -> tuple[Claim | None, bool]:
        """The claim, if the call is ours to serve, and whether nobody tried before."""
        decision = event.data.decision
        if decision is None:
            return None, False
        kept = msgspec.structs.replace(event.data, raw={}, timing={})
        with self._context.trying(DATABASE):
            claim = await self._context.claims.claim(
                event.call_id,
                owner=self._active.owner,
                lease=self._context.settings.lease,
                agent=decision.agent,
                livekit_agent_name=decision.livekit_agent_name,
                initiated=msgspec.json.encode(msgspec.structs.replace(event, data=kept)),
            )
        if claim is not None:
            return claim, claim.fence == 1
        # Ours after all when the database broke after it had written what we asked for.
        held = await self._context.claims.get(event.call_id)
        if held is None or held.final or held.owner != self._active.owner:
            return None, False
        return (None if self._active.waits(event.call_id) else held), False

    async def _check_late(self, event: Event) -> Outcome:
        """An agent that came for a call that is settled: the call keeps one, at most.

        The last guard against a dispatch that LiveKit carried out long after it gave no answer, and
        against an agent that was withdrawn while it was on its way.
        """
        if self._active.waits(event.call_id):
            return Done()
        claim = await self._context.claims.get(event.call_id)
        if claim is None or not claim.final:
            return Done()
        if claim.state == "ready" and event.type is EventType.AGENT_READY:
            return Done()  # whoever joined was looked at then
        effects = self._context.effects
        if claim.state == "over":
            await effects.rooms.delete_room(event.call_id)
            return Done()
        seen = await effects.look(claim)
        patient = self._context.clock.now() - event.time < _UNDECIDED * _MICROS
        if claim.state != "ready":
            if seen.ready and seen.waiting:
                await self._revive(claim, seen)
                return Done()
            if seen.waiting and seen.agents and patient:
                return RetryIn(_NAMING, "the agent came late, and the caller may hear it yet")
            await effects.withdraw(claim)
            seen = await effects.look(claim)
        if seen.doubled and not await effects.part(claim, seen, patient=patient) and patient:
            return RetryIn(_NAMING, "it is not known yet which agent stays")
        return Done()

    async def _revive(self, claim: Claim, seen: Presence) -> None:
        """The agent of a call that was given up can be heard: the call goes on with it."""
        revived = await self._context.claims.revive(claim)
        if revived is not None:
            log.info("agent.kept", call_id=claim.call_id, attempt=claim.attempt)
            self._active.supervise(revived, seen, doubtful=True)
            await self._context.effects.tell_presence(claim.call_id, seen)

    async def _give_up(self, event: Event) -> Outcome:
        """No agent came: whoever waits is sent on, and what may still bring one is withdrawn."""
        claim = await self._context.claims.get(event.call_id)
        if claim is not None and not claim.final:
            return RetryIn(_SETTLING, "the call was not settled in time")  # it is about to be
        if claim is None or claim.state != "missing":
            return Done()
        effects = self._context.effects
        seen = await effects.look(claim)
        if seen.ready:
            await self._revive(claim, seen)
            return Done()
        await effects.turn_away(claim, seen)  # first: the caller waits for it
        if seen.silent:
            waited = (self._context.clock.now() - event.time) / _MICROS
            await effects.send_on(claim, seen, insist=waited <= _CARRIER_HAS)
        await effects.withdraw(claim)
        self._active.is_over(claim.call_id)
        return Done()

    async def _turn_away(self, call_id: str) -> None:
        """A caller who comes when the agent is given up already rings for nobody, either."""
        claim = await self._context.claims.get(call_id)
        if claim is None or claim.state != "missing":
            return
        seen = await self._context.effects.look(claim)
        if seen.ready:
            await self._revive(claim, seen)
        else:
            await self._context.effects.turn_away(claim, seen)

    async def _if_empty(self, call_id: str) -> None:
        """Close the room unless a SIP leg is in it: agents dial out too, for transfers.

        Where the provider carries the audio no SIP leg is the caller's, so its end says nothing.
        """
        if self._active.has_closed(call_id):
            return
        claim = await self._context.claims.get(call_id)
        if claim is not None and is_carried(claim):
            return
        found = await self._context.effects.rooms.participants(call_id)
        if not presence(found, "").callers:
            await self._active.close(call_id)
