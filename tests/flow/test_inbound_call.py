"""One inbound call through a whole node, with the sandbox's Twilio and LiveKit around it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from config import Settings
from router.cli.waiting import wait_until_held
from router.errors import Permanent
from router.events.call import CallRecord
from router.events.ids import DEFAULT_ACCOUNT, call_id
from router.events.model import Event
from router.observability.metrics import SILENT_CALLERS
from router.providers.livekit.client import open_livekit
from router.sandbox.livekit.standin import LiveKitStandIn
from router.sandbox.livekit.workers import Behaviour
from router.sandbox.twilio.call import Call
from router.sandbox.twilio.standin import TwilioStandIn
from router.storage import calls as call_store
from router.storage.engine import open_database
from tests.support.nodes import (
    ACCOUNT,
    KEY,
    SECRET,
    TOKEN,
    apply_text,
    eventually,
    free_port,
    node_settings,
    running,
)
from tests.support.settings import merged


class World:
    """A node with Twilio and LiveKit around it."""

    def __init__(self, settings: Settings, twilio: TwilioStandIn, livekit: LiveKitStandIn) -> None:
        self.settings, self.twilio, self.livekit = settings, twilio, livekit

    async def ended(self, call: Call, kind: str = "call.ended") -> tuple[CallRecord, list[Event]]:
        """The record and the events once the call is over everywhere."""
        call_id_ = call_id("twilio", ACCOUNT, call.sid)
        found: list[Any] = []
        async with open_database(self.settings) as database:

            async def look() -> None:
                events = list(await call_store.events(database, call_id_))
                found[:] = [await call_store.get(database, DEFAULT_ACCOUNT, call_id_), events]

            for _ in range(1500):
                await look()
                if found[0] and kind in [event.type for event in found[1]]:
                    return found[0], found[1]
                await _pause()
        raise AssertionError(f"no {kind}: {[event.type for event in found[1]]}")


async def over(w: World, call: Call) -> tuple[CallRecord, list[Event]]:
    """The same once the record says so: of several dials one ends before the call does."""
    async with asyncio.timeout(15):
        await call.ended()
        while True:
            record, events = await w.ended(call)
            if record.state == "ended":
                return record, events


async def _pause() -> None:
    await asyncio.sleep(0.01)


@asynccontextmanager
async def world(folder: Path, *, webhooks: bool = True, **more: Any) -> AsyncIterator[World]:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    url = f"{base}/webhooks/livekit" if webhooks else None
    async with (
        LiveKitStandIn(api_key=KEY, api_secret=SECRET, webhook_url=url) as livekit,
        TwilioStandIn(
            account_sid=ACCOUNT, auth_token=TOKEN, webhook_base=base, dial_sip=livekit.invite
        ) as twilio,
    ):
        api = {"providers": {"twilio": {"api_url": twilio.url}}}
        settings = node_settings(folder, port=port, livekit_url=livekit.url, **merged(api, more))
        routes = await apply_text(settings)
        async with running(settings, routes=routes) as node:
            await eventually(lambda: node.health()[1]["livekit"] == "ok")
            yield World(settings, twilio, livekit)


def types(events: list[Event]) -> list[str]:
    return [event.type.value for event in events]


@pytest.mark.parametrize("webhooks", [True, False], ids=["webhooks", "poll-only"])
async def test_the_right_agent_is_heard_and_the_end_is_recorded(
    tmp_path: Path, webhooks: bool
) -> None:
    async with world(tmp_path, webhooks=webhooks) as w:
        w.livekit.register_worker("anna")
        w.livekit.register_worker("bob")
        call = w.twilio.place_call("+14155550100", "+12125550123", hold_seconds=0.5)
        record, events = await w.ended(call)
        assert call.status == "completed"
        assert (record.agent, record.disposition, record.state) == ("anna", "answered", "ended")
        assert record.duration is not None
        [job] = w.livekit.jobs
        facts = json.loads(job.metadata)["call"]
        assert (job.agent_name, facts["channel"], facts["country"]) == ("anna", "pstn", "US")
        told = types(events)
        for kind in ("call.initiated", "agent.dispatched", "agent.joined", "agent.ready"):
            assert told.count(kind) == 1, (kind, told)
        await eventually(lambda: not w.livekit.rooms.get(record.call_id))


async def test_an_agent_without_a_worker_is_missing_and_the_fallback_is_dialled(
    tmp_path: Path,
) -> None:
    async with world(
        tmp_path,
        dispatch={"deadline": 0.3},
        providers={"twilio": {"dial_timeout": 600}},  # nobody waits for it
    ) as w:
        call = w.twilio.place_call("+14155550102", "+12125550123", hold_seconds=0.2)
        record, events = await w.ended(call)
        told = types(events)
        assert told.count("agent.dispatched") == 2
        assert told.count("agent.missing") == 1
        assert "call.forwarded" in told
        assert "<Number>+14155550199</Number>" in call.twiml[-2] + call.twiml[-1]
        assert record.disposition == "forwarded"


async def test_a_dispatch_that_livekit_swallows_is_made_again(tmp_path: Path) -> None:
    async with world(tmp_path, dispatch={"deadline": 0.4}) as w:
        w.livekit.register_worker("anna", Behaviour(drop_first=1))
        call = w.twilio.place_call("+14155550100", "+12125550123", hold_seconds=0.3)
        record, events = await w.ended(call)
        assert types(events).count("agent.dispatched") == 2
        assert "agent.missing" not in types(events)
        assert (record.disposition, len(w.livekit.jobs)) == ("answered", 1)


async def test_repeated_webhooks_get_the_same_bytes_and_start_nothing_twice(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        w.livekit.register_worker("anna")
        sid = "CA" + "0f" * 16
        first = w.twilio.place_call("+14155550100", "+12125550123", call_sid=sid, hold_seconds=0.5)
        await eventually(lambda: bool(first.twiml))
        from urllib.parse import urlencode

        import aiohttp

        from tests.support.twilio_requests import form, headers, sign

        fields = form(CallSid=sid, AccountSid=ACCOUNT)
        base = w.settings.public_url
        path = "/webhooks/twilio/voice"
        bodies = set()
        async with aiohttp.ClientSession() as session:
            for _ in range(5):
                signed = headers(sign(path, fields, base=base, token=TOKEN))
                async with session.post(
                    base + path, data=urlencode(fields), headers=signed
                ) as answer:
                    assert answer.status == 200
                    bodies.add(await answer.text())
        assert bodies == {first.twiml[0]}
        await w.ended(first)
        assert len(w.livekit.jobs) == 1


async def test_an_unknown_number_hears_an_apology_and_leaves_an_event(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        call = w.twilio.place_call("+14155559999", "+12125550123")
        _, events = await w.ended(call, "call.initiated")
        assert "<Say" in call.twiml[0]
        decision = events[0].data.decision
        assert decision is not None
        assert decision.reason == "number is not mapped"
        assert w.livekit.jobs == []


async def test_a_change_of_the_mapping_holds_for_the_next_call(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.livekit.register_worker("anna")
        w.livekit.register_worker("bob")
        call = w.twilio.place_call("+14155550100", "+12125550123", hold_seconds=0.2)
        await w.ended(call)
        await apply_text(
            w.settings,
            'numbers: [{number: "+14155550100", provider: twilio, agent: bob}]',
        )
        async with open_database(w.settings) as database:
            assert (await wait_until_held(w.settings, database)).holds is True
        call = w.twilio.place_call("+14155550100", "+12125550123", hold_seconds=0.2)
        record, _ = await w.ended(call)
        assert record.agent == "bob"
        assert [job.agent_name for job in w.livekit.jobs] == ["anna", "bob"]


async def talking(w: World, to: str = "+14155550100") -> Call:
    """A call whose caller hears their agent."""
    call = w.twilio.place_call(to, "+12125550123")
    await call.answered()
    await eventually(lambda: ready(w) == 1)
    return call


def ready(w: World) -> int:
    return sum(len(room.agents) for room in w.livekit.rooms)


def silence() -> float:
    return float(SILENT_CALLERS._value.get())


@pytest.mark.parametrize("how", ["killed", "dismissed", "killed-without-webhooks"])
async def test_an_agent_lost_in_the_middle_of_a_call_is_replaced(tmp_path: Path, how: str) -> None:
    before = silence()
    async with world(tmp_path, webhooks=not how.endswith("webhooks")) as w:
        w.livekit.register_worker("anna")
        call = await talking(w)
        await asyncio.sleep(0.7)  # it answers when it is asked
        if how == "dismissed":
            w.livekit.workers.dismiss("anna")
        else:
            w.livekit.workers.kill("anna")
        await eventually(lambda: len(w.livekit.jobs) == 2, within=3.0)
        await eventually(lambda: ready(w) == 1)
        await asyncio.sleep(0.3)
        assert not call.is_ended
        call.hangup()
        record, events = await w.ended(call)
        told = types(events)
        assert (told.count("agent.ready"), told.count("agent.dispatched")) == (2, 2)
        assert (record.disposition, record.agent) == ("answered", "anna")
        assert silence() == before
        await eventually(lambda: not w.livekit.rooms.get(record.call_id))


async def refer(w: World, call: Call, to: str) -> None:
    """What an agent's `TransferSIPParticipant` does."""
    room = call_id("twilio", ACCOUNT, call.sid)
    async with open_livekit(w.settings.livekit) as client:
        await client.transfer(room=room, identity="sip_+12125550123", to=to)


