"""LiveKit as a source of webhooks (docs.livekit.io/home/server/webhooks).

`Authorization` is a raw JWT (no `Bearer`), HS256 with the project's secret, whose claim `sha256` is
base64(SHA-256(body)). LiveKit takes every 4xx for delivered, so only what will never be right gets
one; our own faults are answered 503, and it tries again: five times, with the same token, which
holds for five minutes.
"""

import hmac
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import jwt
import msgspec
from jwt.algorithms import HMACAlgorithm
from jwt.types import Options
from typing_extensions import override

from router.errors import BadPayload, BadSignature, ConfigError
from router.events.model import Event
from router.events.text import read_json
from router.provider import Endpoint, Reply, Verified, WebhookRequest
from router.providers.livekit.events import from_webhook
from router.providers.livekit.message import read
from router.providers.livekit.rooms import PROVIDER
from router.secrets import verifying_key

_OK: Final = Reply(200)
# RFC 7515 §3.1, with a signature of 32 bytes. LiveKit's has 300 characters.
_TOKEN: Final = re.compile(r"[\w-]+\.[\w-]+\.[\w-]{43}", re.ASCII)
_TOKEN_LIMIT: Final = 2048
_LEEWAY: Final = 60  # seconds of difference between the clocks, as LiveKit's own receivers allow
_OPTIONS: Final[Options] = {  # times are compared with the request's own, in `_check_time`
    "require": ["exp"],
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
}
_jwt: Final = jwt.PyJWT(_OPTIONS)


class LiveKitSource:
    """See `router.provider.WebhookSource`. `keys`: api key → secret, several during a rotation.

    Raises:
        ConfigError: a secret is none that tokens can be signed with.
    """

    name = PROVIDER
    has_tenants = False
    # They hold the room's metadata: up to 512 KiB, before escaping. No stranger has it read: the
    # token is right or wrong without it, and is looked at before.
    endpoints = (Endpoint("", "", max_body=768 * 1024),)

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._keys = {issuer: _key(secret) for issuer, secret in keys.items()}

    def check_head(self, request: WebhookRequest) -> None:
        """See `WebhookSource.check_head`."""
        self._claims(request)

    def verify(self, request: WebhookRequest) -> Verified:
        """See `WebhookSource.verify`."""
        claims = self._claims(request)
        claimed = str(claims.get("sha256")).encode("utf-8", "surrogatepass")
        actual = b64encode(sha256(request.body).digest())
        if not hmac.compare_digest(claimed, actual):
            raise BadSignature("the token's sha256 does not match the body")
        return Verified(request, None)

    def parse(self, verified: Verified) -> Sequence[Event]:
        """See `WebhookSource.parse`."""
        request = verified.request
        try:
            payload = read_json(request.body)
            if not isinstance(payload, dict):
                raise BadPayload("the body is not a JSON object")
            message = read(payload)
            if not message.event or not message.id:
                raise BadPayload("event and id must not be empty")
            return from_webhook(message, payload, request.received_at)
        except msgspec.ValidationError as error:  # it names the field
            raise BadPayload(f"the body is not a LiveKit webhook event: {error}") from error
        except (RecursionError, ValueError) as error:  # msgspec's other errors are ValueErrors
            raise BadPayload("the body is not a LiveKit webhook event") from error

    def reply(self, kind: str, event: Event) -> Reply:  # noqa: ARG002 - the port's shape
        """See `WebhookSource.reply`."""
        return _OK

    def diagnose(self, request: WebhookRequest) -> str:  # noqa: ARG002 - the port's shape
        """See `WebhookSource.diagnose`: a token says nothing but that it is wrong."""
        return ""

    def _claims(self, request: WebhookRequest) -> Mapping[str, Any]:
        """What the token says, which is signed and holds now. Raises BadSignature."""
        token = request.headers.get("Authorization")
        if not token:
            raise BadSignature("no Authorization header")
        if len(token) > _TOKEN_LIMIT or _TOKEN.fullmatch(token) is None:
            raise BadSignature("Authorization is not a token of LiveKit's: a JWT, and nothing else")
        for issuer, key in self._keys.items():
            try:
                claims = _jwt.decode(token, key, issuer=issuer, algorithms=["HS256"])
            except (jwt.PyJWTError, ValueError):
                continue
            _check_time(claims, request.received_at / 1_000_000)
            return claims
        raise BadSignature("the token was not signed by livekit.api_key nor livekit.webhook_keys")


class _Prepared(HMACAlgorithm):
    """HMAC with keys that were prepared before: PyJWT does it anew for every token.

    That is a third of its time: it looks whether the secret might be a public key, as PEM, SSH, DER
    or JWK.
    """

    @override
    def prepare_key(self, key: str | bytes) -> bytes:
        return key if isinstance(key, bytes) else key.encode()


def _key(secret: str) -> jwt.PyJWK:
    key = verifying_key(secret, "livekit.webhook_keys")
    try:
        prepared = HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(key)
    except jwt.InvalidKeyError as error:
        raise ConfigError(
            "livekit.api_secret or livekit.webhook_keys: a secret is a public key; copy the "
            "project's API secret",
            key="livekit.webhook_keys",
        ) from error
    jwk = jwt.PyJWK(HMACAlgorithm.to_jwk(prepared, as_dict=True), "HS256")
    jwk.Algorithm = _Prepared(HMACAlgorithm.SHA256)
    return jwk


def _check_time(claims: Mapping[str, Any], now: float) -> None:
    """Refuse a token that does not hold at `now`, the time when the request was received."""
    expires = claims["exp"]
    if not (_is_time(expires) and now < expires + _LEEWAY):
        raise BadSignature("the token has expired: is the clock right, here and at LiveKit?")
    for name in ("nbf", "iat"):
        begins = claims.get(name, 0)
        if not (_is_time(begins) and begins - _LEEWAY <= now):
            raise BadSignature(f"the token's {name} is ahead: is the clock right, here and there?")


def _is_time(value: object) -> bool:
    return isinstance(value, int | float)  # NaN is one too: no comparison with it holds
