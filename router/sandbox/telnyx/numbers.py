"""Telnyx's API of numbers: search, orders, the numbers held, Call Control applications.

Sources: developers.telnyx.com/docs/numbers/phone-numbers (number-search, number-orders), the
OpenAPI that Telnyx's SDK is made of, developers.telnyx.com/development/api-fundamentals/api-errors.
Strict: a parameter or field that the sandbox has not is refused. Only what a search returned can be
ordered, as documented; which error the rest is, of a number that is not for sale, of a name that
is taken and of a locked number, is not documented but inferred.
"""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Literal, TypeVar, get_args

import msgspec
import phonenumbers
from aiohttp import web

from router.clock import Clock
from router.events.codec import to_rfc3339
from router.events.phone import is_e164
from router.provider import NumberType
from router.sandbox.pool import Offer, Pool
from router.sandbox.telnyx.account import Account, CallControl, Order, PhoneNumber
from router.sandbox.telnyx.errors import (
    DUPLICATE,
    IN_USE,
    INVALID,
    INVALID_URL,
    NO_SUCH_ASSOCIATE,
    NOT_E164,
    NOT_FOUND,
    NOT_IN_LIST,
    ApiError,
    of_validation,
)
from router.sandbox.telnyx.history import Filter, page

_DIGITS: Final = re.compile("[0-9]{1,16}")
_MOST: Final = 250  # numbers that one search returns

Handler = Callable[[web.Request, Account], Awaitable[web.Response]]
T = TypeVar("T")


class _Wanted(msgspec.Struct, forbid_unknown_fields=True):
    phone_number: str
    requirement_group_id: str | None = None


class _NewOrder(msgspec.Struct, forbid_unknown_fields=True):
    phone_numbers: list[_Wanted]
    connection_id: str = ""
    customer_reference: str | None = None


class _NumberChange(msgspec.Struct, forbid_unknown_fields=True):
    connection_id: str | None = None
    customer_reference: str | None = None
    tags: list[str] | None = None


class _NewApplication(msgspec.Struct, forbid_unknown_fields=True):
    application_name: str
    webhook_event_url: str
    webhook_event_failover_url: str | None = None
    webhook_api_version: Literal["1", "2"] = "1"
    webhook_timeout_secs: int | None = None
    first_command_timeout: bool = False
    first_command_timeout_secs: int = 30
    active: bool = True


def _is(key: str) -> Filter:
    return lambda item, value: str(item[key]) == value


_SEARCH: Final = {
    "filter[country_code]",
    "filter[national_destination_code]",
    "filter[phone_number_type]",
    "filter[features]",
    "filter[limit]",
    "filter[phone_number][contains]",
}
_NUMBER_FILTERS: Final[Mapping[str, Filter]] = {
    # Other characters find nothing, says the OpenAPI: nor does the plus of E.164.
    "filter[phone_number]": lambda item, value: (
        _DIGITS.fullmatch(value) is not None and value in item["phone_number"]
    ),
    "filter[customer_reference]": _is("customer_reference"),
    "filter[connection_id]": _is("connection_id"),
    "filter[status]": _is("status"),
}
_ORDER_FILTERS: Final[Mapping[str, Filter]] = {
    "filter[customer_reference]": _is("customer_reference"),
    "filter[status]": _is("status"),
}
_APPLICATION_FILTERS: Final[Mapping[str, Filter]] = {
    "filter[application_name][contains]": lambda item, value: (
        value.lower() in item["application_name"].lower()
    ),
}


