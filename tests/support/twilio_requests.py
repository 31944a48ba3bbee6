"""Signed Twilio webhooks for tests; the SDK signs, so our verifier meets another's work."""

import secrets
from collections.abc import Mapping
from urllib.parse import urlencode

from multidict import CIMultiDict
from twilio.request_validator import RequestValidator

from router.provider import WebhookRequest

ACCOUNT = "AC" + "a1" * 16
TOKEN = "a-test-auth-token"
PUBLIC_URL = "https://calls.example.com"
NOW = 1_780_000_000_000_000


def new_sid() -> str:
    return "CA" + secrets.token_hex(16)


def form(**fields: str) -> dict[str, str]:
    """The fields of an incoming call, changed by `fields`."""
    return {
        "CallSid": "CA" + "0f" * 16,
        "AccountSid": ACCOUNT,
        "ApiVersion": "2010-04-01",
        "From": "+12125550123",
        "To": "+14155550100",
        "Called": "+14155550100",
        "Caller": "+12125550123",
        "CallStatus": "ringing",
        "Direction": "inbound",
        "CallerCity": "",
        "CallToken": "a-secret-call-token",
    } | fields


def sign(
    path: str, fields: Mapping[str, str], *, base: str = PUBLIC_URL, token: str = TOKEN
) -> str:
    signature: str = RequestValidator(token).compute_signature(base + path, dict(fields))
    return signature


def headers(signature: str) -> dict[str, str]:
    return {
        "X-Twilio-Signature": signature,
        "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
    }


def request(
    kind: str = "voice",
    fields: Mapping[str, str] | None = None,
    *,
    query: str = "",
    base: str = PUBLIC_URL,
    token: str = TOKEN,
) -> WebhookRequest:
    """A signed request as the handler would hand it over."""
    fields = form() if fields is None else fields
    path = f"/webhooks/twilio/{kind}{query}"
    signature = sign(path, fields, base=base, token=token)
    return WebhookRequest(
        kind, path, CIMultiDict(headers(signature)), urlencode(fields).encode(), NOW
    )
