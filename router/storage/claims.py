"""Claims: one row per call, the fence that makes one call start one agent.

    claimed ──▶ dispatching ──▶ dispatched ──▶ ready
                     ▲               │
                     └─ next attempt ┘   any of the three ──▶ missing | expired
    ready ──▶ dispatching: the agent was lost (`reopen`) · missing ──▶ ready: it came (`revive`)
    anything ──▶ over

Whoever wants to dispatch claims the call first. The claim lasts for a lease; each change of owner
raises the `fence`, and a write with an older fence is refused, so a process that slept through its
lease learns that it has lost the call. It learns it only when it writes: an effect between two
writes must be such that a second one does no harm (the same room, the same dispatch looked for).

`dispatching` is the intent, written before the effect. Who takes over a claim in that state must
ask LiveKit what became of it, not dispatch blindly.

`due_at` is the deadline for the agent: until then a dispatched call needs nobody, after it
`due` hands the call to one process. Leases and deadlines are the database's clock alone.

Every function may raise StorageUnavailable; then it may have happened or not, and may be repeated:
a claim that was made unseen comes back by `due` when its lease has run out.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import (
    BigInteger,
    Executable,
    Integer,
    RowMapping,
    Text,
    and_,
    bindparam,
    case,
    delete,
    func,
    or_,
    select,
    update,
)

from router.storage.engine import Database
from router.storage.schema import claims
from router.storage.sql import insert, micros, now_micros

ClaimState = Literal["claimed", "dispatching", "dispatched", "ready", "missing", "expired", "over"]

OPEN: Final[tuple[ClaimState, ...]] = ("claimed", "dispatching", "dispatched")
"""States in which the call still waits for its agent; the others are final."""

# What a state may follow within one attempt. A new attempt may start from every open state.
_AFTER: Final[Mapping[ClaimState, tuple[ClaimState, ...]]] = {
    "claimed": ("claimed",),
    "dispatching": ("claimed", "dispatching"),
    "dispatched": OPEN,
    "ready": (*OPEN, "ready"),
    "missing": (*OPEN, "missing"),
    "expired": (*OPEN, "expired"),
    "over": (*OPEN, "ready", "missing", "expired", "over"),
}
_PRUNED_AT_ONCE: Final = 1000

_OF_CALL: Final = bindparam("of_call", type_=Text)
_LEASE_FOR: Final = bindparam("lease_for", type_=BigInteger)  # µs

_OPEN: Final = claims.c.state.in_(OPEN)

# The lease ran out and there is something to be done: a dispatched call waits for its deadline.
_ABANDONED: Final = and_(
    _OPEN,
    claims.c.lease_until <= now_micros(),
    or_(
        claims.c.state != "dispatched",
        claims.c.due_at.is_(None),
        claims.c.due_at <= now_micros(),
    ),
)

# What `settle` leaves for a call that nobody claimed, beside state and times.
_UNCLAIMED: Final = {
    "fence": 0,
    "owner": "",
    "lease_until": 0,
    "attempt": 0,
    "agent": "",
    "livekit_agent_name": "",
    "dispatch_id": "",
    "initiated": b"",
    "created_at": now_micros(),
}


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A call's claim as it was when it was read. Times are µs since the epoch."""

    call_id: str
    state: ClaimState
    fence: int  # grows with every change of owner
    owner: str  # the process that holds it
    lease_until: int
    due_at: int | None  # deadline for the agent; None: none set, or it passed and was handed out
    attempt: int  # dispatches begun, 0 before the first
    agent: str  # our name
    livekit_agent_name: str
    dispatch_id: str  # LiveKit's, empty before
    initiated: bytes  # the call.initiated event, so that a successor can go on without the log
    created_at: int
    updated_at: int

    @property
    def final(self) -> bool:
        """Whether nothing more is to be dispatched."""
        return self.state not in OPEN


async def claim(
    db: Database,
    call_id: str,
    *,
    owner: str,
    lease: float,
    agent: str,
    livekit_agent_name: str,
    initiated: bytes,
) -> Claim | None:
    """Take a call for `lease` seconds: a new one, or one whose owner's lease ran out.

    A claim that was taken over keeps its state, attempt and dispatch: look at them. None when
    somebody holds the call, when it waits for a deadline that is ahead, or when it is final.
    """
    values = {
        "call_id": call_id,
        "owner": owner,
        "lease_for": micros(lease),
        "agent": agent,
        "livekit_agent_name": livekit_agent_name,
        "initiated": initiated,
    }
    return await _write(db, _claiming(db.dialect), values)


