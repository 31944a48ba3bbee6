"""The storage's tests run on both databases, by the fixture `settings`."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from sqlalchemy import update

from config import Settings, load
from router.clock import SYSTEM
from router.control import accounts
from router.control.context import Control
from router.control.model import Actor, Plan
from router.errors import ConfigError
from router.events.ids import DEFAULT_ACCOUNT
from router.provider import Credentials, NumberInventory
from router.storage.engine import Database, open_database
from router.storage.migrate import migrate
from router.storage.schema import accounts as account_rows
from router.storage.schema import metadata, revision
from router.vault import Vault
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
                if table is account_rows:  # `default` is there from the first migration on
                    others = account_rows.c.id != DEFAULT_ACCOUNT
                    await connection.execute(table.delete().where(others))
                elif table is not revision:
                    await connection.execute(table.delete())
            await connection.execute(update(revision).values(value=0, epoch=1))
        yield database


@pytest.fixture
async def other(db: Database, settings: Settings) -> AsyncIterator[Database]:
    """The same database, as another process has it open."""
    async with open_database(settings) as database:
        yield database


OPERATOR = Actor(account_id=DEFAULT_ACCOUNT)


@pytest.fixture
def control(db: Database, settings: Settings) -> Control:
    """The control plane over `db`; it has no carriers."""

    def no_inventory(
        provider: str, _credentials: Credentials | None
    ) -> AbstractAsyncContextManager[NumberInventory]:
        raise ConfigError(f"there is no account at {provider}")

    return Control(settings, db, Vault([b"k" * 32]), no_inventory, SYSTEM)


@pytest.fixture
async def acme(control: Control) -> Actor:
    """A tenant with no limits."""
    return await tenant(control, "acme")


@pytest.fixture
async def rival(control: Control) -> Actor:
    """Another tenant, who must not see what is acme's."""
    return await tenant(control, "rival")


async def tenant(control: Control, name: str, plan: Plan | None = None) -> Actor:
    """An account's actor with every scope but `admin`."""
    account = await accounts.create(control, OPERATOR, name=name, plan=plan or Plan())
    scopes = [f"{of}:write" for of in ("numbers", "agents", "calls", "webhooks")]
    return Actor(account_id=account.id, name=f"token of {name}", scopes=frozenset(scopes))  # type: ignore[arg-type]
