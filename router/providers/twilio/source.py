"""Twilio as a source of webhooks: /voice, /status, /dial and /fallback."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qs

from config.settings import TwilioSettings
from router.errors import BadPayload, BadSignature
from router.events.model import Event
from router.provider import Endpoint, Reply, Verified, WebhookRequest
from router.providers.twilio import events, signature
from router.providers.twilio.reply import CONTENT_TYPE, Answers

_MAX_FIELDS: Final = 200
_NO_CONTENT: Final = Reply(204)


class TwilioSource:
    """See `router.provider.WebhookSource`."""

    name = events.PROVIDER
    endpoints = (
        Endpoint("voice", "/voice"),
        Endpoint("status", "/status"),
        Endpoint("dial", "/dial"),
        Endpoint("fallback", "/fallback", storeless=True),
    )

    def __init__(self, settings: TwilioSettings, *, public_url: str, answers: Answers) -> None:
        self._account = settings.account_sid
        self._keys = tuple(key.get_secret_value().encode() for key in settings.auth_tokens)
        self._bases = signature.public_bases(public_url)
        self._answers = answers

    def verify(self, request: WebhookRequest) -> Verified:
        """See `WebhookSource.verify`."""
        if not request.target.startswith("/"):
            raise BadSignature("the request target is not a path")
        form = signature.read_form(request.headers, request.body, max_fields=_MAX_FIELDS)
        signature.verify(
            bases=self._bases,
            target=request.target,
            headers=request.headers,
            body=request.body,
            form=form,
            keys=self._keys,
        )
        return Verified(request, form)

    def parse(self, verified: Verified) -> Sequence[Event]:
        """See `WebhookSource.parse`."""
        request, form = verified.request, verified.content
        match request.kind:
            case "voice" | "fallback":
                return [events.incoming_call(request, form, self._account)]
            case "status":
                return [events.call_status(request, form, self._account)]
            case "dial":
                stage = parse_qs(request.target.partition("?")[2]).get("stage", [""])
                return [events.dial_ended(request, form, self._account, stage[0])]
            case other:
                raise BadPayload(f"there is no webhook {other}")

    def reply(self, kind: str, event: Event) -> Reply:
        """See `WebhookSource.reply`."""
        if kind == "status":
            return _NO_CONTENT
        twiml = self._degraded(event) if kind == "fallback" else self._twiml(event)
        return Reply(200, twiml, CONTENT_TYPE)

    def diagnose(self, request: WebhookRequest) -> str:  # noqa: ARG002
        """See `WebhookSource.diagnose`."""
        return ""

    def _twiml(self, event: Event) -> bytes:
        decision = event.data.decision
        if decision is None:  # the caller has talked to somebody, and the dial is over
            return self._answers.hang_up
        match decision.action:
            case "dispatch":
                return self._answers.to_agent(event.call_id)
            case "forward":
                return self._answers.to_number(decision.fallback)
            case "reject":
                return self._answers.apology

    def _degraded(self, event: Event) -> bytes:
        # Twilio could not get an answer from /voice: no agent can be promised, a person can.
        decision = event.data.decision
        if decision is not None and decision.fallback:
            return self._answers.to_number(decision.fallback)
        return self._answers.apology
