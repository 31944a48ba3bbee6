"""Signed webhooks of every provider as the bytes of whole HTTP requests, each of a new call.

Bodies are those of tests/providers (Twilio's: bench/twilio.py) with new ids and another called
number. They are signed with the keys here, at the time when they are made.
"""

import os
import random
import re
import secrets
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench import twilio
from tests.providers.case import PUBLIC_URL, read
from tests.providers.found import FOLDER

LIVEKIT_KEY: Final = "key"
LIVEKIT_SECRET: Final = "a-secret-of-thirty-two-characters"
VOCODE_SECRET: Final = "a-secret-of-the-path-of-vocode"

_TELNYX: Final = Ed25519PrivateKey.generate()
_ID: Final = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?:EV|PA|RM)_\w+")
_CALLED: Final = b"14155550100"  # in the payload files

Sign = Callable[[bytes], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Webhook:
    """A kind of webhook; `make` gives the next request."""

    provider: str
    name: str
    make: Callable[[], bytes]


def telnyx_public_key() -> str:
    """As Mission Control shows it."""
    return b64encode(_TELNYX.public_key().public_bytes_raw()).decode()


def settings() -> dict[str, Any]:
    """With which Switchboard takes them."""
    return {
        "twilio": {"account_sid": twilio.ACCOUNT, "auth_tokens": [twilio.TOKEN]},
        "telnyx": {"public_keys": [telnyx_public_key()]},
        "vocode": {"secrets": [VOCODE_SECRET]},
    }


def _twilio(kind: str, more: dict[str, str]) -> bytes:
    fields = twilio.voice("CA" + secrets.token_hex(16), random.choice(twilio.NUMBERS))
    return twilio.request(PUBLIC_URL, fields | more, f"/webhooks/twilio/{kind}")


def _status() -> bytes:
    """The end of a call."""
    more = {
        "CallStatus": "completed",
        "CallDuration": "49",
        "Duration": "1",
        "CallbackSource": "call-progress-events",
        "SequenceNumber": "3",
        "Timestamp": format_datetime(datetime.now(UTC)),
    }
    return _twilio("status", more)


def _telnyx(body: bytes) -> dict[str, str]:
    timestamp = str(int(time.time()))
    signature = _TELNYX.sign(timestamp.encode() + b"|" + body)
    return {
        "Telnyx-Signature-Ed25519": b64encode(signature).decode(),
        "Telnyx-Timestamp": timestamp,
    }


def _livekit(body: bytes) -> dict[str, str]:
    now = int(time.time())
    claims = {
        "iss": LIVEKIT_KEY,
        "nbf": now,
        "exp": now + 300,
        "sha256": b64encode(sha256(body).digest()).decode(),
    }
    return {"Authorization": jwt.encode(claims, LIVEKIT_SECRET, "HS256")}


def _vocode(body: bytes) -> dict[str, str]:  # noqa: ARG001 - it signs nothing
    return {}


def _posted(path: str, content_type: str, sign: Sign, template: bytes) -> bytes:
    body = _renewed(template)
    head = {
        "Host": PUBLIC_URL.partition("://")[2],
        "Content-Type": content_type,
        "Content-Length": str(len(body)),
        **sign(body),
    }
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _renewed(body: bytes) -> bytes:
    """Every id of the body replaced by a new one wherever it is; and the called number."""
    new: dict[bytes, bytes] = {}

    def other(found: re.Match[bytes]) -> bytes:
        if found[0] not in new:
            new[found[0]] = _new_id(found[0])
        return new[found[0]]

    return _ID.sub(other, body).replace(_CALLED, random.choice(twilio.NUMBERS)[1:].encode())


def _new_id(old: bytes) -> bytes:
    if old[2:3] == b"_":
        return old[:3] + secrets.token_hex(6).encode()
    return str(UUID(bytes=os.urandom(16), version=5)).encode()  # rooms are named by version 5


def _body(provider: str, name: str) -> bytes:
    return read(FOLDER / provider / "payloads" / f"{name}.http").body


def webhooks() -> list[Webhook]:
    """What is measured, ordered by provider."""
    telnyx = partial(_posted, "/webhooks/telnyx", "application/json", _telnyx)
    vocode = partial(_posted, f"/webhooks/vocode/{VOCODE_SECRET}", "application/json", _vocode)
    livekit = partial(_posted, "/webhooks/livekit", "application/webhook+json", _livekit)
    joined = _body("livekit", "webhook_mode_participant_joined_agent")
    return [
        Webhook("twilio", "voice", partial(_twilio, "voice", {})),
        Webhook("twilio", "status", _status),
        Webhook("telnyx", "call.initiated", partial(telnyx, _body("telnyx", "call_initiated"))),
        Webhook("telnyx", "call.hangup", partial(telnyx, _body("telnyx", "call_hangup"))),
        Webhook("vocode", "connected", partial(vocode, _body("vocode", "hosted-connected"))),
        Webhook("vocode", "transcript", partial(vocode, _body("vocode", "hosted-transcript"))),
        Webhook("livekit", "participant_joined", partial(livekit, joined)),
    ]
