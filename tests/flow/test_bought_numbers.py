"""From the control API to the caller's ear: a number is bought, called, paused and given back.

A whole node, with the sandbox's Twilio, Telnyx and LiveKit around it. No call can go to a number
that nobody bought.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from nacl.signing import SigningKey

from router.clock import SystemClock
from router.control.model import Plan
from router.node import Node
from router.routing.table import Route
from router.sandbox.call import NotInService
from router.sandbox.livekit.standin import LiveKitStandIn
from router.sandbox.telnyx import Call as TelnyxCall
from router.sandbox.telnyx import TelnyxStandIn
from router.sandbox.twilio.call import Call as TwilioCall
from router.sandbox.twilio.standin import TwilioStandIn
from tests.support import telnyx_requests as telnyx
from tests.support.api import Client, Reply, RunningApi
from tests.support.api_node import NATIVE, VoiceAi, api_of, call_of, set_fallback
from tests.support.nodes import (
    ACCOUNT,
    KEY,
    SECRET,
    TOKEN,
    eventually,
    free_port,
    node_settings,
    running,
)
from tests.support.sandbox_telnyx import API_KEY, SEED
from tests.support.servers.postgres import Postgres
from tests.support.twilio_requests import form, headers, new_sid, sign

CALLER, FALLBACK = "+12125550123", "+14155550199"
HOLD = 0.3


@dataclass
class World:
    """A node with its carriers and LiveKit, and the API as its clients see it."""

    node: Node
    api: RunningApi
    twilio: TwilioStandIn
    telnyx: TelnyxStandIn
    livekit: LiveKitStandIn

    def place(self, provider: str, to: str) -> TwilioCall | TelnyxCall:
        """Somebody calls the number at its carrier, and talks for a moment."""
        carrier = self.twilio if provider == "twilio" else self.telnyx
        return carrier.place_call(to, CALLER, hold_seconds=HOLD)

    async def routed(self, number: str, *agents: str, fallback: str = "") -> None:
        """Until the ingress has taken the change: the number leads to these agents."""
        wanted = (list(agents), fallback)
        await eventually(lambda: _leads(self._route(number)) == wanted, within=5.0)

    async def unrouted(self, number: str) -> None:
        """Until the ingress knows nothing of the number."""
        await eventually(lambda: self._route(number) is None, within=5.0)

    def _route(self, number: str) -> Route | None:
        assert self.node.routes is not None
        return self.node.routes.table.get(number)

    def agents(self) -> list[str]:
        """Whom LiveKit has brought, one after the other."""
        return [job.agent_name for job in self.livekit.jobs]

    async def webhook(
        self, kind: str, sid: str, token: str, *, query: str = "", **fields: str
    ) -> Reply:
        """A webhook of the account `sid` at Twilio, signed with a token."""
        path = f"/webhooks/twilio/{kind}{query}"
        sent = form(AccountSid=sid, **({"CallSid": new_sid()} | fields))
        signed = headers(sign(path, sent, base=self.api.url, token=token))
        return await self.api.request("POST", path, headers=signed, raw=urlencode(sent).encode())


def _leads(route: Route | None) -> tuple[list[str], str]:
    return ([each.agent for each in route.targets], route.fallback) if route else ([], "")


@asynccontextmanager
async def world(folder: Path, **more: Any) -> AsyncIterator[World]:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    async with (
        LiveKitStandIn(
            api_key=KEY, api_secret=SECRET, webhook_url=f"{base}/webhooks/livekit"
        ) as livekit,
        TwilioStandIn(
            account_sid=ACCOUNT,
            auth_token=TOKEN,
            webhook_base=base,
            dial_sip=livekit.invite,
            strict=True,
        ) as twilio,
        TelnyxStandIn(
            api_key=API_KEY, seed=SEED, webhook_base=base, dial_sip=livekit.invite, strict=True
        ) as at_telnyx,
    ):
        carriers = {
            "twilio": {"api_url": twilio.url},
            "telnyx": {
                "api_key": API_KEY,
                "public_keys": [at_telnyx.public_key],
                "api_url": at_telnyx.url,
            },
        }
        settings = node_settings(
            folder, port=port, livekit_url=livekit.url, providers=carriers, **more
        )
        for agent in ("anna", "bob"):
            livekit.register_worker(agent)
        async with running(settings) as node, api_of(settings) as api:
            await eventually(lambda: node.health()[1]["livekit"] == "ok")
            yield World(node, api, twilio, at_telnyx, livekit)


async def _apology(call: TwilioCall | TelnyxCall) -> None:
    """The caller is told, or turned away, and nobody is dialled."""
    if isinstance(call, TwilioCall):
        await call.ended()
        assert "<Say" in call.twiml[0]
        assert "<Dial" not in "".join(call.twiml)
    else:
        await call.ended()
        asked = [step.detail["action"] for step in call.steps if step.what == "command.received"]
        assert (asked, call.dialled) == (["reject"], [])


def _dialled(call: TwilioCall | TelnyxCall) -> str:
    """All that was dialled for the caller."""
    if isinstance(call, TwilioCall):
        return "".join(call.twiml)
    return " ".join(leg.to for leg in call.dialled)


async def _forced(w: World, provider: str, number: str) -> str:
    """A webhook for a number that is no one's, which its carrier would never send; the call."""
    if provider == "twilio":
        sid = new_sid()
        reply = await w.webhook("voice", ACCOUNT, TOKEN, CallSid=sid, To=number)
        assert "<Say" in reply.text
        assert "<Dial" not in reply.text
    else:
        sid = telnyx.CONTROL_ID
        body = telnyx.event("call.initiated", direction="incoming", state="parked", to=number)
        signed = telnyx.headers(body, key=SigningKey(SEED), at=SystemClock().now())
        reply = await w.api.request("POST", "/webhooks/telnyx", headers=signed, raw=body)
    assert reply.status == 200, reply.text
    return sid


