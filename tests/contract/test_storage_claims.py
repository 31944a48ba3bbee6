"""Claims: one winner per call, one successor per lease, and nothing for those who came late."""

import asyncio

import pytest
from sqlalchemy import update

from router.storage import claims
from router.storage.claims import Claim, ClaimState
from router.storage.engine import Database
from router.storage.schema import claims as table

CALL = "5f5d0000-0000-5000-8000-000000000001"
LEASE = 30.0
FINAL: tuple[ClaimState, ...] = ("ready", "missing", "expired", "over")


async def take(db: Database, call_id: str = CALL, owner: str = "a") -> Claim | None:
    return await claims.claim(
        db,
        call_id,
        owner=owner,
        lease=LEASE,
        agent="anna",
        livekit_agent_name="lk-anna",
        initiated=b"\x00event\xff",
    )


async def taken(db: Database, call_id: str = CALL, owner: str = "a") -> Claim:
    claim = await take(db, call_id, owner)
    assert claim is not None
    return claim


async def pass_time(db: Database, seconds: float) -> None:
    """Instead of waiting: move every claim into the past."""
    past = round(seconds * 1_000_000)
    async with db.write() as connection:
        await connection.execute(
            update(table).values(
                lease_until=table.c.lease_until - past,
                due_at=table.c.due_at - past,
                updated_at=table.c.updated_at - past,
            )
        )


async def test_a_new_call_is_claimed(db: Database) -> None:
    claim = await taken(db)
    assert (claim.state, claim.fence, claim.owner, claim.attempt) == ("claimed", 1, "a", 0)
    assert (claim.agent, claim.livekit_agent_name, claim.dispatch_id) == ("anna", "lk-anna", "")
    assert claim.initiated == b"\x00event\xff"
    assert claim.due_at is None
    assert claim.lease_until - claim.updated_at == LEASE * 1_000_000
    assert await claims.get(db, CALL) == claim


async def test_a_held_call_is_not_claimed_again_not_even_by_its_owner(db: Database) -> None:
    claim = await taken(db)
    assert await take(db, owner="b") is None
    assert await take(db, owner="a") is None
    assert await claims.get(db, CALL) == claim


async def test_of_fifty_claimers_one_wins(db: Database, other: Database) -> None:
    won = await asyncio.gather(
        *(take(db if n % 2 else other, owner=f"process-{n}") for n in range(50))
    )
    winners = [claim for claim in won if claim is not None]
    assert len(winners) == 1
    assert await claims.get(db, CALL) == winners[0]


async def test_an_expired_lease_has_one_successor_and_the_old_fence_is_refused(
    db: Database, other: Database
) -> None:
    old = await taken(db)
    await pass_time(db, LEASE)
    won = await asyncio.gather(
        *(take(db if n % 2 else other, owner=f"process-{n}") for n in range(20))
    )
    (successor,) = [claim for claim in won if claim is not None]
    assert successor.fence == old.fence + 1
    assert await claims.advance(db, old, state="dispatching", lease=LEASE) is None
    assert await claims.get(db, CALL) == successor


async def test_a_successor_sees_how_far_its_predecessor_came(db: Database) -> None:
    claim = await taken(db)
    assert await claims.advance(
        db, claim, state="dispatching", attempt=1, dispatch_id="AD_1", lease=LEASE
    )
    await pass_time(db, LEASE)
    successor = await taken(db, owner="b")
    assert (successor.state, successor.attempt, successor.dispatch_id) == ("dispatching", 1, "AD_1")
    assert successor.initiated == claim.initiated


async def test_advance_keeps_what_it_is_not_told(db: Database) -> None:
    claim = await taken(db)
    await claims.advance(db, claim, state="dispatching", attempt=1, dispatch_id="AD_1", lease=LEASE)
    moved = await claims.advance(db, claim, state="dispatched", lease=LEASE, due_in=4.0)
    assert moved is not None
    assert (moved.state, moved.attempt, moved.dispatch_id) == ("dispatched", 1, "AD_1")
    assert moved.due_at is not None
    assert moved.due_at - moved.updated_at == 4_000_000


