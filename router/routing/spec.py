"""The mapping that users ask for: agents, and which number leads to which of them.

`route_of` is the only place that turns it into a route.
"""

from collections.abc import Iterator, Mapping
from sys import intern
from typing import Any, Final, Literal

import msgspec

from router.events.ids import DEFAULT_ACCOUNT
from router.events.phone import is_e164, mask
from router.routing.table import Route, Target, Version

AgentStatus = Literal["deployed", "paused", "disabled"]

JOB_LIMIT: Final = 64 * 1024  # bytes of a job's metadata; what all LiveKit servers and workers take
FACTS_LIMIT: Final = 8 * 1024  # of it, what a call's own facts can need: names, numbers, headers
METADATA_LIMIT: Final = JOB_LIMIT - FACTS_LIMIT  # of it, what an agent's own metadata may have


class AgentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A voice agent. Only a deployed one gets calls."""

    name: str  # ours, unique in its account
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
    connection: str | None = None
    """The account's connection that carries it. None: as it is; of a new number, the operator's."""

    def __post_init__(self) -> None:
        if not is_e164(self.number):
            raise ValueError(f"number {mask(self.number)} is not E.164: + and 7 to 15 digits")
        if self.fallback and not is_e164(self.fallback):
            raise ValueError(f"the fallback of number {mask(self.number)} is not E.164")
        if self.fallback == self.number:
            raise ValueError(f"number {mask(self.number)} is its own fallback: a loop")


class MappingSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A wanted mapping of one account, whole or in part.

    No agent and no number may be in it twice, no fallback may lead back to where it began, and no
    metadata may be so large that a job could not have it.
    """

    agents: tuple[AgentSpec, ...] = ()
    numbers: tuple[NumberSpec, ...] = ()

    def __post_init__(self) -> None:
        if len({agent.name for agent in self.agents}) < len(self.agents):
            raise ValueError("an agent is listed twice")
        if len({number.number for number in self.numbers}) < len(self.numbers):
            raise ValueError("a number is listed twice")
        for agent in self.agents:
            if agent.metadata and (size := metadata_size(agent.metadata)) > METADATA_LIMIT:
                raise ValueError(f"agent {agent.name!r}: {too_large(size)}")
        for loop in fallback_loops({number.number: number.fallback for number in self.numbers}):
            raise ValueError(f"{len(loop)} numbers are each other's fallback: a loop")


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


def metadata_size(metadata: Mapping[str, Any]) -> int:
    """The bytes that an agent's metadata takes in a job."""
    return len(msgspec.json.encode(metadata))


def too_large(size: int) -> str:
    """What is wrong with metadata of `size` bytes."""
    return (
        f"metadata of {size} bytes as JSON is too large: at most {METADATA_LIMIT}, so that it fits "
        f"into the {JOB_LIMIT >> 10} KiB of a LiveKit job together with the call's facts"
    )


def fallback_loops(fallbacks: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """Chains of fallbacks that come back to where they began: each loop once, in its order.

    `fallbacks`: number → the number that is called when no agent comes, "" for none. A number that
    is its own fallback is a loop of one.
    """
    walked: set[str] = set()
    for start, next_one in fallbacks.items():
        if next_one not in fallbacks:
            continue
        chain: dict[str, None] = {}  # in order
        number = start
        while number in fallbacks and number not in walked:
            walked.add(number)
            chain[number] = None
            number = fallbacks[number]
        if number in chain:
            members = list(chain)
            yield tuple(members[members.index(number) :])


def targets_of(agent: AgentSpec | None, agent_id: str = "") -> tuple[Target, ...]:
    """Who takes the calls of a number that is linked to `agent`: nobody unless it is deployed."""
    if agent is None or agent.status != "deployed":
        return ()
    return (
        Target(
            agent=agent.name,
            livekit_agent_name=agent.livekit_agent_name,
            metadata=agent.metadata,
            agent_id=agent_id,
        ),
    )


def route_of(
    number: NumberSpec,
    agent: AgentSpec | None,
    version: Version,
    *,
    account_id: str = DEFAULT_ACCOUNT,
    agent_id: str = "",
) -> Route:
    """Where `number` leads; nowhere but its fallback unless its agent is deployed."""
    return Route(
        number=number.number,
        provider=number.provider,
        rev=version.rev,
        targets=targets_of(agent, agent_id),
        fallback=number.fallback,
        epoch=version.epoch,
        account_id=intern(account_id),  # a default is left out of JSON where it is that very object
        connection_id=number.connection or "",
    )
