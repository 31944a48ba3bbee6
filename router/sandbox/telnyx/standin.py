"""Telnyx on loopback: calls, webhooks, and the API that goes with them."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

from aiohttp import web

from router.clock import Clock, SystemClock
from router.sandbox.control import ControlApi
from router.sandbox.serve import serve
from router.sandbox.sip import DialSip, Invite, Leg
from router.sandbox.tasks import SandboxFull, Tasks, happens_within
from router.sandbox.telnyx.call import Call, CallLeg
from router.sandbox.telnyx.control import Control, Line
from router.sandbox.telnyx.delivery import Application, Delivery, Outbox, Post
from router.sandbox.telnyx.history import History
from router.sandbox.telnyx.rest import Rest
from router.sandbox.telnyx.texml import Script, Texml
from router.sandbox.telnyx.webhook import WebhookSender
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
    """A call, and who decides about it."""

    call: Call
    handler: Handler


class TelnyxStandIn:
    """Telnyx's voice for one account; `async with` serves its API at `url`.

    Its control API is at `control_url`.

    Args:
        api_key: bearer token of the API.
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
    ) -> None:
        self.url = self.control_url = ""
        self.texml_numbers: set[str] = set()  # those on the TeXML application, not Call Control
        self.phones: dict[str, Phone] = {}  # what a number reaches; the rest answers at once
        self._dial_sip = dial_sip
        self._clock = clock or SystemClock()
        self._port = port
        self._tasks = Tasks(_MAX_TASKS)
        self._sender = WebhookSender(seed, self._clock)
        base = webhook_base.rstrip("/") + "/webhooks/telnyx"
        self._texml = Texml(f"{base}/texml/voice", f"{base}/texml/status")
        application = Application(url=base, failover_url=failover_url, retries=retries)
        self._post = Post(
            self._sender, application, disorder or Disorder(), self._clock, self._tasks
        )
        self._line = Line(self._clock, self._tasks, self._dial)
        self._calls: OrderedDict[str, _Held] = OrderedDict()
        self._stack = AsyncExitStack()
        history = History(self._post.deliveries, self._clock)
        self._app = web.Application()
        if control_token is not None:  # first: what Telnyx has not is a 404 in its own form
            control = ControlApi(
                control_token, place=self.place_call, find=self.call, hang_up=self.hang_up
            )
            self._app.add_routes(control.routes())
        self._app.add_routes(
            Rest(api_key, self._find, self._script, history, self._clock.now).routes()
        )

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._sender.aclose)
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
        return self._sender.public_key

    @property
    def deliveries(self) -> Sequence[Delivery]:
        """The events that were sent or are being sent, oldest first."""
        return list(self._post.deliveries)

    def call(self, sid: str) -> Call | None:
        """The call that webhooks name so, as long as it is remembered."""
        held = self._calls.get(sid)
        return held.call if held is not None else None

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
        """
        is_texml = to in self.texml_numbers
        call = Call(to, from_, custom_headers or {}, self._clock, is_texml=is_texml)
        self._make_room()
        handler: Handler
        if is_texml:
            script = handler = Script(call, self._texml, self._line, self._sender)
            self._tasks.spawn(script.run())
        else:
            control = handler = Control(call, self._line, Outbox(self._post, call))
            control.ring()
        self._calls[call.sid] = _Held(call, handler)
        self._tasks.spawn(self._caller(call, handler, hold_seconds))
        return call

    def hang_up(self, call: Call) -> None:
        """The caller hangs up."""
        self._calls[call.sid].handler.caller_leaves()

    def _make_room(self) -> None:
        if len(self._calls) < _MAX_CALLS:
            return
        ended = next((key for key, held in self._calls.items() if held.call.is_ended), None)
        if ended is None:
            raise SandboxFull(f"the sandbox holds {_MAX_CALLS} calls at once; end some")
        del self._calls[ended]

    def _find(self, control_id: str) -> tuple[CallLeg, Control | None] | None:
        for held in reversed(self._calls.values()):  # commands are about the newest
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
