"""Agents: what answers."""

from datetime import datetime
from typing import Any, Final

from pydantic import Field

from router.api.native.shapes import BASE, Body, Listing, Paging, Shape, listing, shaped
from router.api.operation import Answer, ApiRequest, Operation
from router.control import agents
from router.control.model import Agent, Origin
from router.routing.spec import AgentStatus

_TAG: Final = "Agents"
_ALL: Final[tuple[AgentStatus, ...]] = ("deployed", "paused", "disabled")


class AgentShape(Shape):
    """What answers a number."""

    id: str
    account_id: str
    name: str = Field(description="Unique in the account; the file and events name it so")
    label: str = Field(description="For people")
    livekit_agent_name: str = Field(description="The worker that serves it")
    metadata: dict[str, Any] = Field(description="What its jobs are given")
    status: AgentStatus = Field(description="Only a deployed one gets calls")
    origin: Origin = Field(description="The dialect that made it, or the file")
    config: dict[str, Any] = Field(description="The dialect's own document, secrets masked")
    created_at: datetime
    updated_at: datetime


class NewAgent(Body):
    """An agent to be made."""

    name: str = Field(min_length=1, max_length=200, description="Unique in the account")
    livekit_agent_name: str = Field(
        "", max_length=200, description="Empty: the account's worker, else the name"
    )
    metadata: dict[str, Any] | None = Field(
        None, description='What its jobs are given; null: `{"config": …}`'
    )
    status: AgentStatus = "deployed"
    config: dict[str, Any] = Field(default_factory=dict)


class AgentChange(Body):
    """What is to change; what is absent stays."""

    label: str | None = Field(None, min_length=1, max_length=200)
    livekit_agent_name: str | None = Field(None, max_length=200)
    metadata: dict[str, Any] | None = None
    status: AgentStatus | None = None
    config: dict[str, Any] | None = Field(None, description="The whole of it")


class AgentsAsked(Paging):
    """Which agents."""

    status: AgentStatus | None = Field(None, description="Absent: all of them")


def _shape(agent: Agent) -> dict[str, Any]:
    return shaped(AgentShape, agent)


async def _create(request: ApiRequest) -> Answer:
    body: NewAgent = request.body
    agent = await agents.create(
        request.control,
        request.actor,
        label=body.name,
        origin="native",
        config=body.config,
        metadata=body.metadata,
        livekit_agent_name=body.livekit_agent_name,
        status=body.status,
        exact_name=True,
    )
    return Answer(status=201, body=_shape(agent))


async def _list(request: ApiRequest) -> Answer:
    asked: AgentsAsked = request.query
    page = await agents.list_(
        request.control,
        request.actor,
        offset=asked.offset,
        limit=asked.limit,
        statuses=_ALL if asked.status is None else (asked.status,),
    )
    return Answer(body=listing(page, asked, _shape))


async def _get(request: ApiRequest) -> Answer:
    agent = await agents.get(request.control, request.actor, request.path["agent_id"])
    return Answer(body=_shape(agent))


async def _update(request: ApiRequest) -> Answer:
    body: AgentChange = request.body
    agent = await agents.update(
        request.control,
        request.actor,
        request.path["agent_id"],
        config=body.config,
        metadata=body.metadata,
        label=body.label,
        livekit_agent_name=body.livekit_agent_name,
        status=body.status,
    )
    return Answer(body=_shape(agent))


async def _delete(request: ApiRequest) -> Answer:
    await agents.delete(request.control, request.actor, request.path["agent_id"])
    return Answer(status=204)


OPERATIONS: Final = [
    Operation(
        method="GET",
        path=f"{BASE}/agents",
        id="list_agents",
        summary="List agents, oldest first",
        tag=_TAG,
        handle=_list,
        scope="agents:read",
        query=AgentsAsked,
        answers={200: Listing[AgentShape]},
    ),
    Operation(
        method="POST",
        path=f"{BASE}/agents",
        id="create_agent",
        summary="Create an agent",
        tag=_TAG,
        handle=_create,
        scope="agents:write",
        body=NewAgent,
        answers={201: AgentShape},
        creates=True,
    ),
    Operation(
        method="GET",
        path=f"{BASE}/agents/{{agent_id}}",
        id="get_agent",
        summary="One agent",
        tag=_TAG,
        handle=_get,
        scope="agents:read",
        answers={200: AgentShape},
    ),
    Operation(
        method="PATCH",
        path=f"{BASE}/agents/{{agent_id}}",
        id="update_agent",
        summary="Change an agent; pausing it stops its calls at once",
        tag=_TAG,
        handle=_update,
        scope="agents:write",
        body=AgentChange,
        answers={200: AgentShape},
    ),
    Operation(
        method="DELETE",
        path=f"{BASE}/agents/{{agent_id}}",
        id="delete_agent",
        summary="Delete an agent that has no numbers",
        tag=_TAG,
        handle=_delete,
        scope="agents:write",
        answers={204: None},
    ),
]
