"""Agents from inline parameters: what becomes of the documents that they name or describe.

Everything is checked before the first document is written, so a request that is refused changes
nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from router.api.operation import ApiRequest
from router.api.vocode.connections import update_inline
from router.api.vocode.documents import find
from router.api.vocode.kinds import ACTION, CONNECTION, PARTS, Kind
from router.api.vocode.schemas import Place, complete, from_client, guess, is_undefined, merged
from router.control import agents, connections, documents, tokens
from router.control.model import Agent, Change, Json
from router.errors import Conflict, Invalid, NotFound


@dataclass(frozen=True)
class _Write:
    """What becomes of a document: `id` None, a new one; `change` None, it stays as it is."""

    kind: Kind
    id: str | None = None
    body: Json | None = None
    change: Change | None = None


async def create(request: ApiRequest, sent: Mapping[str, Any], where: Place) -> Agent:
    """Make an agent from inline parameters, its documents first.

    Raises:
        Invalid: something is wrong or missing; it says what and where.
        NotFound: no document has an id that is in it.
    """
    missing = [
        ((*where, name), "Field required")
        for name in ("prompt", "voice")
        if sent.get(name) is None or is_undefined(sent[name])
    ]
    if missing:
        raise Invalid(*missing, kinds=["missing"] * len(missing))
    config = (await _composed(request, {}, sent, where))({})
    return await agents.create(
        request.control,
        request.actor,
        label=config.get("name") or "agent",
        origin="vocode",
        config=config,
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
    change, name = await _composed(request, agent.config, sent, where), sent.get("name")
    return await agents.update(
        request.control,
        request.actor,
        agent.id,
        config=change,
        label=name if isinstance(name, str) else None,
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
        tokens.require(request.actor, "agents:write")
        voice = {"type": "voice_vocode", "voice_id": "joe"}
        sent = {"name": "default", "prompt": {"content": ""}, "voice": voice}
        return await create(request, sent, ("body", "inbound_agent"))


async def _composed(
    request: ApiRequest, config: Mapping[str, Any], sent: Mapping[str, Any], where: Place
) -> Change:
    """How the config changes. All of it is checked before the first document is written."""
    own = {name: value for name, value in sent.items() if name not in _writing(sent)}
    after: dict[str, Any] = {}
    writes: dict[str, _Write] = {}
    for field in [field for field in PARTS if field in _writing(sent)]:
        present = config.get(field)
        writes[field] = await _planned(request, PARTS[field], present, sent[field], (*where, field))
    actions = None
    if "actions" in _writing(sent):
        actions = await _planned_actions(request, config, sent["actions"], (*where, "actions"))
    if CONNECTION in _writing(sent):
        after[CONNECTION] = await _connection(request, sent[CONNECTION], (*where, CONNECTION))
    for field, write in writes.items():
        after[field] = await _written(request, write)
    if actions is not None:
        after["actions"] = [await _written(request, write) for write in actions]
    return lambda present: merged(present, own) | after


def _writing(sent: Mapping[str, Any]) -> list[str]:
    """The fields that name documents, and are not left out, `{}` or null."""
    return [
        name
        for name in (*PARTS, "actions", CONNECTION)
        if sent.get(name) is not None and not is_undefined(sent[name])
    ]


async def _planned(
    request: ApiRequest, kind: Kind, present: str | None, sent: Any, where: Place
) -> _Write:
    if isinstance(sent, str):
        await documents.get(request.control, request.actor, kind.kind, sent)
        return _Write(kind, id=sent)
    stored = None if present is None else await find(request, kind, present)
    sent = _typed(request, kind, {} if stored is None else stored.body, sent, where)
    if stored is None or sent.get("type", "") != stored.body.get("type", ""):
        return _Write(kind, body=kind.completed(merged({}, sent), where))
    change = partial(kind.updated, sent=sent, where=where)
    change(stored.body)  # it is checked now, and made when it is written
    return _Write(kind, id=stored.id, change=change)


def _typed(
    request: ApiRequest,
    kind: Kind,
    stored: Mapping[str, Any],
    sent: Mapping[str, Any],
    where: Place,
) -> Mapping[str, Any]:
    """Parameters with their `type`, which Vocode's clients leave out of what is nested."""
    if "type" in sent or "" in kind.by_type:
        return sent
    if not from_client(request):
        raise Invalid(((*where, "type"), "Field required"), kinds=["missing"])
    known = {name: value for name, value in sent.items() if not is_undefined(value)}
    tag = kind.type_in(known, stored)
    if tag is None:
        why = "is missing, and the other fields do not tell it: it must be said"
        raise Invalid(((*where, "type"), why), kinds=["missing"])
    typed = {"type": tag, **known}
    complete(kind.updates[tag], typed, where)  # nobody has looked into it
    return typed


async def _planned_actions(
    request: ApiRequest, config: Mapping[str, Any], sent: list[Any], where: Place
) -> list[_Write]:
    """The agent's own actions in turn are what inline ones of their type update."""
    found = [await find(request, ACTION, each) for each in config.get("actions", [])]
    own = [each for each in found if each is not None and each.id not in sent]
    writes = []
    for index, each in enumerate(sent):
        present = None
        if not isinstance(each, str):
            tag = each.get("type", guess(ACTION.by_type, each))
            present = next((action for action in own if action.body.get("type") == tag), None)
        if present is not None:
            own.remove(present)
        present_id = None if present is None else present.id
        writes.append(await _planned(request, ACTION, present_id, each, (*where, index)))
    return writes


async def _written(request: ApiRequest, write: _Write) -> str:
    """The document's id."""
    control, actor, kind = request.control, request.actor, write.kind.kind
    if write.id is None:
        return (await documents.create(control, actor, kind, write.body or {})).id
    if write.change is not None:
        await documents.update(control, actor, kind, write.id, write.change)
    return write.id


async def _connection(request: ApiRequest, sent: Any, where: Place) -> str:
    if isinstance(sent, Mapping):
        tokens.require(request.actor, "numbers:write")  # of connections
        return (await update_inline(request, sent, where)).id
    found = await connections.get(request.control, request.actor, sent)
    if found.provider != "openai":
        raise Invalid((where, f"is a connection to {found.provider}, not to OpenAI"))
    return found.id
