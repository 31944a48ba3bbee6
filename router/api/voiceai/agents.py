"""Agents: create, list, get, update, deploy, pause, disable; whether one can be called.

`config.phone_number` is not kept with an agent: it is the number that leads to it now, so it is
empty as soon as the number is released or moved, whoever did it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Literal

from router.api.fields import merged, rfc3339
from router.api.operation import Answer, ApiRequest, Operation
from router.api.voiceai.answers import answer, pagination
from router.api.voiceai.config import PHONE, AgentConfig, kept, public, validated
from router.api.voiceai.models import (
    Agent,
    AgentConnectionStatusResponse,
    AgentDeleteResponse,
    AgentDeployResponse,
    AgentPauseResponse,
    AgentStatsSummaryResponse,
    AgentStatusSummary,
    CreateAgentRequest,
    ErrorResponse,
    ListAgentsQuery,
    PaginatedAgentResponse,
    UpdateAgentRequest,
)
from router.control import agents, numbers
from router.control import model as control
from router.control.number_rows import NOT_LINKABLE
from router.errors import Conflict, Invalid, NotFound
from router.routing.spec import AgentStatus

_MANAGEMENT: Final = "Agent Management"
_WORKER: Final = "livekit_agent_name"
_CHUNK: Final = 1000  # rows of one read, where the whole list is asked for
_CODES: Final[Mapping[AgentStatus, Literal[0, 1, 2]]] = {"disabled": 0, "paused": 1, "deployed": 2}
_NUMBER: Final = ("body", "config", PHONE)
_NAMED: Final = 10  # numbers that a message names
_SHOWN: Final[tuple[AgentStatus, ...]] = ("deployed", "paused")


async def create(request: ApiRequest) -> Answer:
    """Make an agent; it is paused."""
    wanted: CreateAgentRequest = request.body
    number = validated(wanted.config).phone_number
    config = kept(wanted.config)
    with _naming_the_number():
        made = await agents.create(
            request.control,
            request.actor,
            label=wanted.name,
            origin="voiceai",
            config=config,
            livekit_agent_name=config.get(_WORKER, ""),
            status="paused",
            number=number,
        )
    return answer(_shown(made, number))


async def list_(request: ApiRequest) -> Answer:
    """The account's agents, oldest first."""
    query: ListAgentsQuery = request.query
    statuses = tuple(query.show_statuses) if query.show_statuses else _SHOWN
    if query.page is None and query.limit is None:
        found: list[Agent] = []
        while len(found) % _CHUNK == 0:
            page = await agents.list_(
                request.control,
                request.actor,
                offset=len(found),
                limit=_CHUNK,
                statuses=statuses,
            )
            found.extend(await _all(request, page.items))
            if not page.items:
                break
        return Answer(body=found)
    offset, limit, _ = pagination(query, 0)
    page = await agents.list_(
        request.control, request.actor, offset=offset, limit=limit, statuses=statuses
    )
    _, _, told = pagination(query, page.total)
    return answer(PaginatedAgentResponse(items=await _all(request, page.items), pagination=told))


async def get(request: ApiRequest) -> Answer:
    """One agent."""
    return answer(await _one(request, await _find(request)))


async def update(request: ApiRequest) -> Answer:
    """Change what is given; null clears."""
    wanted: UpdateAgentRequest = request.body
    found = await _find(request, to_change=True)
    changes: dict[str, Any] = {}
    if "name" in request.sent:
        changes["label"] = wanted.name
    if "config" in request.sent:
        patch = wanted.config
        changes["config"] = partial(_merged, patch=patch)
        if patch is None or PHONE in patch:
            changes["number"] = None if patch is None else _number_in(found.config, patch)
        if patch is None or _WORKER in patch:
            changes[_WORKER] = (patch or {}).get(_WORKER) or ""
    if changes:
        with _naming_the_number():
            found = await agents.update(request.control, request.actor, found.id, **changes)
    return answer(await _one(request, found))


def _merged(stored: control.Json, patch: control.Json | None) -> dict[str, Any]:
    """The configuration after an update. Raises Invalid."""
    if patch is None:
        return {}
    config = merged(stored, kept(patch, nulls=True))
    _checked(config, patch)
    return config


