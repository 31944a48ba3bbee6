"""Agents, and the documents that they name: inline parameters become documents of their own.

An agent's `config` is a normalised agent of Vocode: ids in the place of its prompt, voice, actions,
webhook and vector database. Its jobs get the documents themselves, without secrets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal
from uuid import NAMESPACE_OID, uuid5

from router.api.operation import Answer, ApiRequest, Operation
from router.api.vocode import connections as wire_connections
from router.api.vocode import documents as wire_documents
from router.api.vocode.documents import ACTION, PROMPT, VECTOR_DATABASE, VOICE, WEBHOOK, Kind
from router.api.vocode.schemas import (
    NOT_SET,
    ById,
    OneOf,
    PageQuery,
    Place,
    Schema,
    Uuid,
    answer_of,
    as_page,
    is_undefined,
    merged,
    page_of,
    update_of,
)
from router.control import agents, connections, documents
from router.control.model import Agent, Document
from router.errors import Conflict, Invalid, NotFound
from router.vault import is_secret_key

PARTS: Final[Mapping[str, Kind]] = {
    "prompt": PROMPT,
    "voice": VOICE,
    "webhook": WEBHOOK,
    "vector_database": VECTOR_DATABASE,
}
"""The fields of an agent that name one document each; `actions` names many."""

_CONNECTION: Final = "openai_account_connection"
_REQUIRED: Final = ("prompt", "voice")
_AT_ONCE: Final = 200


class InternalLLMFallback(Schema):
    """The model that is asked where the first one fails."""

    provider: Literal["openai", "azure"]
    model_name: str


class AgentParams(Schema):
    """What answers a call."""

    name: str | None = None
    prompt: Annotated[Any, OneOf(*PROMPT.models, reference=True)]
    language: Literal["en", "es", "de", "hi", "pt", "fr", "nl", "id", "it", "ja", "ko"] = NOT_SET
    actions: list[Annotated[Any, OneOf(*ACTION.models, reference=True)]] = NOT_SET
    voice: Annotated[Any, OneOf(*VOICE.models, reference=True)]
    initial_message: str | None = None
    webhook: Annotated[Any, OneOf(*WEBHOOK.models, reference=True)] | None = None
    vector_database: Annotated[Any, OneOf(*VECTOR_DATABASE.models, reference=True)] | None = None
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

    voice: Annotated[Any, OneOf(*VOICE.models, reference=True)] = NOT_SET


_UPDATES: Final[Mapping[str, Any]] = {
    "prompt": PROMPT.update(reference=True),
    "actions": list[Annotated[Any, OneOf(*ACTION.updates, reference=True)]],
    "voice": VOICE.update(reference=True),
    "webhook": WEBHOOK.update(reference=True) | None,
    "vector_database": VECTOR_DATABASE.update(reference=True) | None,
}
AgentUpdateParams: Final = update_of(AgentParams, **_UPDATES)
InboundAgentUpdateParams: Final = update_of(
    AgentParams, "InboundAgentUpdateParams", **{**_UPDATES, "prompt": PROMPT.update(text=True)}
)
"""Of `POST /v1/numbers/update`: in the older document a prompt is its text."""

_EXPANDED: Final[Mapping[str, Any]] = {
    "actions": list[ACTION.answer],
    "voice": VOICE.answer,
    "webhook": WEBHOOK.answer,
    "vector_database": VECTOR_DATABASE.answer,
    _CONNECTION: wire_connections.OpenAIAccountConnection,
}
AgentAnswer: Final = answer_of(AgentParams, "Agent", prompt=PROMPT.answer, **_EXPANDED)
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
    **{_CONNECTION: Uuid},
)


# --- what agents look like


def normalised(agent: Agent) -> dict[str, Any]:
    """An agent as lists have it."""
    config = agent.config
    if agent.origin != "vocode":
        foreign = _foreign(agent)
        config = foreign | {name: foreign[name]["id"] for name in _REQUIRED}
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
            document = await _found(request, kind, config[field])
            found.pop(field)
            if document is not None:
                found[field] = wire_documents.shown(document)
    actions = [await _found(request, ACTION, each) for each in config.get("actions", [])]
    found["actions"] = [wire_documents.shown(each) for each in actions if each is not None]
    connection = await wire_connections.expanded(request, found.pop(_CONNECTION, None))
    if connection is not None:
        found[_CONNECTION] = connection
    return found


async def _found(request: ApiRequest, kind: Kind, document_id: str) -> Document | None:
    try:
        return await documents.get(request.control, request.actor, kind.kind, document_id)
    except NotFound:
        return None


async def _job(request: ApiRequest, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the agent's jobs get: all that it consists of, without secrets."""
    return {"config": _public(await _with_documents(request, config))}


