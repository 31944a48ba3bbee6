"""Twilio's REST API, as far as live calls and numbers need it: fetch, redirect and end a call.

`/2010-04-01/Accounts/{account}/Calls/{sid}.json`, the account itself and its numbers; basic
authentication, errors in Twilio's form.
A call that rings can be redirected too (seen documented for Studio; not tried on the real one).
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from aiohttp import web

from router.sandbox.twilio.account import Account, Accounts
from router.sandbox.twilio.call import Call, Source
from router.sandbox.twilio.errors import RestError, TwilioError
from router.sandbox.twilio.numbers import Numbers
from router.sandbox.twilio.params import API_VERSION
from router.sandbox.twilio.twiml import parse

_MAX_TWIML: Final = 4000  # characters of the Twiml parameter
_ACCOUNT: Final = "/2010-04-01/Accounts/{account}.json"
_PATH: Final = "/2010-04-01/Accounts/{account}/Calls/{sid}.json"


Handler = Callable[[web.Request, Account], Awaitable[web.Response]]


class Rest:
    """The handlers; they find calls by sid."""

    def __init__(
        self, accounts: Accounts, find: Callable[[str], Call | None], numbers: Numbers
    ) -> None:
        self._accounts, self._find, self._numbers = accounts, find, numbers

    def routes(self) -> list[web.RouteDef]:
        """The routes."""
        return [
            web.get(_ACCOUNT, self._guarded(self._fetch_account)),
            web.get(_PATH, self._guarded(self._fetch)),
            web.post(_PATH, self._guarded(self._update)),
            *self._numbers.routes(self._guarded),
        ]

    def _guarded(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def guarded(request: web.Request) -> web.Response:
            try:
                return await handler(request, self._authenticate(request))
            except RestError as error:
                return web.json_response(error.body, status=error.status)

        return guarded

    def _authenticate(self, request: web.Request) -> Account:
        account = self._accounts.of(request.headers.get("Authorization", ""))
        if account is None:
            raise RestError(401, 20003, "Authenticate")
        if request.match_info["account"] != account.sid:
            raise _not_found(request)
        return account

    async def _fetch_account(self, _request: web.Request, account: Account) -> web.Response:
        return web.json_response({"sid": account.sid, "status": "active"})

    async def _fetch(self, request: web.Request, account: Account) -> web.Response:
        return _shown(self._lookup(request, account))

    async def _update(self, request: web.Request, account: Account) -> web.Response:
        found = self._lookup(request, account)
        form = {key: str(value) for key, value in (await request.post()).items()}
        if found.is_ended:
            raise RestError(400, 21220, "Call is not in-progress. Cannot redirect.")
        if form.get("Status") in ("completed", "canceled"):
            found.step("rest.ended")
            found.leave(None)
        elif "Twiml" in form:
            document = form["Twiml"].encode()
            if len(form["Twiml"]) > _MAX_TWIML or not _is_twiml(document):
                raise RestError(400, 12100, "The Twiml parameter can't be read.")
            found.step("rest.redirected")
            found.leave(Source("", document=document))
        elif "Url" in form:
            found.step("rest.redirected")
            found.leave(Source(form["Url"], form.get("Method", "POST")))
        else:
            raise RestError(400, 21218, "Give Status, Twiml or Url.")
        return _shown(found)

    def _lookup(self, request: web.Request, account: Account) -> Call:
        call = self._find(request.match_info["sid"])
        if call is None or call.account_sid != account.sid:
            raise _not_found(request)
        return call


def _shown(call: Call) -> web.Response:
    return web.json_response(
        {
            "sid": call.sid,
            "account_sid": call.account_sid,
            "api_version": API_VERSION,
            "to": call.to,
            "from": call.from_,
            "status": call.status,
            "direction": "inbound",
            "start_time": _moment(call.start_time),
            "end_time": _moment(call.end_time) if call.end_time is not None else None,
            "duration": str(call.duration) if call.is_ended else None,
            "uri": _PATH.format(account=call.account_sid, sid=call.sid),
        }
    )


def _is_twiml(document: bytes) -> bool:
    try:
        parse(document)
    except TwilioError:
        return False
    return True


def _moment(micros: int) -> str:
    return format_datetime(datetime.fromtimestamp(micros // 1_000_000, UTC))


def _not_found(request: web.Request) -> RestError:
    return RestError(404, 20404, f"The requested resource {request.path} was not found")
