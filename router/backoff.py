"""How long to wait before trying again."""

from random import Random, SystemRandom
from typing import Final

_FIRST: Final = 0.1  # seconds
_LONGEST: Final = 2.0  # a caller is on the line: longer pauses would outlast their patience
_SYSTEM: Final = SystemRandom()


def backoff(attempt: int, *, longest: float = _LONGEST) -> float:
    """Seconds after the `attempt`th failure in a row (from 1): doubling, capped at `longest`."""
    return min(longest, _FIRST * 2.0 ** min(max(attempt, 1) - 1, 16))


def jitter(seconds: float, random: Random = _SYSTEM) -> float:
    """Between half of `seconds` and all of it.

    What failed together must not come back together.
    """
    return seconds * random.uniform(0.5, 1.0)