class Numbers:
    """The handlers.

    `order_time`: seconds that an order takes; `failing`: numbers whose orders fail;
    `keeps_reference`: whether an order's reference becomes its numbers', which is not documented.
    """

    def __init__(self, pool: Pool, clock: Clock, on_release: Callable[[str], None]) -> None:
        self.order_time = 0.5
        self.failing: set[str] = set()
        self.keeps_reference = True
        self._pool, self._clock, self._on_release = pool, clock, on_release

    def routes(self, guarded: Callable[[Handler], Any]) -> list[web.RouteDef]:
        """The routes; their names are those of the operations that may go wrong."""
        numbers, orders = "/v2/phone_numbers", "/v2/number_orders"
        applications = "/v2/call_control_applications"
        return [
            web.get("/v2/available_phone_numbers", guarded(self._search), name="search"),
            web.post(orders, guarded(self._order), name="buy"),
            web.get(orders, guarded(self._orders), name="orders"),
            web.get(orders + "/{id}", guarded(self._order_status), name="order"),
            web.get(numbers, guarded(self._list), name="list"),
            web.get(numbers + "/{id}", guarded(self._fetch), name="fetch"),
            web.patch(numbers + "/{id}", guarded(self._update), name="update"),
            web.delete(numbers + "/{id}", guarded(self._release), name="release"),
            web.get(applications, guarded(self._applications), name="applications"),
            web.post(applications, guarded(self._make), name="application.create"),
            web.get(applications + "/{id}", guarded(self._application), name="application"),
            web.patch(applications + "/{id}", guarded(self._change), name="application.update"),
            web.delete(applications + "/{id}", guarded(self._remove), name="application.delete"),
        ]

    def hold(self, account: Account, held: PhoneNumber) -> None:
        """The account has this number."""
        account.numbers[held.id] = held
        self._pool.taken.add(held.number)

    async def _search(self, request: web.Request, account: Account) -> web.Response:
        query = dict(request.query)
        unknown = sorted(query.keys() - _SEARCH)
        if unknown:
            raise ApiError(INVALID, f"the sandbox has no parameter {unknown[0]}")
        country, type_ = query.get("filter[country_code]", "US"), _type(query)
        pattern = query.get("filter[phone_number][contains]", "")
        limit = query.get("filter[limit]", "100")
        if not self._pool.covers(country):
            raise ApiError(INVALID, "there is no coverage in this country")
        if pattern and not _DIGITS.fullmatch(pattern):
            raise ApiError(INVALID, "filter[phone_number][contains] must be digits")
        if not limit.isdecimal() or int(limit) < 1:
            raise ApiError(INVALID, "filter[limit] must be a number")
        area_code = query.get("filter[national_destination_code]", "")
        offers: Iterator[Offer]
        if type_ is None and pattern:  # without a type, any: found by its very number
            offers = filter(None, [self._pool.offer(number) for number in _whole(country, pattern)])
        else:
            offers = (
                each
                for each in self._pool.offers(country, type_ or "local", area_code)
                if pattern in each.number
            )
        found = list(islice(offers, min(int(limit), _MOST)))
        account.searched.update(each.number for each in found)
        meta = {"total_results": len(found), "best_effort_results": 0}
        data = [
            {
                "record_type": "available_phone_number",
                "phone_number": each.number,
                "best_effort": False,
                "quickship": True,
                "reservable": True,
                "features": [{"name": "voice"}, {"name": "sms"}],
                "region_information": [
                    {"region_type": kind, "region_name": name}
                    for kind, name in (
                        ("country_code", each.country),
                        ("state", each.region),
                        ("location", each.locality),
                    )
                    if name
                ],
            }
            for each in found
        ]
        return web.json_response({"data": data, "meta": meta})

    async def _order(self, request: web.Request, account: Account) -> web.Response:
        body = await _read(request, _NewOrder)
        if not body.phone_numbers:
            raise ApiError(INVALID, "an order is of one number at least", pointer="/phone_numbers")
        if body.connection_id and body.connection_id not in account.applications:
            raise ApiError(NO_SUCH_ASSOCIATE, "no such connection", pointer="/connection_id")
        numbers = [
            self._ordered(account, each.phone_number, f"/phone_numbers/{place}/phone_number")
            for place, each in enumerate(body.phone_numbers)
        ]
        now = self._clock.now()
        order = Order(
            numbers=numbers,
            connection_id=body.connection_id,
            customer_reference=body.customer_reference,
            created_at=now,
            updated_at=now,
            ready_at=self._clock.monotonic() + self.order_time,
        )
        account.orders[order.id] = order
        self._pool.taken.update(each.number for each in numbers)
        return web.json_response({"data": _shown_order(order)})

    def _ordered(self, account: Account, number: str, pointer: str) -> PhoneNumber:
        if not is_e164(number):
            raise ApiError(NOT_E164, "it must be in +E.164 format", pointer=pointer)
        offer = self._pool.offer(number)
        if offer is None or number not in account.searched:
            detail = "the number is not available: only what a search returned can be ordered"
            raise ApiError(INVALID, detail, pointer=pointer)
        now = self._clock.now()
        return PhoneNumber(number=number, country=offer.country, type=offer.type, created_at=now)

    async def _orders(self, request: web.Request, account: Account) -> web.Response:
        self.settle(account)
        items = [_shown_order(each) for each in reversed(account.orders.values())]
        return web.json_response(page(items, request.query, _ORDER_FILTERS))

    async def _order_status(self, request: web.Request, account: Account) -> web.Response:
        self.settle(account)
        return web.json_response({"data": _shown_order(_one(request, account.orders))})

    def settle(self, account: Account) -> None:
        """Finish the orders whose time has come."""
        for order in account.orders.values():
            if order.status != "pending" or self._clock.monotonic() < order.ready_at:
                continue
            order.updated_at = self._clock.now()
            if any(each.number in self.failing for each in order.numbers):
                order.status = "failure"
                self._pool.taken.difference_update(each.number for each in order.numbers)
                continue
            order.status = "success"
            for each in order.numbers:
                each.connection_id = order.connection_id
                if self.keeps_reference:
                    each.customer_reference = order.customer_reference
                self.hold(account, each)

    async def _list(self, request: web.Request, account: Account) -> web.Response:
        self.settle(account)
        items = [_shown(account, each) for each in reversed(account.numbers.values())]
        return web.json_response(page(items, request.query, _NUMBER_FILTERS))

    async def _fetch(self, request: web.Request, account: Account) -> web.Response:
        return web.json_response({"data": _shown(account, _one(request, account.numbers))})

    async def _update(self, request: web.Request, account: Account) -> web.Response:
        held = _one(request, account.numbers)
        body = await _read(request, _NumberChange)
        if body.connection_id is not None:
            if body.connection_id and body.connection_id not in account.applications:
                raise ApiError(NO_SUCH_ASSOCIATE, "no such connection", pointer="/connection_id")
            held.connection_id = body.connection_id
        if body.customer_reference is not None:
            held.customer_reference = body.customer_reference
        if body.tags is not None:
            held.tags = body.tags
        return web.json_response({"data": _shown(account, held)})

    async def _release(self, request: web.Request, account: Account) -> web.Response:
        held = _one(request, account.numbers)
        if held.deletion_lock_enabled:
            raise ApiError(INVALID, "the number's deletion lock is enabled")
        del account.numbers[held.id]
        self._pool.taken.discard(held.number)
        self._on_release(held.number)
        return web.json_response({"data": {**_shown(account, held), "status": "deleted"}})

    async def _applications(self, request: web.Request, account: Account) -> web.Response:
        query = dict(request.query)
        order = query.pop("sort", "-created_at")
        if order not in ("created_at", "-created_at"):
            raise ApiError(NOT_IN_LIST, "the sandbox sorts by created_at")
        items = [_shown_application(each) for each in account.applications.values()]
        items = items[::-1] if order == "-created_at" else items
        return web.json_response(page(items, query, _APPLICATION_FILTERS))

    async def _make(self, request: web.Request, account: Account) -> web.Response:
        body = await _read(request, _NewApplication)
        _check(account, body, but="")
        made = CallControl(created_at=self._clock.now(), **_fields(body))
        account.applications[made.id] = made
        return web.json_response({"data": _shown_application(made)}, status=201)

    async def _application(self, request: web.Request, account: Account) -> web.Response:
        return web.json_response({"data": _shown_application(_one(request, account.applications))})

    async def _change(self, request: web.Request, account: Account) -> web.Response:
        application = _one(request, account.applications)
        body = await _read(request, _NewApplication)
        _check(account, body, but=application.id)
        for name, value in _fields(body).items():
            setattr(application, name, value)
        return web.json_response({"data": _shown_application(application)})

    async def _remove(self, request: web.Request, account: Account) -> web.Response:
        application = _one(request, account.applications)
        if any(each.connection_id == application.id for each in account.numbers.values()):
            raise ApiError(IN_USE, "phone numbers are still assigned to it")
        del account.applications[application.id]
        return web.json_response({"data": _shown_application(application)})


