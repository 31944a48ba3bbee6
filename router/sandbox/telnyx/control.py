"""Call Control: what commands do to a call, and what the call tells about itself.

A `transfer` of an unanswered call is allowed: the caller hears ringing until the new leg is
answered, and only then is answered too. One that fails ends its own leg; the caller's stays.
A caller who is bridged can be transferred as well: they stay with whom they talk to until the new
leg is answered, then that one takes the old one's place. When whom they talk to leaves before,
both legs end.
"""

from dataclasses import dataclass
from typing import Any, Final, Protocol

from router.clock import Clock
from router.sandbox.sip import Invite, Leg
from router.sandbox.tasks import SandboxFull, Tasks, happens_within
from router.sandbox.telnyx import payloads
from router.sandbox.telnyx.bodies import Answer, Command, Hangup, Reject, Speak, Transfer
from router.sandbox.telnyx.call import Call, CallLeg
from router.sandbox.telnyx.delivery import Outbox
from router.sandbox.telnyx.errors import ENDED, INVALID, UNANSWERED, ApiError
from router.sandbox.twilio.sip_uri import SipUri

_WINDOW: Final = 60.0  # seconds in which a command_id counts as seen
_MAX_IDS: Final = 1000  # of one leg
_UNAVAILABLE: Final = 503
_FORBIDDEN: Final = 403
_CAUSES: Final = {
    403: "call_rejected",
    404: "not_found",
    408: "no_answer",
    480: "no_answer",
    486: "user_busy",
    600: "user_busy",
    603: "call_rejected",
}
_REJECTIONS: Final = {  # cause of the command → SIP response to the caller
    "CALL_REJECTED": 603,
    "NOT_FOUND": 404,
    "TEMPORARILY_UNAVAILABLE": 480,
    "USER_BUSY": 486,
}


class Dial(Protocol):
    """Calls a SIP URI or, without one, a telephone."""

    def __call__(self, uri: SipUri | None, invite: Invite) -> Leg:
        """Returns at once. Raises SandboxFull."""


@dataclass(frozen=True, slots=True)
class Line:
    """What a call needs from the stand-in."""

    clock: Clock
    tasks: Tasks
    dial: Dial


