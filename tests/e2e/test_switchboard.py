"""One real call, end to end, with the real servers; what Twilio does is played by the test.

Switchboard answers a signed webhook; SIPp plays Twilio's SIP leg to the URI and with the
credentials of our TwiML; livekit-server and livekit-sip carry it; livekit-agents workers, each with
its own tone, are dispatched; the test listens to the RTP and hears who speaks.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4
from xml.etree import ElementTree as ET

import aiohttp
import pytest
from aiohttp import web
from livekit import api

from config import Settings
from router.events.call import CallRecord
from router.events.ids import DEFAULT_ACCOUNT, call_id
from router.events.model import Event
from router.events.types import EventType
from router.node import Node
from router.observability.metrics import SILENT_CALLERS
from router.sandbox.call import NotInService
from router.sandbox.serve import serve
from router.sandbox.sip import Invite, Leg
from router.sandbox.twilio.standin import TwilioStandIn
from router.storage import calls as call_store
from router.storage.engine import Database, open_database
from tests.support.api_node import VoiceAi, api_of, call_of, set_fallback
from tests.support.nodes import (
    ACCOUNT,
    TOKEN,
    apply_text,
    eventually,
    node_settings,
    running,
)
from tests.support.servers.kafka import kafka_server
from tests.support.servers.postgres import Postgres
from tests.support.sip.agent import AgentWorker, agent_worker
from tests.support.sip.caller import SipCall, SipResult, place_calls
from tests.support.telephony import Telephony, assert_hears_only, real_telephony
from tests.support.twilio_requests import form, headers, sign

pytestmark = [pytest.mark.livekit, pytest.mark.sip, pytest.mark.timeout(240)]

NUMBERS = {"anna": "+14155550100", "bob": "+14155550101", "nobody": "+14155550102"}
CALLER = "+12125550123"
_BROUGHT = 0.5  # seconds from dispatch to an agent that is heard, on an idle machine
FALLBACK = "<Number>+14155550199</Number>"


@pytest.fixture(scope="module")
def telephony() -> Iterator[Telephony]:
    with real_telephony() as found:
        yield found


@pytest.fixture(
    params=[
        "journal",
        pytest.param(
            "kafka-postgres", marks=[pytest.mark.kafka, pytest.mark.postgres], id="kafka-postgres"
        ),
    ]
)
def backend(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Settings of the two ways to run: the journal and SQLite alone; Kafka and PostgreSQL."""
    if request.param == "journal":
        yield {}
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    with kafka_server() as kafka:
        yield {
            "kafka": {"bootstrap_servers": kafka.bootstrap},
            "database": {"url": postgres.create_database(f"e2e_{uuid4().hex[:8]}")},
            "secret_key": "ab" * 32,
        }


class Switchboard:
    """A running node, and what Twilio does to it."""

    def __init__(
        self,
        settings: Settings,
        node: Node,
        database: Database,
        session: aiohttp.ClientSession,
        telephony: Telephony,
    ) -> None:
        self.settings, self.node, self.telephony = settings, node, telephony
        self._database, self._session = database, session

    async def post(self, kind: str, query: str = "", **fields: str) -> str:
        """A signed webhook; the answer's text."""
        path = f"/webhooks/twilio/{kind}{query}"
        sent = form(AccountSid=ACCOUNT, From=CALLER, **fields)
        signed = headers(sign(path, sent, base=self.settings.public_url, token=TOKEN))
        url = self.settings.public_url + path
        async with self._session.post(url, data=urlencode(sent), headers=signed) as answer:
            assert answer.status in (200, 204), await answer.text()
            return await answer.text()

    async def answer(self, sid: str, agent: str) -> ET.Element:
        """What the voice webhook of a call to `agent`'s number is answered: the `<Sip>`."""
        return await self.answer_to(sid, NUMBERS[agent])

    async def answer_to(self, sid: str, number: str) -> ET.Element:
        """The same of any number."""
        sip = ET.fromstring(await self.post("voice", CallSid=sid, To=number)).find(".//Sip")
        assert sip is not None
        return sip

    async def dialled(
        self, sid: str, sip: ET.Element, *, password: str | None = None, **how: Any
    ) -> SipResult:
        """Twilio's SIP leg, as the `<Sip>` says."""
        uri = sip.text or ""
        user, host = uri.removeprefix("sip:").partition(";")[0].split("@")
        assert host == f"{self.telephony.sip.host}:{self.telephony.sip.port}"
        call = SipCall(from_user=CALLER, to_user=user, call_sid=sid)
        [result] = await place_calls(
            [call],
            server=self.telephony.sip.address,
            username=sip.get("username", ""),
            password=password or sip.get("password") or "",
            **how,
        )
        return result

    async def record(self, sid: str, *, until: str) -> tuple[CallRecord, list[Event]]:
        """The call's record and events, once it has an event of that type."""
        wanted = call_id("twilio", ACCOUNT, sid)
        told: list[str] = []
        for _ in range(400):
            events = list(await call_store.events(self._database, wanted))
            record = await call_store.get(self._database, DEFAULT_ACCOUNT, wanted)
            told = [event.type.value for event in events]
            if record is not None and until in told:
                return record, events
            await asyncio.sleep(0.05)
        raise AssertionError(f"no {until} among {told}")

    async def room_is_gone(self, name: str) -> bool:
        server = self.telephony.livekit
        async with api.LiveKitAPI(server.url, server.api_key, server.api_secret) as client:
            for _ in range(100):
                found = await client.room.list_rooms(api.ListRoomsRequest(names=[name]))
                if not found.rooms:
                    return True
                await asyncio.sleep(0.05)
        return False


