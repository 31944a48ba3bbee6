"""Twilio's REST API of numbers: what is for sale, and what an account holds.

Sources: twilio.com/docs/phone-numbers/api (AvailablePhoneNumber, IncomingPhoneNumber),
twilio.com/docs/api/errors. Strict: a parameter that the sandbox has not is refused, never ignored.
Inferred is the error of a friendly name that is too long, and of a pattern that can't be read.

As the real one does, a POST for a number that the account holds already changes that number and
answers as if it had been bought. What needs papers: numbers of DE a bundle, mobile ones of AU an
address.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import islice
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import phonenumbers
from aiohttp import web

from router.provider import NumberType
from router.sandbox.pool import Offer, Pool
from router.sandbox.twilio.account import Account, IncomingNumber
from router.sandbox.twilio.errors import RestError, TwilioError
from router.sandbox.twilio.overrides import split
from router.sandbox.twilio.params import API_VERSION

_BASE: Final = "/2010-04-01/Accounts/{account}"
_AVAILABLE: Final = _BASE + "/AvailablePhoneNumbers/{country}/{type}.json"
_LIST: Final = _BASE + "/IncomingPhoneNumbers.json"
_ONE: Final = _BASE + "/IncomingPhoneNumbers/{sid}.json"
_TYPES: Final[Mapping[str, NumberType]] = {
    "Local": "local",
    "TollFree": "toll_free",
    "Mobile": "mobile",
    "National": "national",
}
_URLS: Final[Mapping[str, str]] = {
    "VoiceUrl": "voice_url",
    "VoiceFallbackUrl": "voice_fallback_url",
    "StatusCallback": "status_callback",
}
_METHODS: Final[Mapping[str, str]] = {
    "VoiceMethod": "voice_method",
    "VoiceFallbackMethod": "voice_fallback_method",
    "StatusCallbackMethod": "status_callback_method",
}
_SETTINGS: Final = {"FriendlyName", "TrunkSid", "VoiceApplicationSid", *_URLS, *_METHODS}
_FILTERS: Final = {"PhoneNumber", "FriendlyName", "Page", "PageSize", "PageToken"}
_SEARCH: Final = {"AreaCode", "Contains", "VoiceEnabled", "PageSize"}
_LONGEST_NAME: Final = 64
_PATTERN: Final = re.compile(r"\+?[*%]*[0-9]{2,16}[*%]*\$?")
_NUMBER: Final = re.compile(r"\+?[0-9*]{1,16}")

Handler = Callable[[web.Request, Account], Any]


class Numbers:
    """The handlers; `now` in µs since the epoch."""

    def __init__(
        self, pool: Pool, now: Callable[[], int], on_release: Callable[[str], None]
    ) -> None:
        self._pool, self._now, self._on_release = pool, now, on_release

    def routes(self, guarded: Callable[[Handler], Any]) -> list[web.RouteDef]:
        """The routes; their names are those of the operations that may go wrong."""
        return [
            web.get(_AVAILABLE, guarded(self._search), name="search"),
            web.get(_LIST, guarded(self._list), name="list"),
            web.post(_LIST, guarded(self._buy), name="buy"),
            web.get(_ONE, guarded(self._fetch), name="fetch"),
            web.post(_ONE, guarded(self._update), name="update"),
            web.delete(_ONE, guarded(self._release), name="release"),
        ]

    def hold(self, account: Account, held: IncomingNumber) -> None:
        """The account has this number."""
        account.numbers[held.sid] = held
        self._pool.taken.add(held.number)

    async def _search(self, request: web.Request, _account: Account) -> web.Response:
        country, type_ = request.match_info["country"], _TYPES.get(request.match_info["type"])
        query = dict(request.query)
        _check_known(query, _SEARCH)
        if type_ is None or not self._pool.sells(country, type_):
            raise _not_found(request)
        area_code = query.get("AreaCode", "")
        if area_code and (country not in ("US", "CA") or not re.fullmatch("[0-9]{3}", area_code)):
            raise RestError(400, 21451, "Invalid area code")
        fits = _contains(query.get("Contains", ""))
        size = _size(query)
        offers = (
            offer for offer in self._pool.offers(country, type_, area_code) if fits(offer.number)
        )
        uri = f"{request.path}?{request.query_string}" if request.query_string else request.path
        shown = [_offered(offer) for offer in islice(offers, size)]
        return web.json_response({"uri": uri, "available_phone_numbers": shown})

    async def _list(self, request: web.Request, account: Account) -> web.Response:
        query = dict(request.query)
        _check_known(query, _FILTERS)
        pattern = query.get("PhoneNumber", "")
        if pattern and not _NUMBER.fullmatch(pattern):
            raise RestError(400, 20001, "PhoneNumber is no pattern")
        wanted = re.compile(re.escape(pattern).replace(r"\*", "[0-9]"))
        name = query.get("FriendlyName")
        found = [
            held
            for held in reversed(account.numbers.values())
            if wanted.search(held.number) and name in (None, held.friendly_name)
        ]
        return web.json_response(_page(request, query, [_shown(account, each) for each in found]))

    async def _buy(self, request: web.Request, account: Account) -> web.Response:
        form = await _form(request)
        _check_known(form, _SETTINGS | {"PhoneNumber", "AreaCode"})
        _check_settings(form)
        number = form.get("PhoneNumber", "")
        held = account.holds(number)
        if held is None:
            offer = self._offer(number, form.get("AreaCode", ""))
            held = IncomingNumber(
                number=offer.number, friendly_name=_formatted(offer.number), created_at=self._now()
            )
            self.hold(account, held)
        _set(held, form)
        return web.json_response(_shown(account, held), status=201)

    def _offer(self, number: str, area_code: str) -> Offer:
        if bool(number) == bool(area_code):
            raise RestError(400, 21421, "Give PhoneNumber or AreaCode.")
        if area_code:
            found = next(iter(self._pool.offers("US", "local", area_code)), None)
            if found is None:
                raise RestError(400, 21452, f"No phone numbers found in area code {area_code}")
            return found
        if not _is_valid(number):
            raise RestError(400, 21421, f"{number} is not a valid phone number.")
        offer = self._pool.offer(number)
        if offer is None:
            raise RestError(400, 21422, f"{number} is not available.")
        if offer.country == "DE":
            raise RestError(400, 21649, "Bundle required and not provided.")
        if (offer.country, offer.type) == ("AU", "mobile"):
            raise RestError(400, 21631, "Phone Number Requires an Address but the 'AddressSid'")
        return offer

    async def _fetch(self, request: web.Request, account: Account) -> web.Response:
        return web.json_response(_shown(account, _lookup(request, account)))

    async def _update(self, request: web.Request, account: Account) -> web.Response:
        held = _lookup(request, account)
        form = await _form(request)
        _check_known(form, _SETTINGS)
        _check_settings(form)
        _set(held, form)
        return web.json_response(_shown(account, held))

    async def _release(self, request: web.Request, account: Account) -> web.Response:
        held = _lookup(request, account)
        del account.numbers[held.sid]
        self._pool.taken.discard(held.number)
        self._on_release(held.number)
        return web.Response(status=204)


def _lookup(request: web.Request, account: Account) -> IncomingNumber:
    held = account.numbers.get(request.match_info["sid"])
    if held is None:
        raise _not_found(request)
    return held


def _not_found(request: web.Request) -> RestError:
    return RestError(404, 20404, f"The requested resource {request.path} was not found")


async def _form(request: web.Request) -> dict[str, str]:
    return {key: str(value) for key, value in (await request.post()).items()}


def _check_known(given: Mapping[str, str], known: set[str]) -> None:
    unknown = sorted(given.keys() - known)
    if unknown:
        raise RestError(400, 20001, f"the sandbox has no parameter {unknown[0]}")


def _check_settings(form: Mapping[str, str]) -> None:
    if len(form.get("FriendlyName", "")) > _LONGEST_NAME:
        raise RestError(400, 20001, f"FriendlyName has more than {_LONGEST_NAME} characters")
    for key in _URLS.keys() & form.keys():
        if form[key] and not _is_url(form[key]):
            raise RestError(400, 21402, f"{key} is not valid: it must be an http(s) URL")
    for key in _METHODS.keys() & form.keys():
        if form[key] not in ("GET", "POST"):
            raise RestError(400, 21403, f"{key} must be GET or POST")
    for key in ("TrunkSid", "VoiceApplicationSid"):
        if form.get(key):
            raise RestError(404, 20404, f"{key}: the sandbox has no such resource")


def _set(held: IncomingNumber, form: Mapping[str, str]) -> None:
    for key, name in (*_URLS.items(), *_METHODS.items(), ("FriendlyName", "friendly_name")):
        if key in form:
            setattr(held, name, form[key])


def _is_url(text: str) -> bool:
    try:
        target, _ = split(text)
        parts = urlsplit(target)
    except (ValueError, TwilioError):
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _is_valid(number: str) -> bool:
    try:
        return number.startswith("+") and phonenumbers.is_valid_number(phonenumbers.parse(number))
    except phonenumbers.NumberParseException:
        return False


def _contains(pattern: str) -> Callable[[str], bool]:
    if not pattern:
        return lambda _: True
    if not _PATTERN.fullmatch(pattern):
        raise RestError(400, 20001, "Contains is no pattern")
    start = "^" if pattern.startswith("+") else ""
    words = re.escape(pattern).replace(r"\*", "[0-9]").replace("%", "[0-9]*").replace(r"\$", "$")
    return lambda number: re.search(start + words, number) is not None


def _size(query: Mapping[str, str]) -> int:
    text = query.get("PageSize", "50")
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise RestError(400, 20006, "Page size must be from 1 to 1000")
    return int(text)


def _page(request: web.Request, query: Mapping[str, str], items: list[Any]) -> dict[str, Any]:
    """One page as Twilio lists it; the SDK follows `next_page_uri`."""
    size, number = _size(query), query.get("Page", "0")
    if not number.isdecimal():
        raise RestError(400, 20006, "Page is no number")
    start = int(number) * size

    def uri(page: int) -> str:
        return f"{request.path}?{urlencode({**query, 'PageSize': size, 'Page': page})}"

    part = items[start : start + size]
    return {
        "first_page_uri": uri(0),
        "next_page_uri": uri(int(number) + 1) if start + size < len(items) else None,
        "previous_page_uri": uri(int(number) - 1) if start else None,
        "uri": uri(int(number)),
        "page": int(number),
        "page_size": size,
        "start": start,
        "end": start + len(part) - 1 if part else 0,
        "incoming_phone_numbers": part,
    }


def _offered(offer: Offer) -> dict[str, Any]:
    return {
        "friendly_name": _formatted(offer.number),
        "phone_number": offer.number,
        "lata": None,
        "locality": offer.locality or None,
        "rate_center": None,
        "latitude": None,
        "longitude": None,
        "region": offer.region or None,
        "postal_code": None,
        "iso_country": offer.country,
        "address_requirements": "none",
        "beta": False,
        "capabilities": {"voice": True, "SMS": True, "MMS": False},
    }


def _shown(account: Account, held: IncomingNumber) -> dict[str, Any]:
    moment = format_datetime(datetime.fromtimestamp(held.created_at // 1_000_000, UTC))
    return {
        "sid": held.sid,
        "account_sid": account.sid,
        "friendly_name": held.friendly_name,
        "phone_number": held.number,
        "date_created": moment,
        "date_updated": moment,
        "api_version": API_VERSION,
        "beta": False,
        "capabilities": {"voice": True, "sms": True, "mms": False, "fax": False},
        "origin": "twilio",
        "status": "in-use",
        "trunk_sid": None,
        "voice_application_sid": "",
        "voice_url": held.voice_url,
        "voice_method": held.voice_method,
        "voice_fallback_url": held.voice_fallback_url,
        "voice_fallback_method": held.voice_fallback_method,
        "voice_caller_id_lookup": False,
        "status_callback": held.status_callback,
        "status_callback_method": held.status_callback_method,
        "address_sid": None,
        "bundle_sid": None,
        "uri": _ONE.format(account=account.sid, sid=held.sid),
    }


def _formatted(number: str) -> str:
    form = phonenumbers.PhoneNumberFormat.NATIONAL
    return phonenumbers.format_number(phonenumbers.parse(number), form)
