"""Sealed secrets: AES-256-GCM, keys derived from `secret_key` (HKDF), bound to what they belong to.

A sealed value names the key that sealed it, so that after a rotation old ones can still be read
(`previous_secret_keys`, or the data folder's former key) until all are sealed anew.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from router.errors import SwitchboardError


class Unreadable(SwitchboardError):
    """A sealed value was sealed with a key that is not here, or for something else."""

    remedy = "Put the former key into previous_secret_keys"


class Vault:
    """Seals with the first key, opens with any."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        raise NotImplementedError

    def seal(self, owner: str, secrets: Mapping[str, Any]) -> bytes:
        """Encrypt a JSON object that belongs to `owner` (its id: associated data)."""
        raise NotImplementedError

    def open(self, owner: str, sealed: bytes) -> dict[str, Any]:
        """Decrypt it. Raises Unreadable."""
        raise NotImplementedError

    def is_current(self, sealed: bytes) -> bool:
        """Whether it is sealed with the first key."""
        raise NotImplementedError


def mask(secret: str) -> str:
    """As answers show it: `…` and its last four characters; `…` alone where it is short (< 12)."""
    raise NotImplementedError
