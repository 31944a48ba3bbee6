"""The storage's tests run on both databases, by the fixture `settings`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import update

from config import Settings, load
from router.events.ids import DEFAULT_ACCOUNT
from router.storage.engine import Database, open_database
from router.storage.migrate import migrate
from router.storage.schema import accounts, metadata, revision
from tests.support.servers.postgres import Postgres


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> str:
    """One PostgreSQL database for the run; `db` migrates and empties it."""
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.create_database("storage")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings that name SQLite in a new folder, then PostgreSQL."""
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    return load(overrides={"data_dir": str(tmp_path), "database": {"url": url}})


@pytest.fixture
async def db(settings: Settings) -> AsyncIterator[Database]:
    """An empty database with today's schema."""
    await migrate(settings)
    async with open_database(settings) as database:
        async with database.write() as connection:
            for table in reversed(metadata.sorted_tables):
                if table is accounts:
                    others = accounts.c.id != DEFAULT_ACCOUNT
                    await connection.execute(accounts.delete().where(others))
                elif table is not revision:
                    await connection.execute(table.delete())
            await connection.execute(update(revision).values(value=0, epoch=1))
        yield database


@pytest.fixture
async def other(db: Database, settings: Settings) -> AsyncIterator[Database]:
    """The same database, as another process has it open."""
    async with open_database(settings) as database:
        yield database
