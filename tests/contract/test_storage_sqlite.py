"""SQLite's own promises: one writer among processes, no more rights than needed, no lost commit."""

import asyncio
import fcntl
import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from config import ConfigProblem, Settings, load
from router.errors import ConfigError, StorageUnavailable
from router.storage import sqlite
from router.storage.engine import open_database
from router.storage.migrate import migrate
from router.storage.schema import revision

# What `switchboard apply` does beside a running instance, many times.
_WRITER = """
import asyncio, sys
from pathlib import Path
from sqlalchemy import update
from config import load
from router.storage.engine import open_database
from router.storage.schema import revision

async def main() -> None:
    settings = load(overrides={"data_dir": sys.argv[1]})
    for _ in range(5):
        async with open_database(settings) as db:
            for _ in range(20):
                async with db.write() as connection:
                    await connection.execute(update(revision).values(value=revision.c.value + 1))

asyncio.run(main())
"""


@pytest.fixture
async def settings(tmp_path: Path) -> Settings:
    settings = load(overrides={"data_dir": str(tmp_path / "data")})
    await migrate(settings)
    return settings


@contextmanager
def lock_held(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


@pytest.mark.serial  # whoever gets no processor for 5 s gives up, as it should
async def test_two_processes_write_without_losing_a_commit(settings: Settings) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _WRITER, str(settings.data_dir), cwd=Path(__file__).parents[2]
    )
    own = 0
    async with open_database(settings) as db:
        while process.returncode is None:
            async with db.write() as connection:
                await connection.execute(update(revision).values(value=revision.c.value + 1))
            own += 1
            await asyncio.sleep(0)
        assert process.returncode == 0
        assert own > 0
        async with db.read() as connection:
            assert (await connection.execute(select(revision.c.value))).scalar_one() == 100 + own
            assert (await connection.execute(text("PRAGMA integrity_check"))).scalar_one() == "ok"


async def test_a_writer_waits_for_the_gate_no_longer_than_it_must(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_database(settings) as db:
        async with db.read():
            pass  # it is opened when it is first needed
        assert db._file is not None
        monkeypatch.setattr(db._file.gate, "_limit", 0.1)
        with lock_held(settings.data_dir / "switchboard.db.lock"):
            with pytest.raises(StorageUnavailable, match="another process"):
                async with db.write():
                    pytest.fail("went past the gate")
            async with db.read() as connection:  # readers do not care
                assert (await connection.execute(select(revision.c.value))).scalar_one() == 0
        async with db.write() as connection:
            await connection.execute(update(revision).values(value=1))


async def test_a_foreign_writer_without_the_gate_is_unavailability(settings: Settings) -> None:
    async with open_database(settings) as db, open_database(settings) as foreign:
        async with db.read(), foreign.read():
            pass  # they are opened when they are first needed
        async with foreign._transaction(5.0, writes=True):  # as the sqlite3 shell would
            async with db._engine.connect() as connection:
                await connection.exec_driver_sql("PRAGMA busy_timeout=50")
            with pytest.raises(StorageUnavailable, match="SQLITE_BUSY"):
                async with db.write():
                    pytest.fail("two writers at once")
        async with db.write():
            pass


async def test_every_connection_is_set_up_for_durability(settings: Settings) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "mmap_size": 0}
    async with open_database(settings) as db, db.read() as connection:
        for name, expected in wanted.items():
            found = (await connection.execute(text(f"PRAGMA {name}"))).scalar_one()
            assert (name, found) == (name, expected)


async def driver_of(connection: AsyncConnection) -> sqlite.Driver:
    found = (await connection.get_raw_connection()).driver_connection
    assert isinstance(found, sqlite.Driver)
    return found


