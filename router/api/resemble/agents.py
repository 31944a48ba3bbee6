"""Agents, as far as their phone numbers need them: list, get, create, update, delete."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

from router.api.fields import merged, rfc3339
from router.api.operation import Answer, ApiRequest, Operation
from router.api.resemble import numbers as phone_numbers
from router.api.resemble.answers import answer, offset, paged
from router.api.resemble.models import (
    AgentAnswer,
    AgentFacts,
    AgentItem,
    AgentList,
    AgentsQuery,
    CreateAgentRequest,
    Done,
    Refused,
    UpdateAgentRequest,
)
from router.control import agents, numbers
from router.control.model import Agent, Number
from router.errors import Conflict, Invalid, NotFound

_TAG: Final = "Agents"
_NUMBER: Final = "phone_number_id"
_OWN: Final = ("name", _NUMBER)  # of a request, what is not part of the configuration

T = TypeVar("T")


async def create(request: ApiRequest) -> Answer:
    """Make an agent; it takes calls at once."""
    wanted: CreateAgentRequest = request.body
    number = await _free_number(request, wanted.phone_number_id, "")
    made = await agents.create(
        request.control,
        request.actor,
        label=wanted.name,
        origin="resemble",
        config=merged({}, _config(request.sent)),
    )
    if number is not None:
        try:
            await _link(request, number, made.id)
        except Invalid:  # somebody was faster
            await agents.delete(request.control, request.actor, made.id)
            raise
    return answer(AgentAnswer(item=await _one(request, made)))


async def list_(request: ApiRequest) -> Answer:
    """The account's agents; with `phone_number`, the one that has it."""
    query: AgentsQuery = request.query
    found: Sequence[Agent]
    if query.phone_number is None:
        page = await agents.list_(
            request.control, request.actor, offset=offset(query), limit=query.page_size
        )
        found, total = page.items, page.total
    else:
        each = await _agent_of(request, query.phone_number)
        found, total = each if query.page == 1 else [], len(each)
    ids = [agent.id for agent in found]
    held = await agents.numbers_of_each(request.control, request.actor, ids)
    items = [_item(agent, held.get(agent.id, ())) for agent in found]
    return answer(AgentList(**paged(query, total), count=total, items=items))


async def get(request: ApiRequest) -> Answer:
    """One agent."""
    return answer(AgentAnswer(item=await _one(request, await _find(request))))


async def update(request: ApiRequest) -> Answer:
    """Change what is given."""
    wanted: UpdateAgentRequest = request.body
    found = await _find(request)
    number = await _free_number(request, wanted.phone_number_id, found.id)
    changes: dict[str, Any] = {}
    if "name" in request.sent:
        changes["label"] = wanted.name
    if patch := _config(request.sent):
        changes["config"] = merged(found.config, patch)
    if changes:
        found = await agents.update(request.control, request.actor, found.id, **changes)
    if _NUMBER in request.sent:
        await _assign(request, found.id, number)
    return answer(AgentAnswer(item=await _one(request, found)))


async def delete(request: ApiRequest) -> Answer:
    """Remove an agent that no number leads to."""
    found = await _find(request)
    await agents.delete(request.control, request.actor, found.id)
    return answer(Done(message="Agent deleted successfully"))


# --- its number


async def _free_number(request: ApiRequest, number_id: int | None, agent_id: str) -> Number | None:
    """Before anything is changed: the account has it, and no other agent. Raises Invalid."""
    if number_id is None:
        return None
    try:
        number = await phone_numbers.find(request, str(number_id))
    except NotFound:
        raise _wrong("the account has no such phone number") from None
    if number.state != "active":
        raise _wrong(f"the phone number is {number.state}: it takes no calls")
    if number.agent_id not in (None, agent_id):
        raise _wrong("is already linked to another agent: unlink it there first")
    return number


async def _link(request: ApiRequest, number: Number, agent_id: str) -> None:
    try:
        await numbers.link(request.control, request.actor, number.id, agent_id, move=False)
    except (NotFound, Conflict) as error:
        raise _wrong(str(error)) from None