@pytest.mark.parametrize(
    ("wanted", "kind", "dialled"),
    [
        ("tel:+14155550199", "transfer.started", "+14155550199"),  # the fallback
        ("sip:+14155550101@example.com", "transfer.started", "+14155550101"),  # mapped
        ("tel:+19005550100", "transfer.failed", "+14155550199"),  # whoever that is
        ("sip:desk@example.com", "transfer.failed", "+14155550199"),
    ],
)
async def test_an_agent_transfers_its_caller_to_whom_the_mapping_names(
    tmp_path: Path, wanted: str, kind: str, dialled: str
) -> None:
    async with world(tmp_path) as w:
        w.livekit.register_worker("anna")
        call = await talking(w)
        await refer(w, call, wanted)
        await eventually(lambda: call.whats().count("dial.answered") == 2)
        assert f"<Number>{dialled}</Number>" in call.twiml[1]
        call.hangup()
        record, events = await over(w, call)
        assert types(events).count(kind) == 1
        assert (record.agent, record.disposition) == ("anna", "forwarded")
        assert {leg.dialled for leg in record.legs} >= {"fallback", ""}
        assert len(w.livekit.jobs) == 1  # no agent is brought to a room that the caller left
        await eventually(lambda: not w.livekit.rooms.get(record.call_id))


