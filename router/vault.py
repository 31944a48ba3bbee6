"""Sealed secrets: AES-256-GCM, keys derived from `secret_key` (HKDF), bound to what they belong to.

A sealed value names the key that sealed it, so that after a rotation old ones can still be read
(`previous_secret_keys`, or the data folder's former keys) until all are sealed anew:

    version (1 byte) ‖ id of the key (4) ‖ nonce (12) ‖ ciphertext and tag

Inside a JSON document each secret is an object in its place, `{"$sealed": …, "$masked": "…1234"}`:
answers show the masked form, which needs no key.
"""

import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from config.settings import Settings
from router.errors import ConfigError, Invalid, SwitchboardError
from router.secrets import find_key, load_keys

_VERSION: Final = b"\x01"
_ID: Final = slice(1, 5)
_NONCE: Final = slice(5, 17)
_HEADER: Final = 17
_SHORT: Final = 12  # of fewer characters, four would be too many to show
_SHOWN: Final = 4
_ELLIPSIS: Final = "…"


class Unreadable(SwitchboardError):
    """A sealed value was sealed with a key that is not here, or for something else."""

    remedy = "Put the former key into previous_secret_keys"


class Vault:
    """Seals with the first key, opens with any."""

    def __init__(
        self, keys: Sequence[bytes], *, again: Callable[[], Sequence[bytes]] | None = None
    ) -> None:
        """`keys`: of the node (32 bytes each), the current one first (`router.secrets.load_keys`).

        `again`: asked for the keys once more when something was sealed with one that is not among
        them: a running process takes a key that another one made.

        Raises:
            ValueError: there is none.
        """
        if not keys:
            raise ValueError("a vault needs a key")
        self._keys = [_derived(key) for key in keys]
        self._again = again

    def seal(self, owner: str, secrets: Mapping[str, Any]) -> bytes:
        """Encrypt a JSON object that belongs to `owner` (its id: associated data)."""
        key_id, key = self._keys[0]
        nonce = os.urandom(12)
        header = _VERSION + key_id + nonce
        sealed = key.encrypt(nonce, msgspec.json.encode(secrets), header[:5] + owner.encode())
        return header + sealed

    def open(self, owner: str, sealed: bytes) -> dict[str, Any]:
        """Decrypt it. Raises Unreadable."""
        if len(sealed) <= _HEADER or sealed[:1] != _VERSION:
            raise Unreadable("a sealed value is damaged, or of a newer version")
        bound = sealed[:5] + owner.encode()
        if self._again is not None and sealed[_ID] not in (known for known, _ in self._keys):
            with suppress(ConfigError):  # the file can't be read now; what is known is enough
                self._keys = [_derived(key) for key in self._again()]
        for key_id, key in self._keys:
            if key_id != sealed[_ID]:
                continue
            try:
                opened = key.decrypt(sealed[_NONCE], sealed[_HEADER:], bound)
            except InvalidTag:
                continue  # the ids of two keys may be the same
            return dict(msgspec.json.decode(opened))
        raise Unreadable("a sealed value was sealed with another secret_key, or for something else")

    def is_current(self, sealed: bytes) -> bool:
        """Whether it is sealed with the first key."""
        return sealed[:1] == _VERSION and sealed[_ID] == self._keys[0][0]


def open_vault(settings: Settings) -> Vault:
    """The vault of this node; its key is made where there is none.

    Raises:
        ConfigError: as `router.secrets.load_keys`.
    """
    previous = [key.get_secret_value() for key in settings.previous_secret_keys]
    keys = load_keys(settings.secret_key.get_secret_value(), previous, settings.data_dir)
    return Vault(keys, again=partial(keys_now, settings))


def keys_now(settings: Settings) -> Sequence[bytes]:
    """The keys as they are by now; none is made. Raises ConfigError."""
    configured = settings.secret_key.get_secret_value()
    previous = [key.get_secret_value() for key in settings.previous_secret_keys]
    if find_key(configured, settings.data_dir) is None:
        raise ConfigError("the data folder has no key any more", key="secret_key")
    return load_keys(configured, previous, settings.data_dir)


def _derived(key: bytes) -> tuple[bytes, AESGCM]:
    derived = HKDF(SHA256(), length=36, salt=None, info=b"switchboard/vault/1").derive(key)
    return derived[32:], AESGCM(derived[:32])


def mask(secret: str) -> str:
    """As answers show it: `…` and its last four characters; `…` alone where it is short (< 12)."""
    return _ELLIPSIS + secret[-_SHOWN:] if len(secret) >= _SHORT else _ELLIPSIS


def is_masked(value: object) -> bool:
    """Whether it is what `mask` makes. No real secret begins so: they are ASCII."""
    return isinstance(value, str) and value.startswith(_ELLIPSIS) and len(value) <= 1 + _SHOWN


# --- secrets inside JSON documents

_SEALED: Final = "$sealed"
_MASKED: Final = "$masked"
_ENDINGS: Final = ("apikey", "secret", "token", "password", "authorization", "privatekey")


