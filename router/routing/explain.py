"""Why a call would go where it goes, in words: the same function that decides real calls."""

from dataclasses import dataclass

from router.events.model import Decision
from router.routing.decide import decide_call
from router.routing.table import Route, RouteTable


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision, the route that it came from, and what was ruled out, each with its reason."""

    decision: Decision
    route: Route | None
    ruled_out: tuple[tuple[str, str], ...]  # (what, why)


def explain(to_number: str, provider: str, table: RouteTable) -> Explanation:
    """What happens to a call to `to_number` that arrives through `provider`."""
    decision = decide_call(to_number, provider, table)
    route = table.get(to_number)
    return Explanation(decision, route, tuple(_ruled_out(decision, route)))


def _ruled_out(decision: Decision, route: Route | None) -> list[tuple[str, str]]:
    if route is None:
        return [("the route table", "it has no route for this number")]
    losers = [
        (f"agent {target.agent}", "it is behind the first target in the route's order")
        for target in route.targets[1:]
    ]
    if decision.action == "dispatch" and route.fallback:
        losers.append(("the fallback number", "it is dialled only when no agent answers"))
    return losers
