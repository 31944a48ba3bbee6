"""What of the real servers is on this machine, and what brings the rest.

The names are the pytest markers.
"""

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from typing_extensions import override

from tests.support.servers import build

PREPARE: Final = "python -m tests.support.servers"


@dataclass(frozen=True)
class Found:
    """Ready to be started."""

    version: str
    path: Path


@dataclass(frozen=True)
class Missing:
    """`lacks` names what is not there, `mend` what brings it."""

    lacks: str
    mend: str

    @override
    def __str__(self) -> str:
        return f"{self.lacks} is missing; {self.mend} brings it"


class NotInstalled(RuntimeError):
    """A program that a server needs is not on this machine."""


@cache
def find(name: str) -> Found | Missing:
    """Whether the server behind a marker can be started here; looked up once per process."""
    return _FINDERS[name]()


def program(name: str) -> Path:
    """The main program of the server `name`.

    Raises:
        NotInstalled: the message says what brings it.
    """
    found = find(name)
    if isinstance(found, Missing):
        raise NotInstalled(f"{name}: {found}")
    return found.path


def _installed(binary: str, package: str, folder: Path | None = None) -> Found | Missing:
    where = None if folder is None else str(folder)
    path = shutil.which(binary, path=where)
    if path is None:
        return Missing(binary, f"Debian package {package}")
    option = "-v" if binary == "sipp" else "--version"
    told = subprocess.run(
        [path, option], capture_output=True, text=True, timeout=20, check=False
    )  # sipp -v ends with 99
    version = re.search(r"\d+\.\d+(\.\d+)?", told.stdout + told.stderr)
    return Found(version.group() if version else "unknown", Path(path))


def _built(recipe: build.Recipe) -> Found | Missing:
    path = recipe.built()
    if path is None:
        return Missing(f"{recipe.name} {recipe.version}", f"`{PREPARE}` ({recipe.needs})")
    return Found(recipe.version, path)


def _kafka() -> Found | Missing:
    java = _installed("java", "openjdk-17-jre-headless")
    return java if isinstance(java, Missing) else _built(build.KAFKA)


def _postgres() -> Found | Missing:
    # Debian keeps the server's programs out of PATH, one folder per major version.
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)
    )
    return _installed("postgres", "postgresql", folders[-1] if folders else None)


def _sip() -> Found | Missing:
    needed = (find("redis"), find("livekit"), _installed("sipp", "sip-tester"))
    missing = [each for each in needed if isinstance(each, Missing)]
    return missing[0] if missing else _built(build.LIVEKIT_SIP)


_FINDERS: Final[dict[str, Callable[[], Found | Missing]]] = {
    "kafka": _kafka,
    "postgres": _postgres,
    "redis": lambda: _installed("redis-server", "redis-server"),
    "livekit": lambda: _built(build.LIVEKIT_SERVER),
    "sip": _sip,
}
NAMES: Final = tuple(_FINDERS)
