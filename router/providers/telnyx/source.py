"""Telnyx as a source of webhooks: its events in JSON, and TeXML's forms.

Which of the two a request is follows from its path; all are signed alike. So does whose key has
signed it: nothing else says whose account it is. A tenant's connection has paths of its own,
`/webhooks/telnyx/c/<its id>/…`; those without it are the operator's.
"""

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from config.settings import TelnyxSettings
from router.errors import BadPayload, BadSignature, ConfigError
from router.events.model import Event
from router.provider import (
    NO_CONNECTIONS,
    ConnectionBook,
    Credentials,
    Endpoint,
    Reply,
    Verified,
    WebhookRequest,
)
from router.providers.telnyx import signature, texml
from router.providers.telnyx.action import ENDPOINT, Actions
from router.providers.telnyx.envelope import PROVIDER, open_envelope
from router.providers.telnyx.events import parse_event
from router.providers.telnyx.reply import CONTENT_TYPE, Answers

_TAKEN: Final = Reply(200)  # anything but 2xx is delivered again, to the failover URL
_ENDPOINTS: Final = (
    # Orders of hundreds of numbers, transcripts and insights of a call.
    Endpoint("events", "", max_body=256 * 1024),
    Endpoint("texml-voice", "/texml/voice"),
    Endpoint("texml-status", "/texml/status"),
    Endpoint("texml-dial", ENDPOINT),
    Endpoint("texml-fallback", "/texml/fallback", storeless=True),
)
_CONNECTION: Final = re.compile(r"/webhooks/telnyx/c/([^/?]{1,64})(?=[/?]|$)")


@lru_cache(maxsize=1024)
def _public_key(text: str) -> Sequence[Ed25519PublicKey]:
    """Of a connection; checked when it was made."""
    try:
        return signature.read_keys([text])
    except ConfigError:
        return ()


class TelnyxSource:
    """See `router.provider.WebhookSource`."""

    name = PROVIDER
    has_tenants = True
    endpoints = (
        *_ENDPOINTS,
        *(each._replace(path=f"/c/{{connection}}{each.path}") for each in _ENDPOINTS),
    )

    def __init__(
        self,
        settings: TelnyxSettings,
        *,
        actions: Actions,
        answers: Answers,
        connections: ConnectionBook = NO_CONNECTIONS,
    ) -> None:
        """Raises ConfigError."""
        self._keys = signature.read_keys(settings.public_keys)
        self._operator = (settings.api_key.get_secret_value(), settings.public_keys)
        self._connections = connections
        self._actions = actions
        self._answers = answers

    def check_head(self, request: WebhookRequest) -> None:
        """See `WebhookSource.check_head`."""
        self._keys_of(request)
        signature.read_head(request.headers)

    def verify(self, request: WebhookRequest) -> Verified:
        """See `WebhookSource.verify`."""
        keys, owner = self._keys_of(request)
        seconds = signature.verify(keys, request.headers, request.body, request.received_at)
        return Verified(request, seconds, self._connections.proof(self._same(owner)))

    def _keys_of(
        self, request: WebhookRequest
    ) -> tuple[Sequence[Ed25519PublicKey], Credentials | None]:
        """The keys that may have signed it, and whose they are: None: the operator's."""
        path = request.target.partition("?")[0]
        found = _CONNECTION.search(path)
        if found is None:
            if not self._keys:
                raise BadSignature(
                    "there is no key to check it with: set providers.telnyx.public_keys, or give "
                    "Telnyx the URL of a connection, /webhooks/telnyx/c/<its id>"
                )
            return self._keys, None
        owner = self._connections.get(found[1])
        if owner is None or owner.provider != PROVIDER:
            raise BadSignature("the path names no connection that is known here")
        return _public_key(owner.secrets.get("public_key", "")), owner

    def _same(self, owner: Credentials | None) -> Collection[str]:
        """Who has this very account: its public key is no secret, so the API key must be the same.

        All that hold it are meant then, and the number decides.
        """
        api_key, public_keys = self._operator
        held = [{"api_key": api_key, "public_key": key} for key in public_keys if api_key]
        if owner is None:
            holders = [each for keys in held for each in self._connections.holders(PROVIDER, keys)]
            return ["", *holders]
        holders = list(self._connections.holders(PROVIDER, owner.secrets))
        return [*holders, ""] if owner.secrets in held else holders

    def parse(self, verified: Verified) -> Sequence[Event]:
        """See `WebhookSource.parse`."""
        request = verified.request
        if request.kind == "events":
            is_tenants = verified.proof is not None and bool(verified.proof.scope)
            return parse_event(
                open_envelope(request.body),
                request.received_at,
                signed_ago=verified.content,
                # Which call a tenant's leg is of, its sender could say at will.
                rooms=not is_tenants,
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
            keys, _ = self._keys_of(request)
            seconds = signature.skew(request.headers, request.received_at)
            is_signed = signature.is_signed(keys, request.headers, request.body)
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
        connection = event.data.connection_id
        if decision is None:  # the caller has talked to somebody, and the dial is over
            return self._answers.hang_up
        match decision.action:
            case "dispatch":
                return self._answers.to_agent(event.call_id, called, connection)
            case "forward":
                return self._answers.to_number(decision.fallback, called, connection)
            case "reject":
                return self._answers.apology

    def _degraded(self, event: Event) -> bytes:
        # Telnyx could not get an answer from /texml/voice: no agent can be promised, a person can.
        decision = event.data.decision
        if decision is not None and decision.fallback:
            data = event.data
            return self._answers.to_number(decision.fallback, data.to_number, data.connection_id)
        return self._answers.apology
