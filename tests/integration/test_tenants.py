"""Tenants' webhooks at a listening ingress, and through a whole node from the database on."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
from aiohttp import web

from config import Settings
from router.clock import SystemClock
from router.control import accounts, connections
from router.control.context import Control, control_of
from router.control.model import Actor, Plan
from router.errors import Permanent
from router.eventlog.base import Record
from router.events import codec
from router.events.ids import DEFAULT_ACCOUNT
from router.events.model import Event, EventData
from router.events.types import CALLS_TOPIC, EventType
from router.node import Node
from router.provider import CallRef, Carrier, ConnectionBook, ProviderContext, SipTarget
from router.providers.telnyx import api as telnyx_api
from router.providers.twilio import api as twilio_api
from router.routing.spec import AgentSpec, MappingSpec, NumberSpec
from router.sandbox.serve import serve
from router.secrets import load_keys
from router.storage.engine import open_database
from router.storage.mapping import apply_mapping
from router.storage.migrate import prepare
from tests.providers.case import Raw
from tests.support import telnyx_requests as telnyx
from tests.support.fake_log import FakeLog
from tests.support.ingress import NUMBER, Ingress, ingress
from tests.support.nodes import eventually, free_port, node_settings, running
from tests.support.tenants import (
    ACME,
    ACMES,
    OTHER_TOKEN,
    RIVAL,
    RIVALS,
    SID,
    TOKEN,
    book,
    connection,
    route,
    telnyx_key,
    telnyx_secrets,
    twilio_signed,
)
from tests.support.twilio_requests import form, new_sid

ACMES_NUMBER = "+14155550120"
OWN = "the operator's auth token"
KEY = telnyx_key(7)
TELNYX = "cccccccc-0000-4000-8000-000000000003"


def table() -> ConnectionBook:
    return book(
        connection(),
        connection(RIVALS, RIVAL, secrets={"auth_token": OTHER_TOKEN}),
        connection(TELNYX, ACME, provider="telnyx", secrets=telnyx_secrets(KEY)),
    )


async def twilio(
    at: Ingress | str, kind: str, token: str, *, query: str = "", **fields: str
) -> tuple[int, str]:
    """Post a webhook of acme's account at Twilio, signed with `token`."""
    base = at if isinstance(at, str) else at.url
    whole = form(CallSid=new_sid(), AccountSid=SID, To=ACMES_NUMBER) | fields
    body = urlencode(whole).encode()
    headers = [("Content-Type", "application/x-www-form-urlencoded")]
    raw = twilio_signed(Raw("POST", f"/webhooks/twilio/{kind}{query}", headers, body), token, base)
    async with (
        aiohttp.ClientSession() as session,
        session.post(base + raw.target, data=body, headers=dict(raw.headers)) as answer,
    ):
        return answer.status, await answer.text()


def stored(log: FakeLog) -> list[Event]:
    return [_event(record) for record in log.all(CALLS_TOPIC)]


def _event(record: Record) -> Event:
    assert record.value is not None
    return codec.decode(record.key, record.headers, record.value)


async def test_a_tenants_call_reaches_its_agent_and_nobody_elses_key_does(tmp_path: Path) -> None:
    log = FakeLog()
    async with ingress(tmp_path, events=log, connections=table()) as found:
        found.routes.put(route(ACMES_NUMBER, ACMES))
        status, answer = await twilio(found, "voice", TOKEN)
        assert (status, "<Sip" in answer) == (200, True)
        (event,) = stored(log)
        assert (event.data.connection_id, event.data.account_id) == (ACMES, ACME)
        assert event.call_id in answer
        for kind in ("voice", "fallback", "disaster"):
            for called in (ACMES_NUMBER, NUMBER):
                status, answer = await twilio(found, kind, OTHER_TOKEN, To=called)
                assert (status, "Sip" in answer, "+1" in answer) == (403, False, False)
        assert (await twilio(found, "voice", TOKEN, To=NUMBER))[0] == 403  # the operator's
        assert (await twilio(found, "voice", "nobody's token at all"))[0] == 403
        assert (await twilio(found, "voice", TOKEN, AccountSid="AC" + "9" * 32))[0] == 403
        assert stored(log) == [event]
        assert (await found.twilio(To=ACMES_NUMBER))[0] == 403  # the operator's key: not its number
        # Nor another account's call: it names acme's, or one that nobody knows.
        for account in (SID, "AC" + "9" * 32):
            assert (await found.twilio(To=NUMBER, AccountSid=account))[0] == 403
        assert stored(log) == [event]
        assert (await found.twilio(To=NUMBER))[0] == 200
        _, metrics = await found.get("/metrics")
        assert 'switchboard_foreign_webhooks_total{provider="twilio"}' in metrics


