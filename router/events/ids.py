"""Stable ids: the same provider facts give the same id, in every process and after every retry.

UUIDv5 (RFC 9562 §5.5) over facts that the signature covers, so a replayed or repeated webhook
collapses into the event that is already there.
"""

from hashlib import sha1
from sys import intern
from typing import Final
from uuid import UUID

DEFAULT_ACCOUNT: Final = intern("5b1d0f6e-6a51-5f0b-9c39-0d8a3c6f7a10")
"""The account that every installation has from its first migration on: `default`."""

_CALLS: Final = UUID("6f0d2f8c-5f5d-5a63-9d5f-3c2f0c1e7a11").bytes
_EVENTS: Final = UUID("b1a7c9de-0d44-5c1e-8f3b-7a9e5d2c4b22").bytes


def _uuid5(namespace: bytes, name: str) -> str:
    # uuid.uuid5 costs three times as much; this is its definition, and test_ids compares the two.
    digest = sha1(namespace + name.encode(), usedforsecurity=False).digest()
    value = bytearray(digest[:16])
    value[6] = value[6] & 0x0F | 0x50
    value[8] = value[8] & 0x3F | 0x80
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def call_id(provider: str, account: str, provider_call_id: str) -> str:
    """Our id of a call, also its LiveKit room: from the provider, its account and its own id."""
    return _uuid5(_CALLS, f"{provider}\x1f{account}\x1f{provider_call_id}")


def event_id(*facts: str) -> str:
    """An event's id from the facts that make it what it is; order matters."""
    return _uuid5(_EVENTS, "\x1f".join(facts))


def scoped_call_id(connection_id: str, call: str) -> str:
    """The id of a call that a tenant's connection told of: nobody else's key leads to it."""
    return _uuid5(_CALLS, f"connection\x1f{connection_id}\x1f{call}")


def scoped_event_id(connection_id: str, event: str) -> str:
    """The id of an event that a tenant's connection told of."""
    return event_id("connection", connection_id, event)
