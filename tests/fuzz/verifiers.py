"""Targets for what only the holder of a key can send, and for what the signature does not cover."""

import hmac
import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256

from router.errors import BadPayload, BadSignature
from router.providers.telnyx.action import Actions
from router.providers.telnyx.legs import mark_of
from tests.fuzz.target import Target, joined, text
from tests.fuzz.words import nasty
from tests.providers.found import payloads, request_of


def targets() -> Iterator[Target]:
    yield _claims()
    yield _path()
    yield _mark()


def _claims() -> Target:
    """Header and claims of LiveKit's token, signed with the right key."""
    payload = next(payload for payload in payloads() if payload.provider == "livekit")
    issuer, secret = (payload.case.settings["livekit"][it] for it in ("api_key", "api_secret"))

    def run(data: bytes) -> None:
        signed = b".".join(map(_base64url, data.partition(b"\0")[::2]))
        proof = _base64url(hmac.digest(secret.encode(), signed, "sha256"))
        raw = payload.raw.with_header("Authorization", b".".join((signed, proof)).decode())
        with suppress(BadSignature):
            payload.source.verify(request_of(payload.endpoint, raw, payload.case.received_at))

    head, now = b'{"alg":"HS256","typ":"JWT"}', payload.case.received_at // 1_000_000
    digest = b64encode(sha256(payload.raw.body).digest()).decode()
    claims = json.dumps({"iss": issuer, "exp": now, "nbf": now, "iat": now, "sha256": digest})
    seeds = [joined(head, claims), joined(b'{"alg":"none"}', claims)]
    for value in nasty():
        odd = claims.encode().replace(b"%d" % now, value[:3000], 1)
        seeds += [joined(head, value), joined(value, claims), joined(head, odd)]
    return Target("livekit-claims", run, seeds)


def _base64url(part: bytes) -> bytes:
    return urlsafe_b64encode(part).rstrip(b"=")


def _path() -> Target:
    """The path that Telnyx asks after a dial, which its signature does not cover."""
    actions = Actions("sip-password")

    def run(data: bytes) -> None:
        with suppress(BadPayload):
            actions.read(text(data))

    paths = [actions.path("agent", "+14155550100"), actions.path("fallback", "anonymous")]
    return Target("telnyx-path", run, [f"/webhooks/telnyx{path}".encode() for path in paths])


def _mark() -> Target:
    """What is written on a leg, as a transfer of ours writes it or as others do."""

    def run(data: bytes) -> None:
        for state in (b64encode(data).decode(), text(data)):
            mark_of({"client_state": state, "to": text(data)})

    mark = b'{"switchboard":"agent","control_id":"v3:x","from":"+1212","to":"sip:id@x"}'
    return Target("telnyx-mark", run, [mark, b64encode(mark), *nasty()])
