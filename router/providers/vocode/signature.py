"""Who sent a webhook: the secret in its path, and the signature of external actions.

Vocode signs none of its webhooks: a webhook there is a URL, a method and subscriptions, nothing
else (docs.vocode.dev/webhooks). So the URL itself is the secret. Only an external action, which its
agent asks for in the middle of a call, is signed (docs.vocode.dev/external-actions):
`x-vocode-signature: base64(HMAC-SHA256(base64decode(signature_secret), body))`.
"""

import hmac
import json
import re
from base64 import b64encode
from collections.abc import Sequence
from typing import Final

from router.errors import BadSignature
from router.provider import WebhookRequest

HEADER: Final = "x-vocode-signature"


_SHAPE: Final = re.compile(r"[A-Za-z0-9+/]{43}=")  # base64 of SHA-256


def verify_path(request: WebhookRequest, paths: Sequence[bytes]) -> None:
    """Check that the target is one of `paths` as it came, byte for byte; only a GET has a query.

    An escaped character, a slash more or a query would be read as the same path by some proxy and
    as another one by the next; no sender that was given our URL makes any of them.

    Raises:
        BadSignature: it is not; the message doesn't repeat it.
    """
    path, query, _ = request.target.partition("?")
    offered = path.encode("utf-8", "surrogatepass")
    is_known = False
    for each in paths:  # all of them, so that the time tells nothing
        is_known |= hmac.compare_digest(each, offered)
    if not is_known or (query and request.method != "GET"):
        raise BadSignature(
            "the path is not exactly /webhooks/vocode/ and one of providers.vocode.secrets"
        )


def is_signed(request: WebhookRequest, keys: Sequence[bytes]) -> bool:
    """Whether the body is signed with one of `keys` (two during a rotation).

    Vocode signs `json.dumps` of what it sends, and shows receivers how to sign what they have read
    anew: so where a proxy wrote the body in its own way, that form is tried as well.

    Raises:
        BadSignature: there is a signature, and it is of none of the keys.
    """
    given = request.headers.get(HEADER)
    if given is None or not keys:
        return False
    if _SHAPE.fullmatch(given) is None:
        raise BadSignature(f"{HEADER} is not the base64 of 32 bytes: it does not match any body")
    offered = given.encode()
    # A query is not covered: what is signed must have been posted.
    forms = (bytes, _rewritten) if request.method == "POST" else ()
    for body in (form(request.body) for form in forms):
        for key in keys:
            expected = b64encode(hmac.digest(key, body, "sha256"))
            if hmac.compare_digest(expected, offered):
                return True
    raise BadSignature(
        f"{HEADER} does not match the body: check providers.vocode.action_secrets, the "
        "signature_secret of the action at Vocode"
    )


def _rewritten(body: bytes) -> bytes:
    try:
        return json.dumps(json.loads(body)).encode()
    except (ValueError, RecursionError):
        return body
