"""Files and folders of the data folder: its owner's alone, whatever the umask.

They hold who called whom, and keys. A folder that is there already may be anybody's (a volume, a
package's): then the files' own modes are all that keeps others out.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from router.errors import ConfigError

_FILE_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o700


def make_folder(folder: Path) -> None:
    """Make the folder and what leads to it, durably: a lost entry loses what is in it.

    Raises:
        OSError: it can't be made, or a file is in the way.
    """
    for path in reversed([folder, *folder.parents]):
        if path.is_dir():
            continue
        with suppress(FileExistsError):  # another process was faster, or it is a file
            path.mkdir(_FOLDER_MODE)
            path.chmod(_FOLDER_MODE)  # a umask may have taken its owner's rights as well
            with suppress(PermissionError):  # of a folder that may be written to, but not read
                sync_folder(path.parent)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def make_data_folder(folder: Path) -> None:
    """`make_folder` for `data_dir`.

    Raises:
        ConfigError: it can't be made.
    """
    try:
        make_folder(folder)
    except OSError as error:
        raise ConfigError(
            f"data_dir: {folder} can't be made ({error.filename}: {error.strerror}); choose "
            "another folder, or make it and give it to this user",
            key="data_dir",
        ) from error


def may_be_made(folder: Path) -> bool:
    """Whether the folder is there or can be made; leaves nothing behind.

    It is tried with another name: rights alone do not tell (root's, on /proc).
    """
    nearest = folder
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    if nearest == folder:
        return folder.is_dir()
    try:
        with TemporaryDirectory(prefix=".switchboard-", dir=nearest):
            return True
    except OSError:
        return False


def open_file(path: Path, flags: int) -> int:
    """A descriptor of the file, made when it is not there; `flags` as of `os.open`.

    Never of a file that SQLite may have open in this process: closing any descriptor drops the
    locks of all (https://www.sqlite.org/howtocorrupt.html §2.2). See `make_file`.

    Raises:
        OSError: it can't be opened.
    """
    descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
    if os.fstat(descriptor).st_mode & 0o777 != _FILE_MODE:
        with suppress(PermissionError):  # it is another user's, who set its mode
            os.fchmod(descriptor, _FILE_MODE)
    return descriptor


def make_file(path: Path) -> None:
    """Make an empty file unless there is one; that one gets its mode without being opened.

    Raises:
        OSError: it can't be made.
    """
    try:
        os.close(open_file(path, os.O_RDWR | os.O_EXCL))
    except FileExistsError:
        _close_to_others(path)


def make_sqlite_file(path: Path) -> None:
    """`make_file` for a database; SQLite gives the files beside it the mode of this one.

    Raises:
        OSError: it can't be made.
    """
    make_file(path)
    for suffix in ("-wal", "-shm", "-journal"):  # of an earlier version, or of another program
        _close_to_others(path.with_name(path.name + suffix))


def _close_to_others(path: Path) -> None:
    with suppress(FileNotFoundError, PermissionError):  # its last user left; or it is not ours
        if path.stat().st_mode & 0o777 != _FILE_MODE:
            path.chmod(_FILE_MODE)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: an fsync of a file does not."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
