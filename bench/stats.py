"""Few figures out of many: percentiles of one round, the median and the spread of several."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of several rounds."""

    middle: float
    least: float
    greatest: float

    def show(self, digits: int = 0) -> str:
        """`5,120 (4,980-5,233)`."""
        low, high = f"{self.least:,.{digits}f}", f"{self.greatest:,.{digits}f}"
        return f"{self.middle:,.{digits}f} ({low}–{high})"


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(median(values), min(values), max(values))


def ratio(ours: Sequence[float], bare: Sequence[float]) -> Spread:
    """Of the rounds in pairs: neighbours in time have the machine in the same state."""
    return spread([a / b for a, b in zip(ours, bare, strict=True)])


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
