"""Migrations on both databases: up and down, no difference to the tables, one start at a time."""

import asyncio
import itertools
import sqlite3
from pathlib import Path
from uuid import UUID

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from config import Settings, load
from router.errors import StorageError
from router.events.ids import DEFAULT_ACCOUNT
from router.routing.spec import AgentSpec, MappingSpec, NumberSpec
from router.routing.table import Version
from router.storage import calls, claims, mapping
from router.storage.engine import open_database
from router.storage.migrate import (
    MigrationResult,
    _run,
    check,
    current,
    migrate,
    prepare,
    rollback,
)
from router.storage.schema import metadata
from tests.support.servers.postgres import Postgres

HEAD = "0004"
_names = (f"migrations_{n}" for n in itertools.count())


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'data' / 'own.db'}"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.create_database(next(_names))


@pytest.fixture
def settings(url: str, tmp_path: Path) -> Settings:
    return settings_of(url, tmp_path)


def settings_of(url: str, folder: Path, *, at_start: bool = True) -> Settings:
    database = {"url": url, "migrate_at_start": at_start}
    return load(overrides={"data_dir": str(folder), "database": database})


async def tables(settings: Settings) -> set[str]:
    async with open_database(settings) as db, db.read() as connection:
        return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))


async def execute(settings: Settings, statement: str) -> None:
    async with open_database(settings) as db, db.write() as connection:
        await connection.execute(text(statement))


async def test_up_down_and_up_again(settings: Settings) -> None:
    assert await current(settings) is None
    assert await migrate(settings) == MigrationResult(None, HEAD)
    assert await current(settings) == HEAD
    assert await tables(settings) == {*metadata.tables, "alembic_version"}
    assert await migrate(settings) == MigrationResult(HEAD, HEAD)
    assert await rollback(settings, to="base") == MigrationResult(HEAD, None)
    assert await tables(settings) == {"alembic_version"}
    assert await migrate(settings) == MigrationResult(None, HEAD)


async def test_the_migrated_schema_is_the_metadata(settings: Settings) -> None:
    def differences(connection: Connection) -> list[object]:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, metadata))

    await migrate(settings)
    async with open_database(settings) as db, db.read() as connection:
        assert await connection.run_sync(differences) == []
    await execute(settings, "DROP INDEX ix_claims_open")  # does the comparison see anything at all?
    await execute(settings, "ALTER TABLE calls ADD COLUMN extra TEXT")
    async with open_database(settings) as db, db.read() as connection:
        found = {str(change[0]) for change in await connection.run_sync(differences)}  # type: ignore[index]
    assert found == {"add_index", "remove_column"}


async def test_a_mapping_from_before_the_epoch_is_kept_and_told_anew_to_nobody(
    settings: Settings,
) -> None:
    await _run(settings, command.upgrade, "0001")
    for statement in (
        "UPDATE revision SET value = 7",
        # bob was paused and then disabled: his number's route is the same, and so was its rev
        "INSERT INTO agents VALUES ('anna', 'lk', '{}', 'deployed', 5, 1, 1),"
        " ('bob', 'lk', '{}', 'disabled', 7, 1, 1), ('cleo', 'lk', '{}', 'deployed', 6, 1, 1)",
        "INSERT INTO numbers VALUES ('+14155550100', 'twilio', 'anna', '', 5, 1, 1),"
        " ('+14155550101', 'twilio', 'bob', '', 3, 1, 1)",
    ):
        await execute(settings, statement)
    assert await migrate(settings) == MigrationResult("0001", HEAD)
    async with open_database(settings) as db:
        assert await mapping.position(db) == Version(1, 7)
        assert [route.version async for route in mapping.all_routes(db)] == [(1, 5), (1, 3)]
        assert len(await mapping.list_agents(db, DEFAULT_ACCOUNT)) == 3
        assert await mapping.tell_outdated(db) == 0
    await rollback(settings, to="0001")
    assert await current(settings) == "0001"


async def test_a_call_from_before_legs_were_kept_has_none(settings: Settings) -> None:
    await _run(settings, command.upgrade, "0002")
    await execute(
        settings,
        "INSERT INTO calls (call_id, provider, provider_call_id, account, from_number, to_number,"
        " state, agent, agent_ready, reason, initiated_at)"
        " VALUES ('c', 'twilio', 'CA1', 'AC1', '', '', 'ended', '', false, '', 1)",
    )
    assert await migrate(settings) == MigrationResult("0002", HEAD)
    async with open_database(settings) as db:
        record = await calls.get(db, DEFAULT_ACCOUNT, "c")
        assert record is not None
        assert record.legs == ()
    await rollback(settings, to="0002")
    assert await current(settings) == "0002"