@asynccontextmanager
async def switchboard(
    telephony: Telephony, folder: Path, backend: dict[str, Any], **more: Any
) -> AsyncIterator[Switchboard]:
    livekit, sip = telephony.livekit, telephony.sip
    settings = node_settings(
        folder,
        port=telephony.port,
        livekit_url=livekit.url,
        **backend,
        **more,
        livekit={
            "api_key": livekit.api_key,
            "api_secret": livekit.api_secret,
            "sip_host": f"{sip.host}:{sip.port}",
        },
    )
    async with AsyncExitStack() as stack:
        routes = await apply_text(settings)
        node = await stack.enter_async_context(running(settings, routes=routes))
        await eventually(lambda: node.health()[1]["livekit"] == "ok")
        database = await stack.enter_async_context(open_database(settings))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Switchboard(settings, node, database, session, telephony)


def new_sid() -> str:
    return f"CA{uuid4().hex}"


async def test_the_right_agent_speaks_and_the_call_is_recorded(
    telephony: Telephony, tmp_path: Path, backend: dict[str, Any]
) -> None:
    async with switchboard(telephony, tmp_path, backend) as board:
        sid = new_sid()
        sip = await board.answer(sid, "anna")
        result = await board.dialled(sid, sip)
        assert result.status == 200, result
        assert_hears_only(result, "anna")
        record, events = await board.record(sid, until="sip.left")
        assert (record.state, record.disposition, record.agent) == ("ended", "answered", "anna")
        assert record.duration == pytest.approx(result.talked, abs=0.7)
        assert record.agent_ready_at is not None
        told = [event.type.value for event in events]
        for kind in ("call.initiated", "agent.dispatched", "agent.joined", "agent.ready"):
            assert told.count(kind) == 1, told
        assert await board.room_is_gone(record.call_id)
        [job] = telephony.agents["anna"].events("job", room=record.call_id)
        metadata = json.loads(job.metadata)
        assert metadata["metadata"] == {"greeting": "Hello"}
        assert metadata["call"]["provider_call_id"] == sid
        assert metadata["call"]["from"] == CALLER
        # What Twilio does next: it asks what follows the dial, and reports the end.
        dial = await board.post(
            "dial", "?stage=agent", CallSid=sid, To=NUMBERS["anna"], DialCallStatus="completed"
        )
        assert "<Hangup" in dial
        await board.post(
            "status", CallSid=sid, To=NUMBERS["anna"], CallStatus="completed", CallDuration="2"
        )


async def test_ten_calls_at_once_to_two_numbers_reach_their_agents(
    telephony: Telephony, tmp_path: Path, backend: dict[str, Any]
) -> None:
    # Ten calls, agents and media on a small machine: not the place to be strict about seconds.
    patient = {"dispatch": {"deadline": 20.0}, "providers": {"twilio": {"dial_timeout": 50}}}
    async with switchboard(telephony, tmp_path, backend, **patient) as board:

        async def one(index: int) -> str:
            agent = ("anna", "bob")[index % 2]
            sid = new_sid()
            sip = await board.answer(sid, agent)
            result = await board.dialled(sid, sip, patience=50.0)
            assert result.status == 200, (agent, result)
            assert_hears_only(result, agent)
            record, events = await board.record(sid, until="sip.left")
            assert (record.agent, record.disposition) == (agent, "answered")
            assert [e.type.value for e in events].count("agent.ready") == 1
            assert await board.room_is_gone(record.call_id)
            return agent

        async with asyncio.TaskGroup() as tasks:
            running_calls = [tasks.create_task(one(index)) for index in range(10)]
        agents = [call.result() for call in running_calls]
        assert (agents.count("anna"), agents.count("bob")) == (5, 5)