class Control:
    """One call of a Call Control application."""

    def __init__(self, call: Call, line: Line, outbox: Outbox) -> None:
        self._call, self._line, self._outbox = call, line, outbox

    def ring(self) -> None:
        """The call came in; it waits for a command."""
        self._tell("call.initiated", self._call.caller)

    def carry_out(self, leg: CallLeg, action: str, body: Command) -> None:
        """Do what a command says, unless `leg` has seen it.

        Raises:
            ApiError: the state of the leg does not allow it.
        """
        if not leg.is_alive:
            raise ApiError(ENDED, "This call is no longer active and can't receive commands.")
        if self._is_repeated(leg, body.command_id):
            self._call.step("command.ignored", action=action)
            return
        self._check(leg, body)
        self._remember(leg, body.command_id)
        to = {"to": body.to} if isinstance(body, Transfer) else {}
        self._call.step("command.received", action=action, **to)
        if body.client_state is not None:
            leg.client_state = body.client_state
        match body:
            case Answer():
                self._answer(leg)
            case Reject():
                self._end(leg, "call_rejected", "callee", str(_REJECTIONS[body.cause]))
            case Hangup():
                self.hang_up(leg, "callee" if leg.direction == "incoming" else "caller")
            case Speak():
                self._speak(leg, body)
            case Transfer():
                self._transfer(body)

    def caller_leaves(self) -> None:
        """The caller hangs up."""
        if self._call.caller.is_alive:
            self._call.step("caller.hung_up")
            self.hang_up(self._call.caller, "caller")

    def hang_up(self, leg: CallLeg, source: str) -> None:
        """End a leg; one that was dialled tells so itself."""
        if leg.sip is not None:
            leg.sip.hangup()
        elif leg.answered_at is not None:
            self._end(leg, "normal_clearing", source, "200")
        elif source == "caller":
            self._end(leg, "originator_cancel", source, "487")
        else:
            self._end(leg, "normal_clearing", source, "unspecified")

    def _is_repeated(self, leg: CallLeg, command_id: str | None) -> bool:
        seen = leg.commands.get(command_id or "")
        return seen is not None and self._line.clock.monotonic() - seen < _WINDOW

    def _remember(self, leg: CallLeg, command_id: str | None) -> None:
        if len(leg.commands) >= _MAX_IDS:
            leg.commands.clear()
        if command_id:
            leg.commands[command_id] = self._line.clock.monotonic()

    def _check(self, leg: CallLeg, body: Command) -> None:
        """Raise ApiError where the state of the leg does not allow the command."""
        is_answered = leg.answered_at is not None
        match body:
            case Answer() | Reject() if leg.direction != "incoming":
                raise ApiError(INVALID, "only an incoming call can be answered or rejected")
            case Reject() if is_answered:
                raise ApiError(INVALID, "the call was answered: hang it up")
            case Speak() if not is_answered:
                detail = (
                    "This call can't receive this command because it has not been answered yet."
                )
                raise ApiError(UNANSWERED, detail)
            case Transfer() if leg is not self._call.caller:
                raise ApiError(INVALID, "the sandbox transfers the caller's leg only")
            case Transfer() if any(
                each.is_alive and each is not self._call.partner for each in self._call.dialled
            ):
                raise ApiError(INVALID, "the sandbox dials one leg of a call at a time")
            case _:
                pass

    def _speak(self, leg: CallLeg, body: Speak) -> None:
        self._tell("call.speak.started", leg)
        self._call.say(body.payload)
        self._tell("call.speak.ended", leg, status="completed")

    def _transfer(self, body: Transfer) -> None:
        call = self._call
        new = CallLeg(
            session_id=call.session_id,
            connection_id=call.caller.connection_id,
            direction="outgoing",
            to=body.to,
            from_=body.from_ or call.to,
            state="bridging",
            started_at=self._line.clock.now(),
            client_state=body.target_leg_client_state,
        )
        call.dialled.append(new)
        self._tell("call.initiated", new)
        new.sip = self._dial(new, body)
        self._line.tasks.spawn(self._follow(new, new.sip, body))

    def _dial(self, new: CallLeg, body: Transfer) -> Leg:
        uri = body.uri()
        refused = Leg()
        if uri is None and not self._may_show(new.from_, body.diversion):
            refused.refuse(_FORBIDDEN)  # D35: caller id is not verified
            return refused
        invite = Invite(
            to_user=uri.user if uri is not None else body.to,
            from_user=new.from_,
            username=body.sip_auth_username,
            password=body.sip_auth_password,
            headers={header.name: header.value for header in body.custom_headers},
            transport=uri.transport if uri is not None else "udp",
        )
        try:
            return self._line.dial(uri, invite)
        except SandboxFull:
            refused.refuse(_UNAVAILABLE)
            return refused

    def _may_show(self, number: str, diversion: str) -> bool:
        """Our own number, or the caller's while they are on the line (`diversion`)."""
        call = self._call
        return number == call.to or (number, diversion) == (call.from_, call.to)

    async def _follow(self, new: CallLeg, sip: Leg, body: Transfer) -> None:
        """A dialled leg from the INVITE to its end."""
        in_time = await happens_within(self._line.clock, body.timeout_secs, self._ring(sip))
        if not sip.is_answered:
            sip.hangup()
            cause = _CAUSES.get(sip.status, "unspecified") if in_time else "timeout"
            if in_time and sip.ended_by == "caller":
                cause = "originator_cancel"
            self._call.step("dial.ended", status=cause, sip_status=sip.status)
            self._end(new, cause, sip.ended_by or "unknown", str(sip.status))
            return
        caller = self._call.caller
        self._call.step("dial.answered")
        self._answer(new)
        if caller.is_alive:  # they may have left while the answer was on its way
            self._answer(caller)
            before, self._call.partner = self._call.partner, new
            if before is not None and before.sip is not None:
                before.sip.hangup()
            for leg in (caller, new):
                leg.state = "bridged"
                self._tell("call.bridged", leg)
        in_time = await happens_within(self._line.clock, body.time_limit_secs, sip.ended())
        sip.hangup()
        source = sip.ended_by if in_time else "unknown"
        cause = "normal_clearing" if in_time else "time_limit"
        self._call.step("dial.ended", status=cause, sip_status=sip.status)
        self._end(new, cause, source, "200")
        if caller.is_alive and self._call.partner is new:
            self._end(caller, cause, source, "200")

    async def _ring(self, sip: Leg) -> None:
        if await sip.ringing():
            self._call.step("dial.ringing")
        await sip.answered()

    def _answer(self, leg: CallLeg) -> None:
        if leg.answered_at is None:
            leg.state, leg.answered_at = "answered", self._line.clock.now()
            self._tell("call.answered", leg, state="answered")

    def _end(self, leg: CallLeg, cause: str, source: str, sip_cause: str) -> None:
        leg.state, leg.ended_at = "hangup", self._line.clock.now()
        self._tell("call.hangup", leg, **payloads.hangup(leg, cause, source, sip_cause))
        call = self._call
        if leg is call.caller:
            for other in call.dialled:
                if other.is_alive and other.sip is not None:
                    other.sip.hangup()
        if not call.caller.is_alive and not any(each.is_alive for each in call.dialled):
            self._line.tasks.spawn(self._finish())

    async def _finish(self) -> None:
        await self._outbox.close()
        self._call.end()

    def _tell(self, event_type: str, leg: CallLeg, **more: Any) -> None:
        if event_type == "call.initiated":
            more |= payloads.initiated(leg)
        event = payloads.event(event_type, leg, self._line.clock.now(), **more)
        self._call.step(event_type, direction=leg.direction)
        self._outbox.add(event)
