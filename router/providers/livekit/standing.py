"""What LiveKit says of a call when asked: whether its SIP participant is still in the room."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

from router.provider import CallRef, Carrier, ProviderContext, Standing
from router.providers.livekit.client import Participant, open_livekit
from router.providers.livekit.rooms import phone_call


class Participants(Protocol):
    """Who can say who is in a room: `LiveKitClient`."""

    async def participants(self, room: str) -> Sequence[Participant]:
        """Who is in the room; nobody when there is no such room."""


@asynccontextmanager
async def open_carrier(context: ProviderContext) -> AsyncIterator[Carrier]:
    """LiveKit's API as that of a carrier: it carries the calls of trunk mode."""
    async with open_livekit(context.settings.livekit) as client:
        yield Carrier(standing=partial(standing, client))


async def standing(livekit: Participants, ref: CallRef) -> Standing:
    """Over, when nobody of the call is in its room. LiveKit keeps nothing of a call that is over.

    Raises:
        Transient, Ambiguous, Permanent: LiveKit did not say.
    """
    room = ref.room or ref.call_id
    callers = [who for who in await livekit.participants(room) if who.kind == "SIP"]
    if ref.room:  # an agent may have dialled others in
        callers = [who for who in callers if phone_call(room, who).call_id == ref.call_id]
    return Standing(over=not callers)
