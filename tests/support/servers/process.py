"""A real server as a child process: start, wait until it serves, signal, stop.

A server is a subclass with a command and a probe; everything else is the same for all of them.

    stopped ──start()──▶ serving ──stop()───▶ stopped     SIGTERM, after a while SIGKILL
                          │  ▲ │──kill()───▶ stopped     SIGKILL, as in a crash: data stays
                   pause()▼  │resume()                   SIGSTOP / SIGCONT: alive, but mute
                         paused

`restart()` starts it again on the same ports and the same data. All calls block; from a coroutine
whose other tasks must go on, call them by `asyncio.to_thread`.
"""

import contextlib
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Self

_TAIL_LINES = 30


class ServerFailed(RuntimeError):
    """The server did not start, or ended by itself; the message has the end of its log."""


class Server(ABC):
    """One child process with its files in `folder` and its output in `folder/<name>.log`."""

    name: ClassVar[str]
    patience: ClassVar[float] = 30.0  # seconds until it must serve
    grace: ClassVar[float] = 10.0  # seconds between the polite signal and SIGKILL
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Program and arguments."""

    @abstractmethod
    def serves(self) -> bool:
        """Whether it answers as a client would need it; OSError counts as "not yet"."""

    def environment(self) -> Mapping[str, str]:
        """The child's environment."""
        return os.environ

    def user(self) -> str | None:
        """Who runs it, where that is not us."""
        return None

    @property
    def pid(self) -> int:
        """Process id. Raises ServerFailed when it is not running."""
        return self._running().pid

    def start(self) -> None:
        """Run it and wait until it serves.

        Raises:
            ServerFailed: it ended, or did not serve within `patience` seconds.
        """
        self.launch()
        try:
            self.wait_until_serving()
        except BaseException:  # a test's own time-out, too, must leave nothing running
            if self._process is not None:
                self.kill()
            raise

    def launch(self) -> None:
        """Run it without waiting; `wait_until_serving` belongs to it."""
        if self._process is not None:
            raise RuntimeError(f"{self.name} is running already")
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self.environment(),
                user=self.user(),
                group=self.user(),
                extra_groups=None if self.user() is None else [],
            )

    def wait_until_serving(self) -> None:
        """Probe until it serves.

        Raises:
            ServerFailed: as `start`.
        """
        process = self._running()
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline:
            if (code := process.poll()) is not None:
                self._process = None
                raise ServerFailed(f"{self.name} ended with {code} at its start:\n{self.tail()}")
            with contextlib.suppress(OSError):
                if self.serves():
                    return
            time.sleep(0.02)
        raise ServerFailed(f"{self.name} did not serve in {self.patience:g} s:\n{self.tail()}")

    def stop(self) -> None:
        """End it politely; a stopped server stays stopped.

        Raises:
            ServerFailed: it had ended by itself, so the test ran without its server.
        """
        if self._process is None:
            return
        process, self._process = self._process, None
        if (code := process.poll()) is not None:
            raise ServerFailed(f"{self.name} ended by itself with {code}:\n{self.tail()}")
        process.send_signal(self.stop_signal)
        process.send_signal(signal.SIGCONT)  # a paused process takes the signal only when resumed
        try:
            process.wait(self.grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """SIGKILL, as in a crash; the data folder stays as it is."""
        process = self._running()
        process.kill()
        process.wait()
        self._process = None

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same ports and data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._running().send_signal(signal.SIGCONT)

    def tail(self) -> str:
        """The last lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerFailed(f"{self.name} is not running")
        return self._process


@contextlib.contextmanager
def server_folder(name: str) -> Iterator[Path]:
    """A temporary folder for one server's configuration, data and log."""
    with TemporaryDirectory(prefix=f"switchboard-{name}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
