"""Agents, and the documents that they name: inline parameters become documents of their own.

An agent's `config` is a normalised agent of Vocode: ids in the place of its prompt, voice, actions,
webhook and vector database. Its jobs get the documents as well (`router.control.agents`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal
from uuid import NAMESPACE_OID, uuid5

from router.api.operation import Answer, ApiRequest, Operation
from router.api.vocode import connections as wire_connections
from router.api.vocode import documents as wire_documents
from router.api.vocode import inline
from router.api.vocode.kinds import (
    ACTION,
    CONNECTION,
    PARTS,
    PROMPT,
    VECTOR_DATABASE,
    VOICE,
    WEBHOOK,
)
from router.api.vocode.schemas import (
    NOT_SET,
    ById,
    OneOf,
    PageQuery,
    Schema,
    Uuid,
    answer_of,
    as_page,
    page_of,
    update_of,
)
from router.control import agents
from router.control.model import Agent
from router.errors import NotFound


class InternalLLMFallback(Schema):
    """The model that is asked where the first one fails."""

    provider: Literal["openai", "azure"]
    model_name: str


class AgentParams(Schema):
    """What answers a call."""

    name: str | None = None
    prompt: Annotated[Any, PROMPT.inline()]
    language: Literal["en", "es", "de", "hi", "pt", "fr", "nl", "id", "it", "ja", "ko"] = NOT_SET
    actions: list[Annotated[Any, ACTION.inline()]] = NOT_SET
    voice: Annotated[Any, VOICE.inline()]
    initial_message: str | None = None
    webhook: Annotated[Any, WEBHOOK.inline()] | None = None
    vector_database: Annotated[Any, VECTOR_DATABASE.inline()] | None = None
    interrupt_sensitivity: Literal["low", "high"] = NOT_SET
    context_endpoint: str | None = None
    noise_suppression: bool = NOT_SET
    endpointing_sensitivity: Literal["auto", "relaxed", "sensitive"] = NOT_SET
    ivr_navigation_mode: Literal["default", "off"] = NOT_SET
    conversation_speed: float = NOT_SET
    initial_message_delay: float = NOT_SET
    openai_model_name_override: str | None = None
    ask_if_human_present_on_idle: bool = NOT_SET
    openai_account_connection: (
        Annotated[Any, OneOf(wire_connections.OpenAIAccountConnection, reference=True)] | None
    ) = None
    run_do_not_call_detection: bool = NOT_SET
    llm_fallback: InternalLLMFallback | None = None
    deepgram_keywords: dict[str, int | float] | None = None
    idle_time_seconds: int | None = None
    llm_temperature: float = NOT_SET


class CreateCallAgentParams(AgentParams):
    """The agent of one call out."""

    voice: Annotated[Any, VOICE.inline()] = NOT_SET


_UPDATES: Final[Mapping[str, Any]] = {
    "prompt": Annotated[Any, PROMPT.inline_update()],
    "actions": list[Annotated[Any, ACTION.inline_update()]],
    "voice": Annotated[Any, VOICE.inline_update()],
    "webhook": Annotated[Any, WEBHOOK.inline_update()] | None,
    "vector_database": Annotated[Any, VECTOR_DATABASE.inline_update()] | None,
}
AgentUpdateParams: Final = update_of(AgentParams, **_UPDATES)
InboundAgentUpdateParams: Final = update_of(
    AgentParams,
    "InboundAgentUpdateParams",
    **{**_UPDATES, "prompt": Annotated[Any, PROMPT.inline_update(text=True)]},
)
"""Of `POST /v1/numbers/update`: in the older document a prompt is its text."""

_EXPANDED: Final[Mapping[str, Any]] = {
    "actions": list[Annotated[Any, OneOf(*ACTION.answers)]],
    "voice": Annotated[Any, OneOf(*VOICE.answers)],
    "webhook": Annotated[Any, OneOf(*WEBHOOK.answers)],
    "vector_database": Annotated[Any, OneOf(*VECTOR_DATABASE.answers)],
    CONNECTION: wire_connections.OpenAIAccountConnection,
}
AgentAnswer: Final = answer_of(
    AgentParams, "Agent", prompt=Annotated[Any, OneOf(*PROMPT.answers)], **_EXPANDED
)
InboundAgentAnswer: Final = answer_of(
    AgentParams,
    "InboundAgent",
    prompt=Annotated[Any, OneOf(*PROMPT.answers, text=True)],
    **_EXPANDED,
)
NormalizedAgent: Final = answer_of(
    AgentParams,
    "NormalizedAgent",
    prompt=Uuid,
    actions=list[Uuid],
    voice=Uuid,
    webhook=Uuid,
    vector_database=Uuid,
    **{CONNECTION: Uuid},
)


# --- what agents look like


def normalised(agent: Agent) -> dict[str, Any]:
    """An agent as lists have it."""
    config = agent.config
    if agent.origin != "vocode":
        foreign = _foreign(agent)
        config = foreign | {name: foreign[name]["id"] for name in ("prompt", "voice")}
    return {"id": agent.id, "user_id": agent.account_id, "actions": [], **config}


async def expanded(request: ApiRequest, agent: Agent) -> dict[str, Any]:
    """An agent as answers have it, with its documents in place of their ids."""
    if agent.origin != "vocode":
        config = _foreign(agent)
    else:
        config = await _with_documents(request, agent.config)
        config = {**_stand_ins(agent, config), **config}
    return {"id": agent.id, "user_id": agent.account_id, "actions": [], **config}


async def expanded_by_id(request: ApiRequest, agent_id: str, name: str = "") -> dict[str, Any]:
    """The same; of an agent that is there no more, what is known of it: its name."""
    try:
        return await expanded(request, await agents.get(request.control, request.actor, agent_id))
    except NotFound:
        gone = {"id": agent_id, "user_id": request.actor.account_id, "name": name, "actions": []}
        return gone | _placeholders(agent_id, request.actor.account_id, "")


def _foreign(agent: Agent) -> dict[str, Any]:
    """An agent that another dialect or the file made: Vocode has no words for more than this."""
    inner = agent.config.get("config", agent.config)
    prompt = inner.get("prompt") if isinstance(inner, Mapping) else None
    content = prompt if isinstance(prompt, str) else ""
    return {"name": agent.label, **_placeholders(agent.id, agent.account_id, content)}


def _stand_ins(agent: Agent, config: Mapping[str, Any]) -> dict[str, Any]:
    """For a prompt or voice whose document was deleted: the client reads no agent without them."""
    stand_ins = _placeholders(agent.id, agent.account_id, "")
    return {name: value for name, value in stand_ins.items() if name not in config}


def _placeholders(agent_id: str, account_id: str, content: str) -> dict[str, Any]:
    def made(part: str) -> dict[str, Any]:
        return {"id": str(uuid5(NAMESPACE_OID, f"{agent_id}/{part}")), "user_id": account_id}

    return {
        "prompt": {**made("prompt"), "content": content},
        "voice": {**made("voice"), "type": "voice_vocode", "voice_id": "joe"},
    }


async def _with_documents(request: ApiRequest, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with each document in the place of its id; one that is gone is left out."""
    found = dict(config)
    for field, kind in PARTS.items():
        if field in config:
            document = await wire_documents.find(request, kind, config[field])
            found.pop(field)
            if document is not None:
                found[field] = wire_documents.shown(document)
    actions = [
        await wire_documents.find(request, ACTION, each) for each in config.get("actions", [])
    ]
    found["actions"] = [wire_documents.shown(each) for each in actions if each is not None]
    connection = await wire_connections.expanded(request, found.pop(CONNECTION, None))
    if connection is not None:
        found[CONNECTION] = connection
    return found


