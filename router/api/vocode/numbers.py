"""Phone numbers: held, bought, linked, and (Fluents) those that can be bought.

`POST /v1/numbers/update` without a client's header speaks the older document: an agent's prompt is
its text, in the request and in the answer. An agent that it can't express (`_in_older_document`)
leaves as it does everywhere else.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel

from router.api.operation import Answer, ApiRequest, Operation
from router.api.vocode import agents as wire_agents
from router.api.vocode import connections as wire_connections
from router.api.vocode import inline
from router.api.vocode.kinds import (
    AzureVoiceParams,
    DTMFActionParams,
    ElevenLabsVoiceParams,
    EndConversationActionParams,
    RimeVoiceParams,
    TransferCallActionParams,
)
from router.api.vocode.schemas import (
    NOT_SET,
    OneOf,
    PageQuery,
    Schema,
    Uuid,
    as_page,
    from_client,
    is_undefined,
    page_of,
    phone_number,
    type_of,
    update_of,
)
from router.control import agents, numbers, tokens
from router.control.model import Number, checked_label, uuid_of
from router.errors import Invalid

_OWN_DETAILS: Final = ("outbound_only", "example_context", "description")  # of a number, ours
_DEFAULT: Final = "default"
_INBOUND: Final = ("body", "inbound_agent")
_OLDER_EVENTS: Final = frozenset(
    {
        "event_message",
        "event_action",
        "event_phone_call_connected",
        "event_phone_call_ended",
        "event_transcript",
        "event_recording",
    }
)
_OLDER_TYPES: Final = frozenset(
    type_of(model)
    for model in (
        TransferCallActionParams,
        EndConversationActionParams,
        DTMFActionParams,
        AzureVoiceParams,
        RimeVoiceParams,
        ElevenLabsVoiceParams,
    )
)


class NumberByNumber(BaseModel):
    """Names a number: E.164, with or without `+`."""

    phone_number: str


class _NumberParams(Schema):
    outbound_only: bool = NOT_SET
    example_context: dict[str, str] | None = None
    label: str = NOT_SET
    description: str | None = None
    inbound_agent: (
        Annotated[Any, OneOf(wire_agents.InboundAgentUpdateParams, reference=True)] | None
    ) = None


UpdateNumberRequest: Final = update_of(_NumberParams, "UpdateNumberRequest")


class NumberAnswer(Schema):
    """What all answers about numbers have."""

    id: Uuid
    user_id: Uuid
    number: str
    active: bool
    label: str
    outbound_only: bool
    telephony_provider: str
    example_context: dict[str, str] = NOT_SET
    description: str = NOT_SET


class PhoneNumber(NumberAnswer):
    """A number, and what answers it."""

    inbound_agent: wire_agents.AgentAnswer | None  # type: ignore[valid-type]
    telephony_account_connection: Annotated[Any, wire_connections.CARRIER_ANSWER] = NOT_SET


class UpdatedPhoneNumber(NumberAnswer):
    """A number after an update: its agent's prompt may be a text."""

    inbound_agent: wire_agents.InboundAgentAnswer | None  # type: ignore[valid-type]
    telephony_account_connection: Annotated[Any, wire_connections.CARRIER_ANSWER] = NOT_SET


class NormalizedPhoneNumber(NumberAnswer):
    """A number in a list."""

    inbound_agent: Uuid | None
    telephony_account_connection: Uuid = NOT_SET


# --- what numbers look like


def _plain(number: Number) -> dict[str, Any]:
    details = {name: number.details[name] for name in _OWN_DETAILS if name in number.details}
    return {
        "id": number.id,
        "user_id": number.account_id,
        "number": number.number,
        "active": number.state == "active",
        "label": number.label,
        "outbound_only": False,
        "telephony_provider": number.provider,
        **details,
    }


def normalised(number: Number) -> dict[str, Any]:
    """A number as lists have it."""
    answer = _plain(number) | {"inbound_agent": number.agent_id}
    if number.connection_id is not None:
        answer["telephony_account_connection"] = number.connection_id
    return answer


async def expanded(request: ApiRequest, number: Number) -> dict[str, Any]:
    """A number as answers have it; only `inbound_agent` is null where there is none."""
    answer = _plain(number) | {"inbound_agent": None}
    if number.agent_id is not None:
        name = number.agent_name or ""
        answer["inbound_agent"] = await wire_agents.expanded_by_id(request, number.agent_id, name)
    connection = await wire_connections.expanded(request, number.connection_id)
    if connection is not None:
        answer["telephony_account_connection"] = connection
    return answer


