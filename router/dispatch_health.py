"""Whether this process brings agents at the moment: what it may promise its callers.

A caller who is promised an agent that nobody can dispatch rings for the whole dial time-out and
goes to the fallback then. So the ingress looks here first, and where the answer is no, the caller
goes to the fallback at once (`router.routing.decide`).

What is needed for a dispatch is *tried* all the time, by the dispatch consumer in the background
and with each call: the database, LiveKit. It is in trouble where a try takes too long, where it
failed twice in a row, or where nobody tried for a while (the consumer does not run: it waits for
the database at its start, or has no place left for one more call). No caller is needed to find out
that it is over: the background goes on trying. It is over a moment after the last sign, so that
what works now and then is not promised.

An ingress alone is told by the dispatch processes (`router.eventlog.heartbeat`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from router.clock import Clock
from router.errors import Permanent
from router.observability import log
from router.observability.metrics import DISPATCHING

logger = log.get(__name__)

DATABASE: Final = "the database"
LIVEKIT_API: Final = "LiveKit's API"
"""What is tried; for people."""

_SLOW: Final = 3.0  # seconds that a try may take
_FAILURES: Final = 2  # in a row
_SILENT: Final = 5.0  # seconds without a claim, nor a look for one
_CALM: Final = 3.0  # seconds after the last sign of trouble


class DispatchHealth:
    """Of one process with the role dispatch."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._under_way: dict[int, tuple[str, float]] = {}  # what is tried, since when
        self._count = 0
        self._failures: dict[str, int] = {}  # in a row
        began = clock.monotonic()
        self._tried = {DATABASE: began, LIVEKIT_API: began}  # when the last try ended
        self._seen_at = float("-inf")
        self._why = ""

    @contextmanager
    def trying(self, what: str, *, refusal_is_failure: bool = False) -> Iterator[None]:
        """The block tries what a dispatch needs; `what` is one of the above.

        A refusal (`Permanent`) is an answer: it is about what was asked for.
        """
        self._count += 1
        token = self._count
        self._under_way[token] = (what, self._clock.monotonic())
        try:
            yield
        except Permanent:
            self._ended(what, failed=refusal_is_failure)
            raise
        except Exception:
            self._ended(what, failed=True)
            raise
        else:
            self._ended(what, failed=False)
        finally:
            del self._under_way[token]

    def idle(self, what: str) -> float:
        """Seconds since somebody tried it."""
        return self._clock.monotonic() - self._tried[what]

    def _ended(self, what: str, *, failed: bool) -> None:
        self._tried[what] = self._clock.monotonic()
        if failed:
            self._failures[what] = self._failures.get(what, 0) + 1
        else:
            self._failures.pop(what, None)

    def trouble(self) -> str:
        """Why nobody dispatches at the moment, for people; "": somebody does."""
        now = self._clock.monotonic()
        why = self._sign(now)
        if why:
            self._seen_at = now
            if not self._why:
                logger.error("dispatch.stalled", why=why)
            self._why = why
        elif self._why and now - self._seen_at > _CALM:
            logger.info("dispatch.goes_on")
            self._why = ""
        DISPATCHING.set(0 if self._why else 1)
        return self._why

    def _sign(self, now: float) -> str:
        for what, since in self._under_way.values():
            if now - since > _SLOW:
                return f"{what} gives no answer"
        for what, failures in self._failures.items():
            if failures >= _FAILURES:
                return f"{what} can't be used"
        if now - self._tried[DATABASE] > _SILENT:
            return "the dispatch consumer does not run"
        return ""
