"""Phone numbers: search, select, release, lists."""

from collections.abc import Callable
from typing import Any, Final

from router.api.operation import Answer, ApiRequest, Operation
from router.api.voiceai.answers import answer, pagination
from router.api.voiceai.models import (
    AllPhoneNumbersResponse,
    AvailablePhoneNumber,
    AvailablePhoneNumbersResponse,
    ErrorResponse,
    PageQuery,
    PaginatedAllPhoneNumbersResponse,
    PaginatedPhoneNumberResponse,
    Pagination,
    PurchasePhoneNumberRequest,
    PurchasePhoneNumberResponse,
    SearchPhoneNumbersRequest,
    SearchPhoneNumbersResponse,
)
from router.control import numbers
from router.control.model import Number
from router.errors import NotFound
from router.events.phone import country_of
from router.provider import NumberQuery

Shown = list[dict[str, Any]]
Shape = Callable[[Number], dict[str, Any]]

_TAG: Final = "Phone Number Management"
_CHUNK: Final = 10_000  # rows of one read, where the whole list is asked for


async def search(request: ApiRequest) -> Answer:
    """What can be selected."""
    wanted: SearchPhoneNumbersRequest = request.body
    found = await numbers.search(
        request.control,
        request.actor,
        NumberQuery(country=wanted.country_code.upper(), area_code=wanted.area_code or ""),
        provider=wanted.provider,
    )
    results = [
        AvailablePhoneNumber(
            phone_number=each.number,
            locality=each.locality or None,
            region=each.region or None,
            country_code=each.country or wanted.country_code.upper(),
        )
        for each in found
    ]
    return answer(SearchPhoneNumbersResponse(results=results, total_results=len(results)))


async def select(request: ApiRequest) -> Answer:
    """Buy a number; it takes a slot of the plan."""
    wanted: PurchasePhoneNumberRequest = request.body
    number = await numbers.buy(
        request.control, request.actor, provider=wanted.provider, number=wanted.phone_number
    )
    return answer(PurchasePhoneNumberResponse(phone_number=number.number, status="selected"))


async def release(request: ApiRequest) -> Answer:
    """Give a number back; its slot is free at once, and it leads nowhere."""
    wanted: PurchasePhoneNumberRequest = request.body
    if "provider" in request.sent:  # a number has one provider, who leaves it out need not know it
        held = await numbers.get(request.control, request.actor, wanted.phone_number)
        if held.provider != wanted.provider:
            raise NotFound(
                f"the account has no such phone number at {wanted.provider}",
                code="number_not_found",
            )
    released = await numbers.release(
        request.control, request.actor, wanted.phone_number, from_deployed=False
    )
    return answer(PurchasePhoneNumberResponse(phone_number=released.number, status="released"))


async def list_(request: ApiRequest) -> Answer:
    """The account's numbers, and which agent has them."""
    if request.query.page is None and request.query.limit is None:
        held = await _all(request, _info, unlinked=False)
        assigned = sum(number["assigned_to_agent_id"] is not None for number in held)
        return Answer(body=_whole(held, len(held), len(held) - assigned))
    items, told = await _page(request, _info, unlinked=False)
    return Answer(body={"items": items, "pagination": told})


async def list_available(request: ApiRequest) -> Answer:
    """The account's numbers that no agent has."""
    if request.query.page is None and request.query.limit is None:
        free = await _all(request, _free, unlinked=True)
        total = (await numbers.list_(request.control, request.actor, limit=1)).total
        return Answer(body=_whole(free, total, len(free)))
    items, told = await _page(request, _free, unlinked=True)
    return Answer(body={"items": items, "pagination": told})


async def _page(request: ApiRequest, shape: Shape, *, unlinked: bool) -> tuple[Shown, Pagination]:
    offset, limit, _ = pagination(request.query, 0)
    page = await numbers.list_(
        request.control, request.actor, offset=offset, limit=limit, unlinked=unlinked
    )
    return [shape(number) for number in page.items], pagination(request.query, page.total)[2]


async def _all(request: ApiRequest, shape: Shape, *, unlinked: bool) -> Shown:
    """The whole list, part after part: other requests are answered in between."""
    held: Shown = []
    while True:
        page = await numbers.list_(
            request.control, request.actor, offset=len(held), limit=_CHUNK, unlinked=unlinked
        )
        held.extend(map(shape, page.items))
        if len(page.items) < _CHUNK:
            return held


def _whole(shown: Shown, total: int, available: int) -> dict[str, Any]:
    return {
        "phone_numbers": shown,
        "total_numbers": total,
        "total_available": available,
        "total_assigned": max(0, total - available),
    }


def _info(number: Number) -> dict[str, Any]:
    """A `PhoneNumberInfo`; plain, as all shapes of a whole list: it may have very many."""
    status = "available" if number.agent_id is None else "assigned"
    return {
        "phone_number": number.number,
        "status": "corrupted" if number.state == "corrupted" else status,
        "assigned_to_agent_id": number.agent_id,
        "assigned_to_agent_name": number.agent_label,
    }


def _free(number: Number) -> dict[str, Any]:
    """An `UnassignedPhoneNumber`."""
    return {
        "phone_number": number.number,
        "locality": None,
        "region": None,
        "country_code": country_of(number.number),
        "status": "available",
    }


OPERATIONS: Final = (
    Operation(
        method="POST",
        path="/api/v1/agent/search-phone-numbers",
        id="search_phone_numbers",
        summary="Search Phone Numbers",
        description="Search for phone numbers that can be selected.",
        tag=_TAG,
        handle=search,
        scope="numbers:read",
        body=SearchPhoneNumbersRequest,
        answers={200: SearchPhoneNumbersResponse},
    ),
    Operation(
        method="POST",
        path="/api/v1/agent/select-phone-number",
        id="select_phone_number",
        summary="Select Phone Number",
        description="Select and provision a phone number from your plan's phone number allowance. "
        "Phone numbers consume a slot from your plan's included allowance. If you've reached your "
        "plan limit, you'll need to upgrade your plan or release an existing number.",
        tag=_TAG,
        handle=select,
        scope="numbers:write",
        body=PurchasePhoneNumberRequest,
        answers={200: PurchasePhoneNumberResponse, 402: ErrorResponse, 409: ErrorResponse},
        creates=True,
    ),
    Operation(
        method="POST",
        path="/api/v1/agent/release-phone-number",
        id="release_phone_number",
        summary="Release Phone Number",
        description="Release an owned phone number. Phone numbers attached to deployed agents "
        "cannot be released. You must first pause your agent.",
        tag=_TAG,
        handle=release,
        scope="numbers:write",
        body=PurchasePhoneNumberRequest,
        answers={200: PurchasePhoneNumberResponse, 409: ErrorResponse},
    ),
    Operation(
        method="GET",
        path="/api/v1/agent/phone-numbers",
        id="list_phone_numbers",
        summary="List Phone Numbers",
        description="All numbers of the account; with `page` or `limit`, some of them.",
        tag=_TAG,
        handle=list_,
        scope="numbers:read",
        query=PageQuery,
        answers={200: AllPhoneNumbersResponse | PaginatedAllPhoneNumbersResponse},
    ),
    Operation(
        method="GET",
        path="/api/v1/agent/available-phone-numbers",
        id="list_available_phone_numbers",
        summary="List Available Phone Numbers",
        description="Numbers that no agent has; with `page` or `limit`, some of them.",
        tag=_TAG,
        handle=list_available,
        scope="numbers:read",
        query=PageQuery,
        answers={200: AvailablePhoneNumbersResponse | PaginatedPhoneNumberResponse},
    ),
)
