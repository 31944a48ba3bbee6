"""Telnyx's numbers: found, ordered, configured and released through Telnyx's own SDK.

Sources: developers.telnyx.com/docs/numbers/phone-numbers (number-search, number-orders), the API's
OpenAPI.

A number is ordered, not bought: the order is looked at until it is done, for ten seconds. Where it
is not, the number is `active=False` and without an id, until `find` sees it. An order bears the tag
(`customer_reference`), and one that is under way is followed, never repeated.
"""

import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

import phonenumbers
from telnyx.types import NumbersPhoneNumberDetailed

from router.errors import Ambiguous, EffectError, Permanent
from router.provider import (
    AvailableNumber,
    Credentials,
    NotAvailable,
    NumberQuery,
    OwnedNumber,
    ProviderContext,
)
from router.providers.telnyx.application import Application
from router.providers.telnyx.sdk import ADVICE, NOT_FOUND, Sdk, open_sdk
from router.rest import legible

_MOST: Final = 250  # items on a page
_ORDER: Final = 10.0  # seconds that an order is waited for
_PAUSES: Final = (0.3, 0.5, 1.0)  # seconds before the first looks at it; the last one goes on
_GONE: Final = frozenset({"deleted", "purchase-failed", "port-failed", "ported-out"})
_PENDING: Final = frozenset(
    {
        "purchase-pending",
        "port-pending",
        "provision-pending",
        "requirement-info-pending",
        "requirement-info-under-review",
        "requirement-info-exception",
    }
)
_FRESH: Final = 60_000_000  # µs in which a number that was delivered may still not be listed

Offer = Any
Order = Any  # the SDK has a class of its own for each answer that holds one


@asynccontextmanager
async def open_inventory(
    context: ProviderContext, credentials: Credentials | None
) -> AsyncIterator["Inventory"]:
    """See `Provider.inventory`. Raises ConfigError: there is no API key."""
    async with open_sdk(context, credentials) as sdk:
        connection_id = credentials.connection_id if credentials is not None else ""
        yield Inventory(sdk, Application(sdk, context.settings.public_url, connection_id))