@pytest.mark.parametrize("provider", ["twilio", "telnyx"])
async def test_a_number_from_search_to_release(tmp_path: Path, provider: str) -> None:
    async with world(tmp_path) as w:
        client = await w.api.account("acme", plan=Plan(numbers=1))
        voice_ai = VoiceAi(client, provider)
        number = await voice_ai.select()
        await _apology(w.place(provider, number))  # it leads to nobody yet
        anna = await voice_ai.create("Anna", number)
        await _apology(w.place(provider, number))  # she is not deployed
        await voice_ai.deploy(anna)
        await w.routed(number, "anna")
        call = w.place(provider, number)
        record = await call_of(client, call.sid, state="ended", disposition="answered")
        assert (record["agent"], record["to_number"]) == ("anna", number)
        assert w.agents() == ["anna"]
        job = json.loads(w.livekit.jobs[0].metadata)
        assert job["metadata"]["config"]["prompt"] == "You are Anna."
        assert job["call"]["to"] == number

        refused = await voice_ai.release(number)
        assert (refused.status, refused.json["code"]) == (409, "agent_deployed")
        await set_fallback(client, number, FALLBACK)
        await voice_ai.pause(anna)
        await w.routed(number, fallback=FALLBACK)
        call = w.place(provider, number)
        record = await call_of(client, call.sid, state="ended", disposition="forwarded")
        assert FALLBACK in _dialled(call)
        assert "sip:" not in _dialled(call)
        await set_fallback(client, number, "")
        await w.routed(number)
        await _apology(w.place(provider, number))

        assert (await voice_ai.release(number)).json["status"] == "released"
        await w.unrouted(number)
        with pytest.raises(NotInService):
            w.place(provider, number)
        turned_away = await _forced(w, provider, number)
        record = await call_of(await w.api.account("default"), turned_away)  # the operator's
        assert (record["reason"], record["agent"]) == ("number is not mapped", "")
        assert turned_away not in (await client.get(f"{NATIVE}/calls")).text
        assert w.agents() == ["anna"]
        assert number in await voice_ai.search()
        await voice_ai.select()  # its slot is free


async def test_the_agent_that_has_the_number_now_is_heard(tmp_path: Path) -> None:
    """Two accounts' numbers at one carrier, and one that moves from agent to agent."""
    async with world(tmp_path) as w:
        acme, rival = [VoiceAi(await w.api.account(name)) for name in ("acme", "rival")]
        numbers = [await acme.select(), await rival.select()]
        assert len(set(numbers)) == 2
        for voice_ai, name, number in zip((acme, rival), ("Anna", "Bob"), numbers, strict=True):
            await voice_ai.deploy(await voice_ai.create(name, number))
            await w.routed(number, name.lower())
        calls = [w.place("twilio", number) for number in numbers]
        for voice_ai, call, name in zip((acme, rival), calls, ("anna", "bob"), strict=True):
            record = await call_of(voice_ai.client, call.sid, state="ended")
            assert (record["agent"], record["disposition"]) == (name, "answered")
        assert sorted(w.agents()) == ["anna", "bob"]
        await acme.deploy(await acme.create("Bob", numbers[0]))
        await w.routed(numbers[0], "bob")
        call = w.place("twilio", numbers[0])
        record = await call_of(acme.client, call.sid, state="ended")
        assert (record["agent"], record["disposition"]) == ("bob", "answered")
        listed = (await rival.client.get(f"{NATIVE}/calls")).json
        assert listed["total"] == 1


