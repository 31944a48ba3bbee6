"""Twilio's numbers: found, bought, configured and released through Twilio's own SDK.

Sources: twilio.com/docs/phone-numbers/api (AvailablePhoneNumber, IncomingPhoneNumber),
twilio.com/docs/api/errors. What the SDK does not do is done here, in the HTTP client that it is
given: a time-out (the one of its own client is ignored), a limit of an answer's size, and errors
that tell whether something happened (its own drop the headers, so nobody knows when to come back).

A purchase that is sent twice is not refused: a POST for a number that the account holds already is
taken for an update, and would put our webhooks over somebody else's. So it is looked for first.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from logging import getLogger
from typing import Any, Final, TypeVar
from urllib.parse import urldefrag, urlsplit

import aiohttp
import msgspec
import phonenumbers
from twilio.base.exceptions import TwilioException
from twilio.http import AsyncHttpClient
from twilio.http.response import Response
from twilio.rest import Client
from twilio.rest.api.v2010.account.incoming_phone_number import IncomingPhoneNumberInstance
from typing_extensions import override

from router.clock import Clock
from router.errors import Ambiguous, ConfigError, Permanent
from router.provider import (
    AvailableNumber,
    Credentials,
    NotAvailable,
    NumberQuery,
    OwnedNumber,
    ProviderContext,
)
from router.providers.twilio.keys import auth_tokens
from router.rest import body_of, bounded, legible, refusal, tried

_TIMEOUT: Final = 10.0  # seconds, of one request
_MOST: Final = 1000  # numbers on a page
_NANP: Final = frozenset({"US", "CA"})  # the only ones that AreaCode is for
# Of the URL's fragment, which Twilio keeps to itself: a caller waits for the voice webhook, so it
# gives up soon and tries again; what became of a call may be told later, and must be
# (twilio.com/docs/usage/webhooks/webhooks-connection-overrides).
_VOICE: Final = "#ct=2000&rt=8000&rc=2&rp=all"
_STATUS: Final = "#rc=5&rp=all"

# twilio.com/docs/api/errors; what each asks for.
_ADVICE: Final[Mapping[str, str]] = {
    "20003": "it refuses the credentials; are the AccountSid and its Auth Token right?",
    "21402": "it does not take our webhook's URL; is public_url reachable from the internet?",
    "21404": "a trial account can't buy this; upgrade it in the Twilio console",
    "21421": "the phone number is not valid",
    "21422": "it does not sell this number, or not any more; search again",
    "21451": "there is no such area code",
    "21452": "it has no number in this area code; search elsewhere",
    "21615": "the number needs a local address; add one in the Twilio console, buy it there",
    "21631": "the number needs an address; add one in the Twilio console and buy it there, then it "
    "can be adopted",
    "21649": "the number needs a regulatory bundle; have one approved in the Twilio console and "
    "buy it there, then it can be adopted",
    "21651": "the address does not satisfy what the number requires",
}
_UNSOLD: Final = frozenset({"20404", "21422", "21452"})

T = TypeVar("T")


@asynccontextmanager
async def open_inventory(
    context: ProviderContext, credentials: Credentials | None
) -> AsyncIterator["Inventory"]:
    """See `Provider.inventory`. Raises ConfigError: there is no account, or no Auth Token of it."""
    account, token = _account(context, credentials)
    url = context.settings.providers.twilio.api_url
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=16)) as session:
        headers = {"Authorization": aiohttp.encode_basic_auth(account, token)}
        client = Client(account, token, http_client=_Http(session, url, headers))
        client.edge = client.region = None  # the environment's would change the host
        client.api.base_url = url
        yield Inventory(client, context.clock, context.settings.public_url)


def _account(context: ProviderContext, credentials: Credentials | None) -> tuple[str, str]:
    if credentials is None:
        settings = context.settings.providers.twilio
        account = settings.account_sid
        tokens = auth_tokens(settings).get(account, ())
        if not account or not tokens:
            key = "providers.twilio.auth_tokens" if account else "providers.twilio.account_sid"
            raise ConfigError(f"{key}: is missing; numbers are bought with it", key=key)
        return account, tokens[0]
    token = credentials.secrets.get("auth_token", "")
    if not credentials.provider_account or not token:
        raise ConfigError(
            f"the connection {credentials.connection_id} lacks the AccountSid or its auth_token"
        )
    return credentials.provider_account, token


class Inventory:
    """See `router.provider.NumberInventory`."""

    def __init__(self, client: Client, clock: Clock, public_url: str) -> None:
        self._client, self._clock = client, clock
        self._public_url = public_url

    @legible("Twilio")
    async def search(self, query: NumberQuery) -> Sequence[AvailableNumber]:
        """See `NumberInventory.search`; nothing where Twilio has no such numbers at all."""
        offers = self._client.available_phone_numbers(query.country)
        kind = getattr(offers, query.type)
        asked, is_whole = _asked(query)
        limit = query.limit if is_whole else _MOST
        try:
            found = await self._ask(
                lambda: kind.list_async(
                    voice_enabled=True, limit=limit, page_size=min(limit, _MOST), **asked
                )
            )
        except Permanent as error:
            if error.code not in _UNSOLD:
                raise
            return []
        offered = [each for each in found if query.matches(each.phone_number)]
        return [_available(each, query) for each in offered[: query.limit]]

    @legible("Twilio")
    async def buy(self, number: str, *, tag: str) -> OwnedNumber:
        """See `NumberInventory.buy`. With the tag of an earlier purchase it is that one's end."""
        webhooks = self._webhooks()
        held = await self._find(number)
        if held is not None:
            if held.friendly_name != tag:
                raise NotAvailable("the Twilio account holds this number already", code="held")
            return self._owned(held)
        try:
            bought = await self._ask(
                lambda: self._client.incoming_phone_numbers.create_async(
                    phone_number=number, friendly_name=tag, **webhooks
                ),
                repeatable=False,
            )
        except Permanent as error:
            if error.code in _UNSOLD:
                raise NotAvailable(str(error), code=error.code) from error
            raise
        return self._owned(bought)

    @legible("Twilio")
    async def find(self, number: str, *, tag: str = "") -> OwnedNumber | None:
        """See `NumberInventory.find`."""
        held = await self._find(number)
        if held is None or (tag and held.friendly_name != tag):
            return None
        return self._owned(held)

    @legible("Twilio")
    async def owned(self, *, limit: int = 1000) -> Sequence[OwnedNumber]:
        """See `NumberInventory.owned`."""
        held = await self._ask(
            lambda: self._client.incoming_phone_numbers.list_async(
                limit=limit, page_size=min(limit, _MOST)
            )
        )
        return [self._owned(each) for each in held]

    @legible("Twilio")
    async def configure(self, owned: OwnedNumber) -> OwnedNumber:
        """See `NumberInventory.configure`. A trunk or an application that it had is taken off.

        With one of them Twilio ignores the webhooks.
        """
        webhooks = self._webhooks()
        sid = await self._sid(owned)
        if not sid:
            raise Permanent("the Twilio account does not hold this number", code="20404")
        changed = await self._ask(
            lambda: self._client.incoming_phone_numbers(sid).update_async(
                trunk_sid="", voice_application_sid="", **webhooks
            )
        )
        return self._owned(changed)

    @legible("Twilio")
    async def release(self, owned: OwnedNumber) -> None:
        """See `NumberInventory.release`."""
        sid = await self._sid(owned)
        if not sid:
            return
        try:
            await self._ask(lambda: self._client.incoming_phone_numbers(sid).delete_async())
        except Permanent as error:
            if error.code != "20404":
                raise

    async def _sid(self, owned: OwnedNumber) -> str:
        """Twilio's id of the number, "" where the account does not hold it."""
        if owned.provider_number_id:
            return owned.provider_number_id
        held = await self._find(owned.number)
        return (held.sid or "") if held is not None else ""

    async def _find(self, number: str) -> IncomingPhoneNumberInstance | None:
        found = await self._ask(
            lambda: self._client.incoming_phone_numbers.list_async(phone_number=number, limit=20)
        )
        return next((each for each in found if each.phone_number == number), None)

    async def _ask(self, ask: Callable[[], Awaitable[T]], *, repeatable: bool = True) -> T:
        async def once() -> T:
            try:
                return await ask()
            except TwilioException as error:  # it can't find the items on a page
                raise Ambiguous("Twilio answered something that can't be read") from error

        return await tried(self._clock, once, repeatable=repeatable)

    def _webhooks(self) -> dict[str, str]:
        """What a number is set to. Raises ConfigError."""
        if not self._public_url:
            raise ConfigError(
                "public_url: is missing; a number's webhooks are set to it", key="public_url"
            )
        base = f"{self._public_url}/webhooks/twilio"
        return {
            "voice_url": f"{base}/voice{_VOICE}",
            "voice_method": "POST",
            "voice_fallback_url": f"{base}/fallback",
            "voice_fallback_method": "POST",
            "status_callback": f"{base}/status{_STATUS}",
            "status_callback_method": "POST",
        }

    def _owned(self, held: IncomingPhoneNumberInstance) -> OwnedNumber:
        if not held.phone_number or not held.sid:
            raise Ambiguous("Twilio described a number in a way that can't be read")
        answering = held.trunk_sid or held.voice_application_sid
        voice_url = urldefrag(held.voice_url or "").url
        return OwnedNumber(
            held.phone_number,
            held.sid,
            tag=held.friendly_name or "",
            ours=not answering and voice_url == f"{self._public_url}/webhooks/twilio/voice",
        )


