"""The drivers' errors in our words.

A message says the kind of the failure only: what drivers write may hold a row's values, and so
phone numbers. For the same reason an error that quotes values is not kept as the cause.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from sqlalchemy import exc

from router.errors import StorageError, StorageUnavailable

# Primary result codes (https://www.sqlite.org/rescode.html): busy, locked, interrupted, disk full,
# can't open, locking protocol. They pass; a damaged file or a failing disk does not.
_SQLITE_PASSING: Final = frozenset({5, 6, 9, 13, 14, 15})

# SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_CONFLICTS: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock


class Conflict(StorageUnavailable):
    """PostgreSQL rolled the transaction back in favour of another: run it again."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn what SQLAlchemy and the drivers raise into StorageError or StorageUnavailable."""
    try:
        yield
    except exc.DBAPIError as error:
        quotes_values = isinstance(error, (exc.IntegrityError, exc.DataError))
        raise _translate(error) from (None if quotes_values else error)
    except sqlite3.Error as error:  # past SQLAlchemy: how our transactions begin
        raise _sqlite(error) from error
    except exc.TimeoutError as error:
        raise StorageUnavailable(
            "no database connection became free in time; raise database.pool_size if this persists"
        ) from error
    except exc.SQLAlchemyError as error:
        raise StorageError(f"the database layer refused: {type(error).__name__}") from error


def _translate(error: exc.DBAPIError) -> StorageError:
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return _sqlite(cause)
    if isinstance(cause, psycopg.Error):
        return _postgresql(cause, broken=error.connection_invalidated)
    return StorageError(f"the database failed: {type(cause).__name__}")


def _sqlite(cause: sqlite3.Error) -> StorageError:
    # The driver sets the code only on what SQLite itself raised.
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    name = getattr(cause, "sqlite_errorname", type(cause).__name__)
    if code in _SQLITE_PASSING:
        return StorageUnavailable(
            f"SQLite can't work now ({name}): is the disk full, or another program in the file?"
        )
    return StorageError(f"SQLite failed: {name}")


def _postgresql(cause: psycopg.Error, *, broken: bool) -> StorageError:
    kind = f"{type(cause).__name__}, SQLSTATE {cause.sqlstate or 'none'}"
    if cause.sqlstate in _CONFLICTS:
        return Conflict(f"PostgreSQL rolled back for another transaction: {kind}")
    # OperationalError: refused, lost, shutting down, out of space, lock and statement time-outs.
    if broken or isinstance(cause, psycopg.OperationalError):
        return StorageUnavailable(f"PostgreSQL can't be reached or is overloaded: {kind}")
    return StorageError(f"PostgreSQL failed: {kind}")
