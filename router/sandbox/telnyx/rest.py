"""The API that clients see: call commands and what can be asked, `/v2/…`, bearer authentication.

A call that is not remembered is 90015 to a command (the example of the OpenAPI), 404 to a question.
"""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from aiohttp import web

from router.events.codec import to_rfc3339
from router.sandbox.telnyx.account import Account, Accounts
from router.sandbox.telnyx.bodies import BODIES, read
from router.sandbox.telnyx.call import CallLeg
from router.sandbox.telnyx.control import Control
from router.sandbox.telnyx.errors import (
    ENDED,
    INVALID,
    INVALID_CALL,
    NOT_FOUND,
    UNAUTHENTICATED,
    ApiError,
)
from router.sandbox.telnyx.numbers import Numbers
from router.sandbox.telnyx.payloads import ACCOUNT_ID
from router.sandbox.telnyx.texml import Script
from router.sandbox.twilio.errors import TwilioError

Handler = Callable[[web.Request, Account], Awaitable[web.Response]]

_TEN_MINUTES: Final = 600_000_000  # µs that a call is known after its end


class Find(Protocol):
    """Finds a leg of an account's call by its call_control_id."""

    def __call__(self, account: Account, control_id: str) -> tuple[CallLeg, Control | None] | None:
        """The leg, and who controls its call: nobody where TeXML does."""


class Rest:
    """The handlers; they know calls only by what they are given."""

    def __init__(
        self,
        accounts: Accounts,
        find: Find,
        texml: Callable[[str], Script | None],
        numbers: Numbers,
        now: Callable[[], int],
    ) -> None:
        self._accounts, self._numbers = accounts, numbers
        self._find, self._texml, self._now = find, texml, now

    def routes(self) -> list[web.RouteDef]:
        """The routes; whatever else is asked for is a 404 of Telnyx's form."""
        return [
            web.post("/v2/calls/{id}/actions/{action}", self._guarded(self._command)),
            web.post("/v2/texml/Accounts/{account}/Calls/{id}", self._guarded(self._update)),
            web.get("/v2/calls/{id}", self._guarded(self._status)),
            web.get("/v2/webhook_deliveries", self._guarded(self._deliveries)),
            web.get("/v2/call_events", self._guarded(self._events)),
            *self._numbers.routes(self._guarded),
            web.route("*", "/{path:.*}", self._guarded(self._nothing)),
        ]

    def _guarded(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def guarded(request: web.Request) -> web.Response:
            try:
                return await handler(request, self._authenticate(request))
            except ApiError as error:
                return web.json_response(error.body(), status=error.kind.status)

        return guarded

    def _authenticate(self, request: web.Request) -> Account:
        account = self._accounts.of(request.headers.get("Authorization", ""))
        if account is None:
            raise ApiError(
                UNAUTHENTICATED,
                "The required authentication headers were either invalid or not included in the"
                " request.",
            )
        return account

    async def _command(self, request: web.Request, account: Account) -> web.Response:
        action = request.match_info["action"]
        if action not in BODIES:
            raise _not_found()
        raw = await request.read()
        leg, control = self._find(account, request.match_info["id"]) or (None, None)
        if leg is None or control is None:
            detail = "The call_control_id provided was not valid."
            raise ApiError(INVALID_CALL, detail, pointer="/call_control_id")
        control.carry_out(leg, action, read(action, raw))
        account.history.command(leg, action, self._now())
        return web.json_response({"data": {"result": "ok"}})

    async def _update(self, request: web.Request, account: Account) -> web.Response:
        is_main = account is self._accounts.main
        script = self._texml(request.match_info["id"]) if is_main else None
        if script is None or request.match_info["account"] != ACCOUNT_ID:
            raise _not_found()
        form = {key: str(value) for key, value in (await request.post()).items()}
        if set(form) != {"Texml"}:
            raise ApiError(INVALID, "the sandbox updates a call by Texml only")
        if not script.is_alive:
            raise ApiError(ENDED, "This call is no longer active and can't receive commands.")
        try:
            script.update(form["Texml"].encode())
        except TwilioError as error:
            raise ApiError(INVALID, f"Texml: {error}") from error
        return web.json_response({"sid": request.match_info["id"], "status": "in-progress"})

    async def _status(self, request: web.Request, account: Account) -> web.Response:
        found = self._find(account, request.match_info["id"])
        if found is None or self._is_forgotten(found[0]):
            raise _not_found()
        leg = found[0]
        data: dict[str, object] = {
            "record_type": "call",
            "call_control_id": leg.control_id,
            "call_leg_id": leg.leg_id,
            "call_session_id": leg.session_id,
            "client_state": leg.client_state,
            "is_alive": leg.is_alive,
            "call_duration": leg.duration,
            "start_time": to_rfc3339(leg.started_at),
        }
        if leg.ended_at is not None:
            data["end_time"] = to_rfc3339(leg.ended_at)
        return web.json_response({"data": data})

    def _is_forgotten(self, leg: CallLeg) -> bool:
        return leg.ended_at is not None and self._now() - leg.ended_at > _TEN_MINUTES

    async def _deliveries(self, request: web.Request, account: Account) -> web.Response:
        return web.json_response(account.history.deliveries(request.query))

    async def _events(self, request: web.Request, account: Account) -> web.Response:
        return web.json_response(account.history.events(request.query))

    async def _nothing(self, _request: web.Request, _account: Account) -> web.Response:
        raise _not_found()


def _not_found() -> ApiError:
    return ApiError(NOT_FOUND, "The requested resource or URL could not be found.")
