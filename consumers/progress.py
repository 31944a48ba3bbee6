"""Which offset of a partition may be committed, while its records are handled side by side.

Records start in the order of their offsets (with gaps: compaction, transaction markers) and finish
in any order. Committing an offset says that it and everything before it is done, so the offset
that may be committed is the last one of the unbroken run of finished records; one slow record holds
it back, and a crash repeats what finished beyond it.
"""

from collections import deque


class Progress:
    """The bookkeeping of one partition, for as long as it is ours."""

    def __init__(self) -> None:
        self._open: deque[int] = deque()  # from the lowest incomplete on, in order
        self._finished: set[int] = set()  # those of them that are done
        self._highest: int | None = None
        self._committable: int | None = None

    def started(self, offset: int) -> bool:
        """Whether `offset` is at or below the last one that was started."""
        return self._highest is not None and offset <= self._highest

    def start(self, offset: int) -> None:
        """A record is being handled. Raises ValueError when the offset doesn't grow."""
        if self.started(offset):
            raise ValueError(f"offset {offset} started after {self._highest}")
        self._open.append(offset)
        self._highest = offset

    def done(self, offset: int) -> None:
        """A started record is finished; a second time changes nothing."""
        if not self._open or offset < self._open[0]:
            return
        self._finished.add(offset)
        while self._open and self._open[0] in self._finished:
            self._committable = self._open.popleft()
            self._finished.remove(self._committable)

    def committable(self) -> int | None:
        """The last offset before which (and at which) everything started is done, None for none."""
        return self._committable
