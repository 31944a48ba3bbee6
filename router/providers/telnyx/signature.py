"""Telnyx's signature (developers.telnyx.com/development/api-fundamentals/webhooks).

Ed25519 over `timestamp|raw body` by the account's key; base64 in `telnyx-signature-ed25519`, the
Unix time in seconds in `telnyx-timestamp`. All webhooks have it, TeXML's forms too. Neither the URL
nor its query is covered: nothing may follow from them that the body does not say, unless we signed
it ourselves (`router.providers.telnyx.action`).
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from config.fields import read_public_key
from router.errors import BadSignature, ConfigError

SIGNATURE: Final = "telnyx-signature-ed25519"
TIMESTAMP: Final = "telnyx-timestamp"
TOLERANCE: Final = 300  # seconds, in both directions; as Telnyx's own SDKs have it

_SETTING: Final = "providers.telnyx.public_keys"
_SIGNATURE_SIZE: Final = 64  # bytes
_MICROS: Final = 1_000_000
_UNIX_TIME: Final = re.compile(r"[0-9]{1,12}", re.ASCII)


def read_keys(texts: Iterable[str]) -> tuple[Ed25519PublicKey, ...]:
    """The keys of `providers.telnyx.public_keys`: each is base64 of 32 raw bytes.

    Raises:
        ConfigError: one is something else (a PEM file, an API key), or a key that fits everything.
    """
    try:
        raw = [read_public_key(text) for text in texts]
    except ValueError as error:
        raise ConfigError(f"{_SETTING}: a key {error}", key=_SETTING) from error
    return tuple(Ed25519PublicKey.from_public_bytes(each) for each in raw)


def verify(
    keys: Iterable[Ed25519PublicKey], headers: Mapping[str, str], body: bytes, received_at: int
) -> int:
    """Check one webhook, received at a time in µs since the epoch, against every key.

    Returns:
        How many seconds ago it was signed, by our clock; a webhook is signed anew each time.

    Raises:
        BadSignature: says which check failed, never what was expected.
    """
    seconds = skew(headers, received_at)
    if abs(seconds) > TOLERANCE:
        raise BadSignature(f"{TIMESTAMP} is more than {TOLERANCE} seconds off")
    if not is_signed(keys, headers, body):
        raise BadSignature(
            "the signature does not match: check that providers.telnyx.public_keys is this "
            "account's, and that nothing in front changes the body"
        )
    return seconds


def read_head(headers: Mapping[str, str]) -> tuple[bytes, str]:
    """Signature and timestamp, unchecked but for their shape. Raises BadSignature."""
    given = headers.get(SIGNATURE)
    if not given:
        raise BadSignature(f"no {SIGNATURE} header")
    try:
        signature = _decoded(given, _SIGNATURE_SIZE)
    except ValueError as error:
        raise BadSignature(f"{SIGNATURE} is not the base64 of 64 bytes") from error
    return signature, _timestamp(headers)


def skew(headers: Mapping[str, str], received_at: int) -> int:
    """How many seconds ago it was signed. Raises BadSignature."""
    return received_at // _MICROS - int(_timestamp(headers))


def is_signed(keys: Iterable[Ed25519PublicKey], headers: Mapping[str, str], body: bytes) -> bool:
    """Whether one of the keys signed this, no matter when. Raises BadSignature."""
    signature, timestamp = read_head(headers)
    message = timestamp.encode() + b"|" + body
    return any(_fits(key, signature, message) for key in keys)


def _fits(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _timestamp(headers: Mapping[str, str]) -> str:
    given = headers.get(TIMESTAMP, "")
    if _UNIX_TIME.fullmatch(given) is None:
        raise BadSignature(f"no {TIMESTAMP} header with a Unix time")
    return given


def _decoded(text: str, size: int) -> bytes:
    """Raises ValueError unless `text` is the one base64 form of so many bytes."""
    value = b64decode(text, validate=True)
    if len(value) != size or b64encode(value).decode() != text:
        raise ValueError("another size, or another spelling of it")
    return value
