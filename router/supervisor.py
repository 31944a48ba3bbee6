"""One supervisor for the long-lived tasks of a process: none of them may end without a word.

A task that ends, whatever the reason, is started again after a pause that grows; the log says so,
a metric counts it, `/readyz` names it. After `_FAILING` times in a row the process is not ready:
others can take its work; after `_LAST` times it ends, because one that answers webhooks and does
nothing about them is worse than none, and a new one may do better. `LogFailed` (the disk is gone)
ends it at once.
"""

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from router.backoff import backoff, jitter
from router.clock import Clock, SystemClock
from router.errors import LogFailed, SwitchboardError
from router.observability import log
from router.observability.metrics import TASK_RESTARTS

_LONGEST: Final = 10.0  # seconds between an end and the next start
_CALM: Final = 60.0  # seconds of work after which the pauses start small again
_FAILING: Final = 3
_LAST: Final = 6  # some five seconds; outages of others are waited out by the tasks themselves
_SILENT: Final = 12.0  # seconds; a log that has nothing is asked, and says so, every five
_STUCK: Final = 60.0  # seconds

logger = log.get(__name__)

Work = Callable[[], Awaitable[object]]


class GroupState(NamedTuple):
    """How far this process's member of a consumer group has come."""

    unread: int  # events in the log that it has not read, at the log's last answer
    silent: float  # seconds since that answer
    in_flight: int  # events in hand
    oldest: float  # seconds that the oldest of them is handled already

    @property
    def healthy(self) -> bool:
        """Whether the log lets it read, and it gets on with what it reads."""
        return self.silent < _SILENT and self.oldest < _STUCK


@dataclass(slots=True)
class _Task:
    restarts: int = 0
    in_a_row: int = 0
    why: str = ""
    since: float = 0.0  # monotonic, of the last start


class Supervisor:
    """Of one process. `keep` is the life of a task, `running` those of some in the background."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._tasks: dict[str, _Task] = {}
        self.gave_up: Exception | None = None  # why the process must end
        self.groups: dict[str, Callable[[], GroupState]] = {}  # by the group's name

    async def keep(
        self, name: str, work: Work, *, stop: asyncio.Event | None = None, once: bool = False
    ) -> None:
        """Run `work` again and again until cancelled, or until it returns with `stop` set.

        `name` is a constant: it is a label. With `once`, work that returns is done.

        Raises:
            Exception: what `work` ended with: `LogFailed`, or anything for the last time. The
                process must end, and `gave_up` says so to whoever watches.
        """
        task = self._tasks.setdefault(name, _Task())
        TASK_RESTARTS.labels(name)  # begins at 0, or an alert would miss the first one
        while stop is None or not stop.is_set():
            task.since = self._clock.monotonic()
            try:
                await work()
                if once:
                    return
                error: Exception = RuntimeError(f"the task {name} returned")
            except asyncio.CancelledError:
                current = asyncio.current_task()
                if current is None or current.cancelling():
                    raise
                error = RuntimeError(f"the task {name} was cancelled by itself")  # not by us
            except Exception as ended:  # noqa: BLE001 whatever it is, it must not go unseen
                error = ended
            if stop is None or not stop.is_set():
                await self._pause(name, task, error, stop)

    async def _pause(
        self, name: str, task: _Task, error: Exception, stop: asyncio.Event | None
    ) -> None:
        if self._is_calm(task):
            task.in_a_row = 0
        task.in_a_row += 1
        task.why, at = _told(error)
        if _is_fatal(error) or task.in_a_row >= _LAST:
            logger.error("task.gave_up", task=name, why=task.why, at=at)
            self.gave_up = error
            raise error
        task.restarts += 1
        TASK_RESTARTS.labels(name).inc()
        pause = jitter(backoff(task.in_a_row, longest=_LONGEST))
        logger.error("task.ended", task=name, why=task.why, at=at, restart_in=round(pause, 1))
        if stop is None:
            await self._clock.sleep(pause)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await stop.wait()

    def _is_calm(self, task: _Task) -> bool:
        return self._clock.monotonic() - task.since > _CALM

    @asynccontextmanager
    async def running(
        self, works: Mapping[str, Work], *, end_within: float | None = None
    ) -> AsyncIterator[None]:
        """Keep these until the block is left, then cancel them and wait (at most `end_within` s).

        What must end the process is told by `gave_up` alone.
        """
        tasks = [asyncio.create_task(self.keep(name, work)) for name, work in works.items()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            done, _ = await asyncio.wait(tasks, timeout=end_within)
            for task in done:
                if not task.cancelled():
                    task.exception()  # seen

    @property
    def failing(self) -> bool:
        """Whether a task ends again and again: this process can't do its job."""
        return any(self._is_failing(task) for task in self._tasks.values())

    def _is_failing(self, task: _Task) -> bool:
        return task.in_a_row >= _FAILING and not self._is_calm(task)

    def facts(self) -> dict[str, Any]:
        """For /readyz: the tasks that had to be started again, by name."""
        return {
            name: {"restarts": task.restarts, "failing": self._is_failing(task), "why": task.why}
            for name, task in self._tasks.items()
            if task.in_a_row
        }

    def group_facts(self) -> dict[str, Any]:
        """For /readyz: what is consumed, by the group's name."""
        facts = {}
        for name, state in ((name, of()) for name, of in self.groups.items()):
            facts[name] = {
                "healthy": state.healthy,
                "unread_events": state.unread,
                "silent_seconds": round(state.silent, 1),
                "in_flight": state.in_flight,
                "oldest_seconds": round(state.oldest, 1),
            }
        return facts


def _is_fatal(error: Exception) -> bool:
    if isinstance(error, ExceptionGroup):
        return error.subgroup(LogFailed) is not None
    return isinstance(error, LogFailed)


def _told(error: Exception) -> tuple[str, str]:
    """What may be written down: others' texts can hold numbers, ours never do; and the place."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    name = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    at = f"{frames[-1].name}:{frames[-1].lineno}" if frames else ""
    return (f"{name}: {error}" if isinstance(error, SwitchboardError) else name), at
