"""Numbers: search, buy, adopt, link, release."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from router.api.native.shapes import BASE, Body, Listing, Paging, Shape, listing, shaped
from router.api.operation import Answer, ApiRequest, Operation
from router.control import numbers
from router.control.model import Number, NumberMode, NumberState
from router.provider import NumberQuery, NumberType

_TAG: Final = "Numbers"
_CARRIER: Final = "The account's connection at that carrier; absent: its default, else the \
operator's where the plan allows it"

Carrier = Literal["twilio", "telnyx"]
Phone = Annotated[
    str, Field(max_length=40, description="E.164, with or without +", examples=["+14155550100"])
]


class NumberShape(Shape):
    """A phone number that the account holds."""

    id: str
    short_id: int = Field(description="The same as an integer")
    account_id: str
    number: str = Field(description="E.164 with +")
    provider: str
    connection_id: str | None = Field(description="null: the operator's own account there")
    agent_id: str | None
    agent_name: str | None
    fallback: str = Field(description="Who is called when no agent comes; empty: nobody")
    state: NumberState
    mode: NumberMode
    label: str
    details: dict[str, Any]
    bought: bool = Field(description="Bought by us, so given back on release")
    created_at: datetime
    updated_at: datetime


class OfferShape(Shape):
    """A number that can be bought."""

    number: str = Field(description="E.164 with +")
    provider: str
    country: str
    region: str
    locality: str
    type: NumberType


class Offers(Shape):
    """What the carrier offers now."""

    items: list[OfferShape]


Digits = Annotated[str, Field(pattern=r"^[0-9]{0,8}$", description="Digits")]
Country = Annotated[str, Field(pattern="^[A-Z]{2}$", description="ISO 3166-1 alpha-2")]
Contains = Annotated[str, Field(pattern=r"^[0-9*]{0,15}$", description="Digits, `*` for any one")]


class Search(Shape):
    """Which numbers are looked for."""

    provider: Carrier = "twilio"
    connection_id: str | None = Field(None, description=_CARRIER)
    country: Country = "US"
    area_code: Digits = ""
    contains: Contains = ""
    type: NumberType = "local"
    limit: int = Field(20, ge=1, le=100)


class Purchase(Body):
    """A number to be bought: this one, or any that answers the search."""

    provider: Carrier = "twilio"
    connection_id: str | None = Field(None, description=_CARRIER)
    number: Phone | None = None
    country: Country = "US"
    area_code: Digits = ""
    contains: Contains = ""
    type: NumberType = "local"
    agent_id: str | None = None
    label: str = ""
    details: dict[str, Any] = Field(default_factory=dict)


class Adoption(Body):
    """A number that is at the connection already, to be held from now on."""

    provider: Carrier
    connection_id: str | None = Field(None, description=_CARRIER)
    number: Phone
    agent_id: str | None = None
    label: str = ""
    mode: NumberMode = "webhook"
    details: dict[str, Any] = Field(default_factory=dict)


class NumberChange(Body):
    """What is to change; what is absent stays."""

    label: str | None = None
    fallback: str | None = Field(None, max_length=40, description="E.164; empty: nobody")
    details: dict[str, Any] | None = Field(None, description="Key by key; null removes its key")
    agent_id: str | None = Field(None, description="The agent that it leads to; null: none")


class Link(Body):
    """The agent that a number is to lead to."""

    agent_id: str = Field(min_length=1)
    move: bool = Field(True, description="false: 409 where it leads to another one")


class NumbersAsked(Paging):
    """Which numbers."""

    agent_id: str | None = Field(None, description="That lead to this agent")
    unlinked: bool = Field(False, description="That lead to nobody")
    releasing: bool = Field(False, description="Those that are being released, too")


def _shape(number: Number) -> dict[str, Any]:
    return shaped(NumberShape, number)


async def _search(request: ApiRequest) -> Answer:
    asked: Search = request.query
    offers = await numbers.search(
        request.control,
        request.actor,
        NumberQuery(asked.country, asked.area_code, asked.contains, asked.type, asked.limit),
        provider=asked.provider,
        connection_id=asked.connection_id,
        where=("query", "connection_id"),
    )
    return Answer(body={"items": [shaped(OfferShape, each) for each in offers]})


async def _buy(request: ApiRequest) -> Answer:
    body: Purchase = request.body
    query = NumberQuery(body.country, body.area_code, body.contains, body.type)
    number = await numbers.buy(
        request.control,
        request.actor,
        provider=body.provider,
        number=body.number,
        query=query if body.number is None else None,
        connection_id=body.connection_id,
        agent_id=body.agent_id,
        label=body.label,
        details=body.details,
    )
    return Answer(status=201, body=_shape(number))


async def _adopt(request: ApiRequest) -> Answer:
    body: Adoption = request.body
    number = await numbers.adopt(
        request.control,
        request.actor,
        number=body.number,
        provider=body.provider,
        connection_id=body.connection_id,
        agent_id=body.agent_id,
        label=body.label,
        mode=body.mode,
        details=body.details,
    )
    return Answer(status=201, body=_shape(number))


async def _list(request: ApiRequest) -> Answer:
    asked: NumbersAsked = request.query
    page = await numbers.list_(
        request.control,
        request.actor,
        offset=asked.offset,
        limit=asked.limit,
        agent_id=asked.agent_id,
        unlinked=asked.unlinked,
        deleting=asked.releasing,
    )
    return Answer(body=listing(page, asked, _shape))


async def _get(request: ApiRequest) -> Answer:
    number = await numbers.get(request.control, request.actor, request.path["number"])
    return Answer(body=_shape(number))


async def _update(request: ApiRequest) -> Answer:
    body: NumberChange = request.body
    key = request.path["number"]
    linked = {"agent_id": body.agent_id} if "agent_id" in body.model_fields_set else {}
    number = await numbers.update(
        request.control,
        request.actor,
        key,
        label=body.label,
        fallback=body.fallback,
        details=body.details,
        **linked,
    )
    return Answer(body=_shape(number))


async def _link(request: ApiRequest) -> Answer:
    body: Link = request.body
    number = await numbers.link(
        request.control, request.actor, request.path["number"], body.agent_id, move=body.move
    )
    return Answer(body=_shape(number))


async def _unlink(request: ApiRequest) -> Answer:
    number = await numbers.link(request.control, request.actor, request.path["number"], None)
    return Answer(body=_shape(number))


async def _release(request: ApiRequest) -> Answer:
    number = await numbers.release(request.control, request.actor, request.path["number"])
    return Answer(body=_shape(number))


async def _force(request: ApiRequest) -> Answer:
    await numbers.force_delete(request.control, request.actor, request.path["number"])
    return Answer(status=204)


_ONE: Final = f"{BASE}/numbers/{{number}}"
_KEYS: Final = "`number`: the E.164 number with or without +, its id, or its short id."

OPERATIONS: Final = [
    Operation(
        method="GET",
        path=f"{BASE}/numbers/available",
        id="search_numbers",
        summary="Search for numbers that can be bought",
        tag=_TAG,
        handle=_search,
        scope="numbers:read",
        query=Search,
        answers={200: Offers},
    ),
    Operation(
        method="POST",
        path=f"{BASE}/numbers",
        id="buy_number",
        summary="Buy a number",
        tag=_TAG,
        handle=_buy,
        scope="numbers:write",
        body=Purchase,
        answers={201: NumberShape},
        creates=True,
        description="402: the plan's numbers are used up. 503 with the code `outcome_unknown`: it "
        "may have been bought; then it is in the list soon.",
    ),
    Operation(
        method="POST",
        path=f"{BASE}/numbers/adopt",
        id="adopt_number",
        summary="Hold a number that the connection has already",
        tag=_TAG,
        handle=_adopt,
        scope="numbers:write",
        body=Adoption,
        answers={201: NumberShape},
        creates=True,
        description="Its webhooks are set to this installation. It is not given back on release.",
    ),
    Operation(
        method="GET",
        path=f"{BASE}/numbers",
        id="list_numbers",
        summary="List numbers, oldest first",
        tag=_TAG,
        handle=_list,
        scope="numbers:read",
        query=NumbersAsked,
        answers={200: Listing[NumberShape]},
    ),
    Operation(
        method="GET",
        path=_ONE,
        id="get_number",
        summary="One number",
        tag=_TAG,
        handle=_get,
        scope="numbers:read",
        answers={200: NumberShape},
        description=_KEYS,
    ),
    Operation(
        method="PATCH",
        path=_ONE,
        id="update_number",
        summary="Change a number",
        tag=_TAG,
        handle=_update,
        scope="numbers:write",
        body=NumberChange,
        answers={200: NumberShape},
        description=_KEYS,
    ),
    Operation(
        method="PUT",
        path=f"{_ONE}/agent",
        id="link_number",
        summary="Let a number lead to an agent",
        tag=_TAG,
        handle=_link,
        scope="numbers:write",
        body=Link,
        answers={200: NumberShape},
        description=_KEYS,
    ),
    Operation(
        method="DELETE",
        path=f"{_ONE}/agent",
        id="unlink_number",
        summary="Let a number lead to nobody",
        tag=_TAG,
        handle=_unlink,
        scope="numbers:write",
        answers={200: NumberShape},
        description=_KEYS,
    ),
    Operation(
        method="DELETE",
        path=_ONE,
        id="release_number",
        summary="Release a number; it routes nowhere at once",
        tag=_TAG,
        handle=_release,
        scope="numbers:write",
        answers={200: NumberShape},
        description=f"{_KEYS} `state` `deleting`: the carrier is away, and its part is done later.",
    ),
    Operation(
        method="DELETE",
        path=f"{_ONE}/force",
        id="force_delete_number",
        summary="Forget a corrupted number",
        tag=_TAG,
        handle=_force,
        scope="numbers:write",
        answers={204: None},
        description=_KEYS,
    ),
]
