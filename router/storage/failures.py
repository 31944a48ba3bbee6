"""The drivers' errors in our words: what happened, where, and what mends it.

What drivers write may hold a row's values, and so phone numbers, or a password: only the kind of
the failure is taken from it. For the same reason an error that quotes values is not kept as the
cause. Whatever a person can mend while the process runs is a StorageUnavailable: it is tried again.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from errno import EISDIR
from typing import Final

import psycopg
from sqlalchemy import exc

from router.errors import StorageError, StorageUnavailable

# Primary result codes (https://www.sqlite.org/rescode.html), and what to do about each.
_DAMAGED: Final = (
    "is damaged: stop Switchboard and put your backup in its place, or save what can be read: "
    "sqlite3 {path} .recover | sqlite3 recovered.db (docs/OPERATIONS.md, Backup and restore)"
)
_SQLITE: Final[Mapping[int, str]] = {
    sqlite3.SQLITE_BUSY: "is locked by another program, an open sqlite3 shell or a backup: end it",
    sqlite3.SQLITE_LOCKED: "is locked by another program: end it",
    sqlite3.SQLITE_INTERRUPT: "was interrupted; it is tried again",
    sqlite3.SQLITE_FULL: "can't grow: the disk is full, free some space",
    sqlite3.SQLITE_CANTOPEN: "can't be opened: it must be a file in a folder that this user can "
    "write to",
    sqlite3.SQLITE_PROTOCOL: "is locked by another program: end it",
    sqlite3.SQLITE_PERM: "can't be opened: this user may not read and write it",
    sqlite3.SQLITE_READONLY: "can't be written: make the file, its folder and its disk writable "
    "for this user",
    sqlite3.SQLITE_IOERR: "can't be read or written: look after the disk (dmesg), then restart",
    sqlite3.SQLITE_NOMEM: "needs more memory than there is",
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: "is no SQLite database, or its beginning is damaged: " + _DAMAGED[12:],
}
_LASTING: Final = frozenset(
    {
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    }
)

# SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_CONFLICTS: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock
_POSTGRESQL: Final[Mapping[str, str]] = {  # by the code, or by its class
    "28": "refuses this user or password: correct database.url",
    "3D000": "has no such database: create it, or correct database.url",
    "42501": "does not let this user do that: grant it the rights on its database",
    "25006": "can only be read: it is a standby, name the primary in database.url",
    "53": "is out of disk, memory or connections",
    "57P": "is shutting down or starting",
    "55P03": "is overloaded: a row stayed locked for too long",
    "57014": "is overloaded: a statement took too long",
}


class Conflict(StorageUnavailable):
    """PostgreSQL rolled the transaction back in favour of another: run it again."""


class Unusable(StorageUnavailable):
    """SQLite's file can't be used as it is: somebody must mend it, then it is opened anew."""


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn what SQLAlchemy and the drivers raise into StorageError or StorageUnavailable.

    `where` is the file, or host and database without user and password.
    """
    try:
        yield
    except exc.DBAPIError as error:
        quotes_values = isinstance(error, (exc.IntegrityError, exc.DataError))
        raise _translate(error, where) from (None if quotes_values else error)
    except sqlite3.Error as error:  # past SQLAlchemy: how our transactions begin
        raise _sqlite(error, where) from error
    except exc.TimeoutError as error:
        raise StorageUnavailable(no_connection(where)) from error
    except exc.SQLAlchemyError as error:
        raise StorageError(
            f"a query for {where} is wrong ({type(error).__name__}): a bug"
        ) from error


def no_connection(where: str) -> str:
    """Nobody gave one back in time."""
    return (
        f"no connection to {where} became free in time: it is overloaded, or (PostgreSQL) "
        "database.pool_size is too small"
    )


def unusable(path: str, error: OSError) -> Unusable:
    """The data folder or a file in it can't be used."""
    mend = "make folder and file writable for this user"
    if error.errno == EISDIR:
        mend = "move that folder away, and put your backup in its place if there is one"
    return Unusable(
        f"the database {path} can't be opened ({error.strerror or type(error).__name__}: "
        f"{error.filename or path}): {mend}"
    )


def _translate(error: exc.DBAPIError, where: str) -> StorageError:
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return _sqlite(cause, where)
    if isinstance(cause, psycopg.Error):
        return _postgresql(cause, where, broken=error.connection_invalidated)
    return StorageError(f"{where} failed: {type(cause).__name__}")


def _sqlite(cause: sqlite3.Error, path: str) -> StorageError:
    # The driver sets the code only on what SQLite itself raised.
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    name = getattr(cause, "sqlite_errorname", type(cause).__name__)
    words = _SQLITE.get(code)
    if words is None:
        return StorageError(f"the database {path} refused a statement ({name}): a bug")
    kind = Unusable if code in _LASTING else StorageUnavailable
    return kind(f"the database {path} {words.format(path=path)} ({name})")


def _postgresql(cause: psycopg.Error, where: str, *, broken: bool) -> StorageError:
    state = cause.sqlstate or ""
    kind = type(cause).__name__ + (f", SQLSTATE {state}" if state else "")
    if state in _CONFLICTS:
        return Conflict(f"PostgreSQL at {where} rolled back for another transaction ({kind})")
    words = next(
        (_POSTGRESQL[key] for key in (state, state[:3], state[:2]) if key in _POSTGRESQL), ""
    )
    # OperationalError: refused, lost, shutting down, out of space, lock and statement time-outs.
    if broken or state == "25006" or isinstance(cause, psycopg.OperationalError):
        words = words or "can't be reached: is it running, and is database.url right?"
        return StorageUnavailable(f"PostgreSQL at {where} {words} ({kind})")
    return StorageError(f"PostgreSQL at {where} {words or 'refused a statement: a bug'} ({kind})")