async def test_a_wrong_password_gets_nowhere_and_the_fallback_is_dialled(
    telephony: Telephony, tmp_path: Path, backend: dict[str, Any]
) -> None:
    async with switchboard(telephony, tmp_path, backend) as board:
        sid = new_sid()
        sip = await board.answer(sid, "anna")
        result = await board.dialled(sid, sip, password="not-the-password")
        assert result.status == 401, result
        assert result.audio.packets == 0
        dial = await board.post(
            "dial",
            "?stage=agent",
            CallSid=sid,
            To=NUMBERS["anna"],
            DialCallStatus="failed",
            DialSipResponseCode="401",
        )
        assert FALLBACK in dial
        record, _ = await board.record(sid, until="call.forwarded")
        assert record.state == "forwarded"


async def test_an_agent_without_a_worker_is_missing_and_the_fallback_is_dialled(
    telephony: Telephony, tmp_path: Path, backend: dict[str, Any]
) -> None:
    async with switchboard(telephony, tmp_path, backend, dispatch={"deadline": 1.0}) as board:
        sid = new_sid()
        sip = await board.answer(sid, "nobody")
        leg = asyncio.create_task(board.dialled(sid, sip, patience=15.0))
        record, events = await board.record(sid, until="agent.missing")
        told = [event.type.value for event in events]
        assert told.count("agent.dispatched") == 2, told
        assert not record.agent_ready
        result = await leg
        assert result.status == 486, result  # not 487, which would be ours when patience is over
        dial = await board.post(
            "dial",
            "?stage=agent",
            CallSid=sid,
            To=NUMBERS["nobody"],
            DialCallStatus="busy",
        )
        assert FALLBACK in dial
        record, _ = await board.record(sid, until="call.forwarded")
        assert record.state == "forwarded"
        assert await board.room_is_gone(record.call_id)


def _no_leg(_: Invite) -> Leg:
    raise AssertionError("the SIP leg is SIPp's")


@asynccontextmanager
async def numbers_for_sale(base: str) -> AsyncIterator[TwilioStandIn]:
    """Twilio's numbers; those of the mapping are the operator's already."""
    async with TwilioStandIn(
        account_sid=ACCOUNT, auth_token=TOKEN, webhook_base=base, dial_sip=_no_leg
    ) as twilio:
        for number in NUMBERS.values():
            twilio.hold(number)
        yield twilio


async def leads(board: Switchboard, number: str, *agents: str, fallback: str = "") -> None:
    """Until the node has taken the change: the number leads to these agents."""
    routes = board.node.routes
    assert routes is not None

    def is_so() -> bool:
        route = routes.table.get(number)
        found = [target.agent for target in route.targets] if route is not None else []
        return (found, route.fallback if route is not None else "") == ([*agents], fallback)

    await eventually(is_so, within=5.0)


async def test_a_number_that_was_bought_is_heard_until_its_agent_is_paused(
    telephony: Telephony, tmp_path: Path
) -> None:
    base = f"http://127.0.0.1:{telephony.port}"
    async with AsyncExitStack() as stack:
        twilio = await stack.enter_async_context(numbers_for_sale(base))
        carriers = {"twilio": {"api_url": twilio.url}}
        board = await stack.enter_async_context(
            switchboard(telephony, tmp_path, {}, providers=carriers)
        )
        api = await stack.enter_async_context(api_of(board.settings))
        client = await api.account("acme")
        voice_ai = VoiceAi(client)
        number = await voice_ai.select()
        bob = await voice_ai.create("Bob", number)
        await voice_ai.deploy(bob)
        await leads(board, number, "bob")

        sid = new_sid()
        result = await board.dialled(sid, await board.answer_to(sid, number))
        assert result.status == 200, result
        assert_hears_only(result, "bob")
        record = await call_of(client, sid, state="ended", disposition="answered")
        assert record["agent"] == "bob"
        [job] = telephony.agents["bob"].events("job", room=record["call_id"])
        assert json.loads(job.metadata)["metadata"]["config"]["prompt"] == "You are Bob."

        await set_fallback(client, number, "+14155550199")
        await voice_ai.pause(bob)
        await leads(board, number, fallback="+14155550199")
        sid = new_sid()
        twiml = await board.post("voice", CallSid=sid, To=number)
        assert FALLBACK in twiml
        assert "<Sip" not in twiml
        forwarded = await call_of(client, sid, agent="")
        assert "to its fallback" in forwarded["reason"]
        assert (await voice_ai.release(number)).status == 200
        await leads(board, number)
        with pytest.raises(NotInService):
            twilio.place_call(number, CALLER)
        sid = new_sid()
        twiml = await board.post("voice", CallSid=sid, To=number)
        assert "<Say" in twiml
        assert "<Dial" not in twiml
        rejected = call_id("twilio", ACCOUNT, sid)
        for room in (forwarded["call_id"], rejected):
            assert telephony.agents["bob"].events("job", room=room) == []


