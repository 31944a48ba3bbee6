"""The node's secret key, and what is derived from it.

The SIP trunk's credentials are never stored: every node derives the same ones from the same key
(HKDF, RFC 5869). So an ingress that starts while the database and LiveKit are away still knows
them, and there is nothing on disk to leak but the key itself.
"""

import os
import secrets
from base64 import b64decode, urlsafe_b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from router.errors import ConfigError

_KEY_BYTES: Final = 32
KEY_FILE: Final = "secret.key"


@dataclass(frozen=True, slots=True, repr=False)
class SipCredentials:
    """Of our inbound trunk at LiveKit; carriers answer its digest challenge with them."""

    username: str
    password: str


def load_key(configured: str, data_dir: Path) -> bytes:
    """`secret_key` decoded, or the key that this data folder has (made on first use, mode 0600).

    Raises:
        ConfigError: it is not 32 bytes of hex or base64, or the file can't be read.
    """
    if configured:
        return _decode(configured, "secret_key")
    path = data_dir / KEY_FILE
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return _decode(path.read_text().strip(), str(path))
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        return _decode(path.read_text(), str(path))
    except OSError as error:
        raise ConfigError(
            f"the secret key in {path} can't be read or made: {error.strerror}", key="data_dir"
        ) from error


def sip_credentials(key: bytes) -> SipCredentials:
    """The trunk's user name and password (256 bits) of this key."""
    derived = HKDF(SHA256(), length=40, salt=None, info=b"switchboard/livekit-sip-trunk/1").derive(
        key
    )
    return SipCredentials(
        username=f"switchboard-{derived[:8].hex()}",
        password=urlsafe_b64encode(derived[8:]).decode().rstrip("="),
    )


def _decode(text: str, origin: str) -> bytes:
    for decode in (bytes.fromhex, lambda value: b64decode(value, validate=True)):
        try:
            key = decode(text)
        except ValueError:
            continue
        if len(key) == _KEY_BYTES:
            return key
    raise ConfigError(
        f"{origin} must be {_KEY_BYTES} bytes as hex or base64; make one: openssl rand -hex 32",
        key="secret_key",
    )
