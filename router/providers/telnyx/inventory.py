"""Telnyx's numbers: found, ordered, configured and released through Telnyx's own SDK.

Sources: developers.telnyx.com/docs/numbers/phone-numbers (number-search, number-orders), the API's
OpenAPI, developers.telnyx.com/development/api-fundamentals/api-errors. The SDK repeats a POST that
failed, orders too: it is told not to, and has our time-out.

A number is ordered, not bought: the order is looked at until it is done, for ten seconds. Where it
is not, the number is `active=False` and without an id, until `find` sees it. An order bears the tag
(`customer_reference`), and one that is under way is followed, never repeated.

Calls reach us through one Call Control application of this installation for each account, found by
its name; its webhooks are set to version 2, which is not the default.
"""

import asyncio
import itertools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import httpx
import phonenumbers
import telnyx
from telnyx import AsyncTelnyx
from telnyx.types import CallControlApplication, NumbersPhoneNumberDetailed

from router.clock import Clock
from router.errors import Ambiguous, ConfigError, EffectError, Permanent, Transient
from router.provider import (
    AvailableNumber,
    Credentials,
    NotAvailable,
    NumberQuery,
    OwnedNumber,
    ProviderContext,
)
from router.rest import legible, refusal, tried

_TIMEOUT: Final = 10.0  # seconds, of one request
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

# developers.telnyx.com/development/api-fundamentals/api-errors; what each asks for.
_ADVICE: Final[Mapping[str, str]] = {
    "10002": "the phone number is not valid",
    "10009": "it refuses the API key; is it right, and still valid?",
    "10010": "the API key may not do this; see its permissions in Mission Control",
    "10016": "the phone number is not valid",
    "10035": "it has locked this; ask Telnyx's support",
    "20100": "the account has not enough credit; add some in Mission Control",
}

T = TypeVar("T")
Offer = Any
Order = Any  # the SDK has a class of its own for each answer that holds one


@asynccontextmanager
async def open_inventory(
    context: ProviderContext, credentials: Credentials | None
) -> AsyncIterator["Inventory"]:
    """See `Provider.inventory`. Raises ConfigError: there is no API key."""
    settings = context.settings.providers.telnyx
    if credentials is None:
        key = settings.api_key.get_secret_value()
        missing = "providers.telnyx.api_key: is missing; numbers are bought with it"
    else:
        key = credentials.secrets.get("api_key", "")
        missing = f"the connection {credentials.connection_id} lacks its api_key"
    if not key:
        raise ConfigError(missing, key="" if credentials else "providers.telnyx.api_key")
    # Redirects are not followed: they would carry the key to wherever they point.
    http = telnyx.DefaultAsyncHttpxClient(
        follow_redirects=False, trust_env=False, verify=_certificates()
    )
    async with AsyncTelnyx(
        api_key=key,
        base_url=settings.api_url,
        max_retries=0,
        timeout=httpx.Timeout(_TIMEOUT),
        http_client=http,
    ) as client:
        yield Inventory(
            client,
            context.clock,
            where=f"Telnyx at {urlsplit(settings.api_url).netloc.rpartition('@')[2]}",
            public_url=context.settings.public_url,
            connection_id=credentials.connection_id if credentials is not None else "",
        )


@cache
def _certificates() -> ssl.SSLContext:
    """Those that are trusted: reading them takes longer than a request."""
    return ssl.create_default_context()