async def advance(
    db: Database,
    claim: Claim,
    *,
    state: ClaimState,
    lease: float,
    dispatch_id: str | None = None,
    attempt: int | None = None,
    due_in: float | None = None,
) -> Claim | None:
    """Move the claim on and renew its lease; `dispatch_id` and `attempt` None stay as they are.

    `due_in` seconds from now somebody must look again; None: no deadline. None is returned when
    the claim belongs to a successor, or the call is past `state` already.
    """
    values = {
        "of_call": claim.call_id,
        "of_fence": claim.fence,
        "lease_for": micros(lease),
        "due_in": None if due_in is None else micros(due_in),
        "new_dispatch": dispatch_id,
        "new_attempt": attempt,
    }
    return await _write(db, _advancing(state), values)


async def settle(db: Database, call_id: str, state: Literal["ready", "over"]) -> Claim | None:
    """What an event says about a call, whoever holds it; None when that changed nothing.

    `over` for a call that was never claimed leaves a row behind, so that its `call.initiated`,
    should it come late, starts nothing.
    """
    statement = _settling_ready() if state == "ready" else _settling_over(db.dialect)
    return await _write(db, statement, {"of_call": call_id})


async def reopen(
    db: Database, claim: Claim, *, owner: str, lease: float, attempt: int
) -> Claim | None:
    """Take a connected call whose agent was lost, to bring another one by dispatch `attempt`.

    None when it is not as `claim` says any more: somebody else has it, or it is over.
    """
    again = {
        "state": "dispatching",
        "fence": claims.c.fence + 1,
        "owner": owner,
        "lease_until": now_micros() + micros(lease),
        "due_at": None,
        "attempt": attempt,
    }
    return await _change(db, claim, "ready", again)


async def revive(db: Database, claim: Claim) -> Claim | None:
    """The agent of a call that was given up can be heard after all; None as `reopen`."""
    return await _change(db, claim, "missing", {"state": "ready", "due_at": None})


async def _change(
    db: Database, claim: Claim, from_: ClaimState, values: Mapping[str, Any]
) -> Claim | None:
    as_read = and_(
        claims.c.call_id == claim.call_id,
        claims.c.fence == claim.fence,
        claims.c.state == from_,
    )
    statement = update(claims).where(as_read).values(**values, updated_at=now_micros())
    return await _write(db, statement.returning(claims), {})


async def due(db: Database, *, owner: str, lease: float, limit: int, seat: str = "") -> list[Claim]:
    """Take up to `limit` calls whose deadline passed or whose owner's lease ran out.

    A `due_at` that has passed is empty now: `lease` is how long nobody else gets them. One that is
    still ahead stays: till then an agent that was asked for may come. With `seat`, also the
    calls of other owners whose name begins with it: only one process at a time has a seat, so
    those are dead (`router.eventlog.slots`).
    """
    theirs = _OPEN & claims.c.owner.startswith(seat, autoescape=True) & (claims.c.owner != owner)
    taken_by = (theirs,) if seat else ()
    # A CTE runs once; as a plain subquery PostgreSQL may run it per row and take too many.
    taken = (
        select(claims.c.call_id)
        .where(or_(_OPEN & (claims.c.due_at <= now_micros()), _ABANDONED, *taken_by))
        .order_by(func.coalesce(claims.c.due_at, claims.c.lease_until))
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("taken")
    )
    statement = (
        update(claims)
        .where(claims.c.call_id.in_(select(taken.c.call_id)))
        .values(
            fence=claims.c.fence + 1,
            owner=owner,
            lease_until=now_micros() + micros(lease),
            due_at=case((claims.c.due_at > now_micros(), claims.c.due_at)),
            updated_at=now_micros(),
        )
        .returning(claims)
    )
    async with db.write() as connection:
        rows = (await connection.execute(statement)).mappings().all()
    return sorted(map(_claim, rows), key=lambda claim: claim.created_at)