def _one(request: web.Request, things: Mapping[str, T]) -> T:
    found = things.get(request.match_info["id"])
    if found is None:
        raise ApiError(NOT_FOUND, "The requested resource or URL could not be found.")
    return found


async def _read(request: web.Request, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read() or b"{}", type=type_)
    except msgspec.ValidationError as error:
        raise of_validation(error) from error
    except msgspec.DecodeError as error:
        raise ApiError(INVALID, "the body is not JSON") from error


def _type(query: Mapping[str, str]) -> NumberType | None:
    text = query.get("filter[phone_number_type]")
    found = next((each for each in get_args(NumberType) if each == text), None)
    if text is not None and found is None:
        raise ApiError(NOT_IN_LIST, "there is no such filter[phone_number_type]")
    return found


def _whole(country: str, pattern: str) -> Sequence[str]:
    """The numbers that a pattern is the whole of."""
    code = phonenumbers.country_code_for_region(country)
    return [f"+{code}{pattern}", f"+{pattern}"]


def _check(account: Account, body: _NewApplication, *, but: str) -> None:
    for key in ("webhook_event_url", "webhook_event_failover_url"):
        url = getattr(body, key)
        if url and not re.match("https?://[^/]+", url):
            raise ApiError(INVALID_URL, "it must be a URL with its scheme", pointer=f"/{key}")
    names = {each.name for each in account.applications.values() if each.id != but}
    if body.application_name in names:
        raise ApiError(DUPLICATE, "the name is taken", pointer="/application_name")