async def test_where_there_is_no_fallback_the_agent_keeps_its_caller(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.livekit.register_worker("bob")
        call = await talking(w, "+14155550101")
        with pytest.raises(Permanent):
            await refer(w, call, "tel:+14155550199")
        assert not call.is_ended
        assert ready(w) == 1
        call.hangup()


@pytest.mark.parametrize(("to", "fallback"), [("+14155550100", True), ("+14155550101", False)])
async def test_a_caller_whose_agent_is_lost_for_good_is_put_through_or_told(
    tmp_path: Path, to: str, fallback: bool
) -> None:
    async with world(tmp_path, dispatch={"deadline": 0.4}) as w:
        w.livekit.register_worker("anna")
        w.livekit.register_worker("bob")
        call = await talking(w, to)
        for name in ("anna", "bob"):
            w.livekit.workers.unregister(name)
        w.livekit.workers.kill(lingers=0.0)
        await eventually(lambda: "rest.redirected" in call.whats(), within=5.0)
        if fallback:
            await eventually(lambda: call.whats().count("dial.answered") == 2)
            assert "<Number>+14155550199</Number>" in call.twiml[1]
            await asyncio.sleep(0.3)
            assert not call.is_ended
            call.hangup()
        else:
            await eventually(lambda: "said" in call.whats())
        record, events = await over(w, call)
        told = types(events)
        assert told.count("agent.missing") == 1
        assert told.count("call.forwarded") == fallback
        assert record.disposition == ("forwarded" if fallback else "answered")
        assert record.duration == pytest.approx(call.duration, abs=1.0)
        assert call.status == "completed"


async def test_an_agent_that_dies_again_and_again_leaves_the_caller_to_the_fallback(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        w.livekit.register_worker("anna", Behaviour(dies_after=0.8))
        call = await talking(w)
        await eventually(lambda: "rest.redirected" in call.whats(), within=20.0)
        assert len(w.livekit.jobs) == 4
        call.hangup()
        await w.ended(call)
