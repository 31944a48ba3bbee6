"""LiveKit as a source of webhooks (docs.livekit.io/home/server/webhooks).

`Authorization` is a raw JWT (no `Bearer`), HS256 with the project's secret, whose claim `sha256` is
base64(SHA-256(body)). LiveKit takes every 4xx for delivered, so only what will never be right gets
one; our own faults are answered 503, and it tries again.
"""

import hmac
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import jwt
from google.protobuf.json_format import Parse, ParseError
from livekit.protocol.webhook import WebhookEvent

from router.errors import BadPayload, BadSignature
from router.events.model import Event
from router.provider import Endpoint, Reply, Verified, WebhookRequest
from router.providers.livekit.events import PROVIDER, from_webhook

_OK: Final = Reply(200)
_LEEWAY: Final = 60  # seconds of difference between the clocks, as LiveKit's own receivers allow


class LiveKitSource:
    """See `router.provider.WebhookSource`. `keys`: api key → secret, several during a rotation."""

    name = PROVIDER
    endpoints = (Endpoint("", ""),)

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._keys = dict(keys)

    def verify(self, request: WebhookRequest) -> Verified:
        """See `WebhookSource.verify`."""
        token = request.headers.get("Authorization")
        if not token:
            raise BadSignature("no Authorization header")
        claimed = self._claims(token).get("sha256")
        actual = b64encode(sha256(request.body).digest())
        if not isinstance(claimed, str) or not hmac.compare_digest(claimed.encode(), actual):
            raise BadSignature("the token's sha256 does not match the body")
        return Verified(request, None)

    def parse(self, verified: Verified) -> Sequence[Event]:
        """See `WebhookSource.parse`."""
        request = verified.request
        try:
            text = request.body.decode()
            message = Parse(text, WebhookEvent(), ignore_unknown_fields=True)
        except (ParseError, UnicodeDecodeError, RecursionError, ValueError) as error:
            raise BadPayload("the body is not a LiveKit webhook event") from error
        if not message.event or not message.id:
            raise BadPayload("event and id must not be empty")
        return [from_webhook(message, request.received_at)]

    def reply(self, kind: str, event: Event) -> Reply:  # noqa: ARG002 - the port's shape
        """See `WebhookSource.reply`."""
        return _OK

    def diagnose(self, request: WebhookRequest) -> str:  # noqa: ARG002 - the port's shape
        """See `WebhookSource.diagnose`: a token says nothing but that it is wrong."""
        return ""

    def _claims(self, token: str) -> dict[str, Any]:
        for key, secret in self._keys.items():
            try:
                return jwt.decode(
                    token,
                    key=secret,
                    issuer=key,
                    algorithms=["HS256"],
                    leeway=_LEEWAY,
                    options={"require": ["exp"]},
                )
            except (jwt.PyJWTError, ValueError):
                continue
        raise BadSignature("the token was not signed by livekit.api_key nor livekit.webhook_keys")
