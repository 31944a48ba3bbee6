"""Whatever a tenant signs with a key of their own, it touches nothing of anybody else's.

A tenant may name any provider account in a connection, the victim's too, and any key. Every payload
file of the carriers is sent once by whom it is from, and once by such a tenant, word for word.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from config import load
from router.connections import ConnectionTable
from router.errors import BadPayload, BadSignature
from router.events.model import Event
from router.events.text import plain
from router.events.types import NUMBERS_TOPIC, topic_of
from router.provider import ProviderContext, SipTarget, WebhookSource
from router.providers import providers
from router.routing.decide import decide
from router.routing.scope import admitted
from router.routing.table import RouteTable
from tests.providers.case import PUBLIC_URL, Raw
from tests.providers.found import Payload, StillClock, endpoint_of, payloads, request_of
from tests.providers.twilio.case import ACCOUNT, SUBACCOUNT
from tests.support.settings import merged
from tests.support.tenants import (
    ACME,
    ACMES,
    OTHER_TOKEN,
    RIVAL,
    RIVALS,
    TOKEN,
    book,
    connection,
    route,
    telnyx_key,
    telnyx_secrets,
    telnyx_signed,
    twilio_signed,
)

THEIR_KEY, OTHER_KEY = telnyx_key(7), telnyx_key(8)
_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")
BASE = {
    "public_url": PUBLIC_URL,
    "livekit": {"url": "http://127.0.0.1:1", "sip_host": "sip.example.com"},
}

carriers = [
    each for each in payloads() if each.provider in ("twilio", "telnyx") and each.is_readable
]
each_payload = pytest.mark.parametrize("payload", carriers, ids=str)


def source(
    provider: str, table: ConnectionTable, *, of_case: Payload | None = None
) -> WebhookSource:
    """The carrier's, of an operator with the payload's own accounts, or with none."""
    own = of_case.case.settings if of_case is not None else {}
    settings = load(overrides=merged(BASE, own))
    target = SipTarget("sip.example.com", "tcp", "sip-user", "sip-password")
    at = carriers[0].case.received_at if of_case is None else of_case.case.received_at
    found = next(each for each in providers() if each.name == provider)
    return found.source(ProviderContext(settings, target, StillClock(at), table))


def tell(webhooks: WebhookSource, raw: Raw, table: RouteTable, at: int) -> Sequence[Event] | None:
    """What the ingress makes of a request; None: it is refused."""
    request = request_of(endpoint_of(webhooks, raw), raw, at)
    try:
        verified = webhooks.verify(request)
        events = admitted([plain(each) for each in webhooks.parse(verified)], verified.proof, table)
    except (BadSignature, BadPayload):
        return None
    return None if events is None else [decide(event, table) for event in events]


def signed_by(payload: Payload, *, rival: bool) -> Raw:
    if payload.provider == "twilio":
        return twilio_signed(payload.raw, OTHER_TOKEN if rival else TOKEN)
    key, connection_id = (OTHER_KEY, RIVALS) if rival else (THEIR_KEY, ACMES)
    return telnyx_signed(payload.raw, key, connection_id)


def connections(*, acme: bool) -> ConnectionTable:
    """Rival's at both carriers, of the very accounts that the payloads name; and perhaps acme's."""
    table = book()
    for place, sid in enumerate((ACCOUNT, SUBACCOUNT)):
        own = connection(
            RIVALS[:-1] + str(place), RIVAL, sid=sid, secrets={"auth_token": OTHER_TOKEN}
        )
        table.put(own)
        if acme:
            table.put(connection(ACMES[:-1] + str(place + 5), ACME, sid=sid, at=2))
    for connection_id, account, key in ((RIVALS, RIVAL, OTHER_KEY), (ACMES, ACME, THEIR_KEY)):
        secrets = telnyx_secrets(key, f"KEY-of-the-account-of-{account}")
        table.put(connection(connection_id, account, provider="telnyx", secrets=secrets))
    return table


def marks(events: Sequence[Event]) -> set[str]:
    """All by which an event, its call and its order are known here."""
    return {mark for each in events for mark in (each.id, each.call_id, _ordering(each)) if mark}


def _ordering(event: Event) -> str:
    is_number = topic_of(event.type) == NUMBERS_TOPIC and _NUMBER.fullmatch(event.key)
    return "" if is_number else event.key


@each_payload
@pytest.mark.parametrize("victim", ["operator", "acme"])
def test_what_a_tenant_signs_is_never_taken_for_anothers(payload: Payload, victim: str) -> None:
    is_operators = victim == "operator"
    table = connections(acme=not is_operators)
    webhooks = source(payload.provider, table, of_case=payload if is_operators else None)
    at, routes = payload.case.received_at, RouteTable()
    true = tell(
        webhooks, payload.raw if is_operators else signed_by(payload, rival=False), routes, at
    )
    assert true, "the victim's own is taken"
    forged = tell(webhooks, signed_by(payload, rival=True), routes, at)
    if forged is None:
        return
    assert not marks(true) & marks(forged)
    for event in forged:
        assert event.data.connection_id.startswith(RIVALS[:-1])
        assert event.data.account_id == RIVAL
    for event in true:
        owner = ("", "") if is_operators else (ACMES[:-1], ACME)
        assert (event.data.connection_id[: len(owner[0])], event.data.account_id) == owner


@each_payload
@pytest.mark.parametrize("holder", ["operator", "acme"])
def test_about_a_mapped_number_only_its_own_connection_is_heard(
    payload: Payload, holder: str
) -> None:
    """With every number that the payload names mapped at the victim's connection."""
    table = connections(acme=True)
    webhooks = source(payload.provider, table)
    at = payload.case.received_at
    own = tell(webhooks, signed_by(payload, rival=False), RouteTable(), at)
    assert own
    held = "" if holder == "operator" else own[0].data.connection_id
    routes = RouteTable()
    for number in set(_NUMBER.findall(msgspec.json.encode(own).decode())):
        routes.put(route(number, held, provider=payload.provider, fallback="+19995550000"))
    forged = tell(webhooks, signed_by(payload, rival=True), routes, at)
    speaks = any(event.data.stage or topic_of(event.type) == NUMBERS_TOPIC for event in own)
    names = any(event.data.number or event.data.to_number for event in own)
    if speaks and names:
        assert forged is None
    assert "+19995550000" not in msgspec.json.encode(forged or []).decode()
    if holder == "acme":
        assert tell(webhooks, signed_by(payload, rival=False), routes, at)