@asynccontextmanager
async def twilio_api() -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    """Twilio's REST API as far as it is asked here: the updates of calls that it got."""
    updates: list[dict[str, str]] = []

    async def update(request: web.Request) -> web.Response:
        updates.append({key: str(value) for key, value in (await request.post()).items()})
        return web.json_response({"sid": request.match_info["sid"], "status": "in-progress"})

    app = web.Application()
    app.router.add_post("/2010-04-01/Accounts/{account}/Calls/{sid}.json", update)
    async with serve(app, 0) as url:
        yield url, updates


@contextmanager
def two_workers(telephony: Telephony) -> Iterator[dict[str, AgentWorker]]:
    """Two processes that serve the same agent, told apart by their tones."""
    name = "nobody-is-registered-for-this"
    with ExitStack() as stack:
        yield {
            str(tone): stack.enter_context(agent_worker(name, tone=tone, livekit=telephony.livekit))
            for tone in (440.0, 660.0)
        }


async def talking_worker(workers: dict[str, AgentWorker], room: str) -> str:
    """The tone of the one whose agent is in the room."""
    async with asyncio.timeout(20):
        while True:
            for tone, worker in workers.items():
                if worker.events("published", room=room):
                    return tone
            await asyncio.sleep(0.05)


async def test_an_agent_killed_in_the_middle_of_a_call_is_replaced_and_heard_within_3_s(
    telephony: Telephony, tmp_path: Path
) -> None:
    with two_workers(telephony) as workers:
        async with switchboard(telephony, tmp_path, {}) as board:
            sid = new_sid()
            sip = await board.answer(sid, "nobody")
            leg = asyncio.create_task(board.dialled(sid, sip, enough=60.0, hold=12.0))
            _, events = await board.record(sid, until="agent.ready")
            first = await talking_worker(workers, events[0].call_id)
            await asyncio.sleep(3.0)
            killed_at = time.monotonic()
            workers.pop(first).kill()
            result = await leg
            [second] = workers
            before = [at for at in result.audio.moments(float(first)) if at < killed_at]
            after = [at for at in result.audio.moments(float(second)) if at > killed_at]
            assert before
            assert after, "nobody was heard any more"
            heard_after = after[0] - killed_at
            print(f"another agent was heard {heard_after:.2f} s after the first was killed")
            # 3 s, on a machine that brings an agent in the time that this takes when it is idle.
            at = {event.type: event.time / 1_000_000 for event in events}
            brought = at[EventType.AGENT_READY] - at[EventType.AGENT_DISPATCHED]
            print(f"the first one was brought in {brought:.2f} s")
            assert heard_after < 3.0 * max(1.0, brought / _BROUGHT)
            record, events = await board.record(sid, until="sip.left")
            told = [event.type.value for event in events]
            assert told.count("agent.ready") == 2
            assert told.count("agent.missing") == 0
            assert record.disposition == "answered"
            assert await board.room_is_gone(record.call_id)


async def test_where_no_worker_is_left_the_caller_reaches_the_fallback(
    telephony: Telephony, tmp_path: Path
) -> None:
    before = SILENT_CALLERS._value.get()
    with two_workers(telephony) as workers:
        async with (
            twilio_api() as (url, updates),
            switchboard(
                telephony,
                tmp_path,
                {},
                dispatch={"deadline": 1.5},
                providers={"twilio": {"api_url": url}},
            ) as board,
        ):
            sid = new_sid()
            sip = await board.answer(sid, "nobody")
            leg = asyncio.create_task(board.dialled(sid, sip, enough=60.0, hold=25.0))
            _, events = await board.record(sid, until="agent.ready")
            while workers:  # again and again
                tone = await talking_worker(workers, events[0].call_id)
                await asyncio.sleep(2.5)
                workers.pop(tone).kill()
            await eventually(lambda: bool(updates), within=10.0)
            assert FALLBACK in updates[0]["Twiml"]
            _, events = await board.record(sid, until="call.forwarded")
            told = [event.type.value for event in events]
            assert told.count("agent.missing") == 1
            leg.cancel()  # Twilio ends the dial to LiveKit, and dials the fallback
            await asyncio.gather(leg, return_exceptions=True)
            assert len(updates) == 1
    assert SILENT_CALLERS._value.get() == before