OLD_MAPPING = (
    "UPDATE revision SET value = 7",
    "INSERT INTO agents VALUES ('anna', 'lk-anna', '{}', 'deployed', 5, 1, 2),"
    " ('bob', 'lk-bob', '{\"a\": 1}', 'paused', 4, 3, 4)",
    "INSERT INTO numbers VALUES ('+14155550100', 'twilio', 'anna', '+14155550199', 5, 1, 2),"
    " ('+14155550101', 'telnyx', 'bob', '', 4, 3, 4),"
    " ('+14155550102', 'twilio', NULL, '', 7, 5, 5)",
    "INSERT INTO outbox (topic, key, value, headers, created_at)"
    " VALUES ('telephony.routes', '+14155550102', NULL, '{\"rev\": \"7\"}', 5)",
)
# As the program of version 0003 writes them, with none of the columns that came later.
OLD_CALL = (
    "INSERT INTO calls (call_id, provider, provider_call_id, account, direction, from_number,"
    " to_number, state, disposition, agent, agent_ready, reason, initiated_at, ringing_at,"
    " agent_ready_at, answered_at, ended_at, duration, legs)"
    " VALUES ('{0}', 'twilio', 'CA-{0}', 'AC1', 'inbound', '', '', 'ended', NULL, 'anna', false,"
    " '', 1, NULL, NULL, NULL, NULL, NULL, '[]')"
    " ON CONFLICT (call_id) DO UPDATE SET state = 'ended'"
)
OLD_CLAIM = (
    "INSERT INTO claims (call_id, state, fence, owner, lease_until, due_at, attempt, agent,"
    " livekit_agent_name, dispatch_id, initiated, created_at, updated_at)"
    " VALUES ('{0}', 'claimed', 1, 'old', 9, NULL, 1, 'anna', 'lk-anna', '', '', 1, 1)"
)


async def content(settings: Settings, *tables: str) -> dict[str, list[tuple[object, ...]]]:
    """The rows of some tables, in the order of their first column."""
    async with open_database(settings) as db, db.read() as connection:
        return {
            table: [tuple(row) for row in await connection.execute(text(f"{query} ORDER BY 1"))]
            for table in tables
            for query in (f"SELECT * FROM {table}",)
        }


async def test_what_was_there_before_accounts_belongs_to_the_account_default(
    settings: Settings,
) -> None:
    await _run(settings, command.upgrade, "0003")
    for statement in (*OLD_MAPPING, OLD_CALL.format("before"), OLD_CLAIM.format("before")):
        await execute(settings, statement)
    kept = await content(settings, "agents", "numbers", "outbox", "revision", "claims")
    assert await migrate(settings) == MigrationResult("0003", HEAD)
    async with open_database(settings) as db:
        assert await mapping.account_named(db, "default") == DEFAULT_ACCOUNT
        assert await mapping.position(db) == Version(1, 7)
        routes = {route.number: route async for route in mapping.all_routes(db)}
        assert {number: route.version for number, route in routes.items()} == {
            "+14155550100": (1, 5),
            "+14155550101": (1, 4),
            "+14155550102": (1, 7),
        }
        ids = await mapping.agent_ids(db, DEFAULT_ACCOUNT)
        assert ids.keys() == {"anna", "bob"}
        own = await mapping.number_ids(db, DEFAULT_ACCOUNT, routes)
        assert all(UUID(one).version == 4 for one in (*ids.values(), *own.values()))
        assert len({*ids.values(), *own.values()}) == 5
        (target,) = routes["+14155550100"].targets
        assert (target.agent, target.agent_id) == ("anna", ids["anna"])
        assert [
            (number.number, number.provider, number.agent, number.fallback)
            for number in await mapping.list_numbers(db, DEFAULT_ACCOUNT)
        ] == [
            ("+14155550100", "twilio", "anna", "+14155550199"),
            ("+14155550101", "telnyx", "bob", ""),
            ("+14155550102", "twilio", None, ""),
        ]
        # Nothing is told anew.
        assert await mapping.tell_outdated(db) == 0
        assert await mapping.unpublished(db) == 1
        # Processes of the old version go on with their calls.
        for statement in (
            OLD_CALL.format("before"),
            OLD_CALL.format("after"),
            OLD_CLAIM.format("after"),
        ):
            await execute(settings, statement)
        for call in ("before", "after"):
            record = await calls.get(db, DEFAULT_ACCOUNT, call)
            assert record is not None
            assert (record.provider_account, record.account_id) == ("AC1", DEFAULT_ACCOUNT)
            assert (record.connection_id, record.agent_id) == ("", "")
            assert await claims.get(db, call) is not None
    await execute(settings, "DELETE FROM claims WHERE call_id = 'after'")
    await rollback(settings, to="0003")
    assert await content(settings, *kept) == kept


