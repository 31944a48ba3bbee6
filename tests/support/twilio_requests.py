"""Signed Twilio webhooks for tests; the SDK signs, so our verifier meets another's work."""

import json
import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode

from multidict import CIMultiDict
from pydantic import SecretStr
from twilio.request_validator import RequestValidator

from config.settings import TwilioSettings
from router.events.model import Event
from router.provider import SipTarget, WebhookRequest
from router.providers.twilio.keys import SETTINGS_HEADER
from router.providers.twilio.reply import Answers
from router.providers.twilio.source import TwilioSource

ACCOUNT = "AC" + "a1" * 16
TOKEN = "a-test-auth-token"
PUBLIC_URL = "https://calls.example.com"
NOW = 1_780_000_000_000_000
SUBACCOUNT = "AC" + "b2" * 16
SUBTOKEN = "the-subaccounts-token"
SHARED_KEY = "webhooks_sharedkey_01"
SHARED_SECRET = "a-shared-secret-of-tests"


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


def json_request(
    kind: str,
    message: Any,
    *,
    base: str = PUBLIC_URL,
    token: str = TOKEN,
) -> WebhookRequest:
    """A request whose body is JSON (or these bytes), covered by its hash in the URL."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    path = f"/webhooks/twilio/{kind}?bodySHA256={sha256(body).hexdigest()}"
    signed = headers(sign(path, {}, base=base, token=token)) | {"Content-Type": "application/json"}
    return WebhookRequest(kind, path, CIMultiDict(signed), body, NOW)


def with_headers(request: WebhookRequest, **more: str) -> WebhookRequest:
    """The request with headers more; `_` in their names is `-`."""
    named = {name.replace("_", "-"): value for name, value in more.items()}
    return WebhookRequest(
        request.kind,
        request.target,
        CIMultiDict({**dict(request.headers), **named}),
        request.body,
        request.received_at,
    )


def shared_key_request(
    kind: str = "voice",
    fields: Mapping[str, str] | None = None,
    *,
    key: str = SHARED_KEY,
    secret: str = SHARED_SECRET,
) -> WebhookRequest:
    """A request that is signed with a shared key."""
    fields = form() if fields is None else fields
    signature: str = RequestValidator(secret).compute_signature(
        f"{PUBLIC_URL}/webhooks/twilio/{kind}", dict(fields), algorithm="HMAC_SHA256"
    )
    signed = headers(signature) | {SETTINGS_HEADER: f"key={key},algorithm=HMAC_SHA256"}
    return WebhookRequest(
        kind,
        f"/webhooks/twilio/{kind}",
        CIMultiDict(signed),
        urlencode(fields).encode(),
        NOW,
    )


def source(
    *, public_url: str = PUBLIC_URL, tokens: tuple[str, ...] = (TOKEN,), **more: Any
) -> TwilioSource:
    """The source under test; `more` settings are those of providers.twilio."""
    settings = TwilioSettings.model_validate(
        {
            "account_sid": ACCOUNT,
            "auth_tokens": [],
            "accounts": {},
            "shared_keys": {},
            "api_url": "https://api.twilio.com",
            "dial_timeout": 20,
            "apology": "Sorry.",
            "voice_language": "en-US",
        }
        | more
    ).model_copy(update={"auth_tokens": tuple(map(SecretStr, tokens))})  # Twilio's example: short
    answers = Answers(
        public_url=public_url,
        target=SipTarget("sip.example.com", "tcp", "user", "pass"),
        dial_timeout=20,
        apology="Sorry.",
        language="en-US",
    )
    return TwilioSource(settings, public_url=public_url, answers=answers)


def parsed(request: WebhookRequest, **settings: Any) -> list[Event]:
    """The events of a request, by a source with these settings."""
    twilio = source(**settings)
    return list(twilio.parse(twilio.verify(request)))
