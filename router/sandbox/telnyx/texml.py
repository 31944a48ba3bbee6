"""A call of a TeXML application: fetch a document, follow it, fetch the next.

Documents are read by the rules of TwiML, which TeXML takes over; `<Dial timeout>` is 5 to 120
seconds here. Each request is a form, signed with Ed25519 like any other webhook. A document that
can't be had or read ends the call. Source: developers.telnyx.com/docs/voice/programmable-voice/
texml-verbs.

As field reports have it, the request to a `<Dial action>` lacks the URL's query, and its `To` is
what was dialled.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlencode, urljoin

from router.errors import SwitchboardError
from router.sandbox.sip import Invite, Leg
from router.sandbox.tasks import SandboxFull, happens_within
from router.sandbox.telnyx import payloads
from router.sandbox.telnyx.call import Call, CallLeg
from router.sandbox.telnyx.control import Line
from router.sandbox.telnyx.webhook import Response, WebhookFailed, WebhookSender
from router.sandbox.twilio import twiml
from router.sandbox.twilio.errors import TwilioError

_FORM: Final = "application/x-www-form-urlencoded"
_XML: Final = frozenset({"text/xml", "application/xml"})
_MAX_DOCUMENTS: Final = 50
_TIMEOUTS: Final = range(5, 121)  # of a <Dial>, seconds
_BUSY: Final = frozenset({486, 600})
_NO_ANSWER: Final = frozenset({408, 480, 487})
_UNAVAILABLE: Final = 503

DialStatus = Literal["completed", "busy", "no-answer", "failed", "canceled"]


class TexmlError(SwitchboardError):
    """A document can't be had or followed: the call ends."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the next document is, and what the request says besides the call."""

    url: str
    params: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Texml:
    """A TeXML application: where its documents are, and where the end of a call is told."""

    voice_url: str
    status_callback: str


