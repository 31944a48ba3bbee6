"""What `<Sip>` and `<Number>` name: `sip:user@host;transport=tcp?x-name=value`, `+14155550100`.

Source: twilio.com/docs/voice/twiml/sip: fewer than 255 characters, headers begin with `x-`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote

from router.events.phone import is_e164
from router.sandbox.sip import Transport
from router.sandbox.twilio.errors import NUMBER_INVALID, SIP_URI_INVALID, TwilioError

_LIMIT: Final = 255
_URI: Final = re.compile(
    r"sips?:(?P<user>[A-Za-z0-9\-_.!~*'()&=+$,%]+)@(?P<host>[A-Za-z0-9.\-:\[\]]+)"
    r"(?P<params>(?:;[^;?]+)*)(?:\?(?P<headers>.*))?"
)
_TRANSPORTS: Final[Mapping[str, Transport]] = {"udp": "udp", "tcp": "tcp", "tls": "tls"}
_STANDARD_HEADERS: Final = frozenset({"user-to-user", "remote-party-id", "p-asserted-identity"})


@dataclass(frozen=True, slots=True)
class SipUri:
    """Where the INVITE goes and what it carries."""

    user: str
    host: str
    transport: Transport
    headers: Mapping[str, str]
    username: str
    password: str = field(repr=False)


def parse_sip_uri(text: str, username: str, password: str) -> SipUri:
    """The parts of a SIP URI.

    Raises:
        TwilioError: 13243.
    """
    if len(text) >= _LIMIT:
        raise TwilioError(SIP_URI_INVALID, f"a SIP URI has fewer than {_LIMIT} characters")
    match = _URI.fullmatch(text)
    if match is None:
        raise TwilioError(SIP_URI_INVALID, "not a SIP URI: write sip:user@host")
    params = dict(p.partition("=")[::2] for p in match["params"].lstrip(";").split(";"))
    transport = _TRANSPORTS.get(params.get("transport", "udp").lower())
    if transport is None:
        raise TwilioError(SIP_URI_INVALID, f"transport must be one of {sorted(_TRANSPORTS)}")
    headers = dict(parse_qsl(match["headers"] or "", keep_blank_values=True))
    for name in headers:
        if not name.lower().startswith("x-") and name.lower() not in _STANDARD_HEADERS:
            raise TwilioError(SIP_URI_INVALID, "headers in a SIP URI must begin with x-")
    return SipUri(unquote(match["user"]), match["host"], transport, headers, username, password)


def phone_number(text: str) -> str:
    """The number to dial.

    Raises:
        TwilioError: 13223, not E.164.
    """
    if not is_e164(text):
        raise TwilioError(NUMBER_INVALID, "write the number with + and the country code")
    return text