@dataclass
class Tenant:
    """An account with an account of its own at Twilio, and a number bought there."""

    client: Client
    sid: str
    token: str
    number: str

    async def calls(self) -> list[dict[str, Any]]:
        """The records that its API shows."""
        reply = await self.client.get(f"{NATIVE}/calls")
        assert reply.status == 200, reply.text
        found: list[dict[str, Any]] = reply.json["items"]
        return found


async def _connected(client: Client, kind: str, credentials: dict[str, str]) -> str:
    """The id of a connection, made as Vocode's users make it."""
    body = {"type": f"account_connection_{kind}", "credentials": credentials}
    made = await client.post("/v1/account_connections/create", body)
    assert made.status == 200, made.text
    for secret in set(credentials.values()):
        assert secret not in made.text or secret.startswith("AC")
    return str(made.json["id"])


async def _bought(w: World, client: Client, provider: str, connection: str, agent: str) -> str:
    """A number that is bought through a connection, for a new agent."""
    made = await client.post(f"{NATIVE}/agents", {"name": agent})
    assert made.status == 201, made.text
    at = {"telephony_provider": provider, "telephony_account_connection": connection}
    available = await client.request("GET", "/v1/numbers/available", query=at | {"limit": 1})
    number = available.json["items"][0]["number"]
    bought = await client.post(
        "/v1/numbers/buy", at | {"phone_number": number, "inbound_agent": made.json["id"]}
    )
    assert (bought.status, bought.json["number"]) == (200, number), bought.text
    await w.routed(number, agent)
    return str(number)


async def _tenant(w: World, name: str, agent: str) -> Tenant:
    client = await w.api.account(name, plan=Plan(shared_carriers=False))
    sid, token = w.twilio.accounts.add()
    credentials = {"twilio_account_sid": sid, "twilio_auth_token": token}
    connection = await _connected(client, "twilio", credentials)
    return Tenant(client, sid, token, await _bought(w, client, "twilio", connection, agent))


