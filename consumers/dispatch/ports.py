"""What the dispatch consumer needs of the world, as narrow as it needs it.

`router.providers.livekit.client.LiveKitClient` is the real `AgentRooms`,
`consumers.dispatch.store.StoredClaims` the real `ClaimStore`.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

from router.providers.livekit.client import Dispatch, Participant, Room
from router.storage.claims import Claim, ClaimState


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


class ClaimStore(Protocol):
    """The claims, as `router.storage.claims` tells them. Methods raise `StorageUnavailable`."""

    async def claim(
        self,
        call_id: str,
        *,
        owner: str,
        lease: float,
        agent: str,
        livekit_agent_name: str,
        initiated: bytes,
    ) -> Claim | None:
        """Take a call, or None: somebody else holds it, or it is settled."""

    async def advance(
        self,
        claim: Claim,
        *,
        state: ClaimState,
        lease: float,
        dispatch_id: str | None = None,
        attempt: int | None = None,
        due_in: float | None = None,
    ) -> Claim | None:
        """Move a claim on, or None: it belongs to a successor, or is past that state."""

    async def settle(self, call_id: str, state: Literal["ready", "over"]) -> Claim | None:
        """What an event says about a call, whoever holds it."""

    async def due(self, *, owner: str, lease: float, limit: int) -> Sequence[Claim]:
        """Take over calls whose deadline passed or whose owner's lease ran out."""

    async def get(self, call_id: str) -> Claim | None:
        """The claim of a call."""

    async def connected(self, *, limit: int) -> Sequence[Claim]:
        """Calls whose agent could be heard and whose end is not known, newest first."""

    async def prune(self, older_than: float) -> int:
        """Forget settled calls that nothing happened to for so many seconds; how many."""
