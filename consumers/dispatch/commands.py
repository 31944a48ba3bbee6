"""What a carrier is told that holds its caller until a command comes (Telnyx Call Control).

An event that is read late says nothing about such a caller: they wait, without end. So the carrier
is asked whether the call lives, and a caller who was left there goes to the fallback number, or is
refused. For an agent it is too late: how long they will still wait, nobody knows.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import msgspec

from consumers.dispatch.pending import Context
from consumers.dispatch.plan import OURSELVES, too_late
from router.errors import Permanent, StorageUnavailable
from router.events.ids import event_id
from router.events.model import Event
from router.events.types import EventType
from router.observability import log as logs
from router.provider import CallRef, Carrier

log = logs.get(__name__)

_REMEMBERED: Final = 20_000  # calls


class Commands:
    """`carriers`: by the provider's name."""

    def __init__(self, context: Context, carriers: Mapping[str, Carrier]) -> None:
        self._context = context
        self._carriers = carriers
        self._newest: OrderedDict[str, int] = OrderedDict()  # call_id → time of its carrier's last
        self._given: OrderedDict[str, int] = OrderedDict()  # ids of events whose command was taken

    def foresee(self, event: Event) -> None:
        """An event was read, whenever its turn comes."""
        if event.source != OURSELVES:
            before = self._newest.get(event.call_id, 0)
            _remember(self._newest, event.call_id, max(before, event.time))

    async def carry_out(self, event: Event) -> None:
        """Tell the carrier what to do with the caller; of a late event only one who still waits.

        Raises:
            EffectError: of the carrier, or of LiveKit where it must be asked. To be done again,
                unless it is Permanent.
        """
        carrier = self._carriers.get(event.source)
        if carrier is None or carrier.carry_out is None:
            raise Permanent(f"{event.source} can't be commanded: see providers.{event.source}")
        if event.id in self._given:
            return  # what else the event asks for failed, and is done again
        age = self._context.age(event)
        if age <= self._context.settings.ring_window:
            await carrier.carry_out(event)
        elif await self._is_held(event, carrier):
            late = too_late(event, age)
            log.warning("command.late", call_id=event.call_id, seconds=round(age))
            await carrier.carry_out(late)
            if late is not event:
                await self._tell(late)
        _remember(self._given, event.id, event.time)

    async def _is_held(self, event: Event, carrier: Carrier) -> bool:
        """Whether the caller of a late event is still where it left them.

        The command may have been given by a process that did not come to commit the event.
        """
        data = event.data
        if self._newest.get(event.call_id, 0) > event.time:
            return False  # it went on from there; what that asks for is told in its turn
        if carrier.standing is not None:
            standing = await carrier.standing(
                CallRef(
                    event.call_id,
                    data.provider_call_id,
                    data.provider_account,
                    data.control_id,
                    connection_id=data.connection_id,
                )
            )
            if standing is None or standing.over:
                return False
        return event.type is not EventType.CALL_INITIATED or await self._is_nobodys(event.call_id)

    async def _is_nobodys(self, call_id: str) -> bool:
        """Whether no agent was found for the call, nor is its caller in the room."""
        try:
            claim = await self._context.claims.get(call_id)
        except StorageUnavailable:
            pass  # who waited for so long must not wait for the database as well
        else:
            if claim is None:
                return True
            if claim.state in ("ready", "missing", "over"):
                return False
        found = await self._context.effects.rooms.participants(call_id)
        return not any(who.kind == "SIP" for who in found)

    async def _tell(self, late: Event) -> None:
        """Put on the log where the caller was sent."""
        decision = late.data.decision
        if decision is None or decision.action != "forward":
            return
        told = Event(
            id=event_id(OURSELVES, late.call_id, EventType.CALL_FORWARDED.value, "late"),
            type=EventType.CALL_FORWARDED,
            source=OURSELVES,
            time=self._context.clock.now(),
            key=late.key,
            data=msgspec.structs.replace(
                late.data, raw={}, timing={}, stage="", control_id="", reason=decision.reason
            ),
        )
        await self._context.effects.tell(told)


def _remember(known: OrderedDict[str, int], key: str, value: int) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > _REMEMBERED:
        known.popitem(last=False)
