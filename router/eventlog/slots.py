"""A folder per process: `journal-0`, `journal-1`, … in the data folder, each with a lock file.

A journal belongs to one process. Several processes on one host take the first free folder each. The
lock is the kernel's (`flock`), so that a killed process leaves none behind.
"""

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from router import files
from router.errors import ConfigError

_PREFIX: Final = "journal-"
_MOST: Final = 1000  # processes of one host
_SLOT: Final = re.compile(rf"{_PREFIX}(0|[1-9][0-9]{{0,2}})")  # as `take_slot` writes it

_SEAT: Final = re.compile(r"[0-9a-f]{32}")


def slot_folders(data_dir: Path) -> list[Path]:
    """The journals in a data folder, whoever they belong to, in order.

    People leave other things beside them: `journal-0.bak`, a file, a link to nowhere, a second name
    for the same folder. Those are no journals of any process; see `foreign_names`.
    """
    found: dict[tuple[int, int], Path] = {}
    for path in sorted(_named_alike(data_dir), key=_order):
        if _SLOT.fullmatch(path.name) is None:
            continue
        with suppress(OSError):
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                found.setdefault((status.st_dev, status.st_ino), path)
    return list(found.values())


def foreign_names(data_dir: Path) -> list[str]:
    """What is called like a journal and is not read as one, for people to look at."""
    journals = {folder.name for folder in slot_folders(data_dir)}
    return sorted(path.name for path in _named_alike(data_dir) if path.name not in journals)


def slot_number(folder: Path) -> int:
    """`journal-3` → 3."""
    return int(folder.name.removeprefix(_PREFIX))


def _named_alike(data_dir: Path) -> list[Path]:
    try:
        names = os.listdir(data_dir)  # noqa: PTH208 - names are all that is needed
    except OSError:  # not there yet, or not ours to read
        return []
    return [data_dir / name for name in names if name.startswith(_PREFIX)]


def _order(path: Path) -> tuple[int, str]:
    return len(path.name), path.name


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock; False when another process has it.

    Raises:
        ConfigError: its file can't be opened.
    """
    try:
        descriptor = files.open_file(folder / "lock", os.O_RDWR)
    except OSError as error:
        mend = "give it and its folder to this user"
        if isinstance(error, IsADirectoryError):
            mend = "move that folder away, a file is made in its place"
        raise ConfigError(
            f"the journal's lock {folder / 'lock'} can't be opened ({error.strerror}): {mend}",
            key="data_dir",
        ) from error
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
        ConfigError: not shared, and another process has the journal, or something that is no
            folder has its name; or its lock can't be opened.
    """
    for number in range(_MOST if shared else 1):
        folder = data_dir / f"{_PREFIX}{number}"
        if os.path.lexists(folder) and not folder.is_dir():
            if shared:  # its name is taken; there are others
                continue
            raise ConfigError(
                f"{folder} is not a folder, but the journal's place: move it away", key="data_dir"
            )
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


def seat_of(folder: Path) -> str:
    """The name of a slot that is held: the same for each process that has it, one after the other.

    Where it can't be kept it is another one each time.
    """
    file = folder / "seat"
    with suppress(OSError):
        kept = file.read_text("ascii", errors="replace").strip()
        if _SEAT.fullmatch(kept):
            return kept
    new = uuid4().hex
    with suppress(OSError):
        files.make_file(file)
        file.write_text(new)
    return new


def _owner(data_dir: Path) -> str:
    return (data_dir / f"{_PREFIX}0" / "lock").read_text().strip() or "unknown"
