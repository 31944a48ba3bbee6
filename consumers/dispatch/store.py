"""The claims as the dispatch consumer uses them, and those of the database."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Literal, Protocol

from typing_extensions import override

from router.storage import claims
from router.storage.claims import Claim, ClaimState
from router.storage.engine import Database

_LINGER: Final = 0.02  # seconds that a question waits for company
_PER_QUERY: Final = 2000  # claims


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

    async def due(self, *, owner: str, lease: float, limit: int, seat: str = "") -> Sequence[Claim]:
        """Take over calls whose deadline passed or whose owner's lease ran out.

        With `seat` also those of owners that had this seat before.
        """

    async def get(self, call_id: str) -> Claim | None:
        """The claim of a call."""

    async def states(self, call_ids: Sequence[str]) -> Mapping[str, ClaimState]:
        """The states of those of `call_ids` that were ever claimed, some thousand at once."""

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
    async def due(self, *, owner: str, lease: float, limit: int, seat: str = "") -> Sequence[Claim]:
        return await claims.due(self._db, owner=owner, lease=lease, limit=limit, seat=seat)

    @override
    async def get(self, call_id: str) -> Claim | None:
        return await claims.get(self._db, call_id)

    @override
    async def states(self, call_ids: Sequence[str]) -> Mapping[str, ClaimState]:
        return await claims.states(self._db, call_ids)

    @override
    async def connected(self, *, limit: int) -> Sequence[Claim]:
        return await claims.connected(self._db, limit=limit)

    @override
    async def prune(self, older_than: float) -> int:
        return await claims.prune(self._db, older_than)


class ClaimedCalls:
    """Whether calls were ever claimed: what many ask at once, as in a backlog, is one query."""

    def __init__(self, store: ClaimStore) -> None:
        self._store = store
        self._asked: dict[str, asyncio.Future[bool]] = {}
        self._task: asyncio.Task[None] | None = None

    async def has(self, call_id: str) -> bool:
        """Raises StorageUnavailable."""
        answer = self._asked.get(call_id)
        if answer is None:
            answer = self._asked[call_id] = asyncio.get_running_loop().create_future()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._ask())
        return await asyncio.shield(answer)

    async def _ask(self) -> None:
        await asyncio.sleep(_LINGER)
        while self._asked:
            batch = dict(list(self._asked.items())[:_PER_QUERY])
            for call_id in batch:
                del self._asked[call_id]
            try:
                known = await self._store.states(list(batch))
            except Exception as error:  # noqa: BLE001 - whoever asked gets it
                for answer in batch.values():
                    answer.set_exception(error)
                    answer.exception()  # seen, also where nobody waits for it any more
            else:
                for call_id, answer in batch.items():
                    answer.set_result(call_id in known)
