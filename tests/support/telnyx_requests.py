"""Signed Telnyx webhooks for tests; libsodium signs, so our verifier meets another's work."""

import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from multidict import CIMultiDict
from nacl.signing import SigningKey

from config.settings import TelnyxSettings
from router.events.model import Event
from router.provider import SipTarget, WebhookRequest
from router.providers.telnyx.action import Actions, DialStage
from router.providers.telnyx.reply import Answers
from router.providers.telnyx.source import TelnyxSource

PUBLIC_URL = "https://calls.example.com"
KEY = SigningKey(bytes(range(32)))
SECOND_KEY = SigningKey(bytes(range(32, 64)))
NOW = 1_780_000_000_000_000  # µs since epoch: 2026-05-28T20:26:40Z

SESSION = "b0e6141e-c81c-11f0-abac-02420aef93a0"
CONTROL_ID = "v3:2EC-70CTEjlUq3tDM0CxKXIt5-5N4iP4wo7_-PfH-qub97Sk4EqO5w"
CALLER, CALLED = "+12125550123", "+14155550100"


def public_key(key: SigningKey = KEY) -> str:
    """As Mission Control shows it."""
    return b64encode(bytes(key.verify_key)).decode()


def headers(body: bytes, *, key: SigningKey = KEY, at: int = NOW) -> dict[str, str]:
    """What Telnyx signs a body with, at a time in µs since the epoch."""
    timestamp = str(at // 1_000_000)
    signature = key.sign(timestamp.encode() + b"|" + body).signature
    return {
        "Telnyx-Signature-Ed25519": b64encode(signature).decode(),
        "Telnyx-Timestamp": timestamp,
    }


def request(
    body: bytes, path: str = "", *, key: SigningKey = KEY, at: int = NOW, received_at: int = NOW
) -> WebhookRequest:
    """A signed request to /webhooks/telnyx`path` as the handler would hand it over."""
    kind = "-".join(path.partition("?")[0].split("/")[1:3]) or "events"
    signed = CIMultiDict(headers(body, key=key, at=at))
    return WebhookRequest(kind, f"/webhooks/telnyx{path}", signed, body, received_at)


def event(
    event_type: str,
    *,
    event_id: str = "b97d4d5e-6fe7-4432-911f-79637bf6ebb7",
    attempt: int = 1,
    **payload: Any,
) -> bytes:
    """The body of an event about a call."""
    call = {
        "call_control_id": CONTROL_ID,
        "call_leg_id": "b0e6224c-c81c-11f0-afbb-02420aef93a0",
        "call_session_id": SESSION,
        "client_state": None,
        "connection_id": "2811212257810187875",
        "from": CALLER,
        "to": CALLED,
    }
    data = {
        "event_type": event_type,
        "id": event_id,
        "occurred_at": "2026-05-28T20:26:40.000000Z",
        "payload": call | payload,
        "record_type": "event",
    }
    return json.dumps({"data": data, "meta": {"attempt": attempt}}).encode()


def form(fields: Mapping[str, str] | None = None, /, **more: str) -> bytes:
    """The body of a TeXML webhook: an incoming call, changed by what is given."""
    call = {
        "AccountSid": "f5586561-8ff0-4291-a51b-c7dfe4139ff9",
        "CallSid": CONTROL_ID,
        "CallSidLegacy": CONTROL_ID,
        "CallStatus": "ringing",
        "ConnectionId": "1234567890",
        "Direction": "inbound",
        "From": CALLER,
        "To": CALLED,
    }
    return urlencode(call | dict(fields or {}) | more).encode()


ACTIONS = Actions("pass")


def dial_path(stage: DialStage, called: str = CALLED) -> str:
    """What Telnyx asks after a dial."""
    return ACTIONS.path(stage, called)


def source(*keys: str, dial_timeout: int = 20) -> TelnyxSource:
    """Telnyx with these public keys, else the first one."""
    settings = TelnyxSettings(
        api_key="KEY-of-the-tests-of-telnyx",  # type: ignore[arg-type]  # pydantic makes it a secret
        public_keys=(),
        api_url="https://api.telnyx.com/v2",
        dial_timeout=dial_timeout,
        apology="Nobody is there.",
        voice_language="en-GB",
    ).model_copy(update={"public_keys": keys or (public_key(),)})  # also keys that are none
    answers = Answers(
        public_url=PUBLIC_URL,
        target=SipTarget("sip.example.com", "tcp", "user", "pass"),
        actions=ACTIONS,
        dial_timeout=settings.dial_timeout,
        apology=settings.apology,
        language=settings.voice_language,
    )
    return TelnyxSource(settings, actions=ACTIONS, answers=answers)


def parsed(body: bytes, path: str = "") -> Event:
    """The first event in a signed webhook."""
    telnyx = source()
    return telnyx.parse(telnyx.verify(request(body, path)))[0]
