"""Twilio's REST API, as far as live calls need it: fetch, redirect and end a call.

`/2010-04-01/Accounts/{account}/Calls/{sid}.json`, and the account itself; basic authentication,
errors in Twilio's form.
A call that rings can be redirected too (seen documented for Studio; not tried on the real one).
"""

import base64
import binascii
import hmac
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from aiohttp import web

from router.sandbox.twilio.call import Call, Source
from router.sandbox.twilio.errors import TwilioError
from router.sandbox.twilio.params import API_VERSION
from router.sandbox.twilio.twiml import parse

_MAX_TWIML: Final = 4000  # characters of the Twiml parameter
_ACCOUNT: Final = "/2010-04-01/Accounts/{account}.json"
_PATH: Final = "/2010-04-01/Accounts/{account}/Calls/{sid}.json"


class Rest:
    """The handlers; they find calls by sid."""

    def __init__(
        self, account_sid: str, auth_token: str, find: Callable[[str], Call | None]
    ) -> None:
        self._account = account_sid
        self._credentials = f"{account_sid}:{auth_token}".encode()
        self._find = find

    def routes(self) -> list[web.RouteDef]:
        """The routes."""
        return [
            web.get(_ACCOUNT, self._fetch_account),
            web.get(_PATH, self._fetch),
            web.post(_PATH, self._update),
        ]

    async def _fetch_account(self, request: web.Request) -> web.Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        return web.json_response({"sid": self._account, "status": "active"})

    async def _fetch(self, request: web.Request) -> web.Response:
        found = self._lookup(request)
        return found if isinstance(found, web.Response) else self._shown(found)

    async def _update(self, request: web.Request) -> web.Response:
        found = self._lookup(request)
        if isinstance(found, web.Response):
            return found
        form = {key: str(value) for key, value in (await request.post()).items()}
        if found.is_ended:
            return _error(400, 21220, "Call is not in-progress. Cannot redirect.")
        if form.get("Status") in ("completed", "canceled"):
            found.step("rest.ended")
            found.leave(None)
        elif "Twiml" in form:
            document = form["Twiml"].encode()
            if len(form["Twiml"]) > _MAX_TWIML or not _is_twiml(document):
                return _error(400, 12100, "The Twiml parameter can't be read.")
            found.step("rest.redirected")
            found.leave(Source("", document=document))
        elif "Url" in form:
            found.step("rest.redirected")
            found.leave(Source(form["Url"], form.get("Method", "POST")))
        else:
            return _error(400, 21218, "Give Status, Twiml or Url.")
        return self._shown(found)

    def _lookup(self, request: web.Request) -> Call | web.Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        call = self._find(request.match_info["sid"])
        return call if call is not None else _not_found(request)

    def _refusal(self, request: web.Request) -> web.Response | None:
        if not self._authenticated(request):
            return _error(401, 20003, "Authenticate")
        return None if request.match_info["account"] == self._account else _not_found(request)

    def _authenticated(self, request: web.Request) -> bool:
        scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
        try:
            given = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            return False
        return scheme == "Basic" and hmac.compare_digest(given, self._credentials)

    def _shown(self, call: Call) -> web.Response:
        return web.json_response(
            {
                "sid": call.sid,
                "account_sid": self._account,
                "api_version": API_VERSION,
                "to": call.to,
                "from": call.from_,
                "status": call.status,
                "direction": "inbound",
                "start_time": _moment(call.start_time),
                "end_time": _moment(call.end_time) if call.end_time is not None else None,
                "duration": str(call.duration) if call.is_ended else None,
                "uri": _PATH.format(account=self._account, sid=call.sid),
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


def _not_found(request: web.Request) -> web.Response:
    return _error(404, 20404, f"The requested resource {request.path} was not found")


def _error(status: int, code: int, message: str) -> web.Response:
    body = {
        "code": code,
        "message": message,
        "more_info": f"https://www.twilio.com/docs/errors/{code}",
        "status": status,
    }
    return web.json_response(body, status=status)
