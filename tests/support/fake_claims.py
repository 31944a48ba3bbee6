"""`consumers.dispatch.store.ClaimStore` in memory, by the rules of `router.storage.claims`.

`tests/unit/test_dispatch_claims.py` holds the two against each other.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from router.clock import Clock
from router.errors import StorageUnavailable
from router.storage.claims import OPEN, Claim, ClaimState

_AFTER: dict[ClaimState, tuple[ClaimState, ...]] = {
    "claimed": ("claimed",),
    "dispatching": ("claimed", "dispatching"),
    "dispatched": OPEN,
    "ready": (*OPEN, "ready"),
    "missing": (*OPEN, "missing"),
    "expired": (*OPEN, "expired"),
}


class FakeClaims:
    """One database for all processes of a test."""

    def __init__(
        self, clock: Clock, *, latency: float = 0.0, seen: Callable[[Claim], None] | None = None
    ) -> None:
        self._clock = clock
        self._latency = latency
        self._seen = seen or (lambda claim: None)  # called with every row that was written
        self.rows: dict[str, Claim] = {}
        self.unavailable = False
        self.lose_answers = False  # write, then say that it failed
        self.questions = 0

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
        await self._work()
        row = self.rows.get(call_id)
        if row is None:
            row = Claim(
                call_id=call_id,
                state="claimed",
                fence=0,
                owner=owner,
                lease_until=0,
                due_at=None,
                attempt=0,
                agent=agent,
                livekit_agent_name=livekit_agent_name,
                dispatch_id="",
                initiated=initiated,
                created_at=self._clock.now(),
                updated_at=0,
            )
        elif not self._abandoned(row):
            return None
        return self._write(row, owner, lease, fence=row.fence + 1)

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
        await self._work()
        row = self.rows.get(claim.call_id)
        if row is None or row.fence != claim.fence:
            return None
        next_attempt = attempt is not None and row.attempt < attempt and row.state in OPEN
        behind = attempt is not None and row.attempt > attempt
        if behind or not (row.state in _AFTER[state] or next_attempt):
            return None
        return self._write(
            row,
            claim.owner,
            lease,
            state=state,
            due_at=None if due_in is None else self._clock.now() + round(due_in * 1e6),
            dispatch_id=row.dispatch_id if dispatch_id is None else dispatch_id,
            attempt=row.attempt if attempt is None else attempt,
        )

    async def settle(self, call_id: str, state: Literal["ready", "over"]) -> Claim | None:
        await self._work()
        row = self.rows.get(call_id)
        if row is None and state == "over":
            row = Claim(
                call_id=call_id,
                state="claimed",
                fence=0,
                owner="",
                lease_until=0,
                due_at=None,
                attempt=0,
                agent="",
                livekit_agent_name="",
                dispatch_id="",
                initiated=b"",
                created_at=self._clock.now(),
                updated_at=0,
            )
        if row is None or row.state == state or (state == "ready" and row.state not in OPEN):
            return None
        lease = (row.lease_until - self._clock.now()) / 1e6
        return self._write(row, row.owner, lease, state=state)

    async def reopen(self, claim: Claim, *, owner: str, lease: float, attempt: int) -> Claim | None:
        await self._work()
        row = self.rows.get(claim.call_id)
        if row is None or row.fence != claim.fence or row.state != "ready":
            return None
        return self._write(
            row, owner, lease, state="dispatching", fence=row.fence + 1, attempt=attempt
        )

    async def revive(self, claim: Claim) -> Claim | None:
        await self._work()
        row = self.rows.get(claim.call_id)
        if row is None or row.fence != claim.fence or row.state != "missing":
            return None
        lease = (row.lease_until - self._clock.now()) / 1e6
        return self._write(row, row.owner, lease, state="ready")

    async def due(self, *, owner: str, lease: float, limit: int, seat: str = "") -> Sequence[Claim]:
        await self._work()
        now = self._clock.now()
        found = [
            row
            for row in self.rows.values()
            if (row.state in OPEN and row.due_at is not None and row.due_at <= now)
            or self._abandoned(row)
            or (seat and row.state in OPEN and row.owner.startswith(seat) and row.owner != owner)
        ]
        return [
            self._write(
                row,
                owner,
                lease,
                fence=row.fence + 1,
                due_at=row.due_at if row.due_at is not None and row.due_at > now else None,
            )
            for row in found[:limit]
        ]

    async def get(self, call_id: str) -> Claim | None:
        await self._work()
        return self.rows.get(call_id)

    async def connected(self, *, limit: int) -> Sequence[Claim]:
        await self._work()
        ready = [row for row in self.rows.values() if row.state == "ready"]
        return sorted(ready, key=lambda row: -row.created_at)[:limit]

    async def states(self, call_ids: Sequence[str]) -> Mapping[str, ClaimState]:
        await self._work()
        return {name: self.rows[name].state for name in call_ids if name in self.rows}

    async def prune(self, older_than: float) -> int:
        await self._work()
        before = self._clock.now() - round(older_than * 1e6)
        old = [r for r in self.rows.values() if r.state not in OPEN and r.updated_at < before]
        for row in old:
            del self.rows[row.call_id]
        return len(old)

    def _abandoned(self, row: Claim) -> bool:
        now = self._clock.now()
        waits = row.state == "dispatched" and row.due_at is not None and row.due_at > now
        return row.state in OPEN and row.lease_until <= now and not waits

    def _write(self, row: Claim, owner: str, lease: float, **changes: object) -> Claim:
        now = self._clock.now()
        holder = {
            "owner": owner,
            "lease_until": now + round(lease * 1e6),
            "due_at": None,
            "updated_at": now,
        }
        new = msgspec.structs.replace(row, **(holder | changes))
        self.rows[row.call_id] = new
        self._seen(new)
        if self.lose_answers:
            raise StorageUnavailable("the connection broke during the commit")
        return new

    async def _work(self) -> None:
        self.questions += 1
        await asyncio.sleep(self._latency)
        if self.unavailable:
            raise StorageUnavailable("the fake database is switched off")