# --- operations


async def _get(request: ApiRequest) -> Answer:
    found = await agents.get(request.control, request.actor, request.query.id)
    return Answer(body=await expanded(request, found))


async def _list(request: ApiRequest) -> Answer:
    page = await agents.list_(request.control, request.actor, **request.query.window)
    return Answer(body=as_page(request.query, page, [normalised(each) for each in page.items]))


async def _create(request: ApiRequest) -> Answer:
    made = await inline.create(request, request.sent, ("body",))
    return Answer(body=await expanded(request, made))


async def _update(request: ApiRequest) -> Answer:
    agent = await agents.get(request.control, request.actor, request.query.id)
    changed = await inline.update(request, agent, request.sent or {}, ("body",))
    return Answer(body=await expanded(request, changed))


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/v1/agents",
        id="get_agent",
        summary="Get one agent",
        tag="agents",
        handle=_get,
        scope="agents:read",
        query=ById,
        answers={200: AgentAnswer},
    ),
    Operation(
        method="GET",
        path="/v1/agents/list",
        id="list_agents",
        summary="List agents",
        tag="agents",
        handle=_list,
        scope="agents:read",
        query=PageQuery,
        answers={200: page_of("AgentPage", NormalizedAgent)},
        description="All of the account's. What another dialect made has its name and its prompt.",
    ),
    Operation(
        method="POST",
        path="/v1/agents/create",
        id="create_agent",
        summary="Create one agent",
        tag="agents",
        handle=_create,
        scope="agents:write",
        body=AgentParams,
        answers={200: AgentAnswer},
        creates=True,
        description="Inline parameters become documents of their own.",
    ),
    Operation(
        method="POST",
        path="/v1/agents/update",
        id="update_agent",
        summary="Update one agent",
        tag="agents",
        handle=_update,
        scope="agents:write",
        query=ById,
        body=AgentUpdateParams,
        body_required=False,  # the client sends no body where nothing is to change
        answers={200: AgentAnswer},
        creates=True,  # documents, where parameters describe them
        description=(
            "What is left out or {} stays as it is; null clears where it is allowed. Inline "
            "parameters change the agent's own document, or, of another type, make a new one."
        ),
    ),
)
