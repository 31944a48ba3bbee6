"""Phone numbers: held, bought, linked, and (Fluents) those that can be bought.

`POST /v1/numbers/update` without a client's header speaks the older document: an agent's prompt is
its text, in the request and in the answer. An agent that it can't express (`_in_older_document`)
leaves as it does everywhere else.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final
from uuid import NAMESPACE_URL, uuid5

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from router.api.operation import Answer, ApiRequest, Operation
from router.api.vocode import agents as wire_agents
from router.api.vocode import connections as wire_connections
from router.api.vocode.documents import (
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
    complete,
    from_client,
    is_undefined,
    page_of,
    phone_number,
    type_of,
    update_of,
)
from router.control import agents, connections, numbers, tokens
from router.control.model import Agent, Number, uuid_of
from router.errors import Conflict, Invalid, LimitReached, NotFound
from router.provider import AvailableNumber, NumberQuery, NumberType

CARRIERS: Final = ("twilio", "telnyx")
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


class BuyPhoneNumberRequest(Schema):
    """Which number; nothing of it has to be set."""

    area_code: Annotated[str, Field(pattern="^[0-9]{1,6}$")] | None = None
    phone_number: str | None = None
    telephony_provider: str = NOT_SET
    telephony_account_connection: str | None = None
    inbound_agent: Annotated[Any, OneOf(wire_agents.AgentParams, text=True)] | None = None
    label: str = NOT_SET


class LinkPhoneNumberRequest(Schema):
    """A number that is at the carrier already."""

    phone_number: str
    telephony_account_connection: Uuid
    outbound_only: bool = NOT_SET
    inbound_agent: Annotated[Any, OneOf(wire_agents.AgentParams, text=True)] | None = None


class _NumberParams(Schema):
    outbound_only: bool = NOT_SET
    example_context: dict[str, str] | None = None
    label: str = NOT_SET
    description: str | None = None
    inbound_agent: (
        Annotated[Any, OneOf(wire_agents.InboundAgentUpdateParams, reference=True)] | None
    ) = None


UpdateNumberRequest: Final = update_of(_NumberParams, "UpdateNumberRequest")


class AvailableQuery(BaseModel):
    """What is looked for, and where."""

    telephony_provider: str
    telephony_account_connection: str
    limit: int = Field(default=20, ge=1, le=250)
    filters: str = ""


class _Answer(Schema):
    id: Uuid
    user_id: Uuid
    number: str
    active: bool
    label: str
    outbound_only: bool
    telephony_provider: str
    example_context: dict[str, str] = NOT_SET
    description: str = NOT_SET


class PhoneNumber(_Answer):
    """A number, and what answers it."""

    inbound_agent: wire_agents.AgentAnswer | None  # type: ignore[valid-type]
    telephony_account_connection: wire_connections.CARRIER_ANSWER = NOT_SET


class UpdatedPhoneNumber(_Answer):
    """A number after an update: its agent's prompt may be a text."""

    inbound_agent: wire_agents.InboundAgentAnswer | None  # type: ignore[valid-type]
    telephony_account_connection: wire_connections.CARRIER_ANSWER = NOT_SET


class NormalizedPhoneNumber(_Answer):
    """A number in a list."""

    inbound_agent: Uuid | None
    telephony_account_connection: Uuid = NOT_SET


class AvailablePhoneNumber(_Answer):
    """A number that can be bought: its id is made from it."""

    telephony_account_connection: wire_connections.CARRIER_ANSWER = NOT_SET


class AvailableNumbers(BaseModel):
    """Numbers that can be bought now; `total` is how many are here."""

    items: list[AvailablePhoneNumber]
    total: int


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
    sent = {
        name: value
        for name, value in (request.sent or {}).items()
        if not is_undefined(value) or name == "inbound_agent"
    }
    if older and not sent.keys() & _NumberParams.model_fields:
        raise Invalid((_INBOUND, "Field required"))
    number = await numbers.get(request.control, request.actor, _asked(request))
    agent_id = await _inbound_after(request, number, sent.get("inbound_agent", {}), older=older)
    details = {name: sent[name] for name in _OWN_DETAILS if name in sent}
    label = sent.get("label")
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
        return (await wire_agents.create(request, sent, _INBOUND)).id
    agent = await agents.get(request.control, request.actor, number.agent_id)
    return (await wire_agents.update(request, agent, sent, _INBOUND)).id


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


