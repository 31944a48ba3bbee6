"""What a wanted mapping changes in the one that holds. Pure: values in, changes out."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from router.errors import ConfigError, Conflict
from router.events.ids import DEFAULT_ACCOUNT
from router.events.phone import mask
from router.routing.spec import (
    AgentChange,
    AgentSpec,
    MappingSpec,
    NumberSpec,
    RouteChange,
    route_of,
    targets_of,
)
from router.routing.table import NEVER, Route, Version


@dataclass(frozen=True, slots=True)
class State:
    """An account's mapping, or the part of it that a change can touch."""

    agents: Mapping[str, AgentSpec]
    numbers: Mapping[str, NumberSpec]
    versions: Mapping[str, Version] = field(default_factory=dict)  # of each number's route
    outdated: Collection[str] = ()
    """Numbers whose agent was changed since their route was last told to anybody."""
    account_id: str = DEFAULT_ACCOUNT
    agent_ids: Mapping[str, str] = field(default_factory=dict)  # of each agent that is stored
    foreign: Collection[str] = ()  # numbers that another account holds
    leaving: Collection[str] = ()  # the account's own that are being released
    position: Version = NEVER  # the newest version that was given out

    def route(self, number: str, version: Version) -> Route | None:
        """The route of a number, None when it isn't here; `version` for numbers without one."""
        spec = self.numbers.get(number)
        if spec is None:
            return None
        name = spec.agent or ""
        return route_of(
            spec,
            self.agents.get(name),
            self.versions.get(number, version),
            account_id=self.account_id,
            agent_id=self.agent_ids.get(name, ""),
        )


def wanted(
    before: State,
    desired: MappingSpec,
    *,
    prune: bool,
    removed: Collection[str] = (),
    dropped: Collection[str] = (),
) -> State:
    """`before` with `desired` laid over it, without `removed` numbers and `dropped` agents.

    `prune`: `desired` alone.

    Raises:
        ConfigError: a number leads to an agent that would not exist.
        Conflict: another account holds a number (`number_taken`), or a number is being released
            (`number_leaving`).
    """
    _refuse_held(before, desired)
    agents = {} if prune else dict(before.agents)
    numbers = {} if prune else dict(before.numbers)
    agents.update((agent.name, agent) for agent in desired.agents)
    for spec in desired.numbers:
        numbers[spec.number] = _connected(before.numbers.get(spec.number), spec)
    for number in removed:
        numbers.pop(number, None)
    for name in dropped:
        agents.pop(name, None)
    for spec in numbers.values():
        if spec.agent is not None and spec.agent not in agents:
            raise ConfigError(
                f"number {mask(spec.number)} leads to agent {spec.agent!r}, which does not exist: "
                "add the agent, or correct its name",
                key="numbers",
            )
    return replace(before, agents=agents, numbers=numbers, versions={}, outdated=())


def _refuse_held(before: State, desired: MappingSpec) -> None:
    if not before.foreign and not before.leaving:
        return
    for spec in desired.numbers:
        if spec.number in before.foreign:
            raise taken(spec.number)
        if spec.number in before.leaving:
            raise Conflict(
                f"number {mask(spec.number)} is being released: it can be mapped again when its "
                "carrier has taken it back",
                code="number_leaving",
            )


def taken(number: str) -> Conflict:
    """Another account holds this number; which one is nobody else's business."""
    return Conflict(
        f"number {mask(number)} is held by another account: a number leads to one agent of one "
        "account, so it must be released there first",
        code="number_taken",
    )


def _connected(before: NumberSpec | None, spec: NumberSpec) -> NumberSpec:
    """A number that names no connection keeps the one that it has at this provider."""
    if spec.connection is not None or before is None or before.connection is None:
        return spec
    if before.provider != spec.provider:
        return spec
    return msgspec.structs.replace(spec, connection=before.connection)


def agent_changes(before: State, after: State) -> Iterator[AgentChange]:
    """Agents that were added, changed or removed, by name."""
    for name in sorted(before.agents.keys() | after.agents.keys()):
        old, new = before.agents.get(name), after.agents.get(name)
        if old != new:
            yield AgentChange(name, old, new)


def route_changes(before: State, after: State, version: Version) -> Iterator[RouteChange]:
    """Numbers whose row or whose route differs, by number; the new routes carry `version`."""
    moved = {
        name
        for name in before.agents.keys() | after.agents.keys()
        if leads_elsewhere(before.agents.get(name), after.agents.get(name))
    }
    for number in sorted(before.numbers.keys() | after.numbers.keys()):
        old, new = before.numbers.get(number), after.numbers.get(number)
        told = number not in before.outdated and (new is None or new.agent not in moved)
        if old != new or not told:
            yield RouteChange(number, before.route(number, NEVER), after.route(number, version))


def leads_elsewhere(before: AgentSpec | None, after: AgentSpec | None) -> bool:
    """Whether this change of an agent changes the routes of its numbers."""
    return targets_of(before) != targets_of(after)
