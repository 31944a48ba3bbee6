"""`consumers.progress`, by example."""

import pytest

from consumers.progress import Progress


def test_the_unbroken_run_decides() -> None:
    progress = Progress()
    assert progress.committable() is None
    for offset in (4, 5, 9):
        progress.start(offset)
    progress.done(5)
    assert progress.committable() is None
    progress.done(4)
    assert progress.committable() == 5
    progress.done(9)
    assert progress.committable() == 9


def test_done_twice_or_never_started_changes_nothing() -> None:
    progress = Progress()
    progress.start(1)
    progress.start(2)
    progress.done(1)
    progress.done(1)
    progress.done(0)
    assert progress.committable() == 1
    progress.done(2)
    assert progress.committable() == 2


def test_offsets_grow() -> None:
    progress = Progress()
    progress.start(3)
    assert progress.started(3)
    assert progress.started(1)
    assert not progress.started(4)
    with pytest.raises(ValueError, match="offset 3 started after 3"):
        progress.start(3)
