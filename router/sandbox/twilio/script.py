"""A call from its first webhook to its last: fetch a document, follow it, fetch the next.

A document that can't be had or read is replaced by the number's fallback URL, which is told why.
When that fails too, the caller hears an apology and the call is over. A change through the REST API
ends a running `<Dial>`: its action is still requested, but its answer is not followed (Twilio
changelog of 2021-05-24); the same when the caller hangs up. When a REFER
ends it, the answer of `referUrl` is followed; that the action is not requested then is inferred.
"""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin

from router.sandbox.twilio import params
from router.sandbox.twilio.call import Call, Source, Status
from router.sandbox.twilio.delivery import Disorder
from router.sandbox.twilio.dialing import Child, Line
from router.sandbox.twilio.errors import (
    CONTENT_TYPE_INVALID,
    TOO_MANY_REDIRECTS,
    TwilioError,
)
from router.sandbox.twilio.number import Number
from router.sandbox.twilio.twiml import Dial, Hangup, Pause, Redirect, Reject, Say, Verb, parse
from router.sandbox.twilio.webhook import Response, WebhookSender

_MAX_DOCUMENTS: Final = 50
_APOLOGY: Final = "We are sorry, an application error has occurred. Goodbye."
_XML: Final = frozenset({"text/xml", "application/xml"})


@dataclass(frozen=True, slots=True)
class _Leave:
    """Leave the document for `source`; None: the call is over."""

    source: Source | None


class Script:
    """Carries one call through its documents."""

    def __init__(
        self, call: Call, number: Number, line: Line, sender: WebhookSender, disorder: Disorder
    ) -> None:
        self._call, self._number, self._line = call, number, line
        self._sender, self._disorder = sender, disorder
        self._unanswered: Status = "no-answer"

    async def run(self) -> None:
        """Returns when the call is over and everything about it was sent."""
        try:
            await self._follow()
        except TwilioError as error:
            self._call.step("error", code=error.code, message=str(error))
            self._call.answer()
            self._call.step("said", text=_APOLOGY)
        await self._finish()

    async def _follow(self) -> None:
        source = Source(self._number.voice_url, self._number.voice_method)
        for _ in range(_MAX_DOCUMENTS):
            following = await self._perform(source)
            if following is None:
                return
            source = following
        raise TwilioError(TOO_MANY_REDIRECTS, f"more than {_MAX_DOCUMENTS} documents")

    async def _finish(self) -> None:
        call, status = self._call, self._outcome()
        if self._number.status_callback:
            form = params.progress(
                {**params.voice(call, self._line.account_sid), **params.duration(call.duration)},
                status,
                0,
                self._line.clock.now(),
            )
            method = self._number.status_callback_method
            self._line.callbacks.add(self._number.status_callback, form, method)
        await self._line.callbacks.close()
        call.end(status)

    def _outcome(self) -> Status:
        return "completed" if self._call.answered_at is not None else self._unanswered

    async def _perform(self, source: Source) -> Source | None:
        base_url, verbs = await self._read(source)
        for verb in verbs:
            leave = self._interrupted() or await self._do(verb, base_url) or self._interrupted()
            if leave is not None:
                return leave.source
        leave = self._interrupted()
        return leave.source if leave is not None else None

    def _interrupted(self) -> _Leave | None:
        interrupt = self._call.interrupt
        if interrupt is None:
            return None
        if interrupt.source is not None:
            self._call.interrupt = None  # an end stays
        return _Leave(interrupt.source)

    async def _read(self, source: Source) -> tuple[str, Sequence[Verb]]:
        try:
            return source.url or self._number.voice_url, await self._load(source)
        except TwilioError as error:
            fallback = self._number.voice_fallback_url
            if not fallback:
                raise
            self._call.step("error", code=error.code, message=str(error))
            told = {"ErrorCode": str(error.code), "ErrorUrl": source.url}
        method = self._number.voice_fallback_method
        return fallback, await self._load(Source(fallback, method, told))

    async def _load(self, source: Source) -> Sequence[Verb]:
        document = source.document
        if document is None:
            response = await self._request(source)
            if response.content_type not in _XML:
                raise TwilioError(CONTENT_TYPE_INVALID, "TwiML is text/xml or application/xml")
            document = response.body
        text = document.decode("utf-8", "replace")
        self._call.twiml.append(text)
        self._call.step("twiml.received", text=text)
        return parse(document)

    async def _request(self, source: Source) -> Response:
        form = {**params.voice(self._call, self._line.account_sid), **source.params}
        token = str(uuid.uuid4())
        copies = [self._post(source, form, token) for _ in range(self._disorder.copies)]
        outcomes = await asyncio.gather(*copies, return_exceptions=True)
        # The copies tell nothing to the caller; what happened to them is in the transcript.
        first = outcomes[0]
        if isinstance(first, BaseException):
            raise first
        return first

    async def _post(self, source: Source, form: Mapping[str, str], token: str) -> Response:
        self._call.step("webhook.sent", url=source.url)
        try:
            response = await self._sender.send(source.url, form, method=source.method, token=token)
        except TwilioError as error:
            self._call.step("webhook.failed", url=source.url, code=error.code)
            raise
        self._call.bodies.append(response.body.decode("utf-8", "replace"))
        self._call.step("webhook.answered", url=source.url, status=response.status)
        return response

    async def _do(self, verb: Verb, base_url: str) -> _Leave | None:
        call = self._call
        match verb:
            case Say(text):
                call.answer()
                call.step("said", text=text)
            case Pause(seconds):
                call.answer()
                await call.pause(seconds)
            case Hangup():
                call.answer()  # Twilio answers, and bills, before it hangs up
                return _Leave(None)
            case Reject(reason):
                self._unanswered = "busy" if reason == "busy" else "no-answer"
                return _Leave(None)
            case Redirect(url, method):
                return _Leave(Source(urljoin(base_url, url), method))
            case Dial():
                return await self._dial(verb, base_url)
        return None

    async def _dial(self, dial: Dial, base_url: str) -> _Leave | None:
        if not dial.answer_on_bridge:
            self._call.answer()
        child = Child(self._call, dial, base_url, self._line)
        result = await child.run()
        if child.referred_to and self._call.interrupt is None:
            told = {"ReferTransferTarget": f"<{child.referred_to}>"}
            return _Leave(Source(urljoin(base_url, dial.refer_url), dial.refer_method, told))
        if not dial.action:
            return None
        action = Source(urljoin(base_url, dial.action), dial.method, result)
        interrupt = self._call.interrupt
        if interrupt is None:
            return _Leave(action)
        if interrupt.source is None:  # the call is over already, and the action is told so
            told = {**result, "CallStatus": self._outcome()}
            action = Source(action.url, action.method, told)
        try:
            await self._request(action)
        except TwilioError as error:
            self._call.step("error", code=error.code, message=str(error))
        return None