async def test_nobody_ends_another_tenants_call(tmp_path: Path) -> None:
    log, sid = FakeLog(), new_sid()
    async with ingress(tmp_path, events=log, connections=table()) as found:
        found.routes.put(route(ACMES_NUMBER, ACMES))
        await twilio(found, "voice", TOKEN, CallSid=sid)
        (begun,) = stored(log)
        over = {"CallSid": sid, "CallStatus": "completed", "SequenceNumber": "1"}
        assert (await twilio(found, "status", OTHER_TOKEN, **over))[0] == 204
        ends = {each.data.account_id: each for each in stored(log) if each.id != begun.id}
        assert ends.keys() == {RIVAL}
        assert ends[RIVAL].call_id != begun.call_id
        assert (await twilio(found, "status", TOKEN, **over))[0] == 204
        ends = {each.data.account_id: each for each in stored(log) if each.id != begun.id}
        assert ends.keys() == {RIVAL, ACME}
        assert ends[ACME].call_id == begun.call_id
        dial = {"CallSid": sid, "DialCallStatus": "no-answer", "CallStatus": "in-progress"}
        assert (await twilio(found, "dial", OTHER_TOKEN, query="?stage=agent", **dial))[0] == 403
        status, answer = await twilio(found, "dial", TOKEN, query="?stage=agent", **dial)
        assert (status, "+14155550199" in answer) == (200, True)


async def test_webhooks_of_many_tenants_that_name_no_account_name_the_connection(
    tmp_path: Path,
) -> None:
    crowd = [
        connection(f"{n:08}-0000-4000-8000-000000000009", f"account {n}", sid=f"AC{n:032}")
        for n in range(40)
    ]
    log, bundle = FakeLog(), {"BundleSid": "BU" + "1" * 32, "Status": "twilio-approved"}
    async with ingress(tmp_path, events=log, connections=book(connection(), *crowd)) as found:

        async def post(query: str) -> int:
            body = urlencode(bundle).encode()
            headers = [("Content-Type", "application/x-www-form-urlencoded")]
            target = f"/webhooks/twilio/bundle{query}"
            raw = twilio_signed(Raw("POST", target, headers, body), TOKEN, found.url)
            return (await found.post(raw.target, body, dict(raw.headers)))[0]

        assert await post("") == 403
        assert await post(f"?connection={ACMES}") == 204
        assert await post(f"?connection={RIVALS}") == 403


async def test_telnyx_calls_come_by_the_path_of_the_connection(tmp_path: Path) -> None:
    log, now = FakeLog(), SystemClock()
    # The operator has no account at Telnyx: its webhooks are there all the same.
    async with ingress(tmp_path, events=log, connections=table()) as found:
        found.routes.put(route(ACMES_NUMBER, TELNYX, provider="telnyx"))

        async def post(path: str, body: bytes) -> tuple[int, str]:
            signed = telnyx.headers(body, key=KEY, at=now.now())
            return await found.post(f"/webhooks/telnyx{path}", body, signed)

        call: dict[str, Any] = {"direction": "incoming", "state": "parked", "to": ACMES_NUMBER}
        body = telnyx.event("call.initiated", **call)
        for path in ("", f"/c/{RIVALS}", "/c/nobody", f"/c/{ACMES}"):
            assert (await post(path, body))[0] == 403
        assert stored(log) == []
        assert (await post(f"/c/{TELNYX}", body))[0] == 200
        (event,) = stored(log)
        assert (event.data.connection_id, event.data.account_id) == (TELNYX, ACME)
        assert event.data.decision is not None
        assert event.data.decision.action == "dispatch"
        status, texml = await post(f"/c/{TELNYX}/texml/voice", telnyx.form(To=ACMES_NUMBER))
        assert status == 200
        assert f"/webhooks/telnyx/c/{TELNYX}/texml/dial/agent/" in texml
        assert f"/webhooks/telnyx/c/{TELNYX}/texml/status" in texml
        elsewhere = telnyx.event("call.initiated", event_id="another", **call | {"to": NUMBER})
        assert (await post(f"/c/{TELNYX}", elsewhere))[0] == 403


async def test_before_the_keys_are_here_nobody_is_turned_away_for_good(tmp_path: Path) -> None:
    log = FakeLog()
    async with ingress(tmp_path, events=log, connections=book()) as found:
        found.has_keys = False
        assert (await twilio(found, "voice", TOKEN))[0] == 503
        assert (await found.twilio(To=NUMBER))[0] == 200  # the operator's are in the settings
        found.has_keys = True
        assert (await twilio(found, "voice", TOKEN))[0] == 403
    async with ingress(tmp_path, events=log, connections=table()) as found:
        found.ready = False
        over = {"CallStatus": "completed", "SequenceNumber": "1"}
        assert (await twilio(found, "status", TOKEN, **over))[0] == 503
        assert (await twilio(found, "fallback", TOKEN))[0] == 200


@asynccontextmanager
async def control(settings: Settings) -> AsyncIterator[Control]:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    await prepare(settings)
    keys = load_keys("", (), settings.data_dir)
    async with open_database(settings) as database:
        yield control_of(settings, database, keys, SystemClock())