async def connected(db: Database, *, limit: int) -> list[Claim]:
    """Up to `limit` calls whose agent could be heard and whose end is not known, newest first."""
    ready = claims.c.state == "ready"
    query = select(claims).where(ready).order_by(claims.c.created_at.desc()).limit(limit)
    async with db.read() as connection:
        return [_claim(row) for row in (await connection.execute(query)).mappings()]


async def get(db: Database, call_id: str) -> Claim | None:
    """The claim of a call."""
    async with db.read() as connection:
        result = await connection.execute(select(claims).where(claims.c.call_id == call_id))
        row = result.mappings().one_or_none()
    return None if row is None else _claim(row)


async def states(db: Database, call_ids: Sequence[str]) -> dict[str, ClaimState]:
    """The states of those of `call_ids` that were ever claimed, in one query: some thousand."""
    query = select(claims.c.call_id, claims.c.state).where(claims.c.call_id.in_(call_ids))
    async with db.read() as connection:
        rows = (await connection.execute(query)).mappings()
        return {row["call_id"]: row["state"] for row in rows}


async def prune(db: Database, older_than: float) -> int:
    """Delete final claims that are unchanged for `older_than` seconds; how many there were.

    Not younger than the log: an old `call.initiated` that is read again finds its claim here.
    """
    old = and_(claims.c.state.not_in(OPEN), claims.c.updated_at < now_micros() - micros(older_than))
    statement = delete(claims).where(
        claims.c.call_id.in_(select(claims.c.call_id).where(old).limit(_PRUNED_AT_ONCE))
    )
    total = 0
    while True:  # in pieces, so that a claim never waits long for the end of one
        async with db.write() as connection:
            deleted = (await connection.execute(statement)).rowcount
        total += deleted
        if deleted < _PRUNED_AT_ONCE:
            return total


async def _write(db: Database, statement: Executable, values: Mapping[str, Any]) -> Claim | None:
    async with db.write() as connection:
        row = (await connection.execute(statement, values)).mappings().one_or_none()
    return None if row is None else _claim(row)


# The statements of a call's way are built once: building one takes longer than running it.


@cache
def _claiming(dialect: str) -> Executable:
    new = insert(dialect, claims).values(
        state="claimed",
        fence=1,
        lease_until=now_micros() + _LEASE_FOR,
        attempt=0,
        dispatch_id="",
        created_at=now_micros(),
        updated_at=now_micros(),
    )
    taken_over = {
        "fence": claims.c.fence + 1,
        "owner": new.excluded.owner,
        "lease_until": new.excluded.lease_until,
        "due_at": None,
        "updated_at": new.excluded.updated_at,
    }
    return new.on_conflict_do_update(
        index_elements=[claims.c.call_id], set_=taken_over, where=_ABANDONED
    ).returning(claims)


@cache
def _advancing(state: ClaimState) -> Executable:
    attempt = func.coalesce(bindparam("new_attempt", type_=Integer), claims.c.attempt)
    follows = claims.c.state.in_(_AFTER[state])
    next_attempt = and_(claims.c.attempt < attempt, _OPEN)
    return (
        update(claims)
        .where(claims.c.call_id == _OF_CALL, claims.c.fence == bindparam("of_fence"))
        .where(claims.c.attempt <= attempt, or_(follows, next_attempt))
        .values(
            state=state,
            lease_until=now_micros() + _LEASE_FOR,
            due_at=now_micros() + bindparam("due_in", type_=BigInteger),  # NULL stays NULL
            attempt=attempt,
            dispatch_id=func.coalesce(bindparam("new_dispatch", type_=Text), claims.c.dispatch_id),
            updated_at=now_micros(),
        )
        .returning(claims)
    )


@cache
def _settling_ready() -> Executable:
    return (
        update(claims)
        .where(claims.c.call_id == _OF_CALL, _OPEN)
        .values(state="ready", due_at=None, updated_at=now_micros())
        .returning(claims)
    )


@cache
def _settling_over(dialect: str) -> Executable:
    over = {"state": "over", "due_at": None, "updated_at": now_micros()}
    return (
        insert(dialect, claims)
        .values(call_id=_OF_CALL, **_UNCLAIMED, **over)
        .on_conflict_do_update(
            index_elements=[claims.c.call_id], set_=over, where=claims.c.state != "over"
        )
        .returning(claims)
    )


def _claim(row: RowMapping) -> Claim:
    return Claim(**row)
