"""LiveKit's webhooks: of livekit-server 1.13.5, captured while livekit-sip 1.8.0 carried calls.

Bodies and headers are as they came, but for the token: it is bound to the body, and signed anew
with the keys here. What that server did not send is built with LiveKit's own messages.
"""

import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from typing import Final

import jwt

from tests.providers.case import Case, Raw

_KEY, _SECRET = "APIcaseNewest1", "newest-secret-of-the-case-0123456789"
_OTHER_KEY, _OTHER_SECRET = "APIcaseOther01", "second-secret-of-the-case-0123456789"
_RECEIVED_AT: Final = 1_795_277_860_000_000
_HOLDS: Final = 150  # seconds before and after: LiveKit's tokens hold for five minutes
_LEEWAY: Final = 60
_EVENT: Final = re.compile(rb'("event": *)"\w+"')


def _sign(raw: Raw, key: str, secret: str) -> Raw:
    now = _RECEIVED_AT // 1_000_000
    claims = {
        "iss": key,
        "exp": now + _HOLDS,
        "nbf": now - _HOLDS,
        "iat": now - _HOLDS,
        "sha256": b64encode(sha256(raw.body).digest()).decode(),
    }
    token = jwt.encode(claims, secret, "HS256")
    return raw.with_header("Authorization", token)


def resign(raw: Raw) -> Raw:
    return _sign(raw, _KEY, _SECRET)


def sign_with_second(raw: Raw) -> Raw:
    return _sign(raw, _OTHER_KEY, _OTHER_SECRET)


def unknown(raw: Raw) -> Raw:
    return replace(raw, body=_EVENT.sub(rb'\1"newly_invented"', raw.body, count=1))


CASE: Final = Case(
    settings={
        "livekit": {
            "api_key": _KEY,
            "api_secret": _SECRET,
            "webhook_keys": {_OTHER_KEY: _OTHER_SECRET},
        }
    },
    resign=resign,
    sign_with_second=sign_with_second,
    secrets=(
        *(_SECRET, _OTHER_SECRET),
        *("aj2w0k1B3qle42JAsZ0RfVn3wiQUepr0pFtRK6S5bV4B",),  # of a room's TURN
        *("secret-of-the-store", "key-of-the-ingress", "key-of-the-stream"),
    ),
    received_at=_RECEIVED_AT,
    signed_headers=("Authorization",),
    tolerance=_HOLDS + _LEEWAY,
    unknown=unknown,
)
