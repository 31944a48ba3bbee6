"""Builds what no Debian package brings: Kafka's jars, livekit-server and livekit-sip.

Each is pinned by files under `assets/` (pom.xml and libs.sha256; go.mod and go.sum), built once and
kept in a cache folder whose name holds the hash of those files and of the command: a changed pin is
a new build.
Tests only look into the cache; `python -m tests.support.servers` fills it.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

ASSETS: Final = Path(__file__).parent / "assets"
_TIMEOUT: Final = 1200  # seconds; a cold build of livekit-sip takes 80 on two cores
_TAIL_LINES: Final = 20


class BuildFailed(RuntimeError):
    """A tool is missing, a command failed, or what came is not what is pinned."""


@dataclass(frozen=True)
class Recipe:
    """How one product is made: `command` runs in a copy of the assets and leaves `product`."""

    name: str
    version: str
    product: str  # file or folder, relative
    command: Sequence[str]
    environment: Mapping[str, str]
    needs: str  # for people: what brings the tools

    @property
    def folder(self) -> Path:
        """The product's place in the cache."""
        digest = hashlib.sha256(" ".join(self.command).encode())
        for path in sorted((ASSETS / self.name).iterdir()):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
        return cache_folder() / f"{self.name}-{self.version}-{digest.hexdigest()[:12]}"

    def built(self) -> Path | None:
        """The product, if it is in the cache."""
        path = self.folder / self.product
        return path if path.exists() else None


def _go(name: str, version: str, package: str, needs: str) -> Recipe:
    return Recipe(
        name=name,
        version=version,
        product=name,
        command=("go", "build", "-mod=readonly", "-o", name, package),
        environment={"CGO_ENABLED": "1", "GOFLAGS": "-buildvcs=false"},
        needs=needs,
    )


KAFKA: Final = Recipe(
    name="kafka",
    version="4.3.1",
    product="libs",
    command=(
        *("mvn", "-q", "-B", "-C", "dependency:copy-dependencies"),
        *("-DoutputDirectory=libs", "-DincludeScope=runtime"),
    ),
    environment={},
    needs="Debian package maven",
)
LIVEKIT_SERVER: Final = _go(
    "livekit-server",
    "1.13.5",
    "github.com/livekit/livekit-server/cmd/server",
    needs="Go 1.26 or newer, Debian package gcc",
)
LIVEKIT_SIP: Final = _go(
    "livekit-sip",
    "1.8.0",
    "github.com/livekit/sip/cmd/livekit-sip",
    needs=(
        "Go 1.26 or newer, Debian packages gcc pkg-config libopus-dev libopusfile-dev libsoxr-dev"
    ),
)
RECIPES: Final = (KAFKA, LIVEKIT_SERVER, LIVEKIT_SIP)


def cache_folder() -> Path:
    """`TEST_SERVERS_CACHE`, else a folder in the user's cache (XDG Base Directory)."""
    if own := os.environ.get("TEST_SERVERS_CACHE"):
        return Path(own)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "switchboard-tests"


def build(recipe: Recipe) -> Path:
    """The product, built now if it is not in the cache. One build at a time on this machine.

    Raises:
        BuildFailed: with the command, its exit code and its last lines.
    """
    with _only_one():
        if (ready := recipe.built()) is not None:
            return ready
        with TemporaryDirectory(dir=cache_folder(), prefix="building-") as work:
            shutil.copytree(ASSETS / recipe.name, work, dirs_exist_ok=True)
            _run(recipe, Path(work))
            _verify(recipe, Path(work))
            recipe.folder.mkdir(exist_ok=True)
            (Path(work) / recipe.product).rename(recipe.folder / recipe.product)
    return recipe.folder / recipe.product


@contextmanager
def _only_one() -> Iterator[None]:
    cache_folder().mkdir(parents=True, exist_ok=True)
    with (cache_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed
        yield


def _run(recipe: Recipe, work: Path) -> None:
    command = " ".join(recipe.command)
    try:
        done = subprocess.run(
            recipe.command,
            cwd=work,
            env={**os.environ, **recipe.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except FileNotFoundError as error:
        program = recipe.command[0]
        raise BuildFailed(f"{program} is not installed; {recipe.needs} brings it") from error
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(f"`{command}` did not end in {_TIMEOUT} s") from error
    if done.returncode != 0:
        last = "\n".join(done.stdout.splitlines()[-_TAIL_LINES:])
        raise BuildFailed(
            f"`{command}` ended with {done.returncode} (it needs {recipe.needs}):\n{last}"
        )


def _verify(recipe: Recipe, work: Path) -> None:
    pins = work / "libs.sha256"  # Go checks go.sum itself
    if not pins.exists():
        return
    lines = (line.split() for line in pins.read_text().splitlines())
    wanted = {name: digest for digest, name in lines}
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (work / recipe.product).iterdir()
    }
    if found != wanted:
        names = sorted(name for name, _ in wanted.items() ^ found.items())
        raise BuildFailed(f"{recipe.name}: not the bytes pinned in {pins.name}: {', '.join(names)}")