async def test_going_back_keeps_the_mapping_of_the_account_default_alone(
    settings: Settings,
) -> None:
    await migrate(settings)
    acme = "ac3e0000-0000-4000-8000-000000000001"
    await execute(
        settings,
        f"INSERT INTO accounts VALUES ('{acme}', 'acme', '', NULL, NULL, NULL, true, 1, 1)",
    )
    async with open_database(settings) as db:
        for account, number in ((DEFAULT_ACCOUNT, "+14155550100"), (acme, "+14155550101")):
            await mapping.apply_mapping(
                db,
                account,
                MappingSpec(
                    agents=(AgentSpec(name="anna", livekit_agent_name="lk"),),
                    numbers=(NumberSpec(number=number, provider="twilio", agent="anna"),),
                ),
            )
        leaving = NumberSpec(number="+14155550102", provider="twilio")
        await mapping.apply_mapping(db, DEFAULT_ACCOUNT, MappingSpec(numbers=(leaving,)))
    await execute(settings, "UPDATE numbers SET state = 'deleting' WHERE number = '+14155550102'")
    await rollback(settings, to="0003")
    found = await content(settings, "agents", "numbers")
    assert [row[0] for row in found["agents"]] == ["anna"]
    assert [(row[0], row[2]) for row in found["numbers"]] == [("+14155550100", "anna")]
    await migrate(settings)
    async with open_database(settings) as db:
        assert await mapping.size(db) == 1


async def test_the_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "own.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    settings = settings_of(f"sqlite+aiosqlite:///{path}", tmp_path)
    with pytest.raises(StorageError, match=r"own\.db has tables \(bookmarks\).*database\.url"):
        await migrate(settings)
    assert await tables(settings) == {"bookmarks"}


async def test_two_starts_do_not_race(settings: Settings) -> None:
    results = await asyncio.gather(*(migrate(settings) for _ in range(4)))
    assert sorted(results, key=lambda result: result.from_rev or "") == [
        MigrationResult(None, HEAD),
        *[MigrationResult(HEAD, HEAD)] * 3,
    ]


async def test_a_start_brings_the_schema_up_to_date(settings: Settings) -> None:
    await prepare(settings)
    await check(settings)
    assert await current(settings) == HEAD


async def test_a_start_that_may_not_migrate_says_what_to_do(url: str, tmp_path: Path) -> None:
    settings = settings_of(url, tmp_path, at_start=False)
    with pytest.raises(StorageError, match=r"older than this program.*`switchboard migrate`"):
        await prepare(settings)
    assert await current(settings) is None


async def test_a_look_at_a_database_that_is_not_there_makes_none(tmp_path: Path) -> None:
    settings = settings_of("", tmp_path)
    with pytest.raises(StorageError, match=r"there is no database.*`switchboard up`.*restore"):
        await check(settings)
    file = tmp_path / "switchboard.db"
    assert not file.exists()
    file.touch()
    with pytest.raises(StorageError, match=r"is empty.*`switchboard migrate`.*restore"):
        await check(settings)


async def test_a_newer_schema_is_left_alone(settings: Settings) -> None:
    await migrate(settings)
    await execute(settings, "UPDATE alembic_version SET version_num = '9999'")
    for step in (migrate, check, prepare):
        with pytest.raises(StorageError, match=r"\(9999\) is newer than this program"):
            await step(settings)
    assert await current(settings) == "9999"


async def test_a_migration_that_fails_leaves_nothing_behind(settings: Settings) -> None:
    await execute(settings, "CREATE TABLE call_events (mine TEXT)")  # the last table to be made
    with pytest.raises(StorageError):
        await migrate(settings)
    assert await tables(settings) - {"alembic_version"} == {"call_events"}
    assert await current(settings) is None
