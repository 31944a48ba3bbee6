"""A program under test as a child process on one core, watched through /proc.

The child (`run_child`) prints one line of JSON when it is ready and ends on SIGTERM; what it prints
after that is its result.
"""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvloop

_PATIENCE = 90.0  # seconds until it must be ready
_GRACE = 30.0  # seconds for its end
_TICKS = os.sysconf("SC_CLK_TCK")


def cores() -> tuple[int, int]:
    """The core for what is measured, and the one for all else (the same where there is one).

    To be asked before this process pins itself.
    """
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


class ChildFailed(RuntimeError):
    """It ended, or said nothing."""


class Child:
    """`python -m <module> <spec as JSON>`, pinned to `core`; `ready` is what it said first."""

    def __init__(self, module: str, spec: dict[str, Any], *, core: int) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(spec | {"core": core})],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ready: dict[str, Any] = {}
        self.result: dict[str, Any] = {}

    def __enter__(self) -> Self:
        output = self._process.stdout
        assert output is not None
        readable, _, _ = select.select([output], [], [], _PATIENCE)
        line = output.readline() if readable else ""
        if not line:
            self._process.kill()
            self._process.wait()
            raise ChildFailed(f"{self._module} did not get ready; its own words are above")
        self.ready = json.loads(line)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            output, _ = self._process.communicate(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            output, _ = self._process.communicate()
        self.result = json.loads(output) if output.strip() else {}

    @property
    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def peak_rss(self) -> int:
        """Bytes of memory at most, so far."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(
            int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")
        )


def run_child(main: Callable[[dict[str, Any], asyncio.Event], Awaitable[None]]) -> None:
    """The child's side: pin this process, run `main` with the spec and the event to stop on."""
    spec = json.loads(sys.argv[1])
    os.sched_setaffinity(0, {spec["core"]})

    async def body() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await main(spec, stop)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(body())


def say(facts: dict[str, Any]) -> None:
    """Tell the parent: first that this is ready, at the end the result."""
    print(json.dumps(facts), flush=True)