async def test_advance_does_not_go_back(db: Database) -> None:
    claim = await taken(db)
    assert await claims.advance(db, claim, state="dispatched", attempt=1, lease=LEASE)
    assert await claims.advance(db, claim, state="dispatching", lease=LEASE) is None
    assert await claims.advance(db, claim, state="dispatching", attempt=1, lease=LEASE) is None
    assert await claims.advance(db, claim, state="claimed", attempt=0, lease=LEASE) is None


async def test_a_next_attempt_starts_anew(db: Database) -> None:
    claim = await taken(db)
    assert await claims.advance(db, claim, state="dispatched", attempt=1, lease=LEASE)
    again = await claims.advance(db, claim, state="dispatching", attempt=2, lease=LEASE)
    assert again is not None
    assert (again.state, again.attempt) == ("dispatching", 2)


@pytest.mark.parametrize("final", FINAL)
async def test_a_final_call_is_left_alone(db: Database, final: ClaimState) -> None:
    claim = await taken(db)
    done = await claims.advance(db, claim, state=final, lease=LEASE)
    assert done is not None
    assert done.final
    await pass_time(db, LEASE)
    assert await take(db, owner="b") is None
    assert await claims.due(db, owner="b", lease=LEASE, limit=10) == []
    assert await claims.advance(db, claim, state="dispatching", attempt=9, lease=LEASE) is None
    for later in FINAL:
        if later not in (final, "over"):
            assert await claims.advance(db, claim, state=later, lease=LEASE) is None


async def test_events_settle_a_call_whoever_holds_it(db: Database) -> None:
    await taken(db)
    ready = await claims.settle(db, CALL, "ready")
    assert ready is not None
    assert (ready.state, ready.due_at) == ("ready", None)
    assert await claims.settle(db, CALL, "ready") is None
    over = await claims.settle(db, CALL, "over")
    assert over is not None
    assert over.state == "over"
    assert over.agent == "anna"
    assert await claims.settle(db, CALL, "over") is None
    assert await claims.settle(db, CALL, "ready") is None


async def test_a_call_that_was_over_before_it_began_starts_nothing(db: Database) -> None:
    assert await claims.settle(db, CALL, "over") is not None
    assert await take(db) is None


async def test_ready_of_an_unknown_call_leaves_no_row(db: Database) -> None:
    assert await claims.settle(db, CALL, "ready") is None
    assert await claims.get(db, CALL) is None


async def test_a_passed_deadline_is_handed_out_once(db: Database, other: Database) -> None:
    claim = await taken(db)
    await claims.advance(db, claim, state="dispatched", attempt=1, lease=LEASE, due_in=4.0)
    assert await claims.due(db, owner="b", lease=LEASE, limit=10) == []
    await pass_time(db, 4.0)
    batches = await asyncio.gather(
        *(
            claims.due(db if n % 2 else other, owner=f"p-{n}", lease=LEASE, limit=10)
            for n in range(8)
        )
    )
    (late,) = [claim for batch in batches for claim in batch]
    assert (late.fence, late.due_at, late.attempt) == (claim.fence + 1, None, 1)
    assert await claims.advance(db, claim, state="ready", lease=LEASE) is None


async def test_a_dispatched_call_waits_for_its_deadline_though_the_lease_is_over(
    db: Database,
) -> None:
    claim = await taken(db)
    await claims.advance(db, claim, state="dispatched", attempt=1, lease=1.0, due_in=20.0)
    await pass_time(db, 10.0)
    assert await claims.due(db, owner="b", lease=LEASE, limit=10) == []
    assert await take(db, owner="b") is None


async def test_due_takes_over_from_a_dead_owner(db: Database) -> None:
    await taken(db)
    assert await claims.due(db, owner="b", lease=LEASE, limit=10) == []
    await pass_time(db, LEASE)
    (successor,) = await claims.due(db, owner="b", lease=LEASE, limit=10)
    assert (successor.owner, successor.fence) == ("b", 2)


async def test_who_takes_a_seat_again_learns_the_deadline_that_is_still_ahead(db: Database) -> None:
    claim = await taken(db, owner="seat/killed")
    told = await claims.advance(db, claim, state="dispatched", lease=LEASE, due_in=9.0)
    assert told is not None
    [heirs] = await claims.due(db, owner="seat/heir", lease=LEASE, limit=9, seat="seat/")
    assert (heirs.due_at, heirs.fence) == (told.due_at, claim.fence + 1)
    await pass_time(db, 10.0)
    [again] = await claims.due(db, owner="other", lease=LEASE, limit=9)
    assert again.due_at is None


