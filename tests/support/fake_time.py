"""Virtual time: an event loop whose clock jumps to the next timer as soon as nothing else is to do.

Everything of asyncio that waits (sleep, timeout, loop.time) follows it, so a test of minutes takes
milliseconds and is the same on a busy machine. Work in other threads or processes can't be waited
for: for that, use the real loop. When every task waits for something that nothing will ever bring,
the loop raises instead of hanging.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from typing_extensions import override

T = TypeVar("T")

START = 1_700_000_000_000_000  # µs since epoch, where virtual time begins


class FakeClock:
    """`router.clock.Clock` on the running loop's time."""

    def now(self) -> int:
        return START + round(self.monotonic() * 1_000_000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Selector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise RuntimeError("every task waits, and nothing will ever wake one")
        self.time += timeout
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    @override
    def time(self) -> float:
        return self._virtual.time


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` in virtual time; unfinished tasks are cancelled at its end."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)