class Script:
    """Carries one call through its documents."""

    def __init__(self, call: Call, application: Texml, line: Line, sender: WebhookSender) -> None:
        self._call, self._application, self._line, self._sender = call, application, line, sender
        self._callbacks: list[asyncio.Task[None]] = []
        self._refusal = "no-answer"  # the status of a call that nobody answered
        self._update: bytes | None = None  # the document that takes the place of the current one

    async def run(self) -> None:
        """Returns when the call is over and everything about it was sent."""
        try:
            await self._follow()
        except (TexmlError, TwilioError) as error:
            self._call.step("error", message=str(error))
        caller, now = self._call.caller, self._line.clock.now()
        caller.state, caller.ended_at = "hangup", now
        self._call.changed.fire()
        status = "completed" if caller.answered_at is not None else self._refusal
        self._tell(caller, self._application.status_callback, status, 0)
        await asyncio.gather(*self._callbacks)
        self._call.end()

    def caller_leaves(self) -> None:
        """The caller hangs up."""
        if self._call.caller.is_alive:
            self._call.step("caller.hung_up")
            self._call.caller.state = "hangup"
            for leg in self._call.dialled:
                if leg.sip is not None:
                    leg.sip.hangup()
            self._call.changed.fire()

    @property
    def is_alive(self) -> bool:
        """Whether the caller is on the line."""
        return self._call.caller.is_alive

    def update(self, document: bytes) -> None:
        """Leave what the call is doing, and follow `document`. Raises TwilioError: it is none."""
        twiml.parse(document)
        self._update = document
        self._call.step("rest.redirected")
        for leg in self._call.dialled:
            if leg.sip is not None:
                leg.sip.hangup()
        self._call.changed.fire()

    async def _follow(self) -> None:
        source: Source | None = Source(self._application.voice_url, {})
        for _ in range(_MAX_DOCUMENTS):
            if source is None:
                return
            source = await self._perform(source)
        raise TexmlError(f"more than {_MAX_DOCUMENTS} documents")

    async def _perform(self, source: Source) -> Source | None:
        for verb in await self._load(source):
            if not self._call.caller.is_alive or self._is_updated():
                break
            match verb:
                case twiml.Say(text):
                    self._answer()
                    self._call.say(text)
                case twiml.Pause(seconds):
                    self._answer()
                    left = self._call.changed.until(lambda: not self._call.caller.is_alive)
                    await happens_within(self._line.clock, seconds, left)
                case twiml.Redirect(url, _):
                    return Source(urljoin(source.url, url), {})
                case twiml.Hangup():
                    return None
                case twiml.Reject(reason):
                    self._refusal = "busy" if reason == "busy" else "no-answer"
                    return None
                case twiml.Dial():
                    result = await self._dial(verb, source.url)
                    if verb.action and not self._is_updated():
                        return Source(urljoin(source.url, verb.action).partition("?")[0], result)
        return source if self._is_updated() else None

    def _is_updated(self) -> bool:
        return self._update is not None

    async def _load(self, source: Source) -> list[twiml.Verb]:
        if self._update is not None:
            document, self._update = self._update, None
            self._call.step("texml.received", text=document.decode("utf-8", "replace"))
            return list(twiml.parse(document))
        self._call.step("webhook.sent", url=source.url)
        response = await self._request(source.url, payloads.texml(self._call, **source.params))
        self._call.step("webhook.answered", url=source.url, status=response.status)
        if not response.ok or response.content_type not in _XML:
            raise TexmlError(f"{response.status} {response.content_type} is no document")
        self._call.step("texml.received", text=response.body.decode("utf-8", "replace"))
        return list(twiml.parse(response.body))

    async def _request(self, url: str, form: Mapping[str, str]) -> Response:
        try:
            return await self._sender.post(url, urlencode(form).encode(), _FORM)
        except WebhookFailed as error:
            raise TexmlError(str(error)) from error

    async def _dial(self, dial: twiml.Dial, base_url: str) -> Mapping[str, str]:
        """Dial one target to its end; what the request to the action adds."""
        if dial.timeout not in _TIMEOUTS:
            raise TexmlError(f"timeout must be {_TIMEOUTS.start} to {_TIMEOUTS.stop - 1}")
        leg = CallLeg(
            session_id=self._call.session_id,
            direction="outgoing",
            to=dial.target.text,
            from_=dial.caller_id or self._call.from_,
            state="bridging",
            started_at=self._line.clock.now(),
        )
        self._call.dialled.append(leg)
        self._answer()  # there is no answerOnBridge: any verb but <Reject> answers the call
        self._report(leg, dial.target, base_url, "initiated", "initiated", 0)
        sip = leg.sip = self._start(leg, dial.target)
        in_time = await happens_within(self._line.clock, dial.timeout, self._ring(sip))
        if sip.is_answered:
            leg.state, leg.answered_at = "bridged", self._line.clock.now()
            self._call.step("dial.answered")
            self._report(leg, dial.target, base_url, "answered", "in-progress", 1)
            await happens_within(self._line.clock, dial.time_limit, sip.ended())
        sip.hangup()
        leg.state, leg.ended_at = "hangup", self._line.clock.now()
        status = _status(sip, in_time=in_time)
        self._call.step("dial.ended", status=status, sip_status=sip.status)
        self._report(leg, dial.target, base_url, "completed", status, 2)
        duration = str(leg.duration)
        return {
            "To": leg.to,
            "DialCallSid": leg.control_id,
            "DialCallStatus": status,
            "DialCallDuration": duration,
        }

    async def _ring(self, sip: Leg) -> None:
        if await sip.ringing():
            self._call.step("dial.ringing")
        await sip.answered()

    def _start(self, leg: CallLeg, target: twiml.Target) -> Leg:
        uri = target.uri
        invite = Invite(
            to_user=uri.user if uri is not None else target.text,
            from_user=leg.from_,
            username=uri.username if uri is not None else "",
            password=uri.password if uri is not None else "",
            headers={
                "X-call_leg_id": leg.leg_id,
                "X-call_session_id": leg.session_id,
                **(uri.headers if uri is not None else {}),
            },
            transport=uri.transport if uri is not None else "udp",
        )
        try:
            return self._line.dial(uri, invite)
        except SandboxFull:
            refused = Leg()
            refused.refuse(_UNAVAILABLE)
            return refused

    def _answer(self) -> None:
        caller = self._call.caller
        if caller.answered_at is None:
            caller.state, caller.answered_at = "answered", self._line.clock.now()
            self._call.step("call.answered")

    def _report(
        self, leg: CallLeg, target: twiml.Target, base: str, event: str, status: str, sequence: int
    ) -> None:
        if target.status_callback and event in target.events:
            self._tell(leg, urljoin(base, target.status_callback), status, sequence)

    def _tell(self, leg: CallLeg, url: str, status: str, sequence: int) -> None:
        more = {"CallSid": leg.control_id, "CallSidLegacy": leg.control_id}
        more |= {"From": leg.from_, "To": leg.to}
        if leg.sip is not None:
            more["ParentCallSid"] = self._call.caller.control_id
        if leg.ended_at is not None:
            more["CallDuration"] = str(leg.duration)
        form = payloads.texml_progress(status, sequence, self._line.clock.now(), **more)
        self._callbacks.append(self._line.tasks.spawn(self._send(url, form)))

    async def _send(self, url: str, form: Mapping[str, str]) -> None:
        try:
            response = await self._request(url, form)
        except TexmlError as error:
            self._call.step("callback.failed", message=str(error))
        else:
            self._call.step("callback.sent", status=response.status, about=form["CallStatus"])


def _status(sip: Leg, *, in_time: bool) -> DialStatus:
    if sip.is_answered:
        return "completed"
    if not in_time:
        return "no-answer"
    if sip.ended_by == "caller":
        return "canceled"
    if sip.status in _BUSY:
        return "busy"
    return "no-answer" if sip.status in _NO_ANSWER else "failed"