def _number_in(stored: control.Json, patch: control.Json) -> str | None:
    """The number that an update assigns. Raises Invalid."""
    return _checked(merged(stored, kept(patch, nulls=True)), patch).phone_number


def _checked(config: control.Json, patch: control.Json) -> AgentConfig:
    """What the update does not touch may be of another dialect, and stays as it is."""
    touched = {name: value for name, value in config.items() if name in patch}
    return validated({**patch, **touched})


async def deploy(request: ApiRequest) -> Answer:
    """Let the agent take calls."""
    found = await _find(request, to_change=True)
    deployed = await agents.update(request.control, request.actor, found.id, status="deployed")
    number = await _number_of(request, deployed.id)
    return answer(
        AgentDeployResponse(
            agent=_shown(deployed, number),
            message="Agent deployed successfully",
            sip_status="ready" if number is not None else "no_phone_number",
            sip_details={PHONE: number},
        )
    )


async def pause(request: ApiRequest) -> Answer:
    """Let the agent take no calls; its number goes to nobody but its fallback."""
    found = await _find(request, to_change=True)
    paused = await agents.update(request.control, request.actor, found.id, status="paused")
    return answer(AgentPauseResponse(agent=await _one(request, paused)))


async def disable(request: ApiRequest) -> Answer:
    """Delete the agent: it keeps its record, its numbers are free."""
    found = await _find(request)
    if found.status == "deployed":
        raise Conflict(
            "the agent is deployed: pause it first, then disable it", code="agent_deployed"
        )
    held = await numbers.list_(
        request.control, request.actor, agent_id=found.id, limit=_NAMED + 1, deleting=True
    )
    disabled = await agents.update(
        request.control, request.actor, found.id, status="disabled", number=None
    )
    message = "Agent disabled"
    if held.items:
        more = " and more" if len(held.items) > _NAMED else ""
        names = ", ".join(number.number for number in held.items[:_NAMED])
        message += f"; {names}{more} is free now"
    return answer(AgentDeleteResponse(agent=_shown(disabled, None), message=message))


async def status(request: ApiRequest) -> Answer:
    """Whether the agent can be called."""
    found = await _find(request)
    voice = found.config.get("tts_params")
    allowed = found.status == "deployed"
    return answer(
        AgentConnectionStatusResponse(
            agent_id=found.id,
            name=found.label,
            voice_id=str(voice.get("voice_id") or "") if isinstance(voice, Mapping) else "",
            status=found.status,
            status_code=_CODES[found.status],
            call_allowed=allowed,
            call_validation_details={}
            if allowed
            else {"reason": "agent_not_deployed", "message": f"the agent is {found.status}"},
        )
    )


async def stats(request: ApiRequest) -> Answer:
    """How many agents have which status."""
    totals: dict[AgentStatus, int] = {}
    for each in _CODES:
        page = await agents.list_(request.control, request.actor, limit=1, statuses=(each,))
        totals[each] = page.total
    return answer(
        AgentStatsSummaryResponse(
            total_agents=sum(totals.values()), status_summary=AgentStatusSummary(**totals)
        )
    )


# --- one agent


async def _find(request: ApiRequest, *, to_change: bool = False) -> control.Agent:
    found = await agents.get(request.control, request.actor, request.path["agent_id"])
    if to_change and found.status == "disabled":
        raise Conflict("the agent is disabled, which deleted it", code="agent_disabled")
    return found


async def _one(request: ApiRequest, agent: control.Agent) -> Agent:
    return _shown(agent, await _number_of(request, agent.id))


async def _all(request: ApiRequest, found: Sequence[control.Agent]) -> list[Agent]:
    """A page of agents; each has the first of the numbers that lead to it."""
    first = await _numbers_of(request, [agent.id for agent in found])
    return [_shown(agent, first.get(agent.id)) for agent in found]


def _shown(agent: control.Agent, number: str | None) -> Agent:
    config = public(agent.config)
    return Agent.model_construct(
        agent_id=agent.id,
        name=agent.label,
        config={**config, PHONE: number},
        status=agent.status,
        status_code=_CODES[agent.status],
        created_at=rfc3339(agent.created_at),
        updated_at=rfc3339(agent.updated_at),
    )


