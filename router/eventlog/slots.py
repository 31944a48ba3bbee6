"""A folder per process: `journal-0`, `journal-1`, … in the data folder, each with a lock file.

A journal belongs to one process. Several processes on one host take the first free folder each. The
lock is the kernel's (`flock`), so that a killed process leaves none behind.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from router import files
from router.errors import ConfigError

_PREFIX: Final = "journal-"
_MOST: Final = 1000  # processes of one host


def slot_folders(data_dir: Path) -> list[Path]:
    """The journals in a data folder, whoever they belong to, in order."""
    return sorted(data_dir.glob(f"{_PREFIX}[0-9]*"), key=slot_number)


def slot_number(folder: Path) -> int:
    """`journal-3` → 3."""
    return int(folder.name.removeprefix(_PREFIX))


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock; False when another process has it."""
    descriptor = files.open_file(folder / "lock", os.O_RDWR)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)  # for people who look for the owner
        yield True
    finally:
        os.close(descriptor)


@contextmanager
def take_slot(data_dir: Path, *, shared: bool) -> Iterator[Path]:
    """This process's own journal folder, made when there is none free.

    `shared` allows further processes on one data folder; they need Kafka to see each other's
    events.

    Raises:
        ConfigError: not shared, and another process has the journal.
    """
    for number in range(_MOST if shared else 1):
        folder = data_dir / f"{_PREFIX}{number}"
        files.make_folder(folder)
        with locked(folder) as mine:
            if mine:
                yield folder
                return
    raise ConfigError(
        f"another process (pid {_owner(data_dir)}) has the journal in {data_dir}; stop it, or give "
        "this one its own data_dir. Several processes share one only over Kafka "
        "(kafka.bootstrap_servers)",
        key="data_dir",
    )


def _owner(data_dir: Path) -> str:
    return (data_dir / f"{_PREFIX}0" / "lock").read_text().strip() or "unknown"