async def test_from_the_database_to_a_taken_call_and_over_a_restart(tmp_path: Path) -> None:
    port = free_port()
    # Nobody is there for LiveKit: calls are taken, and agents promised, all the same.
    settings = node_settings(tmp_path, port=port, livekit_url="http://127.0.0.1:1")
    operator = Actor(account_id=DEFAULT_ACCOUNT)
    base = f"http://127.0.0.1:{port}"
    async with control(settings) as plane, running(settings) as node:
        acme = await accounts.create(plane, operator, name="acme", plan=Plan())
        actor = Actor(account_id=acme.id)
        assert (await twilio(base, "voice", TOKEN))[0] == 403
        made = await connections.create(
            plane, actor, provider="twilio", provider_account=SID, secrets={"auth_token": TOKEN}
        )
        number = NumberSpec(
            number=ACMES_NUMBER, provider="twilio", agent="anna", connection=made.id
        )
        agent = AgentSpec(name="anna", livekit_agent_name="anna")
        spec = MappingSpec(agents=(agent,), numbers=(number,))
        await apply_mapping(plane.database, acme.id, spec)
        await eventually(lambda: _knows(node, 1, 1))
        assert (await twilio(base, "voice", TOKEN))[0] == 200
        await connections.update(plane, actor, made.id, secrets={"auth_token": OTHER_TOKEN})
        await eventually(lambda: _token(node, made.id) == OTHER_TOKEN)
        assert (await twilio(base, "voice", TOKEN))[0] == 403
        assert (await twilio(base, "voice", OTHER_TOKEN))[0] == 200
    assert OTHER_TOKEN.encode() not in (tmp_path / "connections.json").read_bytes()
    async with running(settings, routes=None):
        assert (await twilio(base, "voice", OTHER_TOKEN))[0] == 200


def _knows(node: Node, connections: int, routes: int) -> bool:
    assert node.connections is not None
    assert node.routes is not None
    return len(node.connections.table) == connections and len(node.routes.table) == routes


def _token(node: Node, connection_id: str) -> str:
    assert node.connections is not None
    found = node.connections.table.get(connection_id)
    return found.secrets["auth_token"] if found is not None else ""


Asked = list[tuple[str, str]]  # path and Authorization


@asynccontextmanager
async def asked_api() -> AsyncIterator[tuple[str, Asked]]:
    """An API that says that every call goes on, and sets a cookie."""
    asked: Asked = []

    async def handle(request: web.Request) -> web.Response:
        assert "Cookie" not in request.headers
        asked.append((request.path, request.headers.get("Authorization", "")))
        answer = web.json_response({"status": "in-progress", "data": {"is_alive": True}})
        answer.set_cookie("session", "whoever asked first")
        return answer

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with serve(app, 0) as url:
        yield url, asked


def context(provider: str, url: str) -> ProviderContext:
    own = {"account_sid": SID, "auth_tokens": [OWN]}
    if provider == "telnyx":
        own = {"api_key": "KEY-of-the-operator", "public_keys": [telnyx.public_key()]}
    settings = node_settings(
        Path("unused"), port=1, livekit_url="http://127.0.0.1:1",
        providers={provider: own | {"api_url": url}},
    )  # fmt: skip
    target = SipTarget("sip.example", "udp", "user", "password")
    return ProviderContext(settings, target, SystemClock(), table())


def carrier(provider: str, url: str) -> AbstractAsyncContextManager[Carrier]:
    open_carrier = twilio_api.open_carrier if provider == "twilio" else telnyx_api.open_carrier
    return open_carrier(context(provider, url))


@pytest.mark.parametrize(
    ("provider", "own", "operators"),
    [
        ("twilio", aiohttp.encode_basic_auth(SID, TOKEN), aiohttp.encode_basic_auth(SID, OWN)),
        ("telnyx", f"Bearer {telnyx_secrets(KEY)['api_key']}", "Bearer KEY-of-the-operator"),
    ],
)  # fmt: skip
async def test_a_carrier_is_asked_and_told_as_the_calls_connection(
    provider: str, own: str, operators: str
) -> None:
    mine = ACMES if provider == "twilio" else TELNYX
    async with asked_api() as (url, asked), carrier(provider, url) as found:
        assert found.standing is not None
        assert found.redirect is not None
        call = CallRef("ours", "CA" + "1" * 32, SID, telnyx.CONTROL_ID)
        for connection_id, expected in ((mine, own), ("", operators), (mine, own)):
            standing = await found.standing(call._replace(connection_id=connection_id))
            assert standing is not None
            assert asked[-1][1] == expected
            data = EventData(
                provider_call_id="CA" + "1" * 32,
                provider_account=SID,
                connection_id=connection_id,
                control_id=telnyx.CONTROL_ID,
                from_number="+12125550123",
                to_number=ACMES_NUMBER,
            )
            event = Event(
                id="e", type=EventType.CALL_INITIATED, source=provider, time=0, key="k", data=data
            )
            await found.redirect(event, NUMBER)
            assert asked[-1][1] == expected
        before = list(asked)
        with pytest.raises(Permanent, match="connection is gone"):
            await found.standing(call._replace(connection_id="gone"))
        assert asked == before
