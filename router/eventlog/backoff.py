"""Pauses between attempts to reach Kafka: short, as an outage may end at any moment."""

import random
from typing import Final

_FIRST: Final = 0.1  # seconds
_LONGEST: Final = 2.0


def backoff(attempt: int) -> float:
    """Seconds to wait after attempt 1, 2, …: doubling up to a limit, with jitter."""
    pause: float = min(_LONGEST, _FIRST * 2 ** min(attempt, 10))
    return pause * random.uniform(0.5, 1.0)  # noqa: S311 not a secret
