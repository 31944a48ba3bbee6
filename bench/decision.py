"""Time of a decision and memory of a number, from a thousand numbers to a million."""

from typing import Any

from bench.child import Child
from bench.report import Part, table, verdict
from bench.stats import spread

_COUNTS = (1_000, 100_000, 1_000_000)
_AIM_BYTES = 400
_FLAT = 2.0  # times the smallest table's; more would be more than the caches of a processor


def run(cores: tuple[int, int]) -> Part:
    rows, decided, memory = [], [], []
    for count in _COUNTS:
        with Child("bench.routes", {"count": count, "trace": False}, core=cores[0]) as child:
            told = child.ready
        decided.append(spread(told["decide"]))
        memory.append(_bytes(told, count, cores[0]))
        rows.append(
            [
                f"{count:,}",
                spread(told["get"]).show(),
                decided[-1].show(),
                f"{memory[-1]:,.0f}",
            ]
        )
    growth = decided[-1].middle / decided[0].middle
    lines = [
        *table(("numbers", "lookup ns", "decision ns", "bytes/number"), rows),
        verdict(
            f"a decision in a table of a million within {_FLAT:g} times that in one of a thousand",
            met=growth <= _FLAT,
            found=f"{growth:.2f} times (a dictionary of a million does not fit the caches)",
        ),
        verdict(
            f"≤ {_AIM_BYTES} bytes a number",
            met=max(memory) <= _AIM_BYTES,
            found=f"{max(memory):.0f} at most",
        ),
        "Random mapped numbers, 15 rounds of 20,000; 50 agents with metadata, a fallback for each "
        "number; routes are decoded from JSON as the ingress does. `bytes/number` is the growth of "
        "the process; of the small table, whose growth is lost in it, tracemalloc's count.\n",
    ]
    return Part("decision", "Decision: time and memory of the route table", lines)


def _bytes(told: dict[str, Any], count: int, core: int) -> float:
    if count > _COUNTS[0]:
        return float(told["rss"])
    with Child("bench.routes", {"count": count, "trace": True}, core=core) as child:
        return float(child.ready["bytes"])