async def _assign(request: ApiRequest, agent_id: str, number: Number | None) -> None:
    """`number` alone leads to the agent from now on; None: none does."""
    kept = None if number is None else number.number
    await agents.unlink(request.control, request.actor, agent_id, but_for=kept)
    if number is not None:
        await _link(request, number, agent_id)


async def _agent_of(request: ApiRequest, number: str) -> list[Agent]:
    try:
        held = await numbers.get(request.control, request.actor, number)
        if held.agent_id is None:
            return []
        return [await agents.get(request.control, request.actor, held.agent_id)]
    except NotFound:
        return []


def _wrong(why: str) -> Invalid:
    return Invalid((("body", _NUMBER), why))


# --- one agent


async def _find(request: ApiRequest) -> Agent:
    try:
        return await agents.get(request.control, request.actor, request.path["uuid"])
    except NotFound:
        raise NotFound("Agent not found", code="agent_not_found") from None


async def _one(request: ApiRequest, agent: Agent) -> AgentItem:
    return _item(agent, await agents.numbers_of(request.control, request.actor, agent.id))


def _item(agent: Agent, held: Sequence[Number]) -> AgentItem:
    config = agent.config
    facts = AgentFacts(
        name=agent.label,
        uuid=agent.id,
        languages=_kept(config, "languages", ["en-US"]),
        dynamic_variables=_kept(config, "dynamic_variables", {}),
        status="active" if agent.status == "deployed" else "inactive",
        created_at=rfc3339(agent.created_at),
        updated_at=rfc3339(agent.updated_at),
    )
    return AgentItem(
        uuid=agent.id,
        name=agent.label,
        phone_number_id=held[0].short_id if held else None,
        agent=facts,
        asr=_kept(config, "asr", {}),
        tts={"voice_uuid": config.get("voice_uuid")},
        turn=_kept(config, "turn", {}),
        llm=_kept(config, "llm", {}),
        phone_numbers=[phone_numbers.shown(number) for number in held],
        webhooks=_kept(config, "webhooks", []),
        system_tools=_kept(config, "system_tools", {}),
    )


def _config(sent: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sent.items() if name not in _OWN}


def _kept(config: Mapping[str, Any], name: str, default: T) -> T:
    """A part of the configuration; an agent of another dialect may have something else there."""
    value = config.get(name)
    if isinstance(default, list):
        of = str if name == "languages" else dict
        fits = isinstance(value, list) and all(isinstance(each, of) for each in value)
    else:
        fits = isinstance(value, dict)
    return value if fits else default  # type: ignore[return-value]


def _updating(method: Literal["PATCH", "PUT"], operation_id: str) -> Operation:
    return Operation(
        method=method,
        path="/api/v2/agents/{uuid}",
        id=operation_id,
        summary="Update Agent",
        description="What is absent stays, objects merge, null clears. `phone_number_id` links "
        "another number in place of the present one; no other agent may have it.",
        tag=_TAG,
        handle=update,
        scope="agents:write",
        body=UpdateAgentRequest,
        answers={200: AgentAnswer},
    )


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/api/v2/agents",
        id="list_agents",
        summary="List Agents",
        tag=_TAG,
        handle=list_,
        scope="agents:read",
        query=AgentsQuery,
        answers={200: AgentList},
    ),
    Operation(
        method="POST",
        path="/api/v2/agents",
        id="create_agent",
        summary="Create Agent",
        description="Make an agent, and link a phone number to it (`phone_number_id`).",
        tag=_TAG,
        handle=create,
        scope="agents:write",
        body=CreateAgentRequest,
        answers={200: AgentAnswer},
        creates=True,
    ),
    Operation(
        method="GET",
        path="/api/v2/agents/{uuid}",
        id="get_agent",
        summary="Get Agent",
        tag=_TAG,
        handle=get,
        scope="agents:read",
        answers={200: AgentAnswer},
    ),
    _updating("PATCH", "update_agent"),
    _updating("PUT", "replace_agent"),  # clients that were made for Rails send either
    Operation(
        method="DELETE",
        path="/api/v2/agents/{uuid}",
        id="delete_agent",
        summary="Delete Agent",
        description="An agent that has phone numbers is not deleted (409 names them).",
        tag=_TAG,
        handle=delete,
        scope="agents:write",
        answers={200: Done, 409: Refused},
    ),
)
