"""The claims that the dispatch tests use, held against the database's: same calls, same answers.

Random scripts run on both; what they answer, and the rows they leave, must be equal but for the
clock. Times in the scripts are far apart, so that the two clocks agree on what is over.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Literal

import msgspec
import pytest
from sqlalchemy import update

from config import load
from consumers.dispatch.store import ClaimStore, StoredClaims
from router.storage.claims import Claim, ClaimState
from router.storage.engine import Database, open_database
from router.storage.migrate import migrate
from router.storage.schema import claims as table
from tests.support.fake_claims import FakeClaims
from tests.support.fake_time import START

_LONG = 1000.0  # seconds
_STATES: list[ClaimState] = ["claimed", "dispatching", "dispatched", "ready", "missing", "expired"]


class _Hands:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> int:
        return self.time

    def monotonic(self) -> float:
        return self.time / 1e6

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def _comparable(claim: Claim | None) -> object:
    if claim is None:
        return None
    clockless = {"lease_until": 0, "created_at": 0, "updated_at": 0}
    return msgspec.structs.replace(claim, due_at=claim.due_at and 1, **clockless)


async def _step(store: ClaimStore, known: dict[str, Claim], random: Random) -> object:
    call = random.choice(["a", "b"])
    lease = random.choice([0.0, _LONG])
    kinds = ["claim", "advance", "advance", "advance", "settle", "due", "get", "reopen", "revive"]
    match random.choice(kinds):
        case "claim":
            claim = await store.claim(
                call,
                owner=random.choice(["p1", "p2"]),
                lease=lease,
                agent="anna",
                livekit_agent_name="lk-anna",
                initiated=b"x",
            )
        case "advance" if call in known:
            claim = await store.advance(
                known[call],
                state=random.choice(_STATES),
                lease=lease,
                dispatch_id=random.choice([None, "AD_1"]),
                attempt=random.choice([None, 1, 2]),
                due_in=random.choice([None, 0.0, _LONG]),
            )
        case "reopen" if call in known:
            claim = await store.reopen(known[call], owner="p2", lease=lease, attempt=3)
        case "revive" if call in known:
            claim = await store.revive(known[call])
        case "settle":
            states: list[Literal["ready", "over"]] = ["ready", "ready", "over"]
            claim = await store.settle(call, random.choice(states))
        case "due":
            due = await store.due(owner="p3", lease=lease, limit=5)
            known.update((claim.call_id, claim) for claim in due)
            return sorted(map(repr, map(_comparable, due)))
        case _:
            return _comparable(await store.get(call))
    if claim is not None and random.random() < 0.8:
        known[call] = claim  # else: an old fence stays in hand
    return _comparable(claim)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    settings = load(overrides={"data_dir": str(tmp_path)})
    await migrate(settings)
    async with open_database(settings) as opened:
        yield opened


@pytest.mark.parametrize("seed", range(12))
async def test_equal_scripts_get_equal_answers(seed: int, database: Database) -> None:
    stored, clock = StoredClaims(database), _Hands()
    fake = FakeClaims(clock)
    known: tuple[dict[str, Claim], dict[str, Claim]] = ({}, {})
    for turn in range(25):
        choice = f"{seed}-{turn}"
        real = await _step(stored, known[0], Random(choice))
        assert await _step(fake, known[1], Random(choice)) == real, choice
        await _pass_a_second(database, clock)


async def _pass_a_second(database: Database, clock: _Hands) -> None:
    clock.time += 1_000_000
    past = 1_000_000
    async with database.write() as connection:
        await connection.execute(
            update(table).values(
                lease_until=table.c.lease_until - past, due_at=table.c.due_at - past
            )
        )
