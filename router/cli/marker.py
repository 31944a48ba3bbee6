"""Tells other commands that a sandbox runs here, so that they mean it without being told.

A file in the data folder, mode 0600: it holds the sandbox's (worthless) secrets. Its sandbox keeps
it locked (`flock`), so a killed one leaves a file behind, but never one that passes for a running
sandbox. It is emptied at the end, not removed: who waits for the lock of a removed file waits for
nothing.
"""

import fcntl
import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from router import files
from router.errors import ConfigError

_FILE: Final = "sandbox.json"
_LOOKS: Final = 10  # at the lock: who reads the marker holds it for a moment
_PAUSE: Final = 0.05  # seconds between them


class Marker(msgspec.Struct, frozen=True):
    """A running sandbox."""

    pid: int
    overrides: Mapping[str, Any]  # of the settings
    carriers: Mapping[str, str]  # provider → URL of its stand-in's control API
    token: str  # of these


def read(data_dir: Path) -> Marker | None:
    """The sandbox that runs over this data folder, None for none (or a dead one)."""
    try:
        with (data_dir / _FILE).open("rb") as file:
            return None if _locks(file.fileno(), fcntl.LOCK_SH) else _decoded(file.read())
    except OSError:
        return None


@contextmanager
def claimed(data_dir: Path) -> Generator[int]:
    """This data folder is our sandbox's inside the block; yields the descriptor for `write`.

    Raises:
        ConfigError: another sandbox runs over it, or it can't be made.
    """
    files.make_data_folder(data_dir)
    descriptor = files.open_file(data_dir / _FILE, os.O_RDWR)
    try:
        for _ in range(_LOOKS):
            if _locks(descriptor, fcntl.LOCK_EX):
                break
            time.sleep(_PAUSE)
        else:
            raise ConfigError(_occupied(data_dir, read(data_dir)), key="data_dir")
        os.ftruncate(descriptor, 0)
        try:
            yield descriptor
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def write(descriptor: int, content: Marker) -> None:
    """Let others find the sandbox."""
    os.pwrite(descriptor, msgspec.json.encode(content), 0)


def _locks(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _decoded(text: bytes) -> Marker | None:
    try:
        return msgspec.json.decode(text, type=Marker)
    except ValueError:
        return None  # it is just starting


def _occupied(data_dir: Path, other: Marker | None) -> str:
    who = f" (pid {other.pid})" if other is not None else ""
    return (
        f"a sandbox{who} already runs over {data_dir}: use that one, stop it, or give this one its "
        "own data_dir (SWITCHBOARD_DATA_DIR)"
    )
