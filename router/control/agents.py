"""Agents: what answers. What its numbers must be told of a change is in their routes at once."""

from collections.abc import Mapping
from typing import Any

from router.control.context import Control
from router.control.model import Actor, Agent, Number, Origin, Page
from router.routing.spec import AgentStatus


async def create(
    control: Control,
    actor: Actor,
    *,
    label: str,
    origin: Origin,
    config: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    livekit_agent_name: str = "",
    status: AgentStatus = "deployed",
    exact_name: bool = False,
) -> Agent:
    """Make an agent.

    Its name is made from `label`, unique in the account (`-2`, `-3` … behind it); with `exact_name`
    a name that is taken is a Conflict. Without `livekit_agent_name` the account's worker serves it,
    else a worker of the agent's own name. `config` is kept as it is, its secrets sealed;
    `metadata` (default: `{"config": config}`, without secrets) is given to its jobs.

    Raises:
        Invalid: too large for a job (METADATA_LIMIT), or a name can't be made.
    """
    raise NotImplementedError


async def get(control: Control, actor: Actor, agent_id: str, *, secrets: bool = False) -> Agent:
    """By id. NotFound. `secrets`: with the real secrets in `config`, for who merges an update."""
    raise NotImplementedError


async def find(control: Control, actor: Actor, name: str) -> Agent:
    """By name. NotFound."""
    raise NotImplementedError


async def list_(
    control: Control,
    actor: Actor,
    *,
    offset: int = 0,
    limit: int = 50,
    statuses: tuple[AgentStatus, ...] = ("deployed", "paused"),
    newest_first: bool = False,
) -> Page[Agent]:
    """The account's."""
    raise NotImplementedError


async def update(
    control: Control,
    actor: Actor,
    agent_id: str,
    *,
    config: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    label: str | None = None,
    livekit_agent_name: str | None = None,
    status: AgentStatus | None = None,
) -> Agent:
    """Change what is given; a masked secret in `config` keeps the stored one. NotFound, Invalid."""
    raise NotImplementedError


async def delete(control: Control, actor: Actor, agent_id: str) -> None:
    """Remove it. Conflict: it has numbers; the message names them."""
    raise NotImplementedError


async def numbers_of(control: Control, actor: Actor, agent_id: str) -> list[Number]:
    """The numbers that lead to it."""
    raise NotImplementedError