# --- buying and linking


async def _buy(request: ApiRequest) -> Answer:
    sent = request.sent or {}
    control, actor = request.control, request.actor
    provider, connection_id = await _where(
        request, sent.get("telephony_provider"), sent.get("telephony_account_connection")
    )
    wanted = sent.get("phone_number")
    wanted = None if wanted is None else phone_number(wanted, ("body", "phone_number"))
    query = NumberQuery(area_code=sent.get("area_code") or "")
    agent, is_new = await _inbound_of(request, sent.get("inbound_agent"))
    try:
        bought = await numbers.buy(
            control,
            actor,
            provider=provider,
            number=wanted,
            query=query if wanted is None else None,
            connection_id=connection_id,
            agent_id=None if agent is None else agent.id,
            label=sent.get("label") or "",
        )
    except (NotFound, Conflict, LimitReached, Invalid):
        if agent is not None and is_new:
            await wire_agents.discard(request, agent, sent["inbound_agent"])
        raise
    return Answer(body=await expanded(request, bought))


async def _link(request: ApiRequest) -> Answer:
    sent, control, actor = request.sent, request.control, request.actor
    number = phone_number(sent["phone_number"], ("body", "phone_number"))
    connection = await connections.get(control, actor, sent["telephony_account_connection"])
    if connection.provider not in CARRIERS:
        where = ("body", "telephony_account_connection")
        raise Invalid((where, f"is one to {connection.provider}, which has no numbers"))
    agent, is_new = await _inbound_of(request, sent.get("inbound_agent"))
    try:
        held = await numbers.adopt(
            control,
            actor,
            number=number,
            provider=connection.provider,
            connection_id=connection.id,
            agent_id=None if agent is None else agent.id,
            details={"outbound_only": sent["outbound_only"]} if "outbound_only" in sent else None,
        )
    except (NotFound, Conflict, LimitReached, Invalid):
        if agent is not None and is_new:
            await wire_agents.discard(request, agent, sent["inbound_agent"])
        raise
    return Answer(body=await expanded(request, held))


async def _inbound_of(request: ApiRequest, sent: Any) -> tuple[Agent | None, bool]:
    """The agent that a new number is to have, and whether it was made for it."""
    if sent is None:
        return None, False
    if isinstance(sent, Mapping):
        tokens.require(request.actor, "agents:write")
        return await wire_agents.create(request, sent, _INBOUND), True
    if sent == _DEFAULT:
        return await wire_agents.default(request), False
    if uuid_of(sent) is None:
        raise Invalid((_INBOUND, "must be an agent's id, `default`, or an agent's parameters"))
    return await agents.get(request.control, request.actor, sent), False


async def _where(
    request: ApiRequest, provider: str | None, connection: str | None, place: str = "body"
) -> tuple[str, str | None]:
    """The carrier and the connection's id, None: the account's default there.

    Where neither is said: the account's oldest default connection to a carrier, else Twilio.

    Raises:
        Invalid: a carrier that is not supported, or something that is no connection's id.
        NotFound: no such connection.
    """
    if provider is not None and provider not in CARRIERS:
        known = " and ".join(CARRIERS)
        raise Invalid(((place, "telephony_provider"), f"is not supported: there are {known}"))
    if connection is None or connection == _DEFAULT:
        return provider or await _default_carrier(request), None
    if uuid_of(connection) is None:
        where = (place, "telephony_account_connection")
        raise Invalid((where, f"must be a connection's id or `{_DEFAULT}`"))
    found = await connections.get(request.control, request.actor, connection)
    if provider is not None and found.provider != provider:
        where = (place, "telephony_account_connection")
        raise Invalid((where, f"is one to {found.provider}, not to {provider}"))
    return found.provider, found.id