async def test_a_statement_is_one_trip_to_the_thread(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips = 0
    original: Any = aiosqlite.Connection._execute

    async def counted(self: aiosqlite.Connection, *args: Any, **kwargs: Any) -> Any:
        nonlocal trips
        trips += 1
        return await original(self, *args, **kwargs)

    async with open_database(settings) as db:
        async with db.read():
            pass
        monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
        async with db.read() as connection:
            assert len((await connection.execute(select(revision))).all()) == 1
        assert trips == 3  # BEGIN, the statement, COMMIT


async def test_a_transaction_that_begins_behind_a_cancellation_is_rolled_back(
    settings: Settings,
) -> None:
    async with open_database(settings) as db:
        async with db.read() as connection:
            driver = await driver_of(connection)
        busy, began = threading.Event(), asyncio.get_running_loop().create_future()
        blocking = asyncio.ensure_future(driver.trip(lambda _: busy.wait(10)))

        async def read() -> None:
            asyncio.get_running_loop().call_soon(began.set_result, None)
            async with db.read():
                raise AssertionError

        reading = asyncio.create_task(read())
        await began
        await asyncio.sleep(0.05)  # its BEGIN waits behind what blocks the thread
        reading.cancel()
        busy.set()
        await asyncio.gather(blocking, reading, return_exceptions=True)
        async with db.write() as connection:
            await connection.execute(update(revision).values(value=7))
        async with db.read() as connection:
            assert (await connection.execute(select(revision.c.value))).scalar_one() == 7
            driver = await driver_of(connection)
        assert not driver.in_transaction


async def test_only_the_owner_may_read_it(settings: Settings) -> None:
    async with open_database(settings):
        for path in settings.data_dir.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700


async def test_a_queue_of_writers_is_served_one_after_the_other(tmp_path: Path) -> None:
    gate = sqlite.Gate(tmp_path / "lock", limit=5.0)
    inside = 0

    async def enter() -> None:
        nonlocal inside
        async with gate.held():
            inside += 1
            await asyncio.sleep(0)
            assert inside == 1
            inside -= 1

    await asyncio.gather(*(enter() for _ in range(20)))
    gate.close()


@pytest.mark.parametrize(
    "url", ["sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:", "mysql://u:hush@h/d", "hush"]
)
async def test_a_database_that_can_not_be_used_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigProblem, match=r"database\.url: must start with") as refused:
        load(overrides={"database": {"url": url}})
    assert "hush" not in str(refused.value)
    settings = load(overrides={"data_dir": str(tmp_path)})
    unchecked = settings.database.model_copy(update={"url": url})
    settings = settings.model_copy(update={"database": unchecked})
    with pytest.raises(ConfigError) as caught:
        async with open_database(settings):
            pytest.fail("opened")
    assert caught.value.key == "database.url"
    assert "hush" not in str(caught.value)


def damage(path: Path, how: str) -> None:
    """Do to a database file what disks and people do."""
    for side in ("-wal", "-shm"):
        path.with_name(path.name + side).unlink(missing_ok=True)
    match how:
        case "text":
            path.write_text("not a database at all, " * 100)
        case "header":
            path.write_bytes(b"\0" * 100 + path.read_bytes()[100:])
        case "middle":
            path.write_bytes(path.read_bytes()[:2048] + b"\xff" * (path.stat().st_size - 2048))
        case _:
            path.unlink()
            path.mkdir()


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ("text", r"no SQLite database.*\.recover"),
        ("header", r"no SQLite database.*\.recover"),
        ("middle", r"is damaged.*backup.*\.recover"),
        ("folder", r"Is a directory.*move that folder away"),
    ],
)
async def test_a_file_that_can_not_be_used_is_named_and_used_when_it_is_mended(
    settings: Settings, how: str, match: str
) -> None:
    path = settings.data_dir / "switchboard.db"
    whole = path.read_bytes()
    damage(path, how)
    async with open_database(settings) as db:  # the start does not depend on it
        for _ in range(2):
            with pytest.raises(StorageUnavailable, match=match) as caught:
                async with db.read() as connection:
                    await connection.execute(select(revision.c.value))
            assert str(path) in str(caught.value)
        if path.is_dir():
            path.rmdir()
        path.write_bytes(whole)
        async with db.write() as connection:
            await connection.execute(update(revision).values(value=5))


async def test_who_yields_goes_last_but_not_never(tmp_path: Path) -> None:
    """A batch of records must not stand before the claims of callers who wait."""
    gate, order = sqlite.Gate(tmp_path / "lock", limit=1.0), list[str]()

    async def write(name: str, *, yields: bool, seconds: float = 0.01) -> None:
        async with gate.held(yields=yields):
            order.append(name)
            await asyncio.sleep(seconds)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write("first", yields=False))
        await asyncio.sleep(0)
        tasks.create_task(write("record", yields=True))
        for number in range(3):
            await asyncio.sleep(0)
            tasks.create_task(write(f"claim-{number}", yields=False))
    assert order == ["first", "claim-0", "claim-1", "claim-2", "record"]

    async def claim_on_and_on() -> None:
        while "record" not in order[5:]:
            await write("claim", yields=False, seconds=0.05)

    async with asyncio.timeout(5.0), asyncio.TaskGroup() as tasks:
        for _ in range(2):  # so that somebody has it or waits for it at any time
            tasks.create_task(claim_on_and_on())
        await asyncio.sleep(0)
        tasks.create_task(write("record", yields=True, seconds=0.2))
    gate.close()