def call(webhooks: WebhookSource, table: RouteTable, token: str = TOKEN, **more: Any) -> Any:
    """An incoming call at Twilio: its event, None where it is refused."""
    payload = next(each for each in carriers if str(each) == "twilio/voice-incoming")
    raw = twilio_signed(payload.raw, token)
    events = tell(webhooks, raw, table, payload.case.received_at)
    return events[0] if events else None


def test_of_two_accounts_with_the_same_credentials_the_number_decides() -> None:
    table = book(
        connection(ACMES, ACME, sid=ACCOUNT, at=1), connection(RIVALS, RIVAL, sid=ACCOUNT, at=2)
    )
    webhooks = source("twilio", table)
    unmapped = call(webhooks, RouteTable())
    assert (unmapped.data.connection_id, unmapped.data.account_id) == (ACMES, "")
    for connection_id, account in ((ACMES, ACME), (RIVALS, RIVAL)):
        routes = RouteTable()
        routes.put(route(unmapped.data.to_number, connection_id, account))
        found = call(webhooks, routes)
        assert (found.data.connection_id, found.data.account_id) == (connection_id, account)
        assert found.data.decision.action == "dispatch"
        assert found.call_id == unmapped.call_id  # so that all that is told of it belongs together
    third = RouteTable()
    third.put(route(unmapped.data.to_number, "somebody else's", "third"))
    assert call(webhooks, third) is None