def _public(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _public(each)
            for name, each in value.items()
            if name not in ("user_id", "credentials") and not is_secret_key(name)
        }
    return [_public(each) for each in value] if isinstance(value, list) else value


# --- making and changing


@dataclass(frozen=True)
class _Write:
    """What becomes of a document: `id` None, a new one; `body` None, it stays as it is."""

    kind: Kind
    id: str | None = None
    body: Mapping[str, Any] | None = None


async def create(request: ApiRequest, sent: Mapping[str, Any], where: Place) -> Agent:
    """Make an agent from inline parameters, its documents first.

    Raises:
        Invalid: something is wrong or missing; it says what and where.
        NotFound: no document has an id that is in it.
    """
    missing = [
        (((*where, name), "Field required"))
        for name in _REQUIRED
        if sent.get(name) is None or is_undefined(sent[name])
    ]
    if missing:
        raise Invalid(*missing)
    config = await _composed(request, {}, sent, where)
    return await agents.create(
        request.control,
        request.actor,
        label=config.get("name") or "agent",
        origin="vocode",
        config=config,
        metadata=await _job(request, config),
    )


async def update(request: ApiRequest, agent: Agent, sent: Mapping[str, Any], where: Place) -> Agent:
    """Change an agent: its own fields, and those of its documents that have inline parameters.

    Raises:
        Conflict: another dialect made it, or the file.
        Invalid, NotFound: as `create`.
    """
    if agent.origin != "vocode":
        raise Conflict(
            f"the agent {agent.label!r} was not made here ({agent.origin}), so it is changed "
            "where it was made; what can be done here is to link another agent"
        )
    config = await _composed(request, agent.config, sent, where)
    return await agents.update(
        request.control,
        request.actor,
        agent.id,
        config=config,
        metadata=await _job(request, config),
        label=config.get("name"),
    )


async def discard(request: ApiRequest, agent: Agent, sent: Mapping[str, Any]) -> None:
    """Undo `create`: what the agent was made for can't be done."""
    control, actor, config = request.control, request.actor, agent.config
    await agents.delete(control, actor, agent.id)
    made = [(kind, config[field]) for field, kind in PARTS.items() if _is_inline(sent.get(field))]
    for action, document_id in zip(sent.get("actions", []), config.get("actions", []), strict=True):
        if _is_inline(action):
            made.append((ACTION, document_id))
    for kind, document_id in made:
        await documents.delete(control, actor, kind.kind, document_id)


def _is_inline(sent: Any) -> bool:
    return isinstance(sent, Mapping) and not is_undefined(sent)


async def default(request: ApiRequest) -> Agent:
    """The account's agent `default`; made where there is none, for the account's worker."""
    try:
        return await agents.find(request.control, request.actor, "default")
    except NotFound:
        voice = {"type": "voice_vocode", "voice_id": "joe"}
        sent = {"name": "default", "prompt": {"content": ""}, "voice": voice}
        return await create(request, sent, ("body", "inbound_agent"))


async def refresh(request: ApiRequest, document_id: str) -> None:
    """Give the jobs of the agents that name a document what it says now."""
    offset, total = 0, 1
    while offset < total:
        page = await agents.list_(request.control, request.actor, offset=offset, limit=_AT_ONCE)
        for agent in page.items:
            if agent.origin == "vocode" and document_id in _named(agent.config):
                job = await _job(request, agent.config)
                await agents.update(request.control, request.actor, agent.id, metadata=job)
        offset, total = offset + _AT_ONCE, page.total


def _named(config: Mapping[str, Any]) -> list[str]:
    """The ids of an agent's documents."""
    return [config[field] for field in PARTS if field in config] + config.get("actions", [])


