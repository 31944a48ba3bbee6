"""Twilio on loopback: numbers, calls, and the HTTP APIs that go with them."""

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

from aiohttp import web

from router.clock import Clock, SystemClock
from router.sandbox.control import ControlApi
from router.sandbox.serve import serve
from router.sandbox.sip import DialSip, Invite, Leg
from router.sandbox.tasks import SandboxFull, Tasks, happens_within
from router.sandbox.twilio import phones
from router.sandbox.twilio.call import Call
from router.sandbox.twilio.delivery import CallbackQueue, Disorder
from router.sandbox.twilio.dialing import Line
from router.sandbox.twilio.number import Number, default_number
from router.sandbox.twilio.phones import Phone
from router.sandbox.twilio.rest import Rest
from router.sandbox.twilio.script import Script
from router.sandbox.twilio.sids import call_sid as new_call_sid
from router.sandbox.twilio.twiml import Target
from router.sandbox.twilio.webhook import WebhookSender

_MAX_TASKS: Final = 20_000
_MAX_CALLS: Final = 5_000  # remembered, the live ones included


class TwilioStandIn:
    """Twilio's voice for one account; `async with` serves its APIs at `url`.

    Args:
        account_sid: of the account, `AC…`.
        auth_token: what webhooks are signed with, and the REST API's password.
        webhook_base: the router's public URL; webhooks are sent to it and signed over it.
        dial_sip: where `<Sip>` goes, whatever its host: the LiveKit stand-in's `invite`.
        control_token: bearer token of the control API; without one it is not served.
        port: on loopback, 0 for a free one.
        clock: what rings and pauses are timed by; webhooks' time-outs are in real time.
        disorder: how webhooks are repeated and shuffled.
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
    ) -> None:
        self.account_sid = account_sid
        self.url = ""
        self.numbers: dict[str, Number] = {}  # those that differ from the default
        self.phones: dict[str, Phone] = {}  # what `<Number>` reaches; the rest answers at once
        self._default = default_number(webhook_base)
        self._dial_sip = dial_sip
        self._clock = clock or SystemClock()
        self._disorder = disorder or Disorder()
        self._port = port
        self._tasks = Tasks(_MAX_TASKS)
        self._sender = WebhookSender(auth_token)
        self._calls: OrderedDict[str, Call] = OrderedDict()
        self._stack = AsyncExitStack()
        self._app = web.Application()
        self._app.add_routes(Rest(account_sid, auth_token, self.call).routes())
        if control_token is not None:
            control = ControlApi(
                control_token, place=self.place_call, find=self.call, hang_up=Call.hangup
            )
            self._app.add_routes(control.routes())

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._sender.aclose)
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
        """
        call = Call(call_sid or new_call_sid(), to, from_, extra or {}, self._clock)
        self._remember(call)
        callbacks = CallbackQueue(
            self._sender,
            self._disorder,
            self._tasks,
            lambda form, outcome: call.step(
                "callback.sent",
                call_sid=form["CallSid"],
                status=form["CallStatus"],
                outcome=outcome,
            ),
        )
        line = Line(self.account_sid, self._clock, self._dial, callbacks)
        number = self.numbers.get(to, self._default)
        script = Script(call, number, line, self._sender, self._disorder)
        self._tasks.spawn(script.run())
        if hold_seconds is not None:
            self._tasks.spawn(self._hang_up_after(call, hold_seconds))
        return call

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