# --- its number


async def _numbers_of(request: ApiRequest, agent_ids: Sequence[str]) -> Mapping[str, str]:
    """The number of each agent that has one; of several, which other dialects linked, the first."""
    held = await agents.numbers_of_each(request.control, request.actor, agent_ids, first=True)
    return {agent_id: theirs[0].number for agent_id, theirs in held.items()}


async def _number_of(request: ApiRequest, agent_id: str) -> str | None:
    return (await _numbers_of(request, [agent_id])).get(agent_id)


@contextmanager
def _naming_the_number() -> Iterator[None]:
    """Whatever is wrong with the number is wrong with the field that names it."""
    try:
        yield
    except (NotFound, Conflict) as error:
        if error.code not in NOT_LINKABLE:
            raise
        held = "" if isinstance(error, Conflict) else ": select it first"
        raise Invalid((_NUMBER, f"{error}{held}"), code=error.code) from None


def _operation(method: Any, path: str, handle: Callable[..., Any], **rest: Any) -> Operation:
    rest = {"tag": _MANAGEMENT, **rest}
    return Operation(method=method, path=path, handle=handle, **rest)


OPERATIONS: Final = (
    *(
        operation
        for end, suffix in (("/", ""), ("", "_without_slash"))
        for operation in (
            _operation(
                "POST",
                f"/api/v1/agent{end}",
                create,
                id=f"create_agent{suffix}",
                summary="Create Agent",
                description="Make an agent. It is paused until it is deployed.",
                scope="agents:write",
                body=CreateAgentRequest,
                answers={200: Agent},
                creates=True,
            ),
            _operation(
                "GET",
                f"/api/v1/agent{end}",
                list_,
                id=f"list_agents{suffix}",
                summary="List Agents",
                description="All agents; with `page` or `limit`, some of them.",
                scope="agents:read",
                query=ListAgentsQuery,
                answers={200: list[Agent] | PaginatedAgentResponse},
            ),
        )
    ),
    _operation(
        "GET",
        "/api/v1/agent/stats-summary",
        stats,
        id="agent_stats_summary",
        summary="Stats Summary",
        tag="Agent Analytics",
        scope="agents:read",
        answers={200: AgentStatsSummaryResponse},
    ),
    _operation(
        "GET",
        "/api/v1/agent/{agent_id}",
        get,
        id="get_agent",
        summary="Get Agent",
        scope="agents:read",
        answers={200: Agent},
    ),
    _operation(
        "PUT",
        "/api/v1/agent/{agent_id}",
        update,
        id="update_agent",
        summary="Update Agent",
        description="A partial update (RFC 7396): what is absent stays, null clears. A number in "
        "`config.phone_number` that another agent has moves to this one.",
        scope="agents:write",
        body=UpdateAgentRequest,
        answers={200: Agent, 409: ErrorResponse},
    ),
    _operation(
        "POST",
        "/api/v1/agent/{agent_id}/deploy",
        deploy,
        id="deploy_agent",
        summary="Deploy Agent",
        description="Let the agent take the calls of its phone number.",
        scope="agents:write",
        answers={200: AgentDeployResponse, 409: ErrorResponse},
    ),
    _operation(
        "POST",
        "/api/v1/agent/{agent_id}/pause",
        pause,
        id="pause_agent",
        summary="Pause Agent",
        description="Let the agent take no calls. Its phone number can be released, or assigned to "
        "another agent. Pausing twice is once.",
        scope="agents:write",
        answers={200: AgentPauseResponse, 409: ErrorResponse},
    ),
    _operation(
        "POST",
        "/api/v1/agent/{agent_id}/disable",
        disable,
        id="disable_agent",
        summary="Delete Agent",
        description="Delete a paused agent. Its record stays, its phone number is free.",
        scope="agents:write",
        answers={200: AgentDeleteResponse, 409: ErrorResponse},
    ),
    _operation(
        "GET",
        "/api/v1/connection/agent-status/{agent_id}",
        status,
        id="get_agent_status",
        summary="Agent Status",
        description="Whether the agent can be called.",
        tag="Agent Connection",
        scope="agents:read",
        answers={200: AgentConnectionStatusResponse},
    ),
)
