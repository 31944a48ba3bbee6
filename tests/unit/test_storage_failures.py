"""What the drivers raise, told to a person: what, where, what to do; nothing that is secret."""

import sqlite3

import psycopg
import pytest
from sqlalchemy import exc

from router.errors import StorageError, StorageUnavailable
from router.storage.failures import _SQLITE, Unusable, translated, unusable

FILE = "/data/switchboard.db"
MENDS = ("stop", "end it", "free", "make", "must be", "may not", "look after", "memory", "again")


def of_sqlite(code: int, name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError("near '+14155550123': hush")
    error.sqlite_errorcode, error.sqlite_errorname = code, name
    return error


def told(raised: Exception, where: str = FILE) -> StorageError:
    with pytest.raises(StorageError) as caught, translated(where):
        raise raised
    assert "hush" not in str(caught.value)
    assert "+1415" not in str(caught.value)
    assert where in str(caught.value)
    return caught.value


@pytest.mark.parametrize("code", _SQLITE)
def test_what_a_person_can_mend_is_tried_again_and_says_how(code: int) -> None:
    for extended in (code, code | 7 << 8):
        error = told(of_sqlite(extended, "SQLITE_SOMETHING"))
        assert isinstance(error, StorageUnavailable)
        assert any(mend in str(error) for mend in MENDS)
        assert "SQLITE_SOMETHING" in str(error)


def test_a_damaged_file_names_the_backup_and_the_command() -> None:
    for code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        error = told(exc.DatabaseError("SELECT 1", {}, of_sqlite(code, "SQLITE_CORRUPT")))
        assert isinstance(error, Unusable)
        for part in ("backup", f"sqlite3 {FILE} .recover", "docs/OPERATIONS.md"):
            assert part in str(error)


def test_a_wrong_statement_is_a_bug_and_not_tried_again() -> None:
    error = told(of_sqlite(sqlite3.SQLITE_ERROR, "SQLITE_ERROR"))
    assert not isinstance(error, StorageUnavailable)
    assert "a bug" in str(error)


class _OfServer(psycopg.OperationalError):
    sqlstate = None


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (None, "can't be reached: is it running, and is database.url right?"),
        ("28P01", "user or password: correct database.url"),
        ("3D000", "no such database: create it"),
        ("53300", "out of disk, memory or connections"),
        ("57P03", "shutting down or starting"),
        ("55P03", "overloaded"),
        ("25006", "a standby"),
    ],
)
def test_a_server_that_does_not_serve(state: str | None, words: str) -> None:
    cause = _OfServer("FATAL: hush for +14155550123")
    cause.sqlstate = state  # type: ignore[assignment]
    error = told(exc.OperationalError("SELECT 1", {}, cause), "db.example:5432/calls")
    assert isinstance(error, StorageUnavailable)
    assert words in str(error)
    assert "none" not in str(error).lower()


def test_a_folder_that_can_not_be_used_is_named() -> None:
    error = unusable(FILE, PermissionError(13, "Permission denied", "/data"))
    assert "Permission denied: /data" in str(error)
    assert "writable" in str(error)
