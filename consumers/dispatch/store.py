"""`ClaimStore` on the database."""

from collections.abc import Sequence
from typing import Literal

from typing_extensions import override

from consumers.dispatch.ports import ClaimStore
from router.storage import claims
from router.storage.claims import Claim, ClaimState
from router.storage.engine import Database


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
