"""What fails for every call at once is said once in ten seconds."""

from typing import Final

from router.clock import Clock
from router.errors import SwitchboardError
from router.observability import log as logs

log = logs.get(__name__)

_SECONDS: Final = 10.0


class ThrottledLog:
    """At most one line in ten seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next = float("-inf")
        self._silent = 0

    def warn(self, what: str, error: Exception) -> None:
        """Log `error` under the static name `what`, or count it until the next line.

        Only our own errors' words are written down: those of others may hold facts of a call.
        """
        if self._clock.monotonic() < self._next:
            self._silent += 1
            return
        why = str(error) if isinstance(error, SwitchboardError) else ""
        name = type(error).__name__
        log.warning(what, error=name, why=why, more_since_last_line=self._silent)
        self._next = self._clock.monotonic() + _SECONDS
        self._silent = 0
