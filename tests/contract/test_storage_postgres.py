"""PostgreSQL's own promises: what happens when it goes, hangs, or two want the same."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from typing_extensions import override

from config import Settings, load
from router.clock import SystemClock
from router.errors import StorageUnavailable
from router.events.ids import DEFAULT_ACCOUNT
from router.routing.spec import AgentSpec, MappingSpec
from router.storage import leader as leader_module
from router.storage import mapping
from router.storage.clock_skew import ClockSkew
from router.storage.engine import Database, open_database
from router.storage.leader import leader
from router.storage.migrate import migrate
from router.storage.schema import agents, revision
from tests.support.servers.postgres import Postgres, postgres_server

pytestmark = pytest.mark.postgres

AGENTS = MappingSpec(
    agents=(
        AgentSpec(name="anna", livekit_agent_name="a"),
        AgentSpec(name="bob", livekit_agent_name="b"),
    )
)


def settings_of(url: str, folder: Path) -> Settings:
    return load(overrides={"data_dir": str(folder), "database": {"url": url}})


@pytest.fixture
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    return settings_of(request.getfixturevalue("postgres_url"), tmp_path)


@pytest.fixture
def own_server() -> Iterator[Postgres]:
    """A server that this test may stop."""
    with postgres_server() as server:
        yield server


@pytest.fixture
async def own(own_server: Postgres, tmp_path: Path) -> AsyncIterator[Database]:
    settings = settings_of(own_server.create_database("own"), tmp_path)
    await migrate(settings)
    async with open_database(settings) as database:
        yield database


async def test_a_deadlock_is_run_again(db: Database, other: Database) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, AGENTS)
    both_hold_one = asyncio.Barrier(2)
    turns = 0

    def crossing(first: str, second: str):  # type: ignore[no-untyped-def]
        async def work(connection: AsyncConnection) -> None:
            nonlocal turns
            turns += 1
            await touch(connection, first)
            if turns <= 2:
                await both_hold_one.wait()
            await touch(connection, second)

        return work

    await asyncio.gather(
        db.transact(crossing("anna", "bob")), other.transact(crossing("bob", "anna"))
    )
    assert turns == 3
    async with db.read() as connection:
        revs = (await connection.execute(select(agents.c.rev))).scalars().all()
    assert revs == [3, 3]


async def touch(connection: AsyncConnection, name: str) -> None:
    await connection.execute(
        update(agents).where(agents.c.name == name).values(rev=agents.c.rev + 1)
    )


async def test_as_many_calls_as_may_be_under_way_all_find_a_connection(
    db: Database, settings: Settings
) -> None:
    """At 100 ms a transaction, where some 5 ms are usual."""

    async def slow(connection: AsyncConnection) -> None:
        await connection.execute(text("SELECT pg_sleep(0.1)"))

    async with asyncio.TaskGroup() as calls:
        for _ in range(settings.dispatch.concurrency):
            calls.create_task(db.transact(slow))


async def test_records_leave_connections_to_the_claims_that_callers_wait_for(db: Database) -> None:
    async def record(connection: AsyncConnection) -> None:
        await connection.execute(text("SELECT pg_sleep(0.2)"))

    async def claim(connection: AsyncConnection) -> None:
        await connection.execute(text("SELECT 1"))

    async with asyncio.TaskGroup() as records:
        for _ in range(40):
            records.create_task(db.transact(record, yields=True))
        await asyncio.sleep(0.1)
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(db.transact(claim) for _ in range(20)))
        assert asyncio.get_running_loop().time() - began < 0.5  # behind them it were 1 s


async def test_a_row_that_stays_locked_is_unavailability(db: Database, other: Database) -> None:
    async with db.write() as connection:
        await connection.execute(update(revision).values(value=7))
        with pytest.raises(StorageUnavailable, match="LockNotAvailable, SQLSTATE 55P03"):
            await mapping.apply_mapping(other, DEFAULT_ACCOUNT, AGENTS)


async def test_changes_that_share_no_agent_do_not_wait_for_each_other(
    db: Database, other: Database
) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, AGENTS)
    bob = select(agents.c.name).where(agents.c.name == "bob").with_for_update()
    anna = AgentSpec(name="anna", livekit_agent_name="other")
    async with db.write() as connection:
        await connection.execute(bob)
        async with asyncio.timeout(2.5):  # less than lock_timeout
            assert (
                await mapping.apply_mapping(other, DEFAULT_ACCOUNT, MappingSpec(agents=(anna,)))
            ).version == 2


async def test_connections_that_were_cut_are_replaced(own: Database, own_server: Postgres) -> None:
    assert await mapping.version(own) == 0
    with psycopg.connect(own_server.url.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'switchboard'"
        )
    assert await mapping.version(own) == 0


async def test_a_server_that_is_gone_is_unavailability_and_comes_back(
    own: Database, own_server: Postgres
) -> None:
    await mapping.apply_mapping(own, DEFAULT_ACCOUNT, AGENTS)
    own_server.stop()
    with pytest.raises(StorageUnavailable, match="can't be reached"):
        await mapping.version(own)
    own_server.start()
    assert await mapping.version(own) == 1


async def test_a_start_does_not_need_the_server(tmp_path: Path) -> None:
    async with open_database(settings_of("postgresql://u:hush@127.0.0.1:1/d", tmp_path)) as db:
        with pytest.raises(StorageUnavailable) as caught:
            await mapping.version(db)
    assert "hush" not in f"{caught.value} {caught.value.__cause__}"


async def test_a_server_that_hangs_does_not_hang_us(own: Database, own_server: Postgres) -> None:
    async with own.read() as connection:
        backend = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    os.kill(backend, signal.SIGSTOP)
    try:
        async with asyncio.timeout(20):
            with pytest.raises(StorageUnavailable, match="longer than 1 s"):
                async with own.read(limit=1.0) as connection:
                    await connection.execute(select(1))
    finally:
        os.kill(backend, signal.SIGCONT)
    assert await mapping.version(own) == 0


async def test_of_two_one_leads_until_it_leaves(db: Database, other: Database) -> None:
    async with (
        leader(db, "job") as first,
        leader(other, "job") as second,
        leader(other, "another job") as elsewhere,
    ):
        assert (first, second, elsewhere) == (True, False, True)
    async with leader(other, "job") as next_one:
        assert next_one


async def test_a_leader_whose_connection_is_gone_stops(
    own: Database, own_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_module, "_EVERY", 0.05)

    async def lead() -> None:
        async with leader(own, "job") as leading:
            assert leading
            own_server.stop()
            await asyncio.Event().wait()

    async with asyncio.timeout(20):
        with pytest.raises(StorageUnavailable, match="leads job no longer"):
            await lead()


class _Shifted(SystemClock):
    def __init__(self, seconds: float) -> None:
        self._shift = round(seconds * 1_000_000)

    @override
    def now(self) -> int:
        return super().now() + self._shift


@pytest.mark.parametrize(
    ("seconds", "trouble"),
    [
        (0.0, ""),
        (61.0, "this machine's clock is 61.0 s ahead of the database's: use NTP"),
        (-61.0, "this machine's clock is 61.0 s behind the database's: use NTP"),
    ],
)
async def test_a_clock_that_is_not_the_databases_is_told(
    db: Database, seconds: float, trouble: str
) -> None:
    skew = ClockSkew(db, _Shifted(seconds))
    task = asyncio.create_task(skew.run())
    await asyncio.sleep(0.3)
    task.cancel()
    assert skew.trouble == trouble
