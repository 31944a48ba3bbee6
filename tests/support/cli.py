"""The command line as a user has it: processes of their own, with nothing but their environment."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from typer.testing import CliRunner

from config.settings import LogSettings
from router.cli.main import app
from router.observability import log as logs

PATIENCE: Final = 30.0  # seconds; a process on a busy machine with two cores needs some to start


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass
class Shell:
    """A data folder and an environment; `run` and `start` are what a user types."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SWITCHBOARD_")}
        # Nothing that a test started may run on in the background when it writes its last line.
        return (
            kept
            | {
                "SWITCHBOARD_DATA_DIR": str(self.folder / "data"),
                "PYTHONWARNINGS": "error::ResourceWarning",
                "COLUMNS": "200",
            }
            | self.env
        )

    def run(self, *args: str, env: Mapping[str, str] | None = None) -> Ran:
        """Run one command to its end. A traceback in what it says fails the test."""
        done = subprocess.run(
            [sys.executable, "-m", "router", *args],
            cwd=self.folder,
            env=self.environment() | dict(env or {}),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        ran = Ran(done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in ran.text, ran.text
        return ran

    def invoke(
        self, *args: str, env: Mapping[str, str] | None = None, stdin: str | None = None
    ) -> Ran:
        """As `run`, but in this process: a start costs more than a second. No signals, no `up`."""
        wanted: dict[str, str | None] = {
            name: None for name in os.environ if name.startswith("SWITCHBOARD_")
        }
        with chdir(self.folder):
            given = wanted | self.environment() | dict(env or {})
            done = CliRunner().invoke(app, args, env=given, input=stdin)
        logs.configure(LogSettings(format="json", level="info"))  # not to the runner's stream
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Ran(done.exit_code, done.stdout, done.stderr)

    @contextmanager
    def start(self, *args: str, until: str = "") -> Iterator["Started"]:
        """A command that runs inside the block, once it has said `until`; ended by SIGTERM."""
        out, err = self.folder / f"{time.time_ns()}.out", self.folder / f"{time.time_ns()}.err"
        with out.open("wb") as out_file, err.open("wb") as err_file:
            process = subprocess.Popen(
                [sys.executable, "-m", "router", *args],
                cwd=self.folder,
                env=self.environment(),
                stdout=out_file,
                stderr=err_file,
                preexec_fn=_heeds_ctrl_c,
            )
        started = Started(process, out, err)
        try:
            started.says(until)
            yield started
        finally:
            if process.poll() is None:
                started.end()


def _heeds_ctrl_c() -> None:
    # A script starts what it puts behind an & with SIGINT ignored, and its children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass
class Started:
    """A running command."""

    process: subprocess.Popen[bytes]
    out_file: Path
    err_file: Path

    @property
    def text(self) -> str:
        return self.out_file.read_text() + self.err_file.read_text()

    def says(self, words: str) -> None:
        """Wait until it has printed `words`."""
        give_up = time.monotonic() + PATIENCE
        while words not in self.text:
            assert self.process.poll() is None, f"ended {self.process.returncode}: {self.text}"
            assert time.monotonic() < give_up, f"never said {words!r}: {self.text}"
            time.sleep(0.02)

    def opens(self, name: str) -> None:
        """Wait until it has opened a file of this name."""
        give_up = time.monotonic() + PATIENCE
        while name not in self._open_files():
            assert time.monotonic() < give_up, f"never opened {name}: {self.text}"
            time.sleep(0.05)

    def _open_files(self) -> set[str]:
        names = set()
        for file in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                names.add(file.readlink().name)
        return names

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Stop it and wait; its exit code."""
        self.process.send_signal(how)
        return self.wait()

    def wait(self) -> int:
        """Its exit code, once it has ended; killed when it does not."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
