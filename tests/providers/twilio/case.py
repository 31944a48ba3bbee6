"""Twilio for the shared suite. Its payloads are signed by Twilio's own SDK, with these keys."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, urlencode

from multidict import MultiDict
from twilio.request_validator import RequestValidator

from tests.providers.case import PUBLIC_URL, Case, Raw

ACCOUNT = "AC" + "a1" * 16
SUBACCOUNT = "AC" + "b2" * 16
CALL = "CA" + "0f" * 16
SETTINGS_HEADER = "X-Twilio-Webhooks-Signature-Settings"
_FORM = "application/x-www-form-urlencoded"

TOKENS: Mapping[str, Sequence[str]] = {
    ACCOUNT: ["6d61696e-newest-token", "6d61696e-second-token"],
    SUBACCOUNT: ["7375622d-newest-token", "7375622d-second-token"],
}
SHARED_KEYS: Mapping[str, str] = {
    "webhooks_sharedkey_01newest": "the-newest-shared-secret",
    "webhooks_sharedkey_02second": "the-second-shared-secret",
}
HIDDEN = ["a-secret-call-token", "a-secret-passport", "a-secret-sip-password"]


def sign(raw: Raw, which: int = 0) -> Raw:
    """The request signed with the newest key (0) or the other one (1) of whoever signed it."""
    path, mark, query = raw.target.partition("?")
    digest = sha256(raw.body).hexdigest()
    target = path + mark + re.sub("bodySHA256=[^&]*", f"bodySHA256={digest}", query)
    url = (PUBLIC_URL + target).encode("utf-8", "replace").decode()
    if raw.header(SETTINGS_HEADER):
        key, secret = list(SHARED_KEYS.items())[which]
        raw = raw.with_header(SETTINGS_HEADER, f"key={key},algorithm=HMAC_SHA256")
        algorithm = "HMAC_SHA256"
    else:
        named = dict(_pairs(raw)).get("AccountSid", "")
        secret, algorithm = TOKENS.get(named, TOKENS[ACCOUNT])[which], "HMAC_SHA1"
    signature = RequestValidator(secret).compute_signature(url, MultiDict(_pairs(raw)), algorithm)
    return replace(raw, target=target).with_header("X-Twilio-Signature", signature)


def _pairs(raw: Raw) -> list[tuple[str, str]]:
    if not raw.header("Content-Type").startswith(_FORM):
        return []
    return parse_qsl(raw.body.decode("utf-8", "replace"), keep_blank_values=True)


def _unknown(raw: Raw) -> Raw:
    """A CloudEvent of a type, else a call in a state, that Twilio has not thought of yet."""
    if raw.target.startswith("/webhooks/twilio/events"):
        element: dict[str, Any] = {"specversion": "1.0", "type": "com.twilio.new", "id": "VW1"}
        return replace(raw, body=json.dumps([element]).encode())
    fields = {
        "CallSid": CALL,
        "AccountSid": dict(_pairs(raw)).get("AccountSid", ACCOUNT),
        "From": "+12125550123",
        "To": "+14155550100",
        "CallStatus": "levitating",
    }
    told = replace(raw, target="/webhooks/twilio/status", body=urlencode(fields).encode())
    return told.with_header("Content-Type", _FORM)


CASE = Case(
    settings={
        "providers": {
            "twilio": {
                "account_sid": ACCOUNT,
                "auth_tokens": TOKENS[ACCOUNT],
                "accounts": {SUBACCOUNT: TOKENS[SUBACCOUNT]},
                "shared_keys": SHARED_KEYS,
            }
        }
    },
    resign=sign,
    sign_with_second=lambda raw: sign(raw, 1),
    secrets=[*TOKENS[ACCOUNT], *TOKENS[SUBACCOUNT], *SHARED_KEYS.values(), *HIDDEN],
    received_at=1_780_000_000_000_000,
    signed_headers=("X-Twilio-Signature", SETTINGS_HEADER),
    unknown=_unknown,
)
