"""Vocode's case: the secret is in the path, and the bodies of external actions are signed.

Each payload's `source` says how sure its shape is: the hosted service documents one webhook of
eight, so the others have the facts of the open-source library's models.
"""

import hmac
import json
import re
from base64 import b64decode, b64encode
from dataclasses import replace
from urllib.parse import parse_qsl, urlencode

from tests.providers.case import Case, Raw

SECRETS = ("a-newest-secret-for-the-path-of-vocode", "a-second-secret-for-the-path-of-vocode")
ACTION_SECRETS = (
    b64encode(b"the newest secret of one action.").decode(),
    b64encode(b"the second secret of one action.").decode(),
)
HEADER = "x-vocode-signature"
NOW = 1_780_000_000_000_000  # 2026-05-28T20:26:40Z


def signed(body: bytes, secret: str = ACTION_SECRETS[0]) -> str:
    """As docs.vocode.dev/external-actions tells receivers to check it."""
    return b64encode(hmac.digest(b64decode(secret), body, "sha256")).decode()


def _signed_with(raw: Raw, which: int) -> Raw:
    target = re.sub(r"(?<=^/webhooks/vocode/)[^?]*", SECRETS[which], raw.target)
    raw = replace(raw, target=target)
    if not raw.header(HEADER):
        return raw
    return raw.with_header(HEADER, signed(raw.body, ACTION_SECRETS[which]))


def _unknown(raw: Raw) -> Raw:
    if raw.method == "GET":
        path, _, query = raw.target.partition("?")
        fields = dict(parse_qsl(query)) | {"type": "event_of_tomorrow"}
        return replace(raw, target=f"{path}?{urlencode(fields)}")
    body = json.loads(raw.body) | {"type": "event_of_tomorrow"}
    return replace(raw, body=json.dumps(body).encode())


CASE = Case(
    settings={
        "providers": {"vocode": {"secrets": SECRETS, "action_secrets": ACTION_SECRETS}},
    },
    resign=lambda raw: _signed_with(raw, 0),
    sign_with_second=lambda raw: _signed_with(raw, 1),
    secrets=(*SECRETS, *ACTION_SECRETS),
    received_at=NOW,
    signed_headers=(HEADER,),
    body_is_signed=False,
    unknown=_unknown,
)
