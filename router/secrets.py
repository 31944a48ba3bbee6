"""The node's secret key, and what is derived from it.

The SIP trunk's credentials are never stored: every node derives the same ones from the same key
(HKDF, RFC 5869). So an ingress that starts while the database and LiveKit are away still knows
them, and there is nothing on disk to leak but the key itself.
"""

import os
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from config.fields import read_key
from router import files
from router.errors import ConfigError

_KEY_BYTES: Final = 32
KEY_FILE: Final = "secret.key"
FORMER_FILE: Final = "secret.key.old"
"""Its former keys, a line each, the newest first: they open, nothing more."""


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
    files.make_data_folder(data_dir)
    try:
        if not path.exists():
            _make_key(path)
        files.make_file(path)  # only its mode: it is there
        return _read(path)
    except OSError as error:
        raise _unusable(path, error) from error


def load_keys(configured: str, previous: Sequence[str], data_dir: Path) -> list[bytes]:
    """Every key that something may be sealed with (`router.vault`), the current one first.

    `previous`: `previous_secret_keys`. The data folder's former keys follow, if there are any.

    Raises:
        ConfigError: as `load_key`.
    """
    keys = [load_key(configured, data_dir)]
    keys += (_decode(text, "previous_secret_keys") for text in previous)
    keys += _former_keys(data_dir)
    return list(dict.fromkeys(keys))


def replace_key(data_dir: Path) -> None:
    """Give the data folder a new key; the one that it has is kept for opening.

    At each point of a crash the folder has a key, and all that were ever in use are readable.

    Raises:
        ConfigError: as `load_key`.
    """
    current = load_key("", data_dir)
    former = [current.hex(), *(key.hex() for key in _former_keys(data_dir) if key != current)]
    try:
        _write(data_dir / FORMER_FILE, "\n".join(former) + "\n")
        _write(data_dir / KEY_FILE, secrets.token_hex(_KEY_BYTES))
    except OSError as error:
        raise _unusable(data_dir / KEY_FILE, error) from error


def _former_keys(data_dir: Path) -> list[bytes]:
    path = data_dir / FORMER_FILE
    try:
        lines = path.read_text(errors="replace").split()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unusable(path, error) from error
    return [_decode(line, str(path)) for line in lines]


def _write(path: Path, text: str) -> None:
    """Durable and whole once it has its name."""
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        with os.fdopen(files.open_file(fresh, os.O_WRONLY | os.O_TRUNC), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    files.sync_folder(path.parent)


def find_key(configured: str, data_dir: Path) -> bytes | None:
    """The same for who only looks: nothing is made, and None is a key that is yet to be made.

    Raises:
        ConfigError: as `load_key`.
    """
    if configured:
        return _decode(configured, "secret_key")
    path = data_dir / KEY_FILE
    try:
        return _read(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from error


def _read(path: Path) -> bytes:
    return _decode(path.read_text(errors="replace").strip(), str(path))


def _unusable(path: Path, error: OSError) -> ConfigError:
    mend = "look at the folder's owner and mode"
    if isinstance(error, IsADirectoryError):
        mend = "move that folder away"
    return ConfigError(
        f"the secret key in {path} can't be read or made: {error.strerror}; {mend}, or set "
        "secret_key",
        key="data_dir",
    )


def _make_key(path: Path) -> None:
    """Durable and whole once it has its name: a lost key leaves LiveKit with foreign credentials.

    Of processes that start together one is first, and the others take its key.
    """
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        with os.fdopen(files.open_file(fresh, os.O_WRONLY | os.O_TRUNC), "w") as file:
            file.write(secrets.token_hex(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(fresh)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    files.sync_folder(path.parent)


def verifying_key(secret: str | bytes, setting: str) -> bytes:
    """The bytes of a secret that webhooks are verified with.

    Raises:
        ConfigError: it is empty or blank: anybody could sign with it. `config` refuses such
            settings; this is for keys that come from elsewhere.
    """
    key = secret.encode() if isinstance(secret, str) else secret
    if not key.strip():
        raise ConfigError(
            f"{setting}: a key is empty or blank, so that anybody could sign with it; take it out "
            "or put the real one in",
            key=setting,
        )
    return key


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
    try:
        return read_key(text)
    except ValueError as error:
        raise ConfigError(f"{origin} {error}", key="secret_key") from None
