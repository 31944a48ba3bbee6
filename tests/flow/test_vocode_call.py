"""Calls that Vocode carries, through a whole node: their agents come into rooms of LiveKit's."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from config import Settings
from router.events.call import CallRecord
from router.events.ids import DEFAULT_ACCOUNT, call_id
from router.events.model import Event
from router.sandbox.livekit.standin import LiveKitStandIn
from router.storage import calls as call_store
from router.storage.engine import open_database
from tests.providers.vocode.case import ACTION_SECRETS, HEADER, SECRETS, signed
from tests.support.ingress import exchange, logged
from tests.support.nodes import (
    KEY,
    SECRET,
    apply_text,
    eventually,
    free_port,
    node_settings,
    running,
)

OURS, THEIRS = "14155550100", "12125550123"
THEIR_ID = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
CALL = call_id("vocode", "", THEIR_ID)
MAPPING = """
agents:
  - {name: anna, livekit_agent_name: anna, metadata: {greeting: Hello}}
  - {name: bob, livekit_agent_name: bob}
numbers:
  - {number: "+14155550100", provider: vocode, agent: anna}
  - {number: "+14155550101", provider: twilio, agent: bob}
"""


class World:
    """A node with LiveKit beside it, and Vocode, which posts to it."""

    def __init__(
        self, settings: Settings, livekit: LiveKitStandIn, session: aiohttp.ClientSession
    ) -> None:
        self.settings, self.livekit, self._session = settings, livekit, session
        self.url = f"{settings.public_url}/webhooks/vocode/{SECRETS[0]}"

    async def tell(self, type_: str, call: str = THEIR_ID, **payload: Any) -> int:
        """Post a webhook as the hosted service does; the status of the answer."""
        message = {"type": f"event_{type_}", "call_id": call, "payload": payload}
        async with self._session.post(self.url, json=message) as answer:
            return answer.status

    async def get(self, **fields: str) -> int:
        """The same for a webhook whose method is GET."""
        async with self._session.get(self.url, params=fields) as answer:
            return answer.status

    async def post(self, url: str, body: bytes, **headers: str) -> tuple[int, str]:
        async with self._session.post(url, data=body, headers=headers) as answer:
            return answer.status, await answer.text()

    async def known(self, kind: str) -> tuple[CallRecord, list[Event]]:
        """The call's record and events, once one of `kind` is among them."""
        async with open_database(self.settings) as database, asyncio.timeout(15):
            while True:
                events = list(await call_store.events(database, CALL))
                record = await call_store.get(
                    database, DEFAULT_ACCOUNT, CALL
                )  # folded of these, or of more
                if record is not None and kind in [event.type for event in events]:
                    return record, events
                await asyncio.sleep(0.01)


@asynccontextmanager
async def world(folder: Path, *, webhooks: bool = True) -> AsyncIterator[World]:
    port = free_port()
    url = f"http://127.0.0.1:{port}/webhooks/livekit" if webhooks else None
    async with (
        LiveKitStandIn(api_key=KEY, api_secret=SECRET, webhook_url=url) as livekit,
        aiohttp.ClientSession() as session,
    ):
        vocode = {"secrets": SECRETS, "action_secrets": ACTION_SECRETS}
        settings = node_settings(
            folder, port=port, livekit_url=livekit.url, providers={"vocode": vocode}
        )
        routes = await apply_text(settings, MAPPING)
        async with running(settings, routes=routes) as node:
            await eventually(lambda: node.health()[1]["livekit"] == "ok")
            livekit.register_worker("anna")
            livekit.register_worker("bob")
            yield World(settings, livekit, session)


def agents_in(livekit: LiveKitStandIn, room: str) -> int:
    found = livekit.rooms.get(room)
    return 0 if found is None else len(found.agents)


@pytest.mark.parametrize("webhooks", [True, False], ids=["webhooks", "poll-only"])
async def test_the_numbers_agent_comes_into_the_room_and_leaves_it_at_the_end(
    tmp_path: Path, webhooks: bool
) -> None:
    async with world(tmp_path, webhooks=webhooks) as w:
        connected = {"to_phone_number": OURS, "from_phone_number": THEIRS}
        assert await w.tell("phone_call_connected", **connected) == 200
        await w.known("agent.ready")
        assert agents_in(w.livekit, CALL) == 1
        told = json.loads(w.livekit.jobs[0].metadata)
        assert told["metadata"] == {"greeting": "Hello"}
        assert told["call"]["provider_call_id"] == THEIR_ID
        assert (told["call"]["from"], told["call"]["to"]) == (f"+{THEIRS}", f"+{OURS}")

        assert await w.tell("human_detection", result="human") == 200
        assert await w.tell("message", text="Hello", sender="bot") == 200
        assert await w.tell("phone_call_ended", conversation_minutes=1.25) == 200
        await eventually(lambda: w.livekit.rooms.get(CALL) is None)
        record, events = await w.known("call.ended")
        assert (record.provider, record.agent, record.state) == ("vocode", "anna", "ended")
        assert (record.disposition, record.duration) == ("answered", 75.0)
        assert (record.to_number, record.from_number) == (f"+{OURS}", f"+{THEIRS}")
        assert record.agent_ready
        types = [event.type.value for event in events]
        for kind in ("call.answered", "call.classified", "message.spoken", "agent.dispatched"):
            assert types.count(kind) == 1, (kind, types)


