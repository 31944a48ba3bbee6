"""The journal's writer thread: group commit, checkpoints and retention on the one connection.

Whatever queues up while one fsync runs is committed by the next one, so that a batch grows with the
load and nothing ever waits for a timer (DESIGN §5, measured in bench/journal.py). Each batch comes
back to the event loop in one call.

 - Below `min_free_bytes`, or when SQLite says that the disk is full, records are refused and
   nothing is written; the next batch tries again. Positions may use the reserve: without them
   retention could never give space back.
 - A row that SQLite can't take is refused alone: its batch is committed again row by row.
 - An I/O error ends the thread. A failed fsync must not be repeated: the kernel may have dropped
   the pages and report success next time (wiki.postgresql.org/wiki/Fsync_Errors).
 - In idle gaps, and past `_CHECKPOINT_PAGES`, the WAL is moved into the database. The WAL file is
   then written from its start again: fsync of blocks that exist is cheaper than of a growing file.
 - Retention deletes in chunks what is older than `retention_hours`, never past a position of a
   name that starts with `pinned_by` (the relay's, or the groups').
"""

import os
import threading
import time
from asyncio import AbstractEventLoop
from asyncio import Future as LoopFuture
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

from config.settings import JournalSettings
from router.errors import LogFailed, LogUnavailable
from router.eventlog.base import Clock
from router.eventlog.journal_db import JournalDb, Row
from router.observability.metrics import FSYNC_SECONDS

GROUP: Final = "group/"
RELAY: Final = "relay"

_CHECKPOINT_PAGES: Final = 4096  # 16 MiB of WAL
_IDLE: Final = 0.1  # seconds without work before an early checkpoint
_RETENTION_EVERY: Final = 60.0  # seconds
_RETENTION_CHUNK: Final = 1000  # rows; a chunk delays the appends behind it by milliseconds

Draft = tuple[str, str, str, int, bytes, bytes | None]
"""A row without its seq."""


class Append(NamedTuple):
    """Add a row. The outcome is the row, and whether it was there before."""

    outcome: LoopFuture[tuple[Row, bool]]
    draft: Draft


class Move(NamedTuple):
    """Set the position `name` to `seq`, never back."""

    outcome: LoopFuture[None]
    name: str
    seq: int


Job = Append | Move


class Opened(NamedTuple):
    """What the file holds at start."""

    last_seq: int
    positions: dict[str, int]


class Committed(NamedTuple):
    """A batch that is on the disk."""

    appends: Sequence[Append]
    rows: Sequence[Row]  # one for each of `appends`
    existing: dict[int, Row]  # rows that were there first, by the seq that the repeat had
    moves: Sequence[Move]


