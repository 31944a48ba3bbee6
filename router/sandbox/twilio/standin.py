"""Twilio on loopback: numbers, calls, and the HTTP APIs that go with them."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from types import TracebackType
from typing import Final, Self

from aiohttp import web

from router.clock import Clock, SystemClock
from router.sandbox.call import NotInService
from router.sandbox.control import ControlApi, Service
from router.sandbox.faults import Faults
from router.sandbox.pool import Pool
from router.sandbox.serve import serve
from router.sandbox.sip import DialSip, Invite, Leg
from router.sandbox.tasks import SandboxFull, Tasks, happens_within
from router.sandbox.twilio import phones
from router.sandbox.twilio.account import Account, Accounts, IncomingNumber
from router.sandbox.twilio.call import Call
from router.sandbox.twilio.delivery import CallbackQueue, Disorder
from router.sandbox.twilio.dialing import Line
from router.sandbox.twilio.errors import fault
from router.sandbox.twilio.number import Number, default_number
from router.sandbox.twilio.numbers import Numbers
from router.sandbox.twilio.phones import Phone
from router.sandbox.twilio.rest import Rest
from router.sandbox.twilio.script import Script
from router.sandbox.twilio.sids import call_sid as new_call_sid
from router.sandbox.twilio.twiml import Target

_MAX_TASKS: Final = 20_000
_MAX_CALLS: Final = 5_000  # remembered, the live ones included


class TwilioStandIn:
    """Twilio's voice and numbers; `async with` serves its APIs at `url`.

    A call to a number that an account holds goes to that number's webhooks, signed with that
    account's token. A number that nobody ever held counts as one that the operator has set up by
    hand, unless `strict`; one that was given back is not in service.

    Args:
        account_sid: of the operator's account, `AC…`; `accounts` takes more.
        auth_token: what webhooks are signed with, and the REST API's password.
        webhook_base: the router's public URL; webhooks are sent to it and signed over it.
        dial_sip: where `<Sip>` goes, whatever its host: the LiveKit stand-in's `invite`.
        control_token: bearer token of the control API; without one it is not served.
        port: on loopback, 0 for a free one.
        clock: what rings and pauses are timed by; webhooks' time-outs are in real time.
        disorder: how webhooks are repeated and shuffled.
        strict: calls only reach numbers that an account holds.
    """

    def __init__(
        self,
        *,
        account_sid: str,
        auth_token: str,
        webhook_base: str,
        dial_sip: DialSip,
        control_token: str | None = None,
        port: int = 0,
        clock: Clock | None = None,
        disorder: Disorder | None = None,
        strict: bool = False,
    ) -> None:
        self.account_sid = account_sid
        self.url = ""
        self.accounts = Accounts(Account(account_sid, auth_token))
        self.numbers: dict[str, Number] = {}  # nobody's that differ from the default
        self.pool = Pool("twilio")
        self.faults = Faults(fault)
        self.phones: dict[str, Phone] = {}  # what `<Number>` reaches; the rest answers at once
        self._default = default_number(webhook_base)
        self._dial_sip = dial_sip
        self._clock = clock or SystemClock()
        self._disorder = disorder or Disorder()
        self._port = port
        self._tasks = Tasks(_MAX_TASKS)
        self._strict = strict
        self._released: set[str] = set()
        self._numbers = Numbers(self.pool, self._clock.now, self._released.add)
        self._calls: OrderedDict[str, Call] = OrderedDict()
        self._stack = AsyncExitStack()
        self._app = web.Application(middlewares=[self.faults.middleware])
        self._app.add_routes(Rest(self.accounts, self.call, self._numbers).routes())
        if control_token is not None:
            control = ControlApi(
                control_token,
                place=self.place_call,
                find=self.call,
                hang_up=Call.hangup,
                service=self.service,
                add_account=self.add_account,
            )
            self._app.add_routes(control.routes())

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.accounts.aclose)
            stack.push_async_callback(self._tasks.aclose)
            self.url = await stack.enter_async_context(serve(self._app, self._port))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def call(self, sid: str) -> Call | None:
        """The call of that sid, as long as it is remembered."""
        return self._calls.get(sid)

    def add_account(self, numbers: Sequence[str] = ()) -> Mapping[str, str]:
        """Another account, as its holder knows it; its numbers have no webhooks yet.

        Raises:
            ValueError: somebody has one of these numbers.
        """
        if any(self.accounts.holder(number) for number in numbers):
            raise ValueError("another account has one of these numbers")
        account_sid, auth_token = self.accounts.add()
        for number in numbers:
            self._hold(account_sid, number)
        return {"account_sid": account_sid, "auth_token": auth_token}

    def hold(self, number: str, *, number_id: str = "") -> None:
        """The operator's account has this number, set up as Switchboard does it."""
        sid = {"sid": number_id} if number_id else {}
        self._hold(self.account_sid, number, **asdict(self._default), **sid)

    def _hold(self, account_sid: str, number: str, **more: str) -> None:
        account = next(each for each in self.accounts if each.sid == account_sid)
        now = self._clock.now()
        held = IncomingNumber(number=number, friendly_name=number, created_at=now, **more)
        self._numbers.hold(account, held)

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
        call_sid: str | None = None,
        hold_seconds: float | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> Call:
        """Somebody calls `to`; returns at once.

        Args:
            to: the called number, E.164.
            from_: the caller's number.
            call_sid: a sid to use, for a call that is repeated.
            hold_seconds: the caller hangs up so long after the answer; None: stays.
            extra: form fields added to each request for TwiML.

        Raises:
            SandboxFull: too many calls at once.
            NotInService: nobody has the number, or it is not configured.
        """
        account, number = self._answering(to)
        call = Call(call_sid or new_call_sid(), account.sid, to, from_, extra or {}, self._clock)
        self._remember(call)
        callbacks = CallbackQueue(
            account.sender,
            self._disorder,
            self._tasks,
            lambda form, outcome: call.step(
                "callback.sent",
                call_sid=form["CallSid"],
                status=form["CallStatus"],
                outcome=outcome,
            ),
        )
        line = Line(account.sid, self._clock, self._dial, callbacks)
        script = Script(call, number, line, account.sender, self._disorder)
        self._tasks.spawn(script.run())
        if hold_seconds is not None:
            self._tasks.spawn(self._hang_up_after(call, hold_seconds))
        return call

    def _answering(self, to: str) -> tuple[Account, Number]:
        found = self.accounts.holder(to)
        if found is not None:
            account, held = found
            return account, held.configuration()
        if self._strict or to in self._released:
            raise NotInService("the number is not in service: no account at Twilio has it")
        return self.accounts.main, self.numbers.get(to, self._default)

    def _remember(self, call: Call) -> None:
        if len(self._calls) >= _MAX_CALLS:
            ended = next((sid for sid, old in self._calls.items() if old.is_ended), None)
            if ended is None:
                raise SandboxFull(f"the sandbox holds {_MAX_CALLS} calls at once; end some")
            del self._calls[ended]
        self._calls[call.sid] = call

    def _dial(self, target: Target, invite: Invite) -> Leg:
        if target.uri is not None:
            return self._dial_sip(invite)
        return phones.dial(self.phones.get(target.text, Phone()), self._clock, self._tasks)

    async def _hang_up_after(self, call: Call, seconds: float) -> None:
        if await call.answered():
            over = call.changed.until(lambda: call.is_ended)
            if not await happens_within(self._clock, seconds, over):
                call.hangup()
