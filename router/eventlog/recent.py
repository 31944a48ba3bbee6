"""The newest rows of a journal in memory: readers that keep up never touch the file."""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import islice
from operator import itemgetter
from typing import Final

from router.eventlog.journal_db import Row

MAX_ROWS: Final = 4096
MAX_BYTES: Final = 16 << 20
_SEQ: Final = itemgetter(0)


class Recent:
    """Rows after some seq without a hole, at most `max_rows` and `max_bytes` of values."""

    def __init__(
        self, last_seq: int, *, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES
    ) -> None:
        self._before = last_seq  # every row after this one is here
        self._rows: list[Row] = []
        self._bytes = 0
        self._max_rows = max_rows
        self._max_bytes = max_bytes

    def add(self, rows: Sequence[Row]) -> None:
        """Rows that were committed, in order."""
        self._rows += rows
        self._bytes += sum(map(_size, rows))
        while len(self._rows) > self._max_rows or self._bytes > self._max_bytes:
            self._drop((len(self._rows) + 1) // 2)  # half at once: cutting a list's front costs

    def _drop(self, count: int) -> None:
        self._before = self._rows[count - 1][0]
        self._bytes -= sum(_size(row) for row in islice(self._rows, count))
        del self._rows[:count]

    def after(self, seq: int, topics: Collection[str] | None, limit: int) -> list[Row] | None:
        """The first `limit` rows after `seq` of these topics, None where memory has a part only."""
        if seq < self._before:
            return None
        start = bisect_right(self._rows, seq, key=_SEQ)
        rows = islice(self._rows, start, None)
        if topics is not None:
            return list(islice((row for row in rows if row[1] in topics), limit))
        return list(islice(rows, limit))


def _size(row: Row) -> int:
    return len(row[5]) + len(row[6] or b"")
