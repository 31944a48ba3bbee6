"""Telnyx on loopback: calls, webhooks, and the API that goes with them."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self

from aiohttp import web

from router.clock import Clock, SystemClock
from router.sandbox.call import NotInService
from router.sandbox.control import ControlApi, Service
from router.sandbox.faults import Faults
from router.sandbox.pool import Pool
from router.sandbox.serve import serve
from router.sandbox.sip import DialSip, Invite, Leg
from router.sandbox.tasks import SandboxFull, Tasks, happens_within
from router.sandbox.telnyx.account import Account, Accounts, CallControl, PhoneNumber
from router.sandbox.telnyx.call import CONNECTION_ID, Call, CallLeg
from router.sandbox.telnyx.control import Control, Line
from router.sandbox.telnyx.delivery import Delivery, Outbox, Post
from router.sandbox.telnyx.errors import fault
from router.sandbox.telnyx.numbers import Numbers
from router.sandbox.telnyx.rest import Rest
from router.sandbox.telnyx.texml import Script, Texml
from router.sandbox.twilio import phones
from router.sandbox.twilio.delivery import Disorder
from router.sandbox.twilio.phones import Phone
from router.sandbox.twilio.sip_uri import SipUri

_MAX_TASKS: Final = 20_000
_MAX_CALLS: Final = 5_000  # remembered, the live ones included
_PATIENCE: Final = 180.0  # seconds that a caller listens to ringing


class Handler(Protocol):
    """Whoever decides about a call."""

    def caller_leaves(self) -> None:
        """The caller hangs up."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A call, whose it is, and who decides about it."""

    call: Call
    account: Account
    handler: Handler