async def test_due_shares_out_without_doubles(db: Database, other: Database) -> None:
    ids = [f"call-{n:03}" for n in range(60)]
    for call_id in ids:
        await taken(db, call_id)
    await pass_time(db, LEASE)
    batches = await asyncio.gather(
        *(
            claims.due(db if n % 2 else other, owner=f"p-{n}", lease=LEASE, limit=10)
            for n in range(8)
        )
    )
    assert all(len(batch) <= 10 for batch in batches)
    while batch := await claims.due(db, owner="rest", lease=LEASE, limit=10):
        batches.append(batch)
    assert sorted(claim.call_id for batch in batches for claim in batch) == ids


async def test_connected_calls_are_those_whose_agent_was_heard(db: Database) -> None:
    for call_id in ("one", "two", "three"):
        await taken(db, call_id)
        await claims.settle(db, call_id, "ready")
    await taken(db, "waits")
    await claims.settle(db, "two", "over")
    found = await claims.connected(db, limit=10)
    assert {claim.call_id for claim in found} == {"one", "three"}
    async with db.write() as connection:
        earlier = update(table).where(table.c.call_id == "one")
        await connection.execute(earlier.values(created_at=table.c.created_at - 1_000_000))
    [newest] = await claims.connected(db, limit=1)
    assert newest.call_id == "three"


async def test_the_states_of_many_calls_come_at_once(db: Database) -> None:
    for call_id in ("waits", "heard", "ended"):
        await taken(db, call_id)
    await claims.settle(db, "heard", "ready")
    await claims.settle(db, "ended", "over")
    asked = ["waits", "ended", "of-another-deployment", *(f"no-{n}" for n in range(2000))]
    assert await claims.states(db, asked) == {"waits": "claimed", "ended": "over"}
    assert await claims.states(db, []) == {}


async def test_prune_forgets_old_final_claims_only(db: Database) -> None:
    await taken(db, "waits")
    await claims.settle(db, "old", "over")
    await pass_time(db, 100.0)
    await claims.settle(db, "new", "over")
    assert await claims.prune(db, 50.0) == 1
    assert await claims.get(db, "old") is None
    assert await claims.get(db, "new") is not None
    assert await claims.get(db, "waits") is not None


@pytest.mark.parametrize("old", [4, 5])
async def test_prune_deletes_piece_by_piece_and_counts_all(
    db: Database, old: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_PRUNED_AT_ONCE", 2)
    for number in range(old):
        await claims.settle(db, f"old-{number}", "over")
    await pass_time(db, 100.0)
    assert await claims.prune(db, 50.0) == old
    assert await claims.prune(db, 50.0) == 0


async def test_a_lost_agent_reopens_the_call_once(db: Database, other: Database) -> None:
    claim = await taken(db)
    ready = await claims.advance(db, claim, state="ready", lease=LEASE, attempt=1)
    assert ready is not None
    first, second = await asyncio.gather(
        claims.reopen(db, ready, owner="b", lease=LEASE, attempt=3),
        claims.reopen(other, ready, owner="c", lease=LEASE, attempt=3),
    )
    [won] = [each for each in (first, second) if each is not None]
    assert (won.state, won.attempt, won.fence) == ("dispatching", 3, ready.fence + 1)
    assert await claims.advance(db, ready, state="dispatched", lease=LEASE) is None
    await pass_time(db, 2 * LEASE)
    [heir] = await claims.due(db, owner="d", lease=LEASE, limit=5)
    assert (heir.owner, heir.attempt) == ("d", 3)


async def test_only_a_connected_call_is_reopened_and_only_one_given_up_revived(
    db: Database,
) -> None:
    claim = await taken(db)
    assert await claims.reopen(db, claim, owner="b", lease=LEASE, attempt=3) is None
    assert await claims.revive(db, claim) is None
    missing = await claims.advance(db, claim, state="missing", lease=LEASE)
    assert missing is not None
    revived = await claims.revive(db, missing)
    assert revived is not None
    assert revived.state == "ready"
    await claims.settle(db, CALL, "over")
    assert await claims.reopen(db, revived, owner="b", lease=LEASE, attempt=3) is None
    assert await claims.revive(db, missing) is None
