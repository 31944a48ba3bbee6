"""Bare handlers: verify as each provider says, make the body durable, answer. Nothing else."""

import asyncio
import hmac
import json
import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import jwt
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from bench.bare import TWIML, listen, verify
from bench.bare_ingress import GroupCommit
from bench.child import run_child, say
from bench.webhooks import LIVEKIT_KEY, LIVEKIT_SECRET, VOCODE_SECRET

Check = Callable[[web.Request, bytes], str]
"""What identifies the webhook. Raises HTTPForbidden."""


def livekit(request: web.Request, body: bytes) -> str:
    """By PyJWT, as LiveKit's own receiver does it."""
    try:
        claims = jwt.decode(
            request.headers["Authorization"],
            LIVEKIT_SECRET,
            algorithms=["HS256"],
            issuer=LIVEKIT_KEY,
            leeway=60,
        )
    except jwt.PyJWTError:
        raise web.HTTPForbidden from None
    if not hmac.compare_digest(claims["sha256"], b64encode(sha256(body).digest()).decode()):
        raise web.HTTPForbidden
    return str(json.loads(body)["id"])


def vocode(request: web.Request, body: bytes) -> str:
    """By the secret in the path; the event has no id of its own."""
    if not hmac.compare_digest(request.match_info["secret"], VOCODE_SECRET):
        raise web.HTTPForbidden
    message = json.loads(body)
    return f"{message['call_id']} {message['type']}"


def telnyx(public_key: str) -> Check:
    """By Ed25519 over timestamp and body."""
    key = Ed25519PublicKey.from_public_bytes(b64decode(public_key))

    def check(request: web.Request, body: bytes) -> str:
        timestamp = request.headers["Telnyx-Timestamp"]
        signature = b64decode(request.headers["Telnyx-Signature-Ed25519"])
        try:
            key.verify(signature, timestamp.encode() + b"|" + body)
        except InvalidSignature:
            raise web.HTTPForbidden from None
        if abs(time.time() - int(timestamp)) > 300:
            raise web.HTTPForbidden
        return str(json.loads(body)["data"]["id"])

    return check


def twilio(public_url: str, field: str) -> Check:
    """By HMAC-SHA1 over URL and form."""

    def check(request: web.Request, body: bytes) -> str:
        return verify(public_url, request, body)[field]

    return check


async def main(spec: dict[str, Any], stop: asyncio.Event) -> None:
    """`spec`: public_url, data_dir, telnyx_key."""
    commit = GroupCommit(Path(spec["data_dir"]))

    def add(path: str, check: Check, answer: bytes = b"", content_type: str = "text/plain") -> None:
        async def handle(request: web.Request) -> web.Response:
            body = await request.read()
            await commit.store(check(request, body), body)
            return web.Response(body=answer, content_type=content_type)

        app.router.add_post(f"/webhooks/{path}", handle)

    app = web.Application()
    by_form = twilio(spec["public_url"], "CallSid")
    add("twilio/voice", by_form, TWIML, "text/xml")
    add("twilio/status", by_form)
    add("telnyx", telnyx(spec["telnyx_key"]))
    add("vocode/{secret}", vocode)
    add("livekit", livekit)
    runner, port = await listen(app)
    say({"port": port})
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    run_child(main)
