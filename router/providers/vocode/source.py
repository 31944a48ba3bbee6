"""Vocode as a source of webhooks: one URL for all of them, which holds the secret."""

from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from router.errors import BadPayload, BadSignature
from router.events.model import Event
from router.events.types import EventType
from router.provider import Endpoint, Reply, Verified, WebhookRequest
from router.providers.vocode import events, message, signature
from router.secrets import verifying_key

_OK: Final = Reply(200)
# The agent waits for a result and goes by it, so it must not be told that anything was done.
_RESULT: Final = Reply(200, b'{"result":{"recorded":true}}', "application/json")


class VocodeSource:
    """See `router.provider.WebhookSource`. `action_keys` empty: actions need no signature.

    Raises:
        ConfigError: a secret or a key is empty.
    """

    name = events.PROVIDER
    has_tenants = False
    # A transcript of a whole call comes in one message. No stranger has it read: the secret in the
    # path is looked at before.
    endpoints = (Endpoint("", "/{secret}", ("POST", "GET"), max_body=512 * 1024),)

    def __init__(self, secrets: Sequence[str], action_keys: Sequence[bytes]) -> None:
        self._paths = tuple(
            f"/webhooks/{self.name}/".encode() + verifying_key(secret, "providers.vocode.secrets")
            for secret in secrets
        )
        self._action_keys = tuple(
            verifying_key(key, "providers.vocode.action_secrets") for key in action_keys
        )
        self._unmentionable = (*secrets, *(b64encode(key).decode() for key in action_keys))

    def check_head(self, request: WebhookRequest) -> None:
        """See `WebhookSource.check_head`."""
        signature.verify_path(request, self._paths)

    def verify(self, request: WebhookRequest) -> Verified:
        """See `WebhookSource.verify`."""
        signature.verify_path(request, self._paths)
        is_signed = signature.is_signed(request, self._action_keys)
        content = None
        with suppress(BadPayload):  # what can't be read is no action; parse says what it is
            content = message.read(request, self._unmentionable)
        if content is not None and content.is_action and self._action_keys and not is_signed:
            raise BadSignature(
                f"an action without {signature.HEADER}, and providers.vocode.action_secrets is set"
            )
        return Verified(request, content)

    def parse(self, verified: Verified) -> Sequence[Event]:
        """See `WebhookSource.parse`."""
        request, content = verified.request, verified.content
        if content is None:
            content = message.read(request, self._unmentionable)
        return events.from_message(content, request.received_at)

    def reply(self, kind: str, event: Event) -> Reply:  # noqa: ARG002 - the port's shape
        """See `WebhookSource.reply`."""
        return _RESULT if event.type is EventType.ACTION_PERFORMED else _OK

    def diagnose(self, request: WebhookRequest) -> str:  # noqa: ARG002 - the port's shape
        """See `WebhookSource.diagnose`: a wrong secret proves nothing."""
        return ""