class JournalWriter:
    """Owns the connection. `queue` takes jobs from the loop's thread, None ends the thread.

    `on_committed`, `on_refused` and `on_failed` run in the loop's thread.
    """

    def __init__(
        self,
        folder: Path,
        settings: JournalSettings,
        *,
        loop: AbstractEventLoop,
        pinned_by: str,
        clock: Clock,
        on_committed: Callable[[Committed], None],
        on_refused: Callable[[Sequence[Job], Exception], None],
        on_failed: Callable[[Sequence[Job], LogFailed], None],
    ) -> None:
        self.queue: SimpleQueue[Job | None] = SimpleQueue()
        self.opened: Future[Opened] = Future()
        self.closed: Future[None] = Future()
        self._folder = folder
        self._settings = settings
        self._loop = loop
        self._pinned_by = pinned_by
        self._clock = clock
        self._on_committed = on_committed
        self._on_refused = on_refused
        self._on_failed = on_failed
        self._next_seq = 1
        self._positions: dict[str, int] = {}
        self._checkpoint_at = _CHECKPOINT_PAGES
        self._retention_at = 0.0
        self._batch: list[Job] = []

    def start(self) -> None:
        """Start the thread; `opened` says how that went."""
        # A daemon: an fsync that never returns must not keep the process from ending.
        threading.Thread(target=self._run, name="journal-writer", daemon=True).start()

    def _run(self) -> None:
        try:
            db = JournalDb(self._folder)
            opened = Opened(db.last_seq(), db.positions())
        except Exception as error:  # noqa: BLE001 whatever it is, who opens the journal must get it
            self.opened.set_exception(error)
            return
        self._next_seq = opened.last_seq + 1
        self._positions = dict(opened.positions)
        self.opened.set_result(opened)
        try:
            self._serve(db)
            db.close()
        except LogFailed as error:
            self._call(self._on_failed, self._batch, error)
        except Exception as error:  # noqa: BLE001 a bug here must not leave senders waiting for ever
            failure = LogFailed(f"the journal's writer broke: {type(error).__name__}; restart")
            failure.__cause__ = error
            self._call(self._on_failed, self._batch, failure)
        finally:
            self.closed.set_result(None)

    def _serve(self, db: JournalDb) -> None:
        stopping = False
        while not stopping:
            stopping = self._fill_batch(busy=db.wal_pages > 0)
            if self._batch:
                self._write(db, self._batch)
            self._tend(db, idle=not self._batch)
            self._batch = []

    def _fill_batch(self, *, busy: bool) -> bool:
        """Wait for work and take what there is; True when it is time to stop."""
        try:
            job = self.queue.get(timeout=_IDLE if busy else _RETENTION_EVERY)
            while job is not None:
                self._batch.append(job)
                if len(self._batch) >= self._settings.batch_limit:
                    return False
                job = self.queue.get_nowait()
        except Empty:
            return False
        return True

    def _write(self, db: JournalDb, batch: Sequence[Job]) -> None:
        appends = [job for job in batch if isinstance(job, Append)]
        moves = [job for job in batch if isinstance(job, Move)]
        if appends and not self._has_space(db):
            self._refuse(appends, LogUnavailable("the journal's disk is nearly full; free some"))
            appends = []
        if appends or moves:
            self._commit(db, appends, moves)

    def _commit(self, db: JournalDb, appends: Sequence[Append], moves: Sequence[Move]) -> None:
        rows = [(seq, *job.draft) for seq, job in enumerate(appends, self._next_seq)]
        positions = {move.name: move.seq for move in sorted(moves, key=lambda move: move.seq)}
        try:
            with FSYNC_SECONDS.time():
                existing = db.write(rows, positions)
        except LogUnavailable as error:
            self._refuse([*appends, *moves], error)
        except ValueError as error:
            if len(appends) + len(moves) == 1:
                self._refuse([*appends, *moves], error)
                return
            for append in appends:
                self._commit(db, [append], [])
            self._commit(db, [], moves)
        else:
            self._next_seq += len(rows)
            for name, seq in positions.items():
                self._positions[name] = max(seq, self._positions.get(name, 0))
            self._call(self._on_committed, Committed(appends, rows, existing, moves))

    def _refuse(self, batch: Sequence[Job], error: Exception) -> None:
        if batch:
            self._call(self._on_refused, batch, error)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)

    def _has_space(self, db: JournalDb) -> bool:
        disk = os.statvfs(self._folder)
        free = disk.f_bavail * disk.f_frsize
        least = self._settings.min_free_bytes
        return free >= least or free + db.reusable_bytes() >= least

    def _tend(self, db: JournalDb, *, idle: bool) -> None:
        try:
            if db.wal_pages >= self._checkpoint_at or (idle and db.wal_pages):
                db.checkpoint()
                # What an open read held back is not tried again at once.
                self._checkpoint_at = db.wal_pages + _CHECKPOINT_PAGES
            if time.monotonic() >= self._retention_at and not self._delete_chunk(db):
                self._retention_at = time.monotonic() + _RETENTION_EVERY
        except LogUnavailable:  # no space for a checkpoint or a delete: appends will say so
            self._retention_at = time.monotonic() + _RETENTION_EVERY

    def _delete_chunk(self, db: JournalDb) -> bool:
        """Delete up to one chunk; whether there may be more."""
        before = self._clock() - int(self._settings.retention_hours * 3_600_000_000)
        for topic in db.topics():
            upto = self._floor(topic)
            if db.delete(topic, upto=upto, before=before, limit=_RETENTION_CHUNK):
                return True
        return False

    def _floor(self, topic: str) -> int:
        pins = [
            seq
            for name, seq in self._positions.items()
            if name.startswith(self._pinned_by) and (name == RELAY or name.endswith(f"/{topic}"))
        ]
        return min(pins, default=self._next_seq)
