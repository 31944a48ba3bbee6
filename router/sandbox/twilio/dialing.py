"""`<Dial>`: the child leg, its status callbacks, and how it came out.

The child rings for `timeout` seconds, then the stand-in gives up and sends CANCEL. `answered` has
the CallStatus `in-progress`; the end is `completed`, `busy`, `no-answer`, `failed`, or `canceled`
when the caller left first (the last one inferred, the others documented).
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urljoin

from router.clock import Clock
from router.sandbox.sip import Invite, Leg
from router.sandbox.tasks import SandboxFull, happens_within
from router.sandbox.twilio import params
from router.sandbox.twilio.call import Call
from router.sandbox.twilio.delivery import CallbackQueue
from router.sandbox.twilio.sids import call_sid
from router.sandbox.twilio.twiml import Dial, Target

_BUSY: Final = frozenset({486, 600})
_NO_ANSWER: Final = frozenset({408, 480, 487})
_UNAVAILABLE: Final = 503

DialStatus = Literal["completed", "busy", "no-answer", "failed", "canceled"]


@dataclass(frozen=True, slots=True)
class Line:
    """What a dial needs from the stand-in."""

    account_sid: str
    clock: Clock
    dial: Callable[[Target, Invite], Leg]
    callbacks: CallbackQueue


class Child:
    """The leg that one `<Dial>` starts."""

    def __init__(self, call: Call, dial: Dial, base_url: str, line: Line) -> None:
        self.sid = call_sid()
        self._call, self._dial, self._base_url, self._line = call, dial, base_url, line
        self._sip_call_id = f"{uuid.uuid4()}@127.0.0.1" if dial.target.uri is not None else ""
        self.referred_to = ""
        self._sequence = 0
        self._seconds: int | None = None

    async def run(self) -> Mapping[str, str]:
        """Dial, and return what the request to the action adds."""
        self._call.step("dial.started", call_sid=self.sid, timeout=self._dial.timeout)
        self._tell("initiated", "initiated")
        leg = self._call.leg = self._start()
        in_time = await happens_within(self._line.clock, self._dial.timeout, self._follow(leg))
        if leg.is_answered:
            await self._talk(leg)
        leg.hangup()
        self._call.leg = None
        self.referred_to = leg.referred_to
        status = self._status(leg, in_time=in_time)
        self._call.step("dial.ended", status=status, sip_status=leg.status)
        self._tell("completed", status, **params.duration(self._seconds or 0))
        return params.dial_result(self.sid, status, self._seconds, self._sip_call_id, leg.status)

    def _start(self) -> Leg:
        target = self._dial.target
        uri = target.uri
        invite = Invite(
            to_user=uri.user if uri is not None else target.text,
            from_user=self._dial.caller_id or self._call.from_,
            username=uri.username if uri is not None else "",
            password=uri.password if uri is not None else "",
            headers={
                "X-Twilio-CallSid": self.sid,
                "X-Twilio-AccountSid": self._line.account_sid,
                **(uri.headers if uri is not None else {}),
            },
            transport=uri.transport if uri is not None else "udp",
        )
        try:
            leg = self._line.dial(target, invite)
            leg.takes_refer = bool(self._dial.refer_url)  # errors/13802
        except SandboxFull:
            leg = Leg()
            leg.refuse(_UNAVAILABLE)
        return leg

    async def _follow(self, leg: Leg) -> None:
        if await leg.ringing():
            self._call.step("dial.ringing")
            self._tell("ringing", "ringing")
        await leg.answered()

    async def _talk(self, leg: Leg) -> None:
        answered_at = self._line.clock.monotonic()
        self._call.step("dial.answered")
        self._tell("answered", "in-progress")
        self._call.answer()
        await happens_within(self._line.clock, self._dial.time_limit, leg.ended())
        self._seconds = round(self._line.clock.monotonic() - answered_at)

    def _status(self, leg: Leg, *, in_time: bool) -> DialStatus:
        if leg.is_answered:
            return "completed"
        if not in_time:
            return "no-answer"
        if self._call.interrupt is not None:
            return "canceled"
        if leg.status in _BUSY:
            return "busy"
        return "no-answer" if leg.status in _NO_ANSWER else "failed"

    def _tell(self, event: str, status: str, **more: str) -> None:
        target = self._dial.target
        if not target.status_callback or event not in target.events:
            return
        base = {
            "CallSid": self.sid,
            "ParentCallSid": self._call.sid,
            "AccountSid": self._line.account_sid,
            "ApiVersion": params.API_VERSION,
            "From": self._dial.caller_id or self._call.from_,
            "To": target.text,
            "Caller": self._dial.caller_id or self._call.from_,
            "Called": target.text,
            "Direction": "outbound-dial",
            **more,
        }
        form = params.progress(base, status, self._sequence, self._line.clock.now())
        self._sequence += 1
        url = urljoin(self._base_url, target.status_callback)
        self._line.callbacks.add(url, form, target.method)
