"""What `make` installs, what a lock holds, and what CI runs: the same on any day."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[2]
PIN: Final = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^ ]+)(?: ; (?P<marker>.+?))? \\$", re.M)


class Pin(NamedTuple):
    """One line of a lock."""

    name: str
    version: str
    marker: str | None


def pins(lock: str) -> list[Pin]:
    return [Pin(*found.groups()) for found in PIN.finditer(lock)]


def asked_for(lock: str) -> list[Requirement]:
    """What the lock was made from: the groups of pyproject.toml, or the file of the same name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    source = ROOT / lock.replace(".lock", ".in")
    if source.exists():
        lines = [line for line in source.read_text().splitlines() if not line.startswith("#")]
    else:
        lines = project["project"]["dependencies"]
        if lock == "requirements-dev.lock":
            lines = [*lines, *project["dependency-groups"]["dev"]]
    return [Requirement(line) for line in lines]


def needs(name: str, pinned: Sequence[Pin]) -> Sequence[str]:
    """What a pinned package asks for, as the one that is installed says.

    Of a package pinned twice, one version for each Python, the one installed here speaks for both;
    of a package for other Pythons alone nothing is known here.
    """
    of_name = [pin for pin in pinned if pin.name == name]
    if not any(pin.marker is None or Marker(pin.marker).evaluate() for pin in of_name):
        return ()
    installed = metadata.distribution(name)
    assert installed.version in {pin.version for pin in of_name}, f"{name} is not what is pinned"
    return installed.requires or ()


def differences(
    pinned: Sequence[Pin], roots: Sequence[Requirement], python: str
) -> tuple[set[str], set[str]]:
    """What the lock lacks on a Python, and what it holds though nothing asks for it there."""
    environment = {
        **{name: str(value) for name, value in default_environment().items()},
        "python_version": python,
        "python_full_version": f"{python}.1",
    }
    here: dict[str, str] = {}
    for pin in pinned:
        if pin.marker is None or Marker(pin.marker).evaluate(environment):
            assert pin.name not in here, f"{pin.name} is pinned twice on Python {python}"
            here[pin.name] = pin.version
    lacks, seen = set(), set()
    todo = [(root, extra) for root in roots for extra in ("", *root.extras)]
    while todo:
        wanted, extra = todo.pop()
        if wanted.marker and not wanted.marker.evaluate({**environment, "extra": ""}):
            continue
        name = canonicalize_name(wanted.name)
        if name not in here or not wanted.specifier.contains(here[name], prereleases=True):
            lacks.add(str(wanted))
            continue
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for line in needs(name, pinned):
            inner = Requirement(line)
            if inner.marker is None or inner.marker.evaluate({**environment, "extra": extra}):
                inner.marker = None
                todo += [(inner, further) for further in ("", *inner.extras)]
    return lacks, set(here) - {name for name, _ in seen}


LOCKS: Final = sorted(path.name for path in ROOT.glob("requirements*.lock"))
pytestmark = pytest.mark.timeout(240)  # seconds; pip starts some thirty times

PYTHONS: Final = ("3.11", "3.12", "3.13")
BESIDE: Final = {"requirements-fuzz.lock", "requirements-mutation.lock"}  # installed when asked for