def _asked(query: NumberQuery) -> tuple[dict[str, Any], bool]:
    """The filters that Twilio has, and whether nothing is left to be filtered here.

    A pattern has two characters at least and wildcards at its ends only; outside of North America
    an area code is the pattern.
    """
    pattern = query.contains.strip("*")
    if query.area_code and query.country not in _NANP:
        calling_code = phonenumbers.country_code_for_region(query.country)
        return {"contains": f"+{calling_code}{query.area_code}"}, not pattern
    asked: dict[str, Any] = {"area_code": int(query.area_code)} if query.area_code else {}
    if len(pattern) < 2 or "*" in pattern:
        return asked, not pattern
    return asked | {"contains": pattern}, pattern == query.contains


def _available(offer: Any, query: NumberQuery) -> AvailableNumber:
    return AvailableNumber(
        offer.phone_number,
        "twilio",
        country=offer.iso_country or query.country,
        region=offer.region or "",
        locality=offer.locality or "",
        type=query.type,
    )


class _Http(AsyncHttpClient):
    """What the SDK sends its requests with. Every answer of 400 or more is an EffectError."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, headers: Mapping[str, str]
    ) -> None:
        super().__init__(getLogger(__name__), is_async=True)
        self._session, self._headers = session, headers
        self._where = f"Twilio at {urlsplit(url).netloc.rpartition('@')[2]}"

    @override
    async def request(  # type: ignore[override]  # so does the SDK's own
        self,
        method: str,
        url: str,
        params: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        timeout: float | None = None,
        allow_redirects: bool = False,
    ) -> Response:
        """Send one request. `auth`, `timeout` and `allow_redirects` are the SDK's: see the file."""
        async with (
            bounded(self._where, _TIMEOUT),
            self._session.request(
                method,
                url,
                params=params,
                data=data,
                headers={**(headers or {}), **self._headers},
                allow_redirects=False,
            ) as answer,
        ):
            body = await body_of(answer, "Twilio")
        if answer.status >= 400:
            code = _code(body) or ("20404" if answer.status == 404 else "")
            raise refusal(
                "Twilio",
                answer.status,
                code=code,
                headers=answer.headers,
                advice=_ADVICE.get(code, ""),
            )
        if answer.status >= 300:
            raise Permanent("Twilio redirects: is providers.twilio.api_url right?")
        return Response(answer.status, body.decode("utf-8", "replace"), answer.headers)


def _code(body: bytes) -> str:
    """The code in an error, of either of its forms ({code, message}, RFC 9457)."""
    try:
        return str(int(msgspec.json.decode(body)["code"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