def _fields(body: _NewApplication) -> dict[str, Any]:
    fields = msgspec.structs.asdict(body)
    return {"name": fields.pop("application_name"), **fields}


def _shown_order(order: Order) -> dict[str, Any]:
    return {
        "id": order.id,
        "record_type": "number_order",
        "status": order.status,
        "phone_numbers_count": len(order.numbers),
        "phone_numbers": [
            {
                "id": f"{order.id[:-12]}{place:012d}",  # of the item, not the number's
                "record_type": "number_order_phone_number",
                "phone_number": each.number,
                "phone_number_type": each.type,
                "country_iso_alpha2": each.country,
                "requirements_met": True,
                "status": order.status,
            }
            for place, each in enumerate(order.numbers)
        ],
        "connection_id": order.connection_id or None,
        "customer_reference": order.customer_reference,
        "requirements_met": True,
        "created_at": to_rfc3339(order.created_at),
        "updated_at": to_rfc3339(order.updated_at),
    }


def _shown(account: Account, held: PhoneNumber) -> dict[str, Any]:
    application = account.applications.get(held.connection_id)
    return {
        "id": held.id,
        "record_type": "phone_number",
        "phone_number": held.number,
        "phone_number_type": held.type,
        "country_iso_alpha2": held.country,
        "status": "active",
        "tags": held.tags,
        "connection_id": held.connection_id or None,
        "connection_name": application.name if application is not None else None,
        "customer_reference": held.customer_reference,
        "deletion_lock_enabled": held.deletion_lock_enabled,
        "created_at": to_rfc3339(held.created_at),
        "purchased_at": to_rfc3339(held.created_at),
        "updated_at": to_rfc3339(held.created_at),
    }


def _shown_application(application: CallControl) -> dict[str, Any]:
    return {
        "id": application.id,
        "record_type": "call_control_application",
        "application_name": application.name,
        "active": application.active,
        "webhook_event_url": application.webhook_event_url,
        "webhook_event_failover_url": application.webhook_event_failover_url,
        "webhook_api_version": application.webhook_api_version,
        "webhook_timeout_secs": application.webhook_timeout_secs,
        "first_command_timeout": application.first_command_timeout,
        "first_command_timeout_secs": application.first_command_timeout_secs,
        "created_at": to_rfc3339(application.created_at),
        "updated_at": to_rfc3339(application.created_at),
    }
