"""How the shared suite tests Telnyx: two key pairs, and payloads signed at one fixed time."""

import re
from dataclasses import replace
from typing import Final

from nacl.signing import SigningKey

from router.providers.telnyx.action import Actions, DialStage
from tests.providers.case import Case, Raw
from tests.support.telnyx_requests import KEY, NOW, SECOND_KEY, event, headers, public_key

_API_KEY: Final = "KEY0123456789ABCDEF0123456789ABCDEF_secretsecretsecretsecre"
_CARD: Final = "4111111111111111"
_PORT_OUT_PIN: Final = "918273"


_DIAL: Final = re.compile(r"(.*)/texml/dial/(agent|fallback)/([0-9]+)/[0-9a-f]+")


def _signed(raw: Raw, key: SigningKey) -> Raw:
    for name, value in headers(raw.body, key=key).items():
        raw = raw.with_header(name, value)
    dial = _DIAL.fullmatch(raw.target)
    if dial is None:
        return raw
    stage: DialStage = "agent" if dial[2] == "agent" else "fallback"
    return replace(raw, target=dial[1] + Actions("sip-password").path(stage, f"+{dial[3]}"))


def _resign(raw: Raw) -> Raw:
    return _signed(raw, KEY)


def _sign_with_second(raw: Raw) -> Raw:
    return _signed(raw, SECOND_KEY)


def _unknown(raw: Raw) -> Raw:
    body = event("call.teleported", destination="the moon")
    return Raw("POST", "/webhooks/telnyx", raw.headers, body)


CASE: Final = Case(
    settings={
        "providers": {
            "telnyx": {"api_key": _API_KEY, "public_keys": [public_key(), public_key(SECOND_KEY)]}
        }
    },
    resign=_resign,
    sign_with_second=_sign_with_second,
    secrets=(_API_KEY, _CARD, _PORT_OUT_PIN, "sip-password"),
    received_at=NOW,
    signed_headers=("Telnyx-Signature-Ed25519", "Telnyx-Timestamp"),
    tolerance=300.0,
    unknown=_unknown,
)