async def _default_carrier(request: ApiRequest) -> str:
    page = await connections.list_(request.control, request.actor, providers=CARRIERS)
    defaults = [each.provider for each in page.items if each.is_default]
    return defaults[0] if defaults else CARRIERS[0]


def _asked(request: ApiRequest) -> str:
    return phone_number(request.query.phone_number, ("query", "phone_number"))


# --- what can be bought


async def _available(request: ApiRequest) -> Answer:
    asked = request.query
    provider, connection_id = await _where(
        request, asked.telephony_provider, asked.telephony_account_connection, "query"
    )
    query = _filters(asked.filters)._replace(limit=asked.limit)
    found = await numbers.search(
        request.control, request.actor, query, provider=provider, connection_id=connection_id
    )
    connection = await wire_connections.expanded(request, connection_id)
    items = [_offered(request, each, connection) for each in found]
    return Answer(body={"items": items, "total": len(items)})


def _offered(
    request: ApiRequest, offer: AvailableNumber, connection: Mapping[str, Any] | None
) -> dict[str, Any]:
    answer = {
        "id": str(uuid5(NAMESPACE_URL, f"{offer.provider}:{offer.number}")),
        "user_id": request.actor.account_id,
        "number": offer.number,
        "active": False,
        "label": "",
        "outbound_only": False,
        "telephony_provider": offer.provider,
    }
    place = ", ".join(part for part in (offer.locality, offer.region, offer.country) if part)
    if place:
        answer["description"] = place
    return answer if connection is None else answer | {"telephony_account_connection": connection}


class _Filters(BaseModel):
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    country: Annotated[str, Field(pattern="^[A-Za-z]{2}$")] = "US"
    area_code: Annotated[str, Field(pattern="^[0-9]{1,6}$")] = ""
    contains: Annotated[str, Field(pattern="^[0-9*]{1,15}$")] = ""
    type: NumberType = "local"


def _filters(text: str) -> NumberQuery:
    """`{"country": "US", "area_code": "415"}` or `country:US,area_code:415`.

    Raises:
        Invalid: it is neither, or a filter is unknown or wrong; it says which.
    """
    found = complete(_Filters, _pairs(text.strip()), ("query", "filters"))
    return NumberQuery(**{**found, "country": found["country"].upper()})


def _pairs(text: str) -> dict[str, Any]:
    where = ("query", "filters")
    if text.startswith("{"):
        try:
            pairs = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise Invalid((where, f"is no JSON object: {error}")) from None
        return dict(pairs)
    pairs = {}
    for pair in filter(None, re.split(r"[,;\s]+", text)):
        name, colon, value = pair.partition(":")
        if not colon:
            raise Invalid((where, "must be a JSON object, or key:value pairs with commas between"))
        if name in pairs:
            raise Invalid(((*where, name), "is there twice"))
        pairs[name] = value
    return pairs


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
        method="GET",
        path="/v1/numbers/available",
        id="list_available_numbers",
        summary="List numbers that can be bought",
        tag="numbers",
        handle=_available,
        scope="numbers:read",
        query=AvailableQuery,
        answers={200: AvailableNumbers},
        description=(
            "`filters`: a JSON object or key:value pairs; country, area_code, contains (digits, * "
            "for any one), type (local, toll_free, mobile, national). "
            "`telephony_account_connection`: a connection's id, or `default`."
        ),
    ),
    Operation(
        method="POST",
        path="/v1/numbers/buy",
        id="buy_number",
        summary="Buy a number",
        tag="numbers",
        handle=_buy,
        scope="numbers:write",
        body=BuyPhoneNumberRequest,
        body_required=False,
        answers={200: PhoneNumber},
        creates=True,
        description=(
            "This number, one with this area code, or any. `telephony_provider`: twilio or telnyx; "
            "where it is left out, that of the account's default connection."
        ),
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
    Operation(
        method="POST",
        path="/v1/numbers/link",
        id="link_number",
        summary="Hold a number that is at the carrier already",
        tag="numbers",
        handle=_link,
        scope="numbers:write",
        body=LinkPhoneNumberRequest,
        answers={200: PhoneNumber},
        creates=True,
    ),
)
