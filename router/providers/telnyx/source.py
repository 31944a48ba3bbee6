"""Telnyx as a source of webhooks: its events in JSON, and TeXML's forms.

Which of the two a request is follows from its path; all are signed alike.
"""

from collections.abc import Sequence
from typing import Final

from config.settings import TelnyxSettings
from router.errors import BadPayload, BadSignature
from router.events.model import Event
from router.provider import Endpoint, Reply, Verified, WebhookRequest
from router.providers.telnyx import signature, texml
from router.providers.telnyx.action import ENDPOINT, Actions
from router.providers.telnyx.envelope import PROVIDER, open_envelope
from router.providers.telnyx.events import parse_event
from router.providers.telnyx.reply import CONTENT_TYPE, Answers

_TAKEN: Final = Reply(200)  # anything but 2xx is delivered again, to the failover URL


class TelnyxSource:
    """See `router.provider.WebhookSource`."""

    name = PROVIDER
    endpoints = (
        # Orders of hundreds of numbers, transcripts and insights of a call.
        Endpoint("events", "", max_body=256 * 1024),
        Endpoint("texml-voice", "/texml/voice"),
        Endpoint("texml-status", "/texml/status"),
        Endpoint("texml-dial", ENDPOINT),
        Endpoint("texml-fallback", "/texml/fallback", storeless=True),
    )

    def __init__(self, settings: TelnyxSettings, *, actions: Actions, answers: Answers) -> None:
        """Raises ConfigError."""
        self._keys = signature.read_keys(settings.public_keys)
        self._actions = actions
        self._answers = answers

    def check_head(self, request: WebhookRequest) -> None:
        """See `WebhookSource.check_head`."""
        signature.read_head(request.headers)

    def verify(self, request: WebhookRequest) -> Verified:
        """See `WebhookSource.verify`."""
        seconds = signature.verify(self._keys, request.headers, request.body, request.received_at)
        return Verified(request, seconds)

    def parse(self, verified: Verified) -> Sequence[Event]:
        """See `WebhookSource.parse`."""
        request = verified.request
        if request.kind == "events":
            return parse_event(
                open_envelope(request.body), request.received_at, signed_ago=verified.content
            )
        fields = texml.read_form(request.body)
        match request.kind:
            case "texml-voice" | "texml-fallback":
                return [texml.incoming_call(request, fields)]
            case "texml-status":
                return [texml.call_status(request, fields)]
            case "texml-dial":
                return [texml.dial_ended(request, fields, self._actions.read(request.target))]
            case other:
                raise BadPayload(f"there is no webhook {other}")

    def reply(self, kind: str, event: Event) -> Reply:
        """See `WebhookSource.reply`."""
        if kind in ("events", "texml-status"):
            return _TAKEN
        document = self._degraded(event) if kind == "texml-fallback" else self._document(event)
        return Reply(200, document, CONTENT_TYPE)

    def diagnose(self, request: WebhookRequest) -> str:
        """See `WebhookSource.diagnose`."""
        try:
            seconds = signature.skew(request.headers, request.received_at)
            is_signed = signature.is_signed(self._keys, request.headers, request.body)
        except BadSignature:
            return ""
        if not is_signed or abs(seconds) <= signature.TOLERANCE:
            return ""
        when = f"{seconds} s ago" if seconds > 0 else f"{-seconds} s in the future"
        return (
            f"it is signed by Telnyx, {when}: the clock of this machine is wrong, or a proxy in "
            "front held the webhook back or repeated it"
        )

    def _document(self, event: Event) -> bytes:
        decision, called = event.data.decision, event.data.to_number
        if decision is None:  # the caller has talked to somebody, and the dial is over
            return self._answers.hang_up
        match decision.action:
            case "dispatch":
                return self._answers.to_agent(event.call_id, called)
            case "forward":
                return self._answers.to_number(decision.fallback, called)
            case "reject":
                return self._answers.apology

    def _degraded(self, event: Event) -> bytes:
        # Telnyx could not get an answer from /texml/voice: no agent can be promised, a person can.
        decision = event.data.decision
        if decision is not None and decision.fallback:
            return self._answers.to_number(decision.fallback, event.data.to_number)
        return self._answers.apology