class TestLocks:
    @pytest.mark.parametrize("python", PYTHONS)
    @pytest.mark.parametrize("name", LOCKS)
    def test_all_that_is_needed_is_pinned_and_nothing_else(self, name: str, python: str) -> None:
        roots = asked_for(name)
        if name in BESIDE:
            try:
                metadata.distribution(roots[0].name)
            except metadata.PackageNotFoundError:
                stamp = name.replace("requirements", "installed").removesuffix(".lock")
                pytest.skip(f"`make .venv/{stamp}` brings it")
        assert differences(pins((ROOT / name).read_text()), roots, python) == (set(), set())

    def test_a_pin_that_is_missing_is_noticed(self) -> None:
        roots = asked_for("requirements-dev.lock")
        pinned = pins((ROOT / "requirements-dev.lock").read_text())
        for gone in ("coverage", "execnet", "multidict", "pynacl"):
            rest = [pin for pin in pinned if pin.name != gone]
            assert len(rest) < len(pinned), gone
            lacks, _ = differences(rest, roots, "3.12")
            assert {Requirement(line).name for line in lacks} == {gone}

    def test_the_locks_agree(self) -> None:
        locks = {name: pins((ROOT / name).read_text()) for name in LOCKS}
        dev = {(pin.name, pin.version) for pin in locks["requirements-dev.lock"]}
        assert {pin[:2] for pin in locks["requirements.lock"]} <= dev
        for name, pinned in locks.items():
            assert pinned, name
            shared = {pin.name for pin in pinned} & {name for name, _ in dev}
            assert {pin[:2] for pin in pinned if pin.name in shared} <= dev, name

    def test_every_line_is_a_pin_with_hashes_and_names_no_address(self) -> None:
        for name in LOCKS:
            text = (ROOT / name).read_text()
            assert "://" not in text
            for block in re.split(r"\n(?! )", text.strip()):
                assert PIN.match(block), block
                assert "--hash=sha256:" in block, block

    def test_the_project_is_built_by_what_is_pinned(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        [builder] = project["build-system"]["requires"]
        names = {f"{pin.name}=={pin.version}" for pin in pins((ROOT / LOCKS[-1]).read_text())}
        assert builder in names


def wheel(folder: Path, name: str, version: str, *needs: str) -> str:
    """A package with one module; its hash. `extra: other` makes a need one of an extra."""
    info = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    for need in needs:
        extra, colon, other = need.partition(": ")
        lines += (
            [f"Provides-Extra: {extra}", f'Requires-Dist: {other} ; extra == "{extra}"']
            if colon
            else [f"Requires-Dist: {need}"]
        )
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": "\n".join([*lines, "", ""]),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in files.items():
            archive.writestr(inner, text)
    return sha256(path.read_bytes()).hexdigest()


BACKEND: Final = """
import shutil
def build_editable(folder, *_):
    return shutil.copy("project-1.0-py3-none-any.whl", folder).rpartition("/")[2]
"""
NEEDS: Final[Mapping[str, Sequence[str]]] = {
    "app": ("tool[more]",),
    "tool": ("more: inner>=1",),
    "inner": (),
    "checker": ("tool[more]", "inner"),
    "fuzzer": ("tool",),
    "mutator": ("checker",),
}
RUN: Final = ("app", "tool", "inner")


class Project:
    """The real Makefile beside locks and an index of our own, which has newer versions of all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = folder / "index"
        self.index.mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", folder)
        (folder / "pyproject.toml").write_text(
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        )
        (folder / "backend.py").write_text(BACKEND)
        wheel(folder, "project", "1.0", "app")
        self.hashes = {
            name: [wheel(self.index, name, version, *needs) for version in ("2.0", "1.0")][1]
            for name, needs in NEEDS.items()
        }
        self.lock("requirements.lock", *RUN)
        self.lock("requirements-dev.lock", *RUN, "checker")
        self.lock("requirements-fuzz.lock", "fuzzer")
        self.lock("requirements-mutation.lock", "mutator", "checker")

    def lock(self, file: str, *names: str, digest: str | None = None) -> None:
        lines = [
            f"{name}==1.0 \\\n    --hash=sha256:{digest or self.hashes[name]}\n" for name in names
        ]
        (self.folder / file).write_text("".join(lines))

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        ours = ("MAKE", "MFLAGS", "PIP_", "ARGS", "PYTHON")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return subprocess.run(
            command,
            cwd=self.folder,
            env={
                **kept,
                "PIP_CONFIG_FILE": os.devnull,
                "PIP_NO_INDEX": "1",
                "PIP_FIND_LINKS": str(self.index),
                "PIP_NO_CACHE_DIR": "1",
            },
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    def make(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return self.run("make", f"PYTHON={sys.executable}", *words)

    def made(self, *words: str) -> None:
        done = self.make(*words)
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def packages(self) -> Path:
        [found] = self.folder.glob(".venv/lib/python*/site-packages")
        return found

    def installed(self) -> set[str]:
        found = metadata.distributions(path=[str(self.packages)])
        return {f"{each.name}=={each.version}" for each in found} - self.of_python()

    def of_python(self) -> set[str]:
        """What venv itself brings."""
        found = metadata.distributions(path=[str(self.packages)])
        return {
            f"{each.name}=={each.version}" for each in found if each.name in ("pip", "setuptools")
        }


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose .venv has nothing but pip; copied, as a new one takes seconds."""
    project = Project(tmp_path_factory.mktemp("make") / "project")
    project.made(".venv/bin/pip")
    return project.folder


@pytest.fixture
def project(empty: Path, tmp_path: Path) -> Project:
    found = Project(tmp_path / "project")
    shutil.copytree(empty / ".venv", found.folder / ".venv", symlinks=True)
    return found


def of(*names: str) -> set[str]:
    return {f"{name}==1.0" for name in names}


class TestInstalling:
    def test_newer_releases_of_everything_change_nothing(self, project: Project) -> None:
        project.made("setup")
        assert project.installed() == of("project", *RUN)
        project.made(".venv/installed-dev", ".venv/installed-fuzz", ".venv/installed-mutation")
        assert project.installed() == of("project", *NEEDS)
        again = project.make("setup", ".venv/installed-mutation")
        assert "Installing" not in again.stdout, again.stdout

    def test_the_image_too(self, project: Project) -> None:
        text = (ROOT / "Dockerfile").read_text()
        first, *_ = re.findall(r'^RUN \["/opt/switchboard/bin/pip", (.*)\]$', text, re.M)
        words = [word.strip('" ') for word in first.split(",")]
        done = project.run(".venv/bin/python", "-m", "pip", *words)
        assert done.returncode == 0, done.stderr
        assert project.installed() == of(*RUN)

    def test_a_lock_that_is_not_whole_installs_nothing_that_is_called_done(
        self, project: Project
    ) -> None:
        project.lock("requirements.lock", "app", "inner")
        done = project.make("setup")
        assert done.returncode != 0
        assert "requires tool, which is not installed" in done.stdout + done.stderr
        assert "make lock" in done.stderr
        assert not (project.folder / ".venv/installed").exists()

    def test_what_a_new_lock_no_longer_names_is_removed(self, project: Project) -> None:
        project.made(".venv/installed-dev")
        project.lock("requirements-dev.lock", *RUN)
        project.lock("requirements-mutation.lock", "mutator")
        project.made(".venv/installed-dev")
        assert project.installed() == of("project", *RUN)

    def test_an_install_that_was_cut_short_is_begun_again(self, project: Project) -> None:
        project.made("setup")
        project.lock("requirements-dev.lock", *RUN, "checker", digest="0" * 64)
        done = project.make(".venv/installed-dev")
        assert done.returncode != 0
        assert "DO NOT MATCH THE HASHES" in done.stderr
        assert not (project.folder / ".venv/installed-dev").exists()
        (project.packages / "tool.py").unlink()  # as if it had been killed between two files
        project.lock("requirements-dev.lock", *RUN, "checker")
        project.made(".venv/installed-dev")
        assert project.installed() == of("project", *RUN, "checker")
        assert (project.packages / "tool.py").exists()

    def test_what_is_not_pinned_yet_can_be_pinned(self, project: Project) -> None:
        project.lock("requirements.lock")  # cannot be installed
        _script(project.folder / ".venv/bin/uv", 'echo "$@" >>compiled')
        project.made("lock", "ARGS=--upgrade")
        told = (project.folder / "compiled").read_text().splitlines()
        written = {line.rpartition(" -o ")[2] for line in told}
        assert written == {path.name for path in ROOT.glob("requirements*.lock")}
        assert all("--generate-hashes" in line and "--upgrade" in line for line in told)

    def test_without_venv_it_says_what_brings_it_and_leaves_nothing(self, project: Project) -> None:
        shutil.rmtree(project.folder / ".venv")
        python = _script(
            project.folder / "python", 'test "$1" = -c || { mkdir -p .venv/bin; exit 1; }'
        )
        done = project.run("make", f"PYTHON={python}", "setup")
        assert done.returncode != 0
        assert "apt install python3-venv" in done.stdout
        assert not (project.folder / ".venv").exists()


def _script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("together", "alone", "words", "right"),
    [
        (0, 0, "", True),
        (1, 0, "", False),
        (0, 1, "", False),
        (0, 5, "", False),  # nothing was selected: no test with a server ran
        (5, 0, "", False),
        (0, 5, "ARGS=-k table", True),
        (5, 0, "ARGS=-k table", True),
        (5, 5, "ARGS=-k tabel", False),
        (1, 5, "ARGS=-k table", False),
    ],
)
def test_both_parts_run_and_each_can_fail_the_whole(
    tmp_path: Path, together: int, alone: int, words: str, right: bool
) -> None:
    project = Project(tmp_path / "project")
    stamps = ("bin/pip", "installed", "installed-dev")
    tools = ("bin/ruff", "bin/mypy", "bin/lint-imports")
    for name in (*stamps, *tools):
        _script(project.folder / ".venv" / name, "exit 0")
    _script(
        project.folder / ".venv/bin/pytest",
        f'echo "ran $*" >>ran; case "$*" in *"-n auto"*) exit {together};; *) exit {alone};; esac',
    )
    done = project.make("test-all", *([words] if words else []))
    assert (done.returncode == 0) == right, done.stdout + done.stderr
    ran = (project.folder / "ran").read_text().splitlines()
    assert len(ran) == 2
    assert all(line.endswith(words.removeprefix("ARGS=")) for line in ran)


