"""Tenants' connections for tests: who has them, their keys, and what each of them signs."""

import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from urllib.parse import parse_qsl

from multidict import MultiDict
from nacl.signing import SigningKey
from twilio.request_validator import RequestValidator

from router.connections import ConnectionTable
from router.routing.table import Route, Target
from router.storage.connections import SealedConnection
from router.vault import Vault
from tests.providers.case import PUBLIC_URL, Raw
from tests.providers.twilio.case import SETTINGS_HEADER
from tests.support import telnyx_requests

VAULT = Vault([b"k" * 32])
SID = "AC" + "c3" * 16
ACME, RIVAL = "account-of-acme", "account-of-rival"
ACMES, RIVALS = (
    "aaaaaaaa-0000-4000-8000-000000000001",
    "bbbbbbbb-0000-4000-8000-000000000002",
)
TOKEN, OTHER_TOKEN = "the auth token of acme", "an auth token of rival's own"


def connection(
    connection_id: str = ACMES,
    account_id: str = ACME,
    *,
    provider: str = "twilio",
    sid: str = SID,
    secrets: dict[str, str] | None = None,
    at: int = 1,
    rev: int = 1,
    vault: Vault = VAULT,
) -> SealedConnection:
    """As it is on the topic; made at `at`."""
    if provider == "telnyx":
        sid = ""
    sealed = vault.seal(connection_id, secrets or {"auth_token": TOKEN})
    return SealedConnection(
        id=connection_id,
        account_id=account_id,
        provider=provider,
        provider_account=sid,
        created_at=at,
        rev=rev,
        sealed=sealed,
    )


def book(*connections: SealedConnection) -> ConnectionTable:
    table = ConnectionTable(VAULT)
    for each in connections:
        assert table.put(each)
    return table


def route(number: str, connection_id: str = "", account_id: str = ACME, **more: str) -> Route:
    """Of a number of the account, carried by its connection."""
    target = Target(agent="anna", livekit_agent_name="anna")
    return Route(
        number=number,
        provider=more.get("provider", "twilio"),
        rev=1,
        targets=(target,),
        fallback=more.get("fallback", "+14155550199"),
        account_id=account_id,
        connection_id=connection_id,
    )


def twilio_signed(raw: Raw, token: str, base: str = PUBLIC_URL) -> Raw:
    """The request as an account at Twilio with this Auth Token sends it, no shared key."""
    path, mark, query = raw.target.partition("?")
    digest = sha256(raw.body).hexdigest()
    target = path + mark + re.sub("bodySHA256=[^&]*", f"bodySHA256={digest}", query)
    pairs = []
    if raw.header("Content-Type").startswith("application/x-www-form-urlencoded"):
        pairs = parse_qsl(raw.body.decode("utf-8", "replace"), keep_blank_values=True)
    signature = RequestValidator(token).compute_signature(base + target, MultiDict(pairs))
    kept = [pair for pair in raw.headers if pair[0].lower() != SETTINGS_HEADER.lower()]
    unsigned = replace(raw, target=target, headers=kept)
    return unsigned.with_header("X-Twilio-Signature", signature)


def telnyx_signed(raw: Raw, key: SigningKey, connection_id: str) -> Raw:
    """The request as an account at Telnyx with this key sends it, to a connection's path."""
    target = raw.target.replace("/webhooks/telnyx", f"/webhooks/telnyx/c/{connection_id}", 1)
    for name, value in telnyx_requests.headers(raw.body, key=key).items():
        raw = raw.with_header(name, value)
    return replace(raw, target=target)


def telnyx_key(seed: int) -> SigningKey:
    return SigningKey(bytes([seed]) * 32)


def telnyx_secrets(
    key: SigningKey, api_key: str = "KEY-of-some-account-at-telnyx"
) -> dict[str, str]:
    return {"api_key": api_key, "public_key": b64encode(bytes(key.verify_key)).decode()}
