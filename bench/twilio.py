"""Signed voice webhooks as Twilio sends them, as the bytes of whole HTTP requests."""

import hmac
import random
import secrets
from base64 import b64encode
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

ACCOUNT: Final = "AC" + "a1" * 16
TOKEN: Final = "a-bench-auth-token"
PATH: Final = "/webhooks/twilio/voice"
NUMBERS: Final = tuple(f"+1415{index:07d}" for index in range(2_000_000, 2_001_000))

_PLACE: Final = {"City": "SAN FRANCISCO", "State": "CA", "Zip": "94107", "Country": "US"}
_PARTIES: Final = {
    f"{party}{what}": value for party in ("From", "To", "Caller") for what, value in _PLACE.items()
}


def voice(call_sid: str, to_number: str) -> dict[str, str]:
    """The 23 fields of an incoming call."""
    caller = f"+1212{random.randrange(2_000_000, 9_999_999)}"
    return {
        "CallSid": call_sid,
        "AccountSid": ACCOUNT,
        "ApiVersion": "2010-04-01",
        "From": caller,
        "Caller": caller,
        "To": to_number,
        "Called": to_number,
        "CallStatus": "ringing",
        "Direction": "inbound",
        "StirVerstat": "TN-Validation-Passed-A",
        "CallToken": f'{{"parentCallInfoToken":"{secrets.token_urlsafe(180)}"}}',
        **_PARTIES,
    }


def signature(url: str, fields: Mapping[str, str]) -> str:
    """As twilio.com/docs/usage/security#validating-requests says."""
    text = url + "".join(name + fields[name] for name in sorted(fields))
    return b64encode(hmac.digest(TOKEN.encode(), text.encode(), "sha1")).decode()


def request(public_url: str, fields: Mapping[str, str], path: str = PATH) -> bytes:
    """One POST, signed for `public_url`."""
    body = urlencode(fields)
    head = (
        f"POST {path} HTTP/1.1\r\n"
        f"Host: {public_url.partition('://')[2]}\r\n"
        "User-Agent: TwilioProxy/1.1\r\n"
        "Accept: */*\r\n"
        "Content-Type: application/x-www-form-urlencoded; charset=UTF-8\r\n"
        f"X-Twilio-Signature: {signature(public_url + path, fields)}\r\n"
        f"I-Twilio-Idempotency-Token: {secrets.token_hex(16)}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()


def new_calls(public_url: str, count: int) -> list[bytes]:
    """Requests for `count` different calls to numbers of the route table."""
    return [
        request(public_url, voice("CA" + secrets.token_hex(16), random.choice(NUMBERS)))
        for _ in range(count)
    ]
