"""How long to wait before trying again."""

from random import Random
from typing import Final

_FIRST: Final = 0.1  # seconds
_LONGEST: Final = 2.0  # a caller is on the line: longer pauses would outlast their patience


def backoff(attempt: int) -> float:
    """Seconds after the `attempt`th failure in a row (from 1): doubling, capped."""
    return min(_LONGEST, _FIRST * 2.0 ** min(attempt - 1, 10))


def jitter(seconds: float, random: Random) -> float:
    """Between half of `seconds` and all of it.

    What failed together must not come back together.
    """
    return seconds * random.uniform(0.5, 1.0)
