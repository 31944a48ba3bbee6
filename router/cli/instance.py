"""Files in the data folder that say which instance runs over it, for the other commands.

| file              | whose                                                               |
|-------------------|---------------------------------------------------------------------|
| `instance-N.json` | a node's; N is the first free number, as several may share a folder |
| `sandbox.json`    | the sandbox's; it also holds the (worthless) keys of its stand-ins  |

Mode 0600. The process that a file speaks of keeps it locked (`flock`), so a killed one leaves a
file behind, but never one that passes for a running instance. A file is emptied at the end, not
removed: who waits for the lock of a removed file waits for nothing.

A sandbox and a node never run over the same folder: commands could not tell which one is meant.
The sandbox keeps its data in a folder of its own inside it (`sandbox_folder`).
"""

import fcntl
import os
import re
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from router.errors import ConfigError

_SANDBOX: Final = "sandbox.json"
_NODE: Final = re.compile(r"instance-(?:0|[1-9][0-9]{0,2})\.json")
_MOST: Final = 1000  # nodes over one folder; as many as there may be journals
_LOOKS: Final = 10  # at the sandbox's lock: who reads the file holds it for a moment
_PAUSE: Final = 0.05  # seconds between them
_START: Final = 15.0  # seconds that a sandbox may take until it listens


class StandIns(msgspec.Struct, frozen=True):
    """What commands need to speak to a sandbox."""

    overrides: Mapping[str, Any]  # of the settings
    carriers: Mapping[str, str]  # provider → URL of its stand-in's control API
    token: str  # of these
    started_under: str  # `context.environment_fingerprint` at its start


class Instance(msgspec.Struct, frozen=True):
    """A running process. While it does not listen yet, `port` is 0 and only `pid` is known."""

    pid: int
    host: str = ""  # http.host
    port: int = 0  # where it really listens, whatever the settings say
    version: str = ""
    roles: tuple[str, ...] = ()
    stand_ins: StandIns | None = None  # of a sandbox


def running(data_dir: Path) -> Sequence[Instance]:
    """The instances over this data folder that listen: the sandbox, or nodes in their order."""
    found = [_read(path) for path in _files(data_dir)]
    return [instance for instance in found if instance is not None and instance.port]


def wait_for_sandbox(data_dir: Path) -> None:
    """While a sandbox is just starting over this data folder, wait until it listens; bounded.

    A command that came too early would take the folder for one without a sandbox.
    """
    give_up = time.monotonic() + _START
    while time.monotonic() < give_up:
        found = _read(data_dir / _SANDBOX)
        if found is None or found.port:
            return
        time.sleep(_PAUSE)


def sandbox_folder(data_dir: Path) -> Path:
    """Where the sandbox of this data folder keeps its own data."""
    return data_dir / "sandbox"


def is_of_sandbox(data_dir: Path) -> bool:
    """Whether it is the folder in which a sandbox keeps (or kept) its data."""
    folder = data_dir.resolve()
    return (folder.parent / _SANDBOX).is_file() and folder == sandbox_folder(folder.parent)


class Claim:
    """This process's own file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def publish(self, instance: Instance) -> None:
        """Let others find the instance."""
        content = msgspec.json.encode(instance)
        os.pwrite(self._descriptor, content, 0)
        os.ftruncate(self._descriptor, len(content))


@contextmanager
def claimed(data_dir: Path, *, sandbox: bool) -> Generator[Claim]:
    """Run over this data folder inside the block, as its sandbox or as a node.

    Raises:
        ConfigError: it is taken: by another sandbox, by the other kind, or it is a sandbox's own.
    """
    if is_of_sandbox(data_dir):
        raise ConfigError(
            f"{data_dir} is where the sandbox of {data_dir.parent} keeps its data: use another "
            "folder (data_dir, SWITCHBOARD_DATA_DIR)",
            key="data_dir",
        )
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = _lock_sandbox(data_dir) if sandbox else _lock_node(data_dir)
    try:
        Claim(descriptor).publish(Instance(os.getpid()))
        # Each claims first and looks then: of two that start at once, one sees the other.
        other = next(filter(None, map(_read, _files(data_dir, sandbox=not sandbox))), None)
        if other is not None:
            raise ConfigError(_occupied(data_dir, other, sandbox=not sandbox), key="data_dir")
        yield Claim(descriptor)
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _files(data_dir: Path, *, sandbox: bool | None = None) -> list[Path]:
    """The files of that kind; of both for None. A folder that can't be listed has none."""
    names: list[str] = []
    with suppress(OSError):
        names = os.listdir(data_dir)  # noqa: PTH208 - names are all that is needed
    kept = [
        name
        for name in names
        if (name == _SANDBOX and sandbox is not False)
        or (_NODE.fullmatch(name) and sandbox is not True)
    ]
    return [data_dir / name for name in sorted(kept, key=lambda name: (len(name), name))]


def _lock_sandbox(data_dir: Path) -> int:
    path = data_dir / _SANDBOX
    for _ in range(_LOOKS):
        descriptor = _locked(path)
        if descriptor is not None:
            return descriptor
        time.sleep(_PAUSE)
    other = _read(path)
    raise ConfigError(_occupied(data_dir, other, sandbox=True), key="data_dir")


def _lock_node(data_dir: Path) -> int:
    for number in range(_MOST):
        with suppress(IsADirectoryError, FileNotFoundError):  # no file, or a link to nowhere
            descriptor = _locked(data_dir / f"instance-{number}.json")
            if descriptor is not None:
                return descriptor
    raise ConfigError(f"{_MOST} instances run over {data_dir} already", key="data_dir")


def _locked(path: Path) -> int | None:
    """A descriptor that holds the file's lock; None where another process does.

    Raises:
        OSError: something else has this name, or the folder can't be written.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _locks(descriptor, fcntl.LOCK_EX):
        os.close(descriptor)
        return None
    os.fchmod(descriptor, 0o600)  # it may be older, with another mode
    os.ftruncate(descriptor, 0)
    return descriptor


def _read(path: Path) -> Instance | None:
    """The running instance that this file speaks of."""
    try:
        with path.open("rb") as file:
            if _locks(file.fileno(), fcntl.LOCK_SH):
                return None  # nobody holds it: whoever wrote it is dead
            content = file.read()
    except OSError:  # something else by this name
        return None
    try:
        return msgspec.json.decode(content, type=Instance)
    except ValueError:
        return Instance(0)  # it is just starting


def _locks(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _occupied(data_dir: Path, other: Instance | None, *, sandbox: bool) -> str:
    who = "a sandbox" if sandbox else "an instance with real settings"
    pid = f" (pid {other.pid})" if other is not None and other.pid else ""
    return (
        f"{who}{pid} already runs over {data_dir}: use that one, stop it, or give this one its "
        "own data_dir (SWITCHBOARD_DATA_DIR)"
    )