async def test_a_call_at_a_tenants_own_account_is_the_tenants_alone(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        acme, rival = await _tenant(w, "acme", "anna"), await _tenant(w, "rival", "bob")
        holder = w.twilio.accounts.holder(acme.number)
        assert holder is not None
        assert holder[0].sid == acme.sid  # not the operator's, so it is signed with its own token
        call = w.place("twilio", acme.number)
        record = await call_of(acme.client, call.sid, state="ended", disposition="answered")
        assert record["agent"] == "anna"
        assert w.agents() == ["anna"]
        for sid, token in (
            (acme.sid, TOKEN),
            (ACCOUNT, TOKEN),
            (acme.sid, rival.token),
            (rival.sid, rival.token),
            (rival.sid, acme.token),
            (acme.sid, "nobody's token at all"),
        ):
            reply = await w.webhook("voice", sid, token, To=acme.number)
            assert reply.status == 403, (sid, token)
            assert acme.number not in reply.text
        assert [each["call_id"] for each in await acme.calls()] == [record["call_id"]]
        assert await rival.calls() == []
        assert w.agents() == ["anna"]


async def test_another_tenant_can_not_end_a_call(tmp_path: Path) -> None:
    """Not with its own key, nor with a key that it gives to the other's account itself."""
    async with world(tmp_path) as w:
        acme, rival = await _tenant(w, "acme", "anna"), await _tenant(w, "rival", "bob")
        false = {"twilio_account_sid": acme.sid, "twilio_auth_token": "5f" * 16}
        await _connected(rival.client, "twilio", false)
        assert w.node.connections is not None
        book = w.node.connections.table
        await eventually(lambda: len(book) == 3)
        call = w.twilio.place_call(acme.number, CALLER)
        await call.answered()
        before = await call_of(acme.client, call.sid, agent_ready=True, state="answered")
        over = {"CallSid": call.sid, "To": acme.number, "CallStatus": "completed"}
        over |= {"SequenceNumber": "1", "CallDuration": "7"}
        for sid, token, status in (
            (rival.sid, rival.token, 204),
            (acme.sid, "5f" * 16, 204),
            (acme.sid, rival.token, 403),
        ):
            assert (await w.webhook("status", sid, token, **over)).status == status, (sid, token)
        # What was taken is one call more of the rival's, over before it began.
        await call_of(rival.client, call.sid, state="ended")
        (now,) = await acme.calls()
        ends = ("call_id", "state", "disposition", "ended_at", "duration", "reason")
        assert [now[name] for name in ends] == [before[name] for name in ends]
        assert not call.is_ended
        call.hangup()
        record = await call_of(acme.client, call.sid, state="ended", disposition="answered")
        assert record["call_id"] == before["call_id"]
        assert record["call_id"] not in {each["call_id"] for each in await rival.calls()}


async def test_a_tenants_own_account_at_telnyx_signs_with_its_own_key(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        client = await w.api.account("acme", plan=Plan(shared_carriers=False))
        account = w.telnyx.accounts.add()
        key = {"telnyx_api_key": account.api_key, "telnyx_public_key": account.sender.public_key}
        connection = await _connected(client, "telnyx", key)
        number = await _bought(w, client, "telnyx", connection, "anna")
        call = w.place("telnyx", number)
        record = await call_of(client, call.sid, state="ended", disposition="answered")
        assert record["agent"] == "anna"
        body = telnyx.event("call.initiated", direction="incoming", state="parked", to=number)
        signed = telnyx.headers(body, key=SigningKey(SEED), at=SystemClock().now())
        for path in ("", f"/c/{connection}"):  # with the operator's key
            target = f"/webhooks/telnyx{path}"
            reply = await w.api.request("POST", target, headers=signed, raw=body)
            assert reply.status == 403, path
        assert (await client.get(f"{NATIVE}/calls")).json["total"] == 1
        assert w.agents() == ["anna"]


async def test_a_revoked_token_is_none_from_the_next_request_on(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        client, admin = await w.api.account("acme"), await w.api.admin()
        voice_ai = VoiceAi(client)
        number = await voice_ai.select()
        await voice_ai.deploy(await voice_ai.create("Anna", number))
        await w.routed(number, "anna")
        revoked = await admin.delete(f"{NATIVE}/tokens/{client.row.id}")
        assert revoked.status in (200, 204), revoked.text
        for path in (f"{NATIVE}/me", "/api/v1/agent/phone-numbers", "/v1/numbers/list"):
            assert (await client.get(path)).status == 401, path
        assert (await voice_ai.release(number)).status == 401
        call = w.place("twilio", number)  # calls need no token
        other = await w.api.account("acme")
        record = await call_of(other, call.sid, state="ended", disposition="answered")
        assert record["agent"] == "anna"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings of a database."""
    if request.param == "sqlite":
        return {}
    server: Postgres = request.getfixturevalue("postgres")
    url = server.create_database(f"slots_{uuid.uuid4().hex[:8]}")
    return {"database": {"url": url}, "secret_key": "ab" * 32}


async def test_slots_of_a_plan_are_never_exceeded(tmp_path: Path, database: dict[str, Any]) -> None:
    """Twenty at once for five slots: the carrier is asked for five and sells five."""
    async with world(tmp_path, **database) as w:
        client = await w.api.account("acme", plan=Plan(numbers=5))
        voice_ai = VoiceAi(client)
        wanted = (await voice_ai.search())[:20]
        assert len(wanted) == 20

        async def select(number: str) -> Reply:
            path = "/api/v1/agent/select-phone-number"
            return await client.post(path, {"phone_number": number})

        replies = await asyncio.gather(*map(select, wanted))
        assert sorted(each.status for each in replies) == [200] * 5 + [402] * 15
        codes = {each.json.get("code") for each in replies if each.status == 402}
        assert codes == {"phone_number_limit_reached"}
        held = {each.number for each in w.twilio.accounts.main.numbers.values()}
        assert len(held) == w.twilio.faults.requests.count("buy") == 5
        assert held == {each.json["phone_number"] for each in replies if each.status == 200}
        listed = (await client.get("/api/v1/agent/phone-numbers")).json
        assert {each["phone_number"] for each in listed["phone_numbers"]} == held
        given_back = held.pop()
        assert (await voice_ai.release(given_back)).status == 200
        left = [number for number in wanted if number not in held]
        replies = await asyncio.gather(*map(select, left))
        assert sorted(each.status for each in replies) == [200] + [402] * 15


async def test_one_number_is_sold_once(tmp_path: Path, database: dict[str, Any]) -> None:
    """However many accounts want it at once, and however often each asks."""
    async with world(tmp_path, **database) as w:
        clients = [await w.api.account(f"account-{index}") for index in range(4)]
        number = (await VoiceAi(clients[0]).search())[0]
        path = "/api/v1/agent/select-phone-number"
        asked = [client.post(path, {"phone_number": number}) for client in clients * 5]
        statuses = [each.status for each in await asyncio.gather(*asked)]
        assert statuses.count(200) == 1
        assert set(statuses) <= {200, 404, 409}
        assert w.twilio.faults.requests.count("buy") == 1
        owners = [
            client
            for client in clients
            if number in (await client.get("/api/v1/agent/phone-numbers")).text
        ]
        assert owners == [clients[statuses.index(200) % 4]]
