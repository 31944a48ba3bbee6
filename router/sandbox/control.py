"""A stand-in's control API: another process places a call and follows it (`switchboard call`).

- `POST /calls` `{to, from, hold_seconds?}` → `{sid}`; 409 where the number is not in service
- `GET /calls/{sid}/transcript?after=N&wait=S` → `{steps, next, done, status}`, waiting up to S
  seconds for a step behind the first N
- `POST /calls/{sid}/hangup` → `{status}`
- `GET /numbers/{number}` → `{service}`: whether an account of this carrier has it
- `POST /accounts` `{numbers?}` → another account's credentials, for connections of tenants; it has
  these numbers already, set up for nobody

Every request carries the bearer token.
"""

import asyncio
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Final, Generic, Literal, Protocol, TypeVar

import msgspec
from aiohttp import web

from router.sandbox.call import NotInService, Step
from router.sandbox.tasks import SandboxFull, Signal

_MAX_WAIT: Final = 30.0
_MAX_HOLD: Final = 3600.0
_E164: Final = r"^\+[1-9][0-9]{6,14}$"
_PASSWORD: Final = re.compile(r'password="[^"]*"')

Handler = Callable[[web.Request], Awaitable[web.Response]]
Service = Literal["held", "released", "unknown"]
"""Of a number: an account has it, one had it, or nobody ever."""


class PlacedCall(Protocol):
    """A call of a carrier's stand-in."""

    changed: Signal  # fired at each step
    started_at: float  # monotonic seconds
    is_ended: bool

    @property
    def sid(self) -> str:
        """The carrier's id, from which ours follows."""

    @property
    def status(self) -> str:
        """Where it is now, in the carrier's words."""

    @property
    def steps(self) -> Sequence[Step]:
        """The transcript, oldest first."""


C = TypeVar("C", bound=PlacedCall)
P = TypeVar("P", bound=PlacedCall, covariant=True)


class PlaceCall(Protocol[P]):
    """Starts a call."""

    def __call__(self, to: str, from_: str, *, hold_seconds: float | None) -> P:
        """Returns at once. Raises SandboxFull, NotInService."""


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /calls`."""

    to: Annotated[str, msgspec.Meta(pattern=_E164)]
    from_: Annotated[str, msgspec.Meta(pattern=_E164)] = msgspec.field(name="from")
    hold_seconds: Annotated[float, msgspec.Meta(ge=0, le=_MAX_HOLD)] | None = None


class _NewAccount(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /accounts`."""

    numbers: list[Annotated[str, msgspec.Meta(pattern=_E164)]] = []


class ControlApi(Generic[C]):
    """The handlers; they know calls only by what they are given."""

    def __init__(
        self,
        token: str,
        *,
        place: PlaceCall[C],
        find: Callable[[str], C | None],
        hang_up: Callable[[C], None],
        service: Callable[[str], Service],
        add_account: Callable[[Sequence[str]], Mapping[str, str]],
    ) -> None:
        self._token = token.encode()
        self._place, self._find, self._hang_up = place, find, hang_up
        self._service, self._add_account = service, add_account

    def routes(self) -> list[web.RouteDef]:
        """The routes, each behind the token."""
        return [
            web.post("/calls", self._guarded(self._create)),
            web.get("/calls/{sid}/transcript", self._guarded(self._transcript)),
            web.post("/calls/{sid}/hangup", self._guarded(self._hangup)),
            web.get("/numbers/{number}", self._guarded(self._number)),
            web.post("/accounts", self._guarded(self._account)),
        ]

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.Response:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            if scheme != "Bearer" or not hmac.compare_digest(token.encode(), self._token):
                return _error(401, "the sandbox's control token is missing or wrong")
            return await handler(request)

        return guarded

    async def _create(self, request: web.Request) -> web.Response:
        try:
            order = msgspec.json.decode(await request.read(), type=_Order)
            call = self._place(order.to, order.from_, hold_seconds=order.hold_seconds)
        except msgspec.DecodeError as error:  # names the field, not its value
            return _error(400, str(error))
        except SandboxFull as error:
            return _error(503, str(error))
        except NotInService as error:
            return _error(409, str(error))
        return web.json_response({"sid": call.sid}, status=201)

    async def _number(self, request: web.Request) -> web.Response:
        return web.json_response({"service": self._service(request.match_info["number"])})

    async def _account(self, request: web.Request) -> web.Response:
        try:
            wanted = msgspec.json.decode(await request.read() or b"{}", type=_NewAccount)
            return web.json_response(self._add_account(wanted.numbers), status=201)
        except (msgspec.DecodeError, ValueError) as error:
            return _error(400, str(error))

    async def _transcript(self, request: web.Request) -> web.Response:
        call = self._find(request.match_info["sid"])
        if call is None:
            return _error(404, "no such call")
        try:
            after = int(request.query.get("after", "0"))
            wait = min(float(request.query.get("wait", "0")), _MAX_WAIT)
        except ValueError:
            return _error(400, "after and wait are numbers")
        try:
            async with asyncio.timeout(wait):
                await call.changed.until(lambda: len(call.steps) > after or call.is_ended)
        except TimeoutError:
            pass  # nothing new is an answer as well
        steps = [
            {"at": round(step.at - call.started_at, 6), "what": step.what, **_shown(step.detail)}
            for step in call.steps[after:]
        ]
        return web.json_response(
            {
                "steps": steps,
                "next": after + len(steps),
                "done": call.is_ended,
                "status": call.status,
            }
        )

    async def _hangup(self, request: web.Request) -> web.Response:
        call = self._find(request.match_info["sid"])
        if call is None:
            return _error(404, "no such call")
        self._hang_up(call)
        return web.json_response({"status": call.status})


def _shown(detail: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    """The details without the SIP password that a document holds."""
    return {
        key: _PASSWORD.sub('password="***"', value) if isinstance(value, str) else value
        for key, value in detail.items()
    }


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