def conceal(
    vault: Vault,
    owner: str,
    document: Mapping[str, Any],
    stored: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The document as it is stored: each secret in it sealed for `owner` (its id), in its place.

    Secrets are texts and numbers under `api_key`, `…_secret`, `…_token`, `password`,
    `authorization` (`apiKey` and so on too), and all of them in `credentials`, at any depth.

    Args:
        vault: seals them.
        owner: whose they are; what belongs to another is made from its `reveal`.
        document: as a user sent it, merged with what was left out (`masked(stored)`).
        stored: what `conceal` gave before: a secret that comes masked, as it was shown, keeps it.

    Raises:
        Invalid: a masked secret stands where none is stored, or `$sealed` is used as a key.
    """

    def walk(value: Any, before: Any, path: tuple[str | int, ...], reach: _Reach) -> Any:
        if isinstance(value, Mapping):
            if _SEALED in value:
                raise Invalid((("body", *path, _SEALED), "is a reserved name"))
            return {
                key: walk(each, _at(before, key), (*path, key), _reach(key, reach))
                for key, each in value.items()
            }
        if isinstance(value, list | tuple):
            return [
                walk(each, _at(before, index), (*path, index), reach)
                for index, each in enumerate(value)
            ]
        if reach in ("none", "never") or value is None or value == "" or isinstance(value, bool):
            return value
        if not is_masked(value):
            return _sealed(vault, owner, value)
        if _is_sealed(before) and before[_MASKED] == value:
            return dict(before)
        raise Invalid((("body", *path), "is masked: send the secret itself, or leave it out"))

    return dict(walk(document, stored, (), "none"))


_Reach = Literal["none", "value", "all", "never"]  # of a secret key: what under it is secret


def _reach(key: str, above: _Reach) -> _Reach:
    if above in ("all", "never"):
        return above
    if key == "input_schema":  # it describes a field `password`, and holds none
        return "never"
    if key == "credentials":
        return "all"
    return "value" if is_secret_key(key) else "none"


def reveal(vault: Vault, owner: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """What `conceal` was given, secrets in the clear. Raises Unreadable."""
    return _replaced(stored, lambda sealed: _opened(vault, owner, sealed))


def masked(stored: Mapping[str, Any]) -> dict[str, Any]:
    """As answers show it: each secret as `mask` makes it. Needs no key."""
    return _replaced(stored, lambda sealed: sealed[_MASKED])


def hidden(document: Mapping[str, Any]) -> dict[str, Any]:
    """A copy for where no secret may be (the audit): each one masked, sealed or in the clear."""

    def walk(value: Any, reach: _Reach) -> Any:
        if isinstance(value, Mapping):
            return {key: walk(each, _reach(key, reach)) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [walk(each, reach) for each in value]
        if reach in ("none", "never") or value is None or isinstance(value, bool):
            return value
        return value if value == "" or is_masked(value) else mask(str(value))

    return dict(walk(masked(document), "none"))


def reseal(vault: Vault, owner: str, stored: Mapping[str, Any]) -> dict[str, Any] | None:
    """The same under the current key; None where all of it is already. Raises Unreadable."""
    former = False

    def again(sealed: Mapping[str, str]) -> Mapping[str, str]:
        nonlocal former
        if vault.is_current(_bytes(sealed)):
            return sealed
        former = True
        return _sealed(vault, owner, _opened(vault, owner, sealed))

    fresh = _replaced(stored, again)
    return fresh if former else None


def is_secret_key(key: str) -> bool:
    """Whether what stands under this key of a document is a secret."""
    return key.lower().replace("_", "").replace("-", "").endswith(_ENDINGS)


def _at(before: Any, place: str | int) -> Any:
    if isinstance(before, Mapping):
        return before.get(place)
    if isinstance(before, list) and isinstance(place, int) and place < len(before):
        return before[place]
    return None


def _sealed(vault: Vault, owner: str, value: str | float) -> dict[str, str]:
    sealed = b64encode(vault.seal(owner, {"": value})).decode()
    return {_SEALED: sealed, _MASKED: mask(value) if isinstance(value, str) else _ELLIPSIS}


def _opened(vault: Vault, owner: str, sealed: Mapping[str, str]) -> Any:
    return vault.open(owner, _bytes(sealed))[""]


def _bytes(sealed: Mapping[str, str]) -> bytes:
    try:
        return b64decode(sealed[_SEALED], validate=True)
    except ValueError:
        raise Unreadable("a sealed value is damaged") from None


def _is_sealed(value: object) -> bool:
    return isinstance(value, Mapping) and value.keys() == {_SEALED, _MASKED}


def _replaced(
    stored: Mapping[str, Any], change: Callable[[Mapping[str, str]], Any]
) -> dict[str, Any]:
    """A copy with each sealed value changed."""

    def walk(value: Any) -> Any:
        if _is_sealed(value):
            return change(value)
        if isinstance(value, Mapping):
            return {key: walk(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [walk(each) for each in value]
        return value

    return {key: walk(each) for key, each in stored.items()}
