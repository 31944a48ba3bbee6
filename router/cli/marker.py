"""Tells other commands that a sandbox runs here, so that they mean it without being told.

A file in the data folder, mode 0600: it holds the sandbox's (worthless) secrets.
"""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

_FILE: Final = "sandbox.json"


class Marker(msgspec.Struct, frozen=True):
    """A running sandbox."""

    pid: int
    overrides: Mapping[str, Any]  # of the settings
    twilio_url: str  # of the stand-in's control API
    twilio_token: str


def read(data_dir: Path) -> Marker | None:
    """The sandbox that runs over this data folder, None for none (or a dead one)."""
    try:
        found = msgspec.json.decode((data_dir / _FILE).read_bytes(), type=Marker)
        os.kill(found.pid, 0)  # sends nothing, only asks whether it is there
    except (OSError, msgspec.DecodeError):
        return None
    return found


@contextmanager
def written(data_dir: Path, content: Marker) -> Generator[None]:
    """The marker is there inside the block."""
    path = data_dir / _FILE
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(msgspec.json.encode(content))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