class Inventory:
    """See `router.provider.NumberInventory`."""

    def __init__(self, sdk: Sdk, application: Application) -> None:
        self._sdk, self._application = sdk, application
        self._client, self._clock, self._ask = sdk.client, sdk.clock, sdk.ask

    @legible("Telnyx")
    async def search(self, query: NumberQuery) -> Sequence[AvailableNumber]:
        """See `NumberInventory.search`."""
        pattern = query.contains.strip("*")
        is_whole = pattern == query.contains
        asked: dict[str, Any] = {
            "country_code": query.country,
            "phone_number_type": query.type,
            "features": ["voice"],
            "limit": query.limit if is_whole else _MOST,
        }
        if query.area_code:
            asked["national_destination_code"] = query.area_code
        if pattern and "*" not in pattern:
            asked["phone_number"] = {"contains": pattern}
        found = await self._offers(asked)
        offered = [
            _available(each, query)
            for each in found
            if each.phone_number and query.matches(each.phone_number)
        ]
        return offered[: query.limit]

    async def _offers(self, asked: Mapping[str, Any]) -> Sequence[Offer]:
        try:
            found = await self._ask(
                lambda: self._client.available_phone_numbers.list(filter=asked)  # type: ignore[arg-type]
            )
        except Permanent as error:
            if not error.code or error.code in ADVICE:
                raise
            return []  # "a region where Telnyx has no coverage" is refused, with no code of its own
        return found.data or ()

    @legible("Telnyx")
    async def buy(self, number: str, *, tag: str) -> OwnedNumber:
        """See `NumberInventory.buy`. With the tag of an earlier order it is that one's end."""
        application = await self._application.ensure()
        held = await self._find(number)
        orders = await self._orders_of(number, tag)
        if held is not None:
            if not orders and held.customer_reference != tag:
                raise NotAvailable("the Telnyx account holds this number already", code="held")
            return await self._settled(held, tag, application)
        order = next((each for each in orders if self._is_under_way(each, number)), None)
        if order is None:
            order = await self._order(number, tag, application)
        return await self._completed(order, number, tag, application)

    @legible("Telnyx")
    async def find(self, number: str, *, tag: str = "") -> OwnedNumber | None:
        """See `NumberInventory.find`; with a tag, the number of an order that is under way too."""
        held = await self._find(number)
        if held is not None and tag in ("", held.customer_reference):
            return await self._owned(held)
        orders = await self._orders_of(number, tag) if tag else []
        if held is not None:  # that the order's reference becomes the number's is not documented
            return (await self._owned(held))._replace(tag=tag) if orders else None
        is_coming = any(self._is_under_way(order, number) for order in orders)
        return OwnedNumber(number, "", tag=tag, active=False) if is_coming else None

    @legible("Telnyx")
    async def owned(self, *, limit: int = 1000) -> Sequence[OwnedNumber]:
        """See `NumberInventory.owned`."""
        await self._application.find()

        async def ask() -> list[NumbersPhoneNumberDetailed]:
            pages = self._client.phone_numbers.list(page_size=min(limit, _MOST))
            found: list[NumbersPhoneNumberDetailed] = []
            async for each in pages:
                if each.status not in _GONE:
                    found.append(each)
                if len(found) >= limit:
                    break
            return found

        return [await self._owned(each) for each in await self._ask(ask, pages=limit // _MOST + 1)]

    @legible("Telnyx")
    async def configure(self, owned: OwnedNumber) -> OwnedNumber:
        """See `NumberInventory.configure`; not yet where Telnyx has no id of the number yet."""
        application = await self._application.ensure()
        number_id = await self._id(owned)
        if not number_id:
            return owned
        await self._ask(
            lambda: self._client.phone_numbers.update(number_id, connection_id=application)
        )
        return owned._replace(provider_number_id=number_id, ours=True)

    @legible("Telnyx")
    async def release(self, owned: OwnedNumber) -> None:
        """See `NumberInventory.release`. Permanent: its deletion lock is on."""
        number_id = await self._id(owned)
        if not number_id:
            return
        try:
            await self._ask(lambda: self._client.phone_numbers.delete(number_id))
        except Permanent as error:
            if error.code == NOT_FOUND:
                return
            if not await self._is_locked(number_id):
                raise
            raise Permanent(
                "Telnyx keeps the number: its deletion lock is on; take it off in Mission Control",
                code=error.code,
            ) from error

    async def _is_locked(self, number_id: str) -> bool:
        try:
            found = await self._ask(lambda: self._client.phone_numbers.retrieve(number_id))
        except EffectError:
            return False
        return found.data is not None and found.data.deletion_lock_enabled

    async def _id(self, owned: OwnedNumber) -> str:
        """Telnyx's id of the number, "" where it has none (yet, or any more)."""
        if owned.provider_number_id:
            return owned.provider_number_id
        held = await self._find(owned.number)
        return held.id if held is not None else ""

    async def _find(self, number: str) -> NumbersPhoneNumberDetailed | None:
        digits = number.removeprefix("+")  # with the plus, nothing is found

        async def ask() -> list[NumbersPhoneNumberDetailed]:
            page = await self._client.phone_numbers.list(
                filter={"phone_number": digits}, page_size=20
            )
            return [
                each
                for each in page.data or ()
                if each.phone_number == number and each.status not in _GONE
            ]

        return next(iter(await self._ask(ask)), None)

    async def _owned(self, held: NumbersPhoneNumberDetailed) -> OwnedNumber:
        application = await self._application.find()
        return OwnedNumber(
            held.phone_number,
            held.id,
            tag=held.customer_reference or "",
            ours=bool(application) and held.connection_id == application,
            active=held.status not in _PENDING,
        )

    async def _order(self, number: str, tag: str, application: str) -> Order:
        """Place an order, once. Raises NotAvailable, and as `NumberInventory.buy`."""
        # Telnyx takes orders of numbers only that a search returned before.
        is_offered = await self._is_offered(number)
        try:
            answer = await self._ask(
                lambda: self._client.number_orders.create(
                    phone_numbers=[{"phone_number": number}],
                    connection_id=application,
                    customer_reference=tag,
                ),
                repeatable=False,
            )
        except Permanent as error:
            if is_offered or error.code in ADVICE:
                raise
            raise NotAvailable(
                f"{error}: it does not sell this number, or not any more; search again",
                code=error.code,
            ) from error
        if answer.data is None or not answer.data.id:
            raise Ambiguous("Telnyx described an order in a way that can't be read")
        return answer.data

    async def _is_offered(self, number: str) -> bool:
        try:
            parsed = phonenumbers.parse(number)
        except phonenumbers.NumberParseException:
            return False
        country = phonenumbers.region_code_for_number(parsed)
        national = phonenumbers.national_significant_number(parsed)
        asked: dict[str, Any] = {"phone_number": {"contains": national}, "limit": 5}
        asked["country_code"] = country or "US"  # only toll free ones of +1 are of no country
        return any(each.phone_number == number for each in await self._offers(asked))

    async def _orders_of(self, number: str, tag: str) -> Sequence[Order]:
        """The orders of this number that bear the tag, and did not fail."""

        async def ask() -> list[Order]:
            page = await self._client.number_orders.list(
                filter={"customer_reference": tag}, page_size=20
            )
            return [
                order
                for order in page.data or ()
                if order.customer_reference == tag and _standing(order, number) != "failure"
            ]

        return await self._ask(ask)

    def _is_under_way(self, order: Order, number: str) -> bool:
        """Whether the number is not listed only because it is not there yet."""
        if _standing(order, number) != "success" or order.updated_at is None:
            return True
        # Done long ago, and not listed: it was given back.
        done_at: float = order.updated_at.timestamp()
        return self._clock.now() - round(done_at * 1_000_000) < _FRESH

    async def _completed(
        self, order: Order, number: str, tag: str, application: str
    ) -> OwnedNumber:
        """What became of an order within ten seconds. NotAvailable: it failed."""
        give_up = self._clock.monotonic() + _ORDER
        pauses = itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1]))
        pending = OwnedNumber(number, "", tag=tag, active=False)
        order_id = order.id
        while True:
            standing = _standing(order, number)
            if standing == "failure":
                raise NotAvailable("Telnyx could not deliver the number", code="order_failed")
            try:
                held = await self._find(number) if standing == "success" else None
                if held is not None:
                    return await self._settled(held, tag, application)
                if self._clock.monotonic() >= give_up:
                    return pending
                await self._clock.sleep(next(pauses))
                answer = await self._ask(lambda: self._client.number_orders.retrieve(order_id))
                order = answer.data
            except EffectError:  # it is ordered all the same; how it stands will be seen later
                return pending

    async def _settled(
        self, held: NumbersPhoneNumberDetailed, tag: str, application: str
    ) -> OwnedNumber:
        """A number that is bought: with the order's connection and tag, if Telnyx lets us."""
        owned = (await self._owned(held))._replace(tag=tag)
        if owned.ours and held.customer_reference == tag:
            return owned
        try:
            await self._ask(
                lambda: self._client.phone_numbers.update(
                    held.id, connection_id=application, customer_reference=tag
                )
            )
        except EffectError:  # it is ours all the same; whoever needs more can `configure` it
            return owned
        return owned._replace(ours=True)


def _standing(order: Order, number: str) -> Literal["pending", "success", "failure"]:
    """How the order of this number stands; an order of other numbers is a failed one of it."""
    items = [each for each in order.phone_numbers or () if each.phone_number == number]
    if not items or "failure" in (order.status, items[0].status):
        return "failure"
    done = order.status == "success" and items[0].status in (None, "success")
    return "success" if done else "pending"


def _available(offer: Any, query: NumberQuery) -> AvailableNumber:
    regions = {each.region_type: each.region_name or "" for each in offer.region_information or ()}
    return AvailableNumber(
        offer.phone_number,
        "telnyx",
        country=regions.get("country_code") or query.country,
        region=regions.get("state", ""),
        locality=regions.get("location") or regions.get("rate_center", ""),
        type=query.type,
    )
