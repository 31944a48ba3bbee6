"""Bring the database's schema to the one of this program, and tell where they differ.

A migration is one transaction on either database. Starts that race wait for each other: in SQLite
at the gate, in PostgreSQL at an advisory lock; the second finds nothing to do. Old and new
programs run side by side during a roll-out, so a migration only adds; what it replaces goes a
release later.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, inspect, select, text

from config.settings import Settings
from router.errors import StorageError
from router.files import may_be_made
from router.storage.engine import Database, open_database

_LIMIT: Final = 300.0  # seconds
_LOCK: Final = 0x5377_6974_6368  # "Switch", among PostgreSQL's advisory locks


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """The schema's revision before and after; None: an empty database."""

    from_rev: str | None
    to_rev: str | None


async def prepare(settings: Settings) -> None:
    """What every start does: `migrate`, or `check_open` where `database.migrate_at_start` is off.

    Raises:
        StorageError, StorageUnavailable: as these do.
    """
    if settings.database.migrate_at_start:
        await migrate(settings)
        return
    async with open_database(settings) as db:
        await check_open(db)


async def migrate(settings: Settings) -> MigrationResult:
    """Bring the schema up to the one of this program.

    Raises:
        StorageError: the schema is newer than this program, or a migration failed; nothing changed.
        StorageUnavailable: the database can't be reached.
    """
    return await _run(settings, command.upgrade, "head")


async def rollback(settings: Settings, *, to: str) -> MigrationResult:
    """Take the schema back to revision `to`, before an older program starts; `base` drops it all.

    Raises:
        StorageError, StorageUnavailable: as `migrate`.
    """
    return await _run(settings, command.downgrade, to)


async def current(settings: Settings) -> str | None:
    """The revision of the database's schema; None: an empty database, or none. Makes no file."""
    async with open_database(settings) as db:
        if _is_missing(db):
            return None
        async with db.read() as connection:
            return await connection.run_sync(_current)


async def check(settings: Settings) -> None:
    """Make sure that the schema is the one of this program; makes no file and no folder.

    Raises:
        StorageError: it is older or newer, or there is none; says what to do.
        ConfigError: there can't even be a folder for it.
    """
    async with open_database(settings) as db:
        if _is_missing(db):
            raise StorageError(
                f"there is no database {db.where}: `switchboard up` makes it, or `switchboard "
                "migrate`. Is this the right data_dir? If there was one before, restore its backup"
            )
        await check_open(db)


def _is_missing(db: Database) -> bool:
    """Whether SQLite's file is not there, and may be made; else opening says what is wrong."""
    path = Path(db.where)
    return db.dialect == "sqlite" and may_be_made(path.parent) and not os.path.lexists(path)


async def check_open(db: Database) -> None:
    """The same, of a database that is open already.

    Raises:
        StorageError, StorageUnavailable: as `check`, or it can't be read.
    """
    async with db.read() as connection:
        rev = await connection.run_sync(_current)
    if rev != _head():
        head = _known(rev, db.where).get_current_head()
        if rev is None:
            raise StorageError(
                f"the database {db.where} is empty, so older than this program ({head}): "
                "`switchboard migrate` makes its tables, and so does `switchboard up` where "
                "database.migrate_at_start is on; if there was one before, restore its backup"
            )
        raise StorageError(
            f"the database {db.where} has schema {rev} and is older than this program ({head}): "
            "run `switchboard migrate`, or set database.migrate_at_start = true"
        )


async def _run(settings: Settings, step: Callable[[Config, str], None], to: str) -> MigrationResult:
    async with open_database(settings) as db, db.write(limit=_LIMIT) as connection:
        if db.dialect == "postgresql":
            await connection.execute(text("SET LOCAL statement_timeout = '300s'"))
            await connection.execute(text("SET LOCAL lock_timeout = '60s'"))
            await connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        return await connection.run_sync(_step, db.where, step, to)


def _step(
    connection: Connection, where: str, step: Callable[[Config, str], None], to: str
) -> MigrationResult:
    before = _current(connection)
    _known(before, where)
    if before is None:
        _must_be_ours(connection, where)
    config = _config()
    config.attributes["connection"] = connection
    step(config, to)
    return MigrationResult(before, _current(connection))


@cache
def _head() -> str | None:
    return ScriptDirectory.from_config(_config()).get_current_head()


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _must_be_ours(connection: Connection, where: str) -> None:
    """A file of another program must not be taken for a new database; servers are shared."""
    if connection.dialect.name == "sqlite":
        foreign = set(inspect(connection).get_table_names()) - {"alembic_version"}
        if foreign:
            raise StorageError(
                f"the database {where} has tables ({', '.join(sorted(foreign)[:3])}) but was not "
                "made by Switchboard: name another file in database.url, or move this one away"
            )


def _known(rev: str | None, where: str) -> ScriptDirectory:
    """The migrations of this program, which must know `rev`."""
    scripts = ScriptDirectory.from_config(_config())
    if rev is not None and rev not in {script.revision for script in scripts.walk_revisions()}:
        raise StorageError(
            f"the schema of the database {where} ({rev}) is newer than this program "
            f"({scripts.get_current_head()}): start the newer program, or put the backup from "
            "before the upgrade in its place (docs/OPERATIONS.md, Upgrade)"
        )
    return scripts


def _config() -> Config:
    # A package path, not a file's: the same from a checkout and from an installed wheel.
    config = Config()
    config.set_main_option("script_location", "router.storage:migrations")
    return config