async def test_repeated_webhooks_start_nothing_twice(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        connected = {"to_phone_number": OURS, "from_phone_number": THEIRS}
        answers = [w.tell("phone_call_connected", **connected) for _ in range(5)]
        assert await asyncio.gather(*answers) == [200] * 5
        await w.known("agent.ready")
        assert await w.tell("phone_call_connected", **connected) == 200
        assert await w.tell("phone_call_ended") == 200
        assert await w.tell("phone_call_connected", **connected) == 200
        await eventually(lambda: w.livekit.rooms.get(CALL) is None)
        _, events = await w.known("call.ended")
        types = [event.type.value for event in events]
        assert (types.count("call.initiated"), types.count("call.answered")) == (1, 1)
        assert [job.agent_name for job in w.livekit.jobs] == ["anna"]


async def test_no_agent_comes_to_a_call_whose_end_was_told_first(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        assert await w.tell("phone_call_ended", conversation_minutes=1) == 200
        await w.known("call.ended")
        connected = {"to_phone_number": OURS, "from_phone_number": THEIRS}
        assert await w.tell("phone_call_connected", **connected) == 200
        record, _ = await w.known("call.initiated")
        assert (record.state, record.disposition, record.duration) == ("ended", "answered", 60.0)
        assert (record.agent, record.to_number) == ("anna", f"+{OURS}")
        assert await w.tell("phone_call_connected", "another", **connected) == 200
        await eventually(lambda: len(w.livekit.jobs) == 1)  # it was read after the other
        assert w.livekit.jobs[0].room == call_id("vocode", "", "another")
        assert w.livekit.rooms.get(CALL) is None


async def test_a_call_without_numbers_is_on_record_with_the_reason(tmp_path: Path) -> None:
    """As the first versions of the open-source library tell of it: no agent can be chosen."""
    async with world(tmp_path) as w:
        for _ in range(2):
            assert await w.tell("phone_call_connected") == 200
        assert await w.tell("phone_call_ended") == 200
        record, events = await w.known("call.ended")
        assert (record.state, record.disposition) == ("ended", "failed")
        assert record.reason == "vocode named no number"
        assert [event.type.value for event in events].count("call.initiated") == 1
        assert w.livekit.jobs == []


async def test_the_agent_comes_to_a_call_that_its_number_made(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        fields = {"to_phone_number": THEIRS, "from_phone_number": OURS}
        told = await w.get(
            type="event_phone_call_connected", call_id=THEIR_ID, payload=json.dumps(fields)
        )
        assert told == 200
        record, _ = await w.known("agent.ready")
        assert (record.agent, record.direction) == ("anna", "outbound")
        assert await w.get(type="event_phone_call_ended", call_id=THEIR_ID) == 200
        await eventually(lambda: w.livekit.rooms.get(CALL) is None)


@pytest.mark.parametrize("number", ["14155559999", "14155550101"], ids=["unmapped", "elsewhere"])
async def test_no_agent_comes_to_a_number_that_is_not_mapped_at_vocode(
    tmp_path: Path, number: str
) -> None:
    async with world(tmp_path) as w:
        connected = {"to_phone_number": number, "from_phone_number": THEIRS}
        assert await w.tell("phone_call_connected", **connected) == 200
        assert await w.tell("phone_call_ended") == 200
        record, _ = await w.known("call.ended")
        assert "number is" in record.reason
        assert (w.livekit.jobs, w.livekit.rooms.get(CALL)) == ([], None)


async def test_a_call_that_never_connected_is_on_record(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        assert await w.tell("phone_call_did_not_connect", telephony_status="no-answer") == 200
        record, _ = await w.known("call.ended")
        assert (record.state, record.disposition) == ("ended", "no_answer")
        assert w.livekit.jobs == []


async def test_an_action_is_answered_and_a_wrong_secret_leaves_no_trace(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        body = json.dumps({"call_id": THEIR_ID, "payload": {"length": "30m"}}).encode()
        with logged() as lines:
            answers = [
                await w.post(w.url, body, **{HEADER: signed(body)}),
                await w.post(w.url, body),
                await w.post(w.url + "x", body, **{HEADER: signed(body)}),
                await w.post(w.url.replace("-", "%2d"), body),
                await w.post(w.url, b"{"),
            ]
            broken = f"POST {URL(w.url).path} HTTP/9.9\r\n\r\n".encode()
            await exchange(w.settings.http.port, broken)
        assert [status for status, _ in answers] == [200, 403, 403, 403, 400]
        assert json.loads(answers[0][1]) == {"result": {"recorded": True}}
        assert await w.tell("phone_call_ended") == 200
        _, events = await w.known("call.ended")
        assert [event.type.value for event in events] == ["action.performed", "call.ended"]
        assert {line["status"] for line in lines.of("webhook.refused")} == {400, 403}
        assert lines.of("Error handling request")
        shown = lines.text + "".join(text for _, text in answers)
        assert not [secret for secret in (*SECRETS, *ACTION_SECRETS) if secret in shown]