class TestCI:
    """.ci/run, with stand-ins for the programs that it calls."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        checkout = tmp_path / "checkout"
        (checkout / ".ci").mkdir(parents=True)
        shutil.copy(ROOT / ".ci/run", checkout / ".ci")
        (checkout / "tracked").touch()
        (checkout / "removed").touch()
        subprocess.run(["git", "init", "-q"], cwd=checkout, check=True)
        subprocess.run(["git", "add", "."], cwd=checkout, check=True)
        (checkout / "removed").unlink()
        _script(checkout / ".venv/python", "exit 0")
        _script(tmp_path / "bin/mvn", "exit 0")
        _script(tmp_path / "bin/dpkg-query", "echo install ok installed")
        _script(
            tmp_path / "bin/make",
            'echo "$PWD|$*|$TEST_REQUIRE_SERVERS|$(ls -A | tr "\\n" " ")" >>"$TOLD"\n'
            'case "$*" in *test-all*) echo "1 failed"; exit "$CODE";; esac',
        )
        return checkout

    @pytest.mark.parametrize("code", [0, 2])
    def test_the_readmes_command_in_a_copy_of_what_is_tracked(
        self, folder: Path, tmp_path: Path, code: int
    ) -> None:
        told = tmp_path / "told"
        done = subprocess.run(
            ["bash", ".ci/run"],
            cwd=folder,
            env={
                **os.environ,
                "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
                "TOLD": str(told),
                "CODE": str(code),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert done.stdout.endswith("1 failed\n")
        calls = [line.split("|") for line in told.read_text().splitlines()]
        assert calls[-1][1] in re.findall(r"make ([\w-]+)", (ROOT / "README.md").read_text())
        for copy, _, required, files in calls:
            assert Path(copy) != folder
            assert not Path(copy).exists(), "the copy is removed"
            assert required == "1"
            assert files.split() == [".ci", "tracked"]