def test_what_the_operators_key_signs_too_is_the_operators() -> None:
    payload = next(each for each in carriers if str(each) == "twilio/voice-incoming")
    token = payload.case.settings["providers"]["twilio"]["auth_tokens"][0]
    table = book(connection(sid=ACCOUNT, secrets={"auth_token": token}))
    webhooks = source("twilio", table, of_case=payload)
    plainly = call(source("twilio", book(), of_case=payload), RouteTable(), token)
    for connection_id in ("", ACMES):
        routes = RouteTable()
        routes.put(route(plainly.data.to_number, connection_id))
        found = call(webhooks, routes, token)
        assert (found.id, found.call_id) == (plainly.id, plainly.call_id)
        assert found.data.decision.action == "dispatch"
    elsewhere = RouteTable()
    elsewhere.put(route(plainly.data.to_number, RIVALS))
    assert call(webhooks, elsewhere, token) is None


def test_nobody_crowds_out_the_true_key_of_an_account() -> None:
    forged = [
        connection(
            f"{RIVALS[:-4]}{n:04}",
            f"rival-{n % 5}",
            sid=ACCOUNT,
            at=n,
            secrets={"auth_token": f"a forged token {n}"},
        )
        for n in range(500)
    ]
    table = book(*forged, connection(sid=ACCOUNT, at=1000))
    found = call(source("twilio", table), RouteTable())
    assert found.data.connection_id == ACMES


def test_a_connection_that_is_gone_or_changed_verifies_nothing() -> None:
    table = book(connection(sid=ACCOUNT))
    webhooks = source("twilio", table)
    assert call(webhooks, RouteTable()) is not None
    table.put(connection(sid=ACCOUNT, secrets={"auth_token": "a rotated token"}, rev=2))
    assert call(webhooks, RouteTable()) is None
    assert call(webhooks, RouteTable(), "a rotated token") is not None
    table.put(connection(sid="AC" + "9" * 32, rev=3))
    assert call(webhooks, RouteTable()) is None
    table.put(connection(sid=ACCOUNT, rev=4))
    assert call(webhooks, RouteTable()) is not None
    table.remove(ACMES, connection(rev=5).version)
    assert call(webhooks, RouteTable()) is None


def test_a_public_key_alone_is_no_proof_of_the_account() -> None:
    """Telnyx's public keys are no secret: who registers another's gets nothing of theirs."""
    payload = next(each for each in carriers if each.provider == "telnyx")
    table = book(
        connection(
            RIVALS,
            RIVAL,
            provider="telnyx",
            at=1,
            secrets=telnyx_secrets(THEIR_KEY, "KEY-that-was-made-up"),
        ),
        connection(ACMES, ACME, provider="telnyx", at=2, secrets=telnyx_secrets(THEIR_KEY)),
    )
    found = tell(
        source("telnyx", table),
        signed_by(payload, rival=False),
        RouteTable(),
        payload.case.received_at,
    )
    assert found
    assert {(each.data.connection_id, each.data.account_id) for each in found} == {(ACMES, ACME)}


@pytest.mark.parametrize(
    "path", ["", "/c/", "/c/unknown", f"/c/{ACMES}x", f"/c/{RIVALS}", f"/c/{ACMES}%2e"]
)
def test_a_path_of_no_connection_is_refused_by_the_head(path: str) -> None:
    payload = next(each for each in carriers if each.provider == "telnyx")
    table = book(
        connection(ACMES, ACME, provider="telnyx", secrets=telnyx_secrets(THEIR_KEY)),
        connection(RIVALS, RIVAL),
    )
    raw = signed_by(payload, rival=False)
    request = request_of(payload.endpoint, raw, payload.case.received_at)
    moved = type(request)(
        request.kind, f"/webhooks/telnyx{path}", request.headers, b"", request.received_at
    )
    with pytest.raises(BadSignature):
        source("telnyx", table).check_head(moved)