async def _composed(
    request: ApiRequest, config: Mapping[str, Any], sent: Mapping[str, Any], where: Place
) -> dict[str, Any]:
    """The config after an update. All of it is checked before the first document is written."""
    own = {name: value for name, value in sent.items() if name not in _writing(sent)}
    after = merged(config, own)
    writes: dict[str, _Write] = {}
    for field in [field for field in PARTS if field in _writing(sent)]:
        present = config.get(field)
        writes[field] = await _planned(request, PARTS[field], present, sent[field], (*where, field))
    actions = None
    if "actions" in _writing(sent):
        actions = await _planned_actions(request, config, sent["actions"], (*where, "actions"))
    if _CONNECTION in _writing(sent):
        after[_CONNECTION] = await _connection(request, sent[_CONNECTION], (*where, _CONNECTION))
    for field, write in writes.items():
        after[field] = await _written(request, write)
    if actions is not None:
        after["actions"] = [await _written(request, write) for write in actions]
    return after


def _writing(sent: Mapping[str, Any]) -> list[str]:
    """The fields that name documents, and are not left out, `{}` or null."""
    return [
        name
        for name in (*PARTS, "actions", _CONNECTION)
        if sent.get(name) is not None and not is_undefined(sent[name])
    ]


async def _planned(
    request: ApiRequest, kind: Kind, present: str | None, sent: Any, where: Place
) -> _Write:
    if isinstance(sent, str):
        await documents.get(request.control, request.actor, kind.kind, sent)
        return _Write(kind, id=sent)
    stored = None if present is None else await _found(request, kind, present)
    if stored is None or sent.get("type") not in (None, stored.body.get("type")):
        return _Write(kind, body=kind.completed(merged({}, sent), where))
    return _Write(kind, id=stored.id, body=kind.updated(stored.body, sent, where))


async def _planned_actions(
    request: ApiRequest, config: Mapping[str, Any], sent: list[Any], where: Place
) -> list[_Write]:
    """The agent's own actions in turn are what inline ones of their type update."""
    found = [await _found(request, ACTION, each) for each in config.get("actions", [])]
    own = [each for each in found if each is not None and each.id not in sent]
    writes = []
    for index, each in enumerate(sent):
        present = None
        if not isinstance(each, str):
            same = (action for action in own if action.body.get("type") == each.get("type"))
            present = next(same, None)
        if present is not None:
            own.remove(present)
        present_id = None if present is None else present.id
        writes.append(await _planned(request, ACTION, present_id, each, (*where, index)))
    return writes


async def _written(request: ApiRequest, write: _Write) -> str:
    """The document's id."""
    control, actor, kind = request.control, request.actor, write.kind.kind
    if write.body is None and write.id is not None:
        return write.id
    if write.id is None:
        return (await documents.create(control, actor, kind, write.body or {})).id
    await documents.update(control, actor, kind, write.id, write.body or {})
    return write.id


async def _connection(request: ApiRequest, sent: Any, where: Place) -> str:
    if isinstance(sent, Mapping):
        return (await wire_connections.update_inline(request, sent, where)).id
    found = await connections.get(request.control, request.actor, sent)
    if found.provider != "openai":
        raise Invalid((where, f"is a connection to {found.provider}, not to OpenAI"))
    return found.id


# --- operations


async def _get(request: ApiRequest) -> Answer:
    found = await agents.get(request.control, request.actor, request.query.id)
    return Answer(body=await expanded(request, found))


async def _list(request: ApiRequest) -> Answer:
    page = await agents.list_(request.control, request.actor, **request.query.window)
    return Answer(body=as_page(request.query, page, [normalised(each) for each in page.items]))


async def _create(request: ApiRequest) -> Answer:
    made = await create(request, request.sent, ("body",))
    return Answer(body=await expanded(request, made))


async def _update(request: ApiRequest) -> Answer:
    agent = await agents.get(request.control, request.actor, request.query.id)
    changed = await update(request, agent, request.sent or {}, ("body",))
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
        description=(
            "What is left out or {} stays as it is; null clears where it is allowed. Inline "
            "parameters change the agent's own document, or, of another type, make a new one."
        ),
    ),
)
