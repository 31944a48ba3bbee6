"""The journal's SQLite file. The only module that imports apsw.

apsw brings its own SQLite (≥ 3.51.3), which does not have the WAL-reset bug of older ones: there,
two connections that write or checkpoint at the same moment can corrupt the file
(sqlite.org/wal.html, "The WAL-Reset Bug"). Still only one `JournalDb` exists per file and does all
writing and all checkpoints; every other connection is a `JournalReader`.

Never open the file with another SQLite library in a process that has it open here: closing any
descriptor of a file drops the POSIX locks of the whole process (sqlite.org/howtocorrupt.html §2.2).

`synchronous=FULL` fsyncs the WAL in each commit; the first of them also syncs the folder.
Every result code of SQLite (sqlite.org/rescode.html) is one of three things, by `_MEANING`:
`LogUnavailable` (nothing was written and it may work later: a full disk, another process's lock, no
descriptor or memory left), `LogFailed` (a failed write or fsync, corruption: what the disk holds is
unknown), `ValueError` (a row that can't be stored).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, cast

import apsw

from router.errors import ConfigError, LogFailed, LogUnavailable
from router.eventlog.topics import COMPACTED
from router.files import make_sqlite_file

Row = tuple[int, str, str, str, int, bytes, bytes | None]
"""(seq, topic, id, key, time in µs, headers as JSON, value)"""

FILE_NAME: Final = "events.db"
_VERSION: Final = 1
_COLUMNS: Final = "seq, topic, id, key, time, headers, value"
_BUSY_TIMEOUT: Final = 5000  # ms; webhooks wait meanwhile, their deadlines are longer
_READ_BYTES: Final = 8 << 20  # a read stops after this much, so that a backlog can't fill memory

_COMPACTED_IN: Final = ", ".join(f"'{topic}'" for topic in sorted(COMPACTED))
_SCHEMA: Final = f"""
CREATE TABLE events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  topic TEXT NOT NULL,
  id TEXT NOT NULL,
  key TEXT NOT NULL,
  time INTEGER NOT NULL,
  headers BLOB NOT NULL,
  value BLOB,
  UNIQUE (topic, id)
) STRICT;
CREATE INDEX newest_of_key ON events (topic, key, seq) WHERE topic IN ({_COMPACTED_IN});
CREATE TABLE positions (name TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
"""
_INSERT: Final = "INSERT INTO events VALUES (?,?,?,?,?,?,?) ON CONFLICT DO NOTHING"
_DELETE: Final = """
DELETE FROM events WHERE seq IN (
  SELECT seq FROM events WHERE +topic = ? AND seq <= ? AND time < ? ORDER BY seq LIMIT ?)
"""
# Of a compacted topic only what a newer record of the same key has replaced may go.
_DELETE_REPLACED: Final = """
DELETE FROM events WHERE seq IN (
  SELECT seq FROM events AS old WHERE +topic = ? AND seq <= ? AND time < ?
  AND EXISTS (SELECT 1 FROM events AS new
              WHERE new.topic = old.topic AND new.key = old.key AND new.seq > old.seq)
  ORDER BY seq LIMIT ?)
"""
# DISTINCT would walk the whole index; this steps from topic to topic.
_TOPICS: Final = """
WITH RECURSIVE step (topic) AS (
  SELECT min(topic) FROM events
  UNION ALL
  SELECT (SELECT min(topic) FROM events WHERE topic > step.topic) FROM step
  WHERE step.topic IS NOT NULL)
SELECT topic FROM step WHERE topic IS NOT NULL
"""


Meaning = Literal["later", "failed", "record"]

_FULL: Final = "can't grow: its disk is full; free some space"
_LOCKED: Final = "is locked by another process (a backup, a VACUUM?); it is tried again"
_OPENING: Final = (
    "can't be opened; it must be a file that this user may write; look at the limit of open files"
)
_MEMORY: Final = "has no memory left; it is tried again"
_DAMAGED: Final = (
    "is damaged; move its folder aside, keep that (sqlite3's .recover may read it), and start: a "
    "new journal is made, and routes.json keeps the routes"
)

# A code that is not here means what its low byte means, which is here for every one.
_MEANING: Final[Mapping[int, Meaning]] = {
    apsw.SQLITE_ERROR: "failed",  # a statement that this file does not fit
    apsw.SQLITE_INTERNAL: "failed",
    apsw.SQLITE_PERM: "failed",
    apsw.SQLITE_ABORT: "later",  # rolled back
    apsw.SQLITE_BUSY: "later",
    apsw.SQLITE_LOCKED: "later",
    apsw.SQLITE_NOMEM: "later",
    apsw.SQLITE_READONLY: "failed",  # how a kernel leaves a disk that had errors; also a moved file
    apsw.SQLITE_READONLY_RECOVERY: "later",
    apsw.SQLITE_READONLY_CANTLOCK: "later",
    apsw.SQLITE_READONLY_CANTINIT: "later",
    apsw.SQLITE_INTERRUPT: "later",
    apsw.SQLITE_IOERR: "failed",
    apsw.SQLITE_IOERR_NOMEM: "later",
    apsw.SQLITE_IOERR_BLOCKED: "later",
    # Locks and the WAL's index: taken before anything is written.
    apsw.SQLITE_IOERR_LOCK: "later",
    apsw.SQLITE_IOERR_RDLOCK: "later",
    apsw.SQLITE_IOERR_CHECKRESERVEDLOCK: "later",
    apsw.SQLITE_IOERR_SHMOPEN: "later",
    apsw.SQLITE_IOERR_SHMSIZE: "later",
    apsw.SQLITE_IOERR_SHMLOCK: "later",
    apsw.SQLITE_IOERR_SHMMAP: "later",
    apsw.SQLITE_CORRUPT: "failed",
    apsw.SQLITE_NOTFOUND: "failed",
    apsw.SQLITE_FULL: "later",
    apsw.SQLITE_CANTOPEN: "later",
    apsw.SQLITE_PROTOCOL: "later",  # a race for the WAL's locks that was lost too often
    apsw.SQLITE_EMPTY: "failed",
    apsw.SQLITE_SCHEMA: "later",
    apsw.SQLITE_TOOBIG: "record",
    apsw.SQLITE_CONSTRAINT: "record",
    apsw.SQLITE_MISMATCH: "record",
    apsw.SQLITE_MISUSE: "failed",
    apsw.SQLITE_NOLFS: "failed",
    apsw.SQLITE_AUTH: "failed",
    apsw.SQLITE_FORMAT: "failed",
    apsw.SQLITE_RANGE: "record",
    apsw.SQLITE_NOTADB: "failed",
}
_SAID: Final[Mapping[int, str]] = {
    apsw.SQLITE_FULL: _FULL,
    apsw.SQLITE_CANTOPEN: _OPENING,
    apsw.SQLITE_IOERR_SHMOPEN: _OPENING,
    apsw.SQLITE_NOMEM: _MEMORY,
    apsw.SQLITE_IOERR_NOMEM: _MEMORY,
    apsw.SQLITE_IOERR_SHMMAP: _MEMORY,
}


def meaning(code: int, *, reading: bool = False) -> Meaning:
    """What a result code says of the journal. A read that failed has left nothing undecided."""
    base = code & 0xFF
    if reading and base == apsw.SQLITE_IOERR:
        return "later"
    return _MEANING.get(code) or _MEANING.get(base, "failed")


@contextmanager
def _translated(path: Path, *, reading: bool = False) -> Iterator[None]:
    try:
        yield
    except TypeError as error:
        raise ValueError("the journal can't store this record: TypeError") from error
    except apsw.Error as error:
        code = getattr(error, "extendedresult", 0) or getattr(error, "result", 0)
        base = code & 0xFF
        name = apsw.mapping_result_codes.get(base, "SQLITE_ERROR")
        match meaning(code, reading=reading):
            case "record":
                raise ValueError(f"the journal can't store this record: {name}") from error
            case "later" if reading and base == apsw.SQLITE_IOERR:
                raise LogUnavailable(
                    f"the journal {path} can't be read ({name}); check its disk"
                ) from error
            case "later":
                said = _SAID.get(code) or _SAID.get(base, _LOCKED)
                raise LogUnavailable(f"the journal {path} {said}") from error
            case "failed" if base in (apsw.SQLITE_CORRUPT, apsw.SQLITE_NOTADB):
                raise LogFailed(f"the journal {path} {_DAMAGED} ({name})") from error
            case "failed":
                raise LogFailed(
                    f"the journal {path} could not be written or read ({name}); check its disk, "
                    "then restart"
                ) from error


def _make_file(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        if file.is_dir():
            raise ConfigError(
                f"{file} is a folder, but that is the place of a file of the journal's: move it "
                "away, and put the file back if it was there before",
                key="data_dir",
            )
    try:
        make_sqlite_file(path)
    except OSError as error:
        raise LogUnavailable(
            f"the journal {path} can't be made: {error.strerror}; free some space, or look at the "
            "owner and mode of its folder (data_dir)"
        ) from error


class JournalDb:
    """The one writing connection. Used by one thread (the writer's)."""

    def __init__(self, folder: Path) -> None:
        self.wal_pages = 0
        self._path = folder / FILE_NAME
        _make_file(self._path)
        with _translated(self._path):
            self._db = apsw.Connection(str(self._path))
            self._db.set_busy_timeout(_BUSY_TIMEOUT)
            self._execute("PRAGMA journal_mode = WAL")
            self._execute("PRAGMA synchronous = FULL")
            self._execute("PRAGMA fullfsync = ON")  # macOS: fsync alone does not reach the platter
            self._execute("PRAGMA cache_size = -16384")
            self._execute("PRAGMA journal_size_limit = 67108864")
            self._create()
            self._db.set_wal_hook(self._committed)  # also turns SQLite's own checkpoints off

    def _execute(self, sql: str, bindings: Sequence[str | int | bytes | None] = ()) -> apsw.Cursor:
        return self._db.execute(sql, bindings)

    def _create(self) -> None:
        version = cast("int", self._execute("PRAGMA user_version").get)
        if version == 0:
            with self._db:
                self._execute(_SCHEMA)
        elif version != _VERSION:
            raise ConfigError(
                f"the journal in data_dir has format {version}, this version reads {_VERSION}; "
                "start the version that wrote it",
                key="data_dir",
            )

    def _committed(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self.wal_pages = pages
        return apsw.SQLITE_OK

    def last_seq(self) -> int:
        """The highest seq ever given, also of rows that retention deleted; 0 for none."""
        with _translated(self._path):
            found = self._execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").get
        return cast("int", found) if found is not None else 0

    def positions(self) -> dict[str, int]:
        """Every stored position by its name."""
        with _translated(self._path):
            rows = self._execute("SELECT name, seq FROM positions").fetchall()
        return {cast("str", name): cast("int", seq) for name, seq in rows}

    def write(self, rows: Sequence[Row], positions: Mapping[str, int]) -> dict[int, Row]:
        """One transaction, durable on return: insert rows, move positions (never back).

        A row whose topic and id the log already has is not written. For each of them, by its seq,
        the row that was there first comes back (it may be of the same batch).
        """
        with _translated(self._path):
            self._execute("BEGIN IMMEDIATE")
            try:
                before = self._db.total_changes()
                self._db.executemany(_INSERT, rows)
                complete = self._db.total_changes() - before == len(rows)
                found = {} if complete else self._existing(rows)
                self._move(positions)
                self._execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite rolls back by itself on some errors
                    self._execute("ROLLBACK")
                raise
        return found

    def _existing(self, rows: Sequence[Row]) -> dict[int, Row]:
        found: dict[int, Row] = {}
        for row in rows:
            first = self._execute(
                f"SELECT {_COLUMNS} FROM events WHERE topic = ? AND id = ?",  # noqa: S608 constant
                (row[1], row[2]),
            ).get
            if cast("Row", first)[0] != row[0]:
                found[row[0]] = cast("Row", first)
        return found

    def _move(self, positions: Mapping[str, int]) -> None:
        for name, seq in positions.items():
            self._execute(
                "INSERT INTO positions VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET seq = max(seq, excluded.seq)",
                (name, seq),
            )

    def topics(self) -> list[str]:
        """The topics that have rows."""
        with _translated(self._path):
            rows = self._execute(_TOPICS).fetchall()
        return [cast("str", topic) for (topic,) in rows]

    def reusable_bytes(self) -> int:
        """What deleted rows have left free inside the file."""
        with _translated(self._path):
            pages = cast("int", self._execute("PRAGMA freelist_count").get)
            return pages * cast("int", self._execute("PRAGMA page_size").get)

    def delete(self, topic: str, *, upto: int, before: int, limit: int) -> int:
        """Delete at most `limit` rows with seq ≤ `upto` and time < `before`; how many it were."""
        sql = _DELETE_REPLACED if topic in COMPACTED else _DELETE
        with _translated(self._path):
            self._execute(sql, (topic, upto, before, limit))
            return self._db.changes()

    def checkpoint(self) -> None:
        """Move the WAL into the database file as far as readers let it (PASSIVE: never waits)."""
        with _translated(self._path):
            pages, moved = self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        self.wal_pages = pages - moved

    def close(self) -> None:
        """Close; the last connection also checkpoints and removes the WAL."""
        with _translated(self._path):
            self._db.close()


class JournalReader:
    """A read-only connection, for one thread at a time. Each read is its own short transaction."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        with _translated(self._path, reading=True):
            self._db = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
            self._db.set_busy_timeout(1000)

    def read(self, after: int, *, upto: int, topics: Sequence[str] | None, limit: int) -> list[Row]:
        """Rows with `after` < seq ≤ `upto` in order: at most `limit`, at most about 8 MiB.

        `topics` None means all.
        """
        sql = f"SELECT {_COLUMNS} FROM events WHERE seq > ? AND seq <= ?"  # noqa: S608 constant
        bindings: list[int | str] = [after, upto]
        if topics is not None:
            # The + keeps the planner off the index by topic, which would sort the whole topic.
            sql += f" AND +topic IN ({','.join('?' * len(topics))})"
            bindings += topics
        rows, size = [], 0
        with _translated(self._path, reading=True):
            for row in self._db.execute(f"{sql} ORDER BY seq LIMIT ?", (*bindings, limit)):
                rows.append(cast("Row", row))
                size += len(rows[-1][6] or b"")
                if size > _READ_BYTES:
                    break
        return rows

    def before_last(self, count: int, topics: Sequence[str]) -> int:
        """The seq after which the last `count` rows of these topics come."""
        marks = ",".join("?" * len(topics))
        sql = f"SELECT seq FROM events WHERE +topic IN ({marks}) ORDER BY seq DESC LIMIT ?"  # noqa: S608 marks
        with _translated(self._path, reading=True):
            seqs = self._db.execute(sql, (*topics, count)).fetchall()
        return cast("int", seqs[-1][0]) - 1 if seqs else self.ends()[1]

    def ends(self) -> tuple[int, int]:
        """(lowest, highest) seq that has a row, (0, 0) for none."""
        with _translated(self._path, reading=True):
            first = self._db.execute("SELECT min(seq) FROM events").get
            last = self._db.execute("SELECT max(seq) FROM events").get
        return cast("int", first or 0), cast("int", last or 0)

    def position(self, name: str) -> int:
        """A stored position, 0 for none."""
        with _translated(self._path, reading=True):
            found = self._db.execute("SELECT seq FROM positions WHERE name = ?", (name,)).get
        return cast("int", found) if found is not None else 0

    def close(self) -> None:
        """Close the connection; a read-only one never checkpoints."""
        self._db.close()