class TelnyxStandIn:
    """Telnyx's voice and numbers; `async with` serves its API at `url`.

    Its control API is at `control_url`. A call to a number that an account holds goes to its
    application's webhook URL, signed with that account's key. A number that nobody ever held counts
    as one that the operator has set up by hand, unless `strict`; one that was given back is not in
    service.

    Args:
        api_key: bearer token of the operator's account; `accounts` takes more.
        seed: of the Ed25519 key that webhooks are signed with, 32 bytes; `public_key` is its other
            half, as it is configured.
        webhook_base: the router's public URL; webhooks are sent to it.
        dial_sip: where SIP URIs go, whatever their host: the LiveKit stand-in's `invite`.
        control_token: bearer token of the control API; without one it is not served.
        failover_url: where events go that the first URL did not take; empty: nowhere.
        retries: seconds before each further try of an event.
        port: on loopback, 0 for a free one.
        clock: what rings and retries are timed by; webhooks' time-outs are in real time.
        disorder: how events are repeated and shuffled.
        strict: calls only reach numbers that an account holds.
    """

    def __init__(
        self,
        *,
        api_key: str,
        seed: bytes,
        webhook_base: str,
        dial_sip: DialSip,
        control_token: str | None = None,
        failover_url: str = "",
        retries: Sequence[float] = (1.0, 5.0),
        port: int = 0,
        clock: Clock | None = None,
        disorder: Disorder | None = None,
        strict: bool = False,
    ) -> None:
        self.url = self.control_url = ""
        self.texml_numbers: set[str] = set()  # those on the TeXML application, not Call Control
        self.phones: dict[str, Phone] = {}  # what a number reaches; the rest answers at once
        self._dial_sip = dial_sip
        self._clock = clock or SystemClock()
        self._port = port
        self._tasks = Tasks(_MAX_TASKS)
        self._disorder, self._retries = disorder or Disorder(), retries
        main = Account(api_key, seed, self._clock)
        self.accounts = Accounts(main, self._clock)
        base = webhook_base.rstrip("/") + "/webhooks/telnyx"
        self._default = main.applications[CONNECTION_ID] = CallControl(
            id=CONNECTION_ID,
            name="sandbox",
            webhook_event_url=base,
            webhook_event_failover_url=failover_url or None,
            webhook_api_version="2",
            created_at=self._clock.now(),
        )
        self.pool = Pool("telnyx")
        self.faults = Faults(fault)
        self._strict = strict
        self._released: set[str] = set()
        self.numbers = Numbers(self.pool, self._clock, self._released.add)
        self._texml = Texml(f"{base}/texml/voice", f"{base}/texml/status")
        self._line = Line(self._clock, self._tasks, self._dial)
        self._calls: OrderedDict[str, _Held] = OrderedDict()
        self._stack = AsyncExitStack()
        self._app = web.Application(middlewares=[self.faults.middleware])
        if control_token is not None:  # first: what Telnyx has not is a 404 in its own form
            control = ControlApi(
                control_token,
                place=self.place_call,
                find=self.call,
                hang_up=self.hang_up,
                service=self.service,
                add_account=self.add_account,
            )
            self._app.add_routes(control.routes())
        rest = Rest(self.accounts, self._find, self._script, self.numbers, self._clock.now)
        self._app.add_routes(rest.routes())

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.accounts.aclose)
            stack.push_async_callback(self._tasks.aclose)
            self.control_url = await stack.enter_async_context(serve(self._app, self._port))
            self.url = self.control_url + "/v2"
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    @property
    def public_key(self) -> str:
        """What webhooks are verified with: `providers.telnyx.public_keys`."""
        return self.accounts.main.sender.public_key

    @property
    def deliveries(self) -> Sequence[Delivery]:
        """The operator's events that were sent or are being sent, oldest first."""
        return list(self.accounts.main.deliveries)

    def call(self, sid: str) -> Call | None:
        """The call that webhooks name so, as long as it is remembered."""
        held = self._calls.get(sid)
        return held.call if held is not None else None

    def add_account(self, numbers: Sequence[str] = ()) -> Mapping[str, str]:
        """Another account, as its holder knows it; its numbers have no connection yet.

        Raises:
            ValueError: somebody has one of these numbers.
        """
        if any(self.accounts.holder(number) for number in numbers):
            raise ValueError("another account has one of these numbers")
        account = self.accounts.add()
        for number in numbers:
            self._hold(account, number)
        return {"api_key": account.api_key, "public_key": account.sender.public_key}

    def hold(self, number: str, *, number_id: str = "") -> None:
        """The operator's account has this number, on the application that is there already."""
        own = {"id": number_id} if number_id else {}
        self._hold(self.accounts.main, number, connection_id=CONNECTION_ID, **own)

    def _hold(self, account: Account, number: str, **more: Any) -> None:
        offer = self.pool.offer(number)
        held = PhoneNumber(
            number=number,
            country=offer.country if offer is not None else "US",
            type=offer.type if offer is not None else "local",
            created_at=self._clock.now(),
            **more,
        )
        self.numbers.hold(account, held)

    def forget(self, number: str) -> None:
        """Somebody had this number; nobody has it any more, and it is not sold again."""
        self.pool.taken.add(number)
        self._released.add(number)

    def service(self, number: str) -> Service:
        """What becomes of a call to this number."""
        if self.accounts.holder(number) is not None:
            return "held"
        return "released" if number in self._released else "unknown"

    def place_call(
        self,
        to: str,
        from_: str,
        *,
        hold_seconds: float | None = None,
        custom_headers: Mapping[str, str] | None = None,
    ) -> Call:
        """Somebody calls `to`; returns at once.

        Args:
            to: the called number, E.164.
            from_: the caller's number.
            hold_seconds: the caller hangs up so long after the answer; None: stays.
            custom_headers: X- headers of the INVITE, where the caller came by SIP.

        Raises:
            SandboxFull: too many calls at once.
            NotInService: nobody has the number, or it is not configured.
        """
        account, application = self._answering(to)
        is_texml = to in self.texml_numbers
        call = Call(
            to,
            from_,
            custom_headers or {},
            self._clock,
            is_texml=is_texml,
            connection_id=application.id,
        )
        post = Post(
            account.sender,
            application.delivery(self._retries),
            self._disorder,
            self._clock,
            self._tasks,
            account.deliveries,
        )
        self._make_room()
        handler: Handler
        if is_texml:
            script = handler = Script(call, self._texml, self._line, account.sender)
            self._tasks.spawn(script.run())
        else:
            control = handler = Control(call, self._line, Outbox(post, call))
            control.ring()
        self._calls[call.sid] = _Held(call, account, handler)
        self._tasks.spawn(self._caller(call, handler, hold_seconds))
        return call

    def hang_up(self, call: Call) -> None:
        """The caller hangs up."""
        self._calls[call.sid].handler.caller_leaves()

    def _answering(self, to: str) -> tuple[Account, CallControl]:
        found = self.accounts.holder(to)
        if found is not None:
            account, held = found
            return account, account.application_of(held)
        if self._strict or to in self._released:
            raise NotInService("the number is not in service: no account at Telnyx has it")
        return self.accounts.main, self._default

    def _make_room(self) -> None:
        if len(self._calls) < _MAX_CALLS:
            return
        ended = next((key for key, held in self._calls.items() if held.call.is_ended), None)
        if ended is None:
            raise SandboxFull(f"the sandbox holds {_MAX_CALLS} calls at once; end some")
        del self._calls[ended]

    def _find(self, account: Account, control_id: str) -> tuple[CallLeg, Control | None] | None:
        for held in reversed(self._calls.values()):  # commands are about the newest
            if held.account is not account:
                continue
            for leg in (held.call.caller, *held.call.dialled):
                if leg.control_id == control_id:
                    control = held.handler if isinstance(held.handler, Control) else None
                    return leg, control
        return None

    def _script(self, sid: str) -> Script | None:
        held = self._calls.get(sid)
        return held.handler if held is not None and isinstance(held.handler, Script) else None

    def _dial(self, uri: SipUri | None, invite: Invite) -> Leg:
        if uri is not None:
            return self._dial_sip(invite)
        phone = self.phones.get(invite.to_user, Phone())
        return phones.dial(phone, self._clock, self._tasks)

    async def _caller(self, call: Call, handler: Handler, hold_seconds: float | None) -> None:
        answered = await happens_within(self._clock, _PATIENCE, call.answered())
        if answered and hold_seconds is not None:
            over = call.changed.until(lambda: not call.caller.is_alive)
            answered = await happens_within(self._clock, hold_seconds, over)
        elif answered:
            return
        if not answered:
            handler.caller_leaves()
