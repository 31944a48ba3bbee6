"""Numbers to be had: buy one, link one that the account has already, see what is for sale."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final
from uuid import NAMESPACE_URL, uuid5

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from router.api.operation import Answer, ApiRequest, Operation
from router.api.vocode import connections as wire_connections
from router.api.vocode import inline
from router.api.vocode.agents import AgentParams
from router.api.vocode.numbers import NumberAnswer, PhoneNumber, expanded
from router.api.vocode.schemas import NOT_SET, OneOf, Schema, Uuid, complete, phone_number
from router.control import agents, connections, numbers, tokens
from router.control.model import Agent, uuid_of
from router.errors import Conflict, Invalid, LimitReached, NotFound
from router.provider import AvailableNumber, NumberQuery, NumberType
from router.providers import carriers, configured

_TWILIO: Final = "twilio"
_DEFAULT: Final = "default"
_INBOUND: Final = ("body", "inbound_agent")


class BuyPhoneNumberRequest(Schema):
    """Which number; nothing of it has to be set."""

    area_code: Annotated[str, Field(pattern="^[0-9]{1,6}$")] | None = None
    phone_number: str | None = None
    telephony_provider: str = NOT_SET
    telephony_account_connection: str | None = None
    inbound_agent: Annotated[Any, OneOf(AgentParams, text=True)] | None = None
    label: str = NOT_SET


class LinkPhoneNumberRequest(Schema):
    """A number that is at the carrier already."""

    phone_number: str
    telephony_account_connection: Uuid
    outbound_only: bool = NOT_SET
    inbound_agent: Annotated[Any, OneOf(AgentParams, text=True)] | None = None


class AvailableQuery(BaseModel):
    """What is looked for, and where."""

    telephony_provider: str
    telephony_account_connection: str
    limit: int = Field(default=20, ge=1, le=250)
    filters: str = ""


class AvailablePhoneNumber(NumberAnswer):
    """A number that can be bought: its id is made from it."""

    telephony_account_connection: Annotated[Any, wire_connections.CARRIER_ANSWER] = NOT_SET


class AvailableNumbers(BaseModel):
    """Numbers that can be bought now; `total` is how many are here."""

    items: list[AvailablePhoneNumber]
    total: int


async def _buy(request: ApiRequest) -> Answer:
    sent = request.sent or {}
    control, actor = request.control, request.actor
    provider, connection_id = await _where(
        request, sent.get("telephony_provider"), sent.get("telephony_account_connection")
    )
    wanted = sent.get("phone_number")
    wanted = None if wanted is None else phone_number(wanted, ("body", "phone_number"))
    query = NumberQuery(area_code=sent.get("area_code") or "")
    if (earlier := await numbers.repeated(control, actor)) is not None:  # with its agent
        return Answer(body=await expanded(request, earlier))
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
            await inline.discard(request, agent, sent["inbound_agent"])
        raise
    return Answer(body=await expanded(request, bought))


async def _link(request: ApiRequest) -> Answer:
    sent, control, actor = request.sent, request.control, request.actor
    number = phone_number(sent["phone_number"], ("body", "phone_number"))
    connection = await connections.get(control, actor, sent["telephony_account_connection"])
    if connection.provider not in carriers():
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
            await inline.discard(request, agent, sent["inbound_agent"])
        raise
    return Answer(body=await expanded(request, held))


async def _inbound_of(request: ApiRequest, sent: Any) -> tuple[Agent | None, bool]:
    """The agent that a new number is to have, and whether it was made for it."""
    if sent is None:
        return None, False
    if isinstance(sent, Mapping):
        tokens.require(request.actor, "agents:write")
        return await inline.create(request, sent, _INBOUND), True
    if sent == _DEFAULT:
        return await inline.default(request), False
    if uuid_of(sent) is None:
        raise Invalid((_INBOUND, "must be an agent's id, `default`, or an agent's parameters"))
    return await agents.get(request.control, request.actor, sent), False


async def _where(
    request: ApiRequest, provider: str | None, connection: str | None, place: str = "body"
) -> tuple[str, str | None]:
    """The carrier and the connection's id, None: the account's default there.

    Where neither is said: the account's oldest default connection to a carrier, else the
    operator's own, Twilio's first.

    Raises:
        Invalid: a carrier that is not supported, or something that is no connection's id.
        NotFound: no such connection.
    """
    if provider is not None and provider not in carriers():
        known = " and ".join(sorted(carriers(), reverse=True))
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
    known = carriers()
    page = await connections.list_(request.control, request.actor, providers=known)
    ours = [each.name for each in configured(request.control.settings) if each.name in known]
    return next(
        (each.provider for each in page.items if each.is_default),
        ours[0] if ours and _TWILIO not in ours else _TWILIO,
    )


# --- what can be bought


async def _available(request: ApiRequest) -> Answer:
    asked = request.query
    provider, connection_id = await _where(
        request, asked.telephony_provider, asked.telephony_account_connection, "query"
    )
    query = _filters(asked.filters)._replace(limit=asked.limit)
    found = await numbers.search(
        request.control,
        request.actor,
        query,
        provider=provider,
        connection_id=connection_id,
        where=("query", "telephony_account_connection"),
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
        return {name: value for name, value in pairs.items() if value is not None}
    pairs = {}
    for pair in filter(None, re.split(r"[,;\s]+", re.sub(r"\s*:\s*", ":", text))):
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
