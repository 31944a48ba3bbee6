"""The claims as the dispatch consumer uses them, and those of the database."""

from collections.abc import Sequence
from typing import Literal, Protocol

from typing_extensions import override

from router.storage import claims
from router.storage.claims import Claim, ClaimState
from router.storage.engine import Database


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

    async def reopen(self, claim: Claim, *, owner: str, lease: float, attempt: int) -> Claim | None:
        """Take a connected call whose agent was lost, or None: it is not as `claim` says."""

    async def revive(self, claim: Claim) -> Claim | None:
        """A call that was given up has its agent after all, or None: it is not as it says."""

    async def due(self, *, owner: str, lease: float, limit: int) -> Sequence[Claim]:
        """Take over calls whose deadline passed or whose owner's lease ran out."""

    async def get(self, call_id: str) -> Claim | None:
        """The claim of a call."""

    async def connected(self, *, limit: int) -> Sequence[Claim]:
        """Calls whose agent could be heard and whose end is not known, newest first."""

    async def prune(self, older_than: float) -> int:
        """Forget settled calls that nothing happened to for so many seconds; how many."""


class StoredClaims(ClaimStore):
    """`router.storage.claims`, bound to one database."""

    def __init__(self, database: Database) -> None:
        self._db = database

    @override
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
        return await claims.claim(
            self._db,
            call_id,
            owner=owner,
            lease=lease,
            agent=agent,
            livekit_agent_name=livekit_agent_name,
            initiated=initiated,
        )

    @override
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
        return await claims.advance(
            self._db,
            claim,
            state=state,
            lease=lease,
            dispatch_id=dispatch_id,
            attempt=attempt,
            due_in=due_in,
        )

    @override
    async def settle(self, call_id: str, state: Literal["ready", "over"]) -> Claim | None:
        return await claims.settle(self._db, call_id, state)

    @override
    async def reopen(self, claim: Claim, *, owner: str, lease: float, attempt: int) -> Claim | None:
        return await claims.reopen(self._db, claim, owner=owner, lease=lease, attempt=attempt)

    @override
    async def revive(self, claim: Claim) -> Claim | None:
        return await claims.revive(self._db, claim)

    @override
    async def due(self, *, owner: str, lease: float, limit: int) -> Sequence[Claim]:
        return await claims.due(self._db, owner=owner, lease=lease, limit=limit)

    @override
    async def get(self, call_id: str) -> Claim | None:
        return await claims.get(self._db, call_id)

    @override
    async def connected(self, *, limit: int) -> Sequence[Claim]:
        return await claims.connected(self._db, limit=limit)

    @override
    async def prune(self, older_than: float) -> int:
        return await claims.prune(self._db, older_than)
