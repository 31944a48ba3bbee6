"""Waiting, as the stand-ins do it: a signal, a deadline, and a bounded set of tasks."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from router.clock import Clock
from router.errors import SwitchboardError


class SandboxFull(SwitchboardError):
    """A stand-in reached one of its limits; the message says which."""


class Signal:
    """Wakes everybody who waits until some state holds. For one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def fire(self) -> None:
        """The state has changed: let every waiter look again."""
        fired, self._event = self._event, asyncio.Event()
        fired.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return as soon as `holds()`; it is asked now and after each `fire`."""
        while not holds():
            # Nothing runs between asking and waiting, so no change is missed.
            await self._event.wait()


async def happens_within(
    clock: Clock, seconds: float, coroutine: Coroutine[Any, Any, object]
) -> bool:
    """Whether `coroutine` ends within `seconds`; it is cancelled when it does not.

    Raises whatever `coroutine` raises.
    """
    awaited = asyncio.ensure_future(coroutine)
    timer = asyncio.ensure_future(clock.sleep(seconds))
    try:
        done, _ = await asyncio.wait({awaited, timer}, return_when=asyncio.FIRST_COMPLETED)
        if awaited not in done:
            return False
        awaited.result()
        return True
    finally:
        for future in (awaited, timer):
            future.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await future


class Tasks:
    """Background tasks that end with their owner, at most `limit` at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `coroutine` until it ends or the owner closes.

        Raises:
            SandboxFull: `limit` tasks are running.
        """
        if len(self._tasks) >= self._limit:
            coroutine.close()
            raise SandboxFull(f"the sandbox runs {self._limit} things at once; end some calls")
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and self._failure is None:
            self._failure = task.exception()

    async def aclose(self) -> None:
        """Cancel what still runs.

        Raises the first exception that a task ended with: a bug of a stand-in must not pass for
        a quiet one.
        """
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
