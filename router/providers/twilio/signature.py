"""Twilio's request signature (twilio.com/docs/usage/security#validating-requests).

base64(HMAC(key, URL + sorted form parameters)), the URL as Twilio has it: the configured public
URL, never one guessed from headers. SHA-1 with an Auth Token; SHA-256 with a shared key, where a
header says so (twilio.com/docs/usage/webhooks/webhook-shared-keys). The SDK's RequestValidator is
not used: it raises on a missing header, and lets a JSON body through unauthenticated when handed an
empty form.
"""

import hmac
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from router.errors import BadSignature
from router.providers.twilio.keys import Form, Key

HEADER: Final = "X-Twilio-Signature"
_FORM: Final = "application/x-www-form-urlencoded"
_SHAPE: Final = re.compile(r"[A-Za-z0-9+/]{27}=|[A-Za-z0-9+/]{43}=")  # base64 of SHA-1, SHA-256
_STRAYS: Final = 256  # percent signs that are no escape: no encoder leaves any, each costs time
_STRAY: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
DEFAULT_PORTS: Final = {"https": 443, "http": 80}


def public_bases(public_url: str) -> tuple[str, ...]:
    """The forms of the public URL that Twilio may have signed: with and without its port.

    Twilio's own servers disagree with each other about it (those that ask for TwiML leave even an
    unusual port out, those that call back keep it), so both are tried, as its SDK does.
    """
    parts = urlsplit(public_url)
    if parts.port is None:
        other = f"{parts.netloc}:{DEFAULT_PORTS.get(parts.scheme)}"
    else:
        other = parts.netloc.rpartition(":")[0]
    return public_url, parts._replace(netloc=other).geturl()


def offered(target: str, headers: Mapping[str, str]) -> str:
    """The signature that a request claims, of the right shape.

    Raises:
        BadSignature: there is none that could be right, or its target is none that Twilio asks for.
    """
    if not target.startswith("/"):
        raise BadSignature("the request target is not a path")
    found = headers.get(HEADER)
    if not found:
        raise BadSignature(f"no {HEADER} header")
    if _SHAPE.fullmatch(found) is None:
        raise BadSignature(f"{HEADER} is not the base64 of a signature: it does not match any")
    return found


def read_form(headers: Mapping[str, str], body: bytes, *, max_fields: int) -> Form:
    """The form's pairs in order, blank values kept; none where the body is not a form.

    Raises:
        BadSignature: the body is not UTF-8 or has too many fields; it can't be what Twilio signed.
    """
    content_type = headers.get("Content-Type", "")
    if not body or content_type.partition(";")[0].strip().lower() != _FORM:
        return ()
    return pairs(body, max_fields=max_fields)


def pairs(body: bytes, *, max_fields: int) -> Form:
    """The pairs of a body that is a form. Raises BadSignature."""
    try:
        return _pairs(body.decode(), max_fields)
    except ValueError as error:
        raise BadSignature("the form is not UTF-8 or has too many fields") from error


def _pairs(text: str, max_fields: int) -> Form:
    # As parse_qsl does it (tests/property compares them), which takes three fifths longer, and with
    # nothing but escapes five times as long: it is the dearest step of a webhook.
    parts = text.split("&")
    if len(parts) > max_fields:
        raise ValueError("too many fields")
    return [
        (_decoded(name), _decoded(value))
        for name, _, value in (part.partition("=") for part in parts if part)
    ]


def _decoded(text: str) -> str:
    text = text.replace("+", " ")
    if "%" not in text:
        return text
    if text.count("%") * 3 > len(text) + _STRAYS:
        raise ValueError("most of its escapes are none")
    # Python's own escapes are decoded in C: `%41` as `\x41`. What is an escape to it alone, or to
    # nobody, is escaped before.
    escaped = _STRAY.sub("%25", text).replace("\\", "\\\\").replace("%", "\\x")
    return escaped.encode().decode("unicode_escape").encode("latin-1").decode()


def signed_text(form: Form) -> str:
    """What the form adds to the URL: names sorted, each one's distinct values sorted."""
    return "".join([name + value for name, value in sorted(set(form))])


def matching(
    bases: Iterable[str], target: str, form: Form, keys: Iterable[Key], given: str
) -> tuple[str, Key] | None:
    """The base URL and the key with which the signature is right; None where there are none."""
    suffix = (target + signed_text(form)).encode("utf-8", "surrogatepass")
    offered = given.encode("utf-8", "surrogateescape")
    bases = list(bases)
    for key in keys:
        for base in bases:
            expected = b64encode(hmac.digest(key.secret, base.encode() + suffix, key.digest))
            if hmac.compare_digest(expected, offered):
                return base, key
    return None


def verify(
    *,
    bases: Iterable[str],
    target: str,
    body: bytes,
    form: Form,
    keys: Iterable[Key],
    given: str,
) -> Key:
    """Check one request against every base URL and every key; returns the key that signed it.

    `given` is what `offered` found.

    Raises:
        BadSignature: says which check failed, never what was expected.
    """
    found = matching(bases, target, form, keys, given)
    _verify_body_hash(target, body, form)
    if found is None:
        raise BadSignature(
            "the signature does not match: check public_url (Twilio signs the URL as it is "
            "configured there) and providers.twilio.auth_tokens, or .accounts for a subaccount"
        )
    return found[1]


def _verify_body_hash(target: str, body: bytes, form: Form) -> None:
    # A body that is not a form is covered by the signature only through this hash of it.
    query = target.partition("?")[2]
    if "bodySHA256=" in query:
        claimed = dict(parse_qsl(query)).get("bodySHA256", "")
        offered = claimed.encode("utf-8", "surrogatepass")
        if not hmac.compare_digest(sha256(body).hexdigest().encode(), offered):
            raise BadSignature("bodySHA256 does not match the body")
    elif body and not form:
        raise BadSignature("the body is neither a form nor covered by bodySHA256")