def _in_older_document(agent: Mapping[str, Any]) -> dict[str, Any]:
    """An agent with its prompt as text, unless the older document has no words for it."""
    prompt, voice, webhook = agent["prompt"], agent["voice"], agent.get("webhook", {})
    expressible = (
        not prompt.keys() - {"id", "user_id", "content"}
        and voice["type"] in _OLDER_TYPES
        and (voice["type"] != "voice_eleven_labs" or "api_key" in voice)
        and all(action["type"] in _OLDER_TYPES for action in agent["actions"])
        and _OLDER_EVENTS.issuperset(webhook.get("subscriptions", []))
    )
    return {**agent, "prompt": prompt.get("content", "")} if expressible else dict(agent)


# --- held numbers


async def _get(request: ApiRequest) -> Answer:
    found = await numbers.get(request.control, request.actor, _asked(request))
    return Answer(body=await expanded(request, found))


async def _list(request: ApiRequest) -> Answer:
    page = await numbers.list_(request.control, request.actor, **request.query.window)
    return Answer(body=as_page(request.query, page, [normalised(each) for each in page.items]))


async def _cancel(request: ApiRequest) -> Answer:
    released = await numbers.release(request.control, request.actor, _asked(request))
    return Answer(body=await expanded(request, released) | {"active": False})


async def _update(request: ApiRequest) -> Answer:
    older = not from_client(request)
    asked = request.sent or {}
    if older and not asked.keys() & _NumberParams.model_fields.keys():
        raise Invalid((_INBOUND, "Field required"), kinds=["missing"])
    sent = {name: value for name, value in asked.items() if not is_undefined(value)}
    label = sent.get("label")
    if label is not None:  # before the agent is changed
        label = checked_label(("body", "label"), label)
    number = await numbers.get(request.control, request.actor, _asked(request))
    agent_id = await _inbound_after(request, number, sent.get("inbound_agent", {}), older=older)
    details = {name: sent[name] for name in _OWN_DETAILS if name in sent}
    if details or label is not None:
        number = await numbers.update(
            request.control, request.actor, number.number, label=label, details=details or None
        )
    if agent_id != number.agent_id:
        number = await numbers.link(request.control, request.actor, number.number, agent_id)
    answer = await expanded(request, number)
    if older and answer["inbound_agent"] is not None:
        answer["inbound_agent"] = _in_older_document(answer["inbound_agent"])
    return Answer(body=answer)


async def _inbound_after(
    request: ApiRequest, number: Number, sent: Any, *, older: bool
) -> str | None:
    """The id of the agent that the number is to have; inline parameters change it, or make one."""
    if sent is None:
        return None
    if is_undefined(sent):
        return number.agent_id
    if isinstance(sent, str):
        return (await agents.get(request.control, request.actor, sent)).id
    tokens.require(request.actor, "agents:write")
    sent = _with_prompt_object(sent, older=older)
    if number.agent_id is None:
        return (await inline.create(request, sent, _INBOUND)).id
    agent = await agents.get(request.control, request.actor, number.agent_id)
    return (await inline.update(request, agent, sent, _INBOUND)).id


def _with_prompt_object(sent: Mapping[str, Any], *, older: bool) -> dict[str, Any]:
    """Parameters with the prompt as everywhere else: an object or an id."""
    prompt = sent.get("prompt")
    if not isinstance(prompt, str):
        return dict(sent)
    if older:
        return {**sent, "prompt": {"content": prompt}}
    if uuid_of(prompt) is None:
        raise Invalid(((*_INBOUND, "prompt"), "must be an id or an object, such as {content: …}"))
    return dict(sent)


def _asked(request: ApiRequest) -> str:
    return phone_number(request.query.phone_number, ("query", "phone_number"))


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/v1/numbers",
        id="get_number",
        summary="Get one number",
        tag="numbers",
        handle=_get,
        scope="numbers:read",
        query=NumberByNumber,
        answers={200: PhoneNumber},
    ),
    Operation(
        method="GET",
        path="/v1/numbers/list",
        id="list_numbers",
        summary="List numbers",
        tag="numbers",
        handle=_list,
        scope="numbers:read",
        query=PageQuery,
        answers={200: page_of("PhoneNumberPage", NormalizedPhoneNumber)},
    ),
    Operation(
        method="POST",
        path="/v1/numbers/update",
        id="update_number",
        summary="Update a number",
        tag="numbers",
        handle=_update,
        scope="numbers:write",
        query=NumberByNumber,
        body=UpdateNumberRequest,
        body_required=False,  # the client sends no body where nothing is to change
        answers={200: UpdatedPhoneNumber},
        description=(
            "`inbound_agent`: an agent's id, null, or parameters, which change the number's agent "
            "or make one. Its prompt is a text here and in the answer; with the header "
            "X-Fern-SDK-Version, which Vocode's clients send, it is an object or an id."
        ),
    ),
    Operation(
        method="POST",
        path="/v1/numbers/cancel",
        id="cancel_number",
        summary="Give a number back",
        tag="numbers",
        handle=_cancel,
        scope="numbers:write",
        query=NumberByNumber,
        answers={200: PhoneNumber},
    ),
)
