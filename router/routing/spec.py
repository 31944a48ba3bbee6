"""The mapping that users ask for: agents, and which number leads to which of them.

`route_of` is the only place that turns it into a route.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from router.events.phone import is_e164, mask
from router.routing.table import Route, Target, Version

AgentStatus = Literal["deployed", "paused", "disabled"]


class AgentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A voice agent. Only a deployed one gets calls."""

    name: str  # ours, unique
    livekit_agent_name: str  # what its workers register with
    metadata: Mapping[str, Any] = {}  # given to its job
    status: AgentStatus = "deployed"

    def __post_init__(self) -> None:
        # LiveKit reads an empty agent name as "any worker": never what a mapping means.
        for field in ("name", "livekit_agent_name"):
            if not getattr(self, field).strip():
                raise ValueError(f"an agent's {field} must not be empty")


class NumberSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A phone number, the agent that it leads to, and who is called when no agent comes."""

    number: str  # E.164
    provider: str  # whose number it is: twilio, telnyx
    agent: str | None = None  # AgentSpec.name
    fallback: str = ""  # E.164

    def __post_init__(self) -> None:
        if not is_e164(self.number):
            raise ValueError(f"number {mask(self.number)} is not E.164: + and 7 to 15 digits")
        if self.fallback and not is_e164(self.fallback):
            raise ValueError(f"the fallback of number {mask(self.number)} is not E.164")
        if self.fallback == self.number:
            raise ValueError(f"number {mask(self.number)} is its own fallback: a loop")


class MappingSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A wanted mapping, whole or in part. No agent and no number may be in it twice."""

    agents: tuple[AgentSpec, ...] = ()
    numbers: tuple[NumberSpec, ...] = ()

    def __post_init__(self) -> None:
        if len({agent.name for agent in self.agents}) < len(self.agents):
            raise ValueError("an agent is listed twice")
        if len({number.number for number in self.numbers}) < len(self.numbers):
            raise ValueError("a number is listed twice")


class AgentChange(msgspec.Struct, frozen=True):
    """An agent before and after; None where there was or will be none."""

    name: str
    before: AgentSpec | None
    after: AgentSpec | None


class RouteChange(msgspec.Struct, frozen=True):
    """A number's route before and after; None where there was or will be none."""

    number: str
    before: Route | None
    after: Route | None


class MappingResult(msgspec.Struct, frozen=True):
    """What a change of the mapping did. `version` is the mapping's, also when nothing changed."""

    version: int
    changes: tuple[AgentChange | RouteChange, ...] = ()


def targets_of(agent: AgentSpec | None) -> tuple[Target, ...]:
    """Who takes the calls of a number that is linked to `agent`: nobody unless it is deployed."""
    if agent is None or agent.status != "deployed":
        return ()
    return (
        Target(
            agent=agent.name,
            livekit_agent_name=agent.livekit_agent_name,
            metadata=agent.metadata,
        ),
    )


def route_of(number: NumberSpec, agent: AgentSpec | None, version: Version) -> Route:
    """Where `number` leads; nowhere but its fallback unless its agent is deployed."""
    return Route(
        number=number.number,
        provider=number.provider,
        rev=version.rev,
        targets=targets_of(agent),
        fallback=number.fallback,
        epoch=version.epoch,
    )
