"""What a wanted mapping changes in the one that holds. Pure: values in, changes out."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from router.errors import ConfigError
from router.events.phone import mask
from router.routing.spec import (
    AgentChange,
    AgentSpec,
    MappingSpec,
    NumberSpec,
    RouteChange,
    route_of,
)
from router.routing.table import Route


@dataclass(frozen=True, slots=True)
class State:
    """A mapping, or the part of it that a change can touch."""

    agents: Mapping[str, AgentSpec]
    numbers: Mapping[str, NumberSpec]
    revs: Mapping[str, int] = field(default_factory=dict)  # number → rev of its route

    def route(self, number: str, rev: int) -> Route | None:
        """The route of a number, None when it isn't here; `rev` for numbers without one."""
        spec = self.numbers.get(number)
        if spec is None:
            return None
        return route_of(spec, self.agents.get(spec.agent or ""), self.revs.get(number, rev))


def wanted(
    before: State, desired: MappingSpec, *, prune: bool, removed: Collection[str] = ()
) -> State:
    """`before` with `desired` laid over it, without `removed` numbers; `prune`: `desired` alone.

    Raises:
        ConfigError: a number leads to an agent that would not exist.
    """
    agents = {} if prune else dict(before.agents)
    numbers = {} if prune else dict(before.numbers)
    agents.update((agent.name, agent) for agent in desired.agents)
    numbers.update((number.number, number) for number in desired.numbers)
    for number in removed:
        numbers.pop(number, None)
    for spec in numbers.values():
        if spec.agent is not None and spec.agent not in agents:
            raise ConfigError(
                f"number {mask(spec.number)} leads to agent {spec.agent!r}, which does not exist: "
                "add the agent, or correct its name",
                key="numbers",
            )
    return State(agents, numbers)


def agent_changes(before: State, after: State) -> Iterator[AgentChange]:
    """Agents that were added, changed or removed, by name."""
    for name in sorted(before.agents.keys() | after.agents.keys()):
        old, new = before.agents.get(name), after.agents.get(name)
        if old != new:
            yield AgentChange(name, old, new)


def route_changes(before: State, after: State, rev: int) -> Iterator[RouteChange]:
    """Numbers whose row or whose route differs, by number; the new routes carry `rev`."""
    for number in sorted(before.numbers.keys() | after.numbers.keys()):
        old, new = before.route(number, 0), after.route(number, rev)
        same_row = before.numbers.get(number) == after.numbers.get(number)
        if same_row and old is not None and new is not None and old.targets == new.targets:
            continue
        yield RouteChange(number, old, new)
