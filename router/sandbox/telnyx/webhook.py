"""One signed request to the user's server.

Ed25519 over `timestamp|body`, in the headers telnyx-signature-ed25519 (base64) and telnyx-timestamp
(seconds). Each request is signed anew. Source: developers.telnyx.com/development/api-fundamentals/
webhooks/receiving-webhooks.
"""

import base64
from dataclasses import dataclass
from typing import Final

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from router.clock import Clock
from router.errors import SwitchboardError

_TIMEOUT: Final = aiohttp.ClientTimeout(total=10)
_MAX_BODY: Final = 64 * 1024


class WebhookFailed(SwitchboardError):
    """There was no whole answer."""


@dataclass(frozen=True, slots=True)
class Response:
    """What the server answered."""

    status: int
    content_type: str
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether Telnyx takes it for delivered."""
        return 200 <= self.status < 300


class WebhookSender:
    """Signs and sends as the account does.

    Args:
        seed: of the account's key, 32 bytes.
        clock: of the timestamps.
    """

    def __init__(self, seed: bytes, clock: Clock) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    @property
    def public_key(self) -> str:
        """What the receiver verifies with, base64."""
        return base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def signed(self, body: bytes) -> dict[str, str]:
        """The headers that prove who sends `body`, now."""
        timestamp = str(self._clock.now() // 1_000_000)
        signature = self._key.sign(timestamp.encode() + b"|" + body)
        return {
            "telnyx-signature-ed25519": base64.b64encode(signature).decode(),
            "telnyx-timestamp": timestamp,
        }

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def post(self, url: str, sent: bytes, content_type: str) -> Response:
        """Send a body once; redirects are not followed.

        Raises:
            WebhookFailed: no connection, or no whole answer (64 KiB at most) within 10 seconds.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(headers={"User-Agent": "telnyx-webhooks"})
        headers = {"Content-Type": content_type, **self.signed(sent)}
        try:
            async with self._session.post(
                url, data=sent, headers=headers, timeout=_TIMEOUT, allow_redirects=False
            ) as answer:
                body = bytearray()
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > _MAX_BODY:
                        raise WebhookFailed(f"the answer has more than {_MAX_BODY} bytes")
                return Response(answer.status, answer.content_type, bytes(body))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise WebhookFailed(f"no answer: {type(error).__name__}") from error