class Inventory:
    """See `router.provider.NumberInventory`."""

    def __init__(
        self, client: AsyncTelnyx, clock: Clock, *, where: str, public_url: str, connection_id: str
    ) -> None:
        self._client, self._clock, self._where = client, clock, where
        self._public_url, self._connection_id = public_url, connection_id
        self._application = ""  # its id, once it was looked for

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
            if not error.code or error.code in _ADVICE:
                raise
            return []  # "a region where Telnyx has no coverage" is refused, with no code of its own
        return found.data or ()

    @legible("Telnyx")
    async def buy(self, number: str, *, tag: str) -> OwnedNumber:
        """See `NumberInventory.buy`. With the tag of an earlier order it is that one's end."""
        application = await self._ensure_application()
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
        await self._find_application()

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
        application = await self._ensure_application()
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
            if error.code == _NOT_FOUND:
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
        application = await self._find_application()
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
            if is_offered or error.code in _ADVICE:
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

    async def _ensure_application(self) -> str:
        """The id of this installation's application; it is made where there is none."""
        if not self._public_url:
            raise ConfigError(
                "public_url: is missing; a number's webhooks are set to it", key="public_url"
            )
        if await self._find_application(mend=True):
            return self._application
        try:
            made = await self._ask(
                lambda: self._client.call_control_applications.create(
                    application_name=self._name, **self._webhooks
                ),
                repeatable=False,
            )
        except Permanent:
            if await self._find_application():  # somebody else made it at the same moment
                return self._application
            raise
        if made.data is None or not made.data.id:
            raise Ambiguous("Telnyx described an application in a way that can't be read")
        self._application = made.data.id
        return self._application

    async def _find_application(self, *, mend: bool = False) -> str:
        """Its id, "" where there is none; with `mend`, its webhooks are ours afterwards."""
        if self._application:
            return self._application

        async def ask() -> list[CallControlApplication]:
            pages = self._client.call_control_applications.list(
                filter={"application_name": {"contains": self._name}},
                page_size=_MOST,
                sort="created_at",
            )
            return [each async for each in pages if each.application_name == self._name and each.id]

        found = await self._ask(ask, pages=2)
        if not found:
            return ""
        oldest = found[0]  # of two that were made at once, everybody takes the same one
        application = oldest.id or ""
        if mend and any(getattr(oldest, key) != value for key, value in self._webhooks.items()):
            await self._ask(
                lambda: self._client.call_control_applications.update(
                    application, application_name=self._name, **self._webhooks
                )
            )
        self._application = application
        return application

    @property
    def _name(self) -> str:
        host = self._public_url.partition("://")[2]
        of_connection = f" {self._connection_id}" if self._connection_id else ""
        return f"Switchboard {host}{of_connection}"

    @property
    def _webhooks(self) -> Any:
        path = f"/c/{self._connection_id}" if self._connection_id else ""
        url = f"{self._public_url}/webhooks/telnyx{path}"
        return {
            "webhook_event_url": url,
            # Where an event goes that was not taken: without it, nowhere.
            "webhook_event_failover_url": url,
            "webhook_api_version": "2",
        }

    async def _ask(
        self,
        ask: Callable[[], Awaitable[T]],
        *,
        repeatable: bool = True,
        pages: int = 1,
    ) -> T:
        async def once() -> T:
            try:
                async with asyncio.timeout(_TIMEOUT * pages):
                    return await ask()
            except (TimeoutError, telnyx.APIError) as error:
                raise self._error(error) from error

        return await tried(self._clock, once, repeatable=repeatable)

    def _error(self, error: Exception) -> EffectError:
        match error:
            case telnyx.APIStatusError():
                code = _code(error.body) or (_NOT_FOUND if error.status_code == 404 else "")
                if 300 <= error.status_code < 400:
                    return Permanent("Telnyx redirects: is providers.telnyx.api_url right?")
                return refusal(
                    "Telnyx",
                    error.status_code,
                    code=code,
                    headers=error.response.headers,
                    advice=_ADVICE.get(code, ""),
                )
            case telnyx.APIConnectionError(__cause__=httpx.ConnectError() | httpx.ConnectTimeout()):
                return Transient(f"{self._where} can't be reached")
            case TimeoutError() | telnyx.APITimeoutError():
                return Ambiguous(f"{self._where} did not answer within {_TIMEOUT:g} s")
            case telnyx.APIConnectionError():
                return Ambiguous(f"the connection to {self._where} broke")
            case _:
                return Ambiguous("Telnyx answered something that can't be read")


_NOT_FOUND: Final = "10005"


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


def _code(body: object) -> str:
    """The code of the first error in `{"errors": [{"code", "title", "detail"}]}`."""
    try:
        return str(body["errors"][0]["code"])  # type: ignore[index]
    except (TypeError, KeyError, IndexError):
        return ""
