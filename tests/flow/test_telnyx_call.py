"""Calls through a whole node, with the sandbox's Telnyx and LiveKit around it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from config import Settings
from router.clock import Clock, SystemClock
from router.events.call import CallRecord
from router.events.ids import DEFAULT_ACCOUNT, call_id
from router.events.model import Event
from router.events.types import EventType
from router.sandbox.livekit.standin import LiveKitStandIn
from router.sandbox.telnyx import Call, TelnyxStandIn
from router.sandbox.twilio.delivery import Disorder
from router.sandbox.twilio.phones import Phone
from router.storage import calls as call_store
from router.storage.engine import open_database
from tests.support.nodes import (
    KEY,
    SECRET,
    apply_text,
    eventually,
    free_port,
    node_settings,
    running,
)
from tests.support.sandbox_telnyx import API_KEY, SEED

NO_FALLBACK = "+14155550106"
ANNA, NOBODY, UNKNOWN = "+14155550100", "+14155550102", "+14155559999"
FALLBACK, CALLER = "+14155550199", "+12125550123"
TEXML, TEXML_NOBODY, TEXML_ANNA = "+14155550103", "+14155550104", "+14155550105"
MAPPING = f"""
agents:
  - {{name: anna, livekit_agent_name: anna}}
  - {{name: nobody, livekit_agent_name: nobody-is-registered-for-this}}
numbers:
  - {{number: "{ANNA}", provider: telnyx, agent: anna, fallback: "{FALLBACK}"}}
  - {{number: "{NOBODY}", provider: telnyx, agent: nobody, fallback: "{FALLBACK}"}}
  - {{number: "{NO_FALLBACK}", provider: telnyx, agent: anna}}
  - {{number: "{TEXML}", provider: telnyx, agent: anna}}
  - {{number: "{TEXML_ANNA}", provider: telnyx, agent: anna, fallback: "{FALLBACK}"}}
  - {{number: "{TEXML_NOBODY}", provider: telnyx, agent: nobody, fallback: "{FALLBACK}"}}
"""


class World:
    """A node with Telnyx and LiveKit around it."""

    def __init__(self, settings: Settings, telnyx: TelnyxStandIn, livekit: LiveKitStandIn) -> None:
        self.settings, self.telnyx, self.livekit = settings, telnyx, livekit

    async def ended(self, call: Call) -> tuple[CallRecord, list[Event]]:
        """The record and the events once the call is over and everything about it was taken."""
        await call.ended()
        key = call_id("telnyx", "", call.sid)
        events: list[Event] = []
        async with open_database(self.settings) as database:
            for _ in range(1500):
                events = list(await call_store.events(database, key))
                record = await call_store.get(
                    database, DEFAULT_ACCOUNT, key
                )  # it knows of all of these events
                if record is not None and EventType.CALL_ENDED in [event.type for event in events]:
                    return record, events
                await asyncio.sleep(0.01)
        raise AssertionError(f"no end: {types(events)}")


def settings_of(folder: Path, telnyx: TelnyxStandIn, port: int, lk: str, **more: Any) -> Settings:
    keys = {"api_key": API_KEY, "public_keys": [telnyx.public_key], "api_url": telnyx.url}
    providers = {
        "twilio": {"account_sid": "", "auth_tokens": []},
        "telnyx": {**keys, "dial_timeout": 600},  # no test waits for it
    }
    return node_settings(folder, port=port, livekit_url=lk, providers=providers, **more)


@asynccontextmanager
async def world(
    folder: Path, *, disorder: Disorder | None = None, clock: Clock | None = None, **more: Any
) -> AsyncIterator[World]:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    async with (
        LiveKitStandIn(
            api_key=KEY, api_secret=SECRET, webhook_url=f"{base}/webhooks/livekit"
        ) as livekit,
        TelnyxStandIn(
            api_key=API_KEY,
            seed=SEED,
            webhook_base=base,
            dial_sip=livekit.invite,
            disorder=disorder,
            clock=clock or SystemClock(),
        ) as telnyx,
    ):
        telnyx.texml_numbers |= {TEXML, TEXML_NOBODY, TEXML_ANNA}
        settings = settings_of(folder, telnyx, port, livekit.url, **more)
        routes = await apply_text(settings, MAPPING)
        async with running(settings, routes=routes) as node:
            await eventually(lambda: node.health()[1]["livekit"] == "ok")
            yield World(settings, telnyx, livekit)


class _Behind(SystemClock):
    """What happens by this clock is told 70 s late."""

    @override
    def now(self) -> int:
        return super().now() - 70_000_000


@pytest.mark.parametrize(
    ("to", "asked"), [(ANNA, ["transfer"]), (NO_FALLBACK, ["reject"])], ids=["fallback", "refused"]
)
async def test_a_caller_who_is_still_held_after_seventy_seconds_is_not_left_there(
    tmp_path: Path, to: str, asked: list[str]
) -> None:
    async with world(tmp_path, clock=_Behind()) as w:
        w.telnyx.accounts.main.sender._clock = (
            SystemClock()
        )  # signed now: it is no clock that is wrong
        w.livekit.register_worker("anna")
        call = w.telnyx.place_call(to, CALLER, hold_seconds=0.3)
        await eventually(lambda: bool(commands(call)))
        await call.ended()
        assert commands(call) == asked
        assert w.livekit.jobs == []
        if to == ANNA:
            assert [leg.to for leg in call.dialled] == [FALLBACK]


def types(events: list[Event]) -> list[str]:
    return [event.type.value for event in events]


def commands(call: Call) -> list[object]:
    return [step.detail["action"] for step in call.steps if step.what == "command.received"]


async def test_the_right_agent_is_heard_and_the_end_is_recorded(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.livekit.register_worker("anna")
        call = w.telnyx.place_call(ANNA, CALLER, hold_seconds=0.5, custom_headers={"X-Tenant": "7"})
        assert await call.answered()
        facts = json.loads(w.livekit.jobs[0].metadata)["call"]
        assert (facts["country"], facts["sip_headers"]) == ("US", {"X-Tenant": "7"})
        room = w.livekit.rooms.get(call_id("telnyx", "", call.caller.control_id))
        assert room is not None
        caller = room.participants[f"sip_{CALLER}"]
        assert caller.attributes["sip.telnyx.callSessionID"] == call.session_id
        assert caller.attributes["sip.telnyx.callLegID"] == call.caller.leg_id
        record, events = await w.ended(call)
        assert (record.agent, record.disposition, record.state) == ("anna", "answered", "ended")
        assert (record.provider, record.provider_call_id) == ("telnyx", call.caller.control_id)
        assert (record.from_number, record.to_number) == (CALLER, ANNA)
        assert [job.agent_name for job in w.livekit.jobs] == ["anna"]
        assert commands(call) == ["transfer"]
        async with asyncio.timeout(5):
            while len(record.legs) < 2:  # both legs end together, and either may be told first
                record, events = await w.ended(call)
        legs = {leg.leg_id: leg for leg in record.legs}
        own, agents = legs.pop(call.caller.leg_id), legs.popitem()[1]
        assert (own.dialled, own.sip_status, own.reason) == ("", 200, "normal_clearing")
        assert (agents.disposition, agents.sip_status) == ("answered", 200)
        told = types(events)
        for kind in ("call.initiated", "agent.dispatched", "agent.joined", "agent.ready"):
            assert told.count(kind) == 1, (kind, told)
        await eventually(lambda: not w.livekit.rooms.get(record.call_id))


@pytest.mark.parametrize("seed", [1, 2])
async def test_disorder_starts_nothing_twice(tmp_path: Path, seed: int) -> None:
    disorder = Disorder(copies=3, window=3, seed=seed)
    async with world(tmp_path, disorder=disorder) as w:
        w.livekit.register_worker("anna")
        call = w.telnyx.place_call(ANNA, CALLER, hold_seconds=0.5)
        record, events = await w.ended(call)
        assert (record.agent, record.disposition) == ("anna", "answered")
        assert commands(call) == ["transfer"]
        assert len(call.dialled) == len(w.livekit.jobs) == 1
        assert types(events).count("call.initiated") == 1


async def test_an_agent_without_a_worker_times_out_and_the_fallback_is_dialled(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, dispatch={"deadline": 0.3}) as w:
        call = w.telnyx.place_call(NOBODY, CALLER, hold_seconds=0.2)
        record, events = await w.ended(call)
        told = types(events)
        assert commands(call) == ["transfer", "transfer"]
        agent, fallback = call.dialled
        assert agent.to.startswith(f"sip:{record.call_id}@")
        assert (fallback.to, fallback.from_) == (FALLBACK, CALLER)
        assert told.count("call.forwarded") == 1, told
        assert (record.disposition, record.state) == ("forwarded", "ended")


async def test_when_the_fallback_is_busy_too_the_caller_is_hung_up_on(tmp_path: Path) -> None:
    async with world(tmp_path, dispatch={"deadline": 0.3}) as w:
        w.telnyx.phones[FALLBACK] = Phone(behaviour="busy")
        call = w.telnyx.place_call(NOBODY, CALLER)
        record, _ = await w.ended(call)
        assert commands(call) == ["transfer", "transfer", "hangup"]
        assert (record.state, record.disposition) == ("ended", "busy")


async def test_an_unknown_number_is_rejected(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        call = w.telnyx.place_call(UNKNOWN, CALLER)
        record, events = await w.ended(call)
        assert commands(call) == ["reject"]
        decision = events[0].data.decision
        assert decision is not None
        assert decision.reason == "number is not mapped"
        assert record.disposition == "failed"
        assert w.livekit.jobs == []


async def test_a_caller_who_gives_up_leaves_no_agent_behind(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        call = w.telnyx.place_call(NOBODY, CALLER)
        await eventually(lambda: bool(call.dialled))
        w.telnyx.hang_up(call)
        record, _ = await w.ended(call)
        assert commands(call) == ["transfer"]
        assert record.disposition == "canceled"
        await eventually(lambda: not w.livekit.rooms.get(record.call_id))


async def test_a_texml_call_is_answered_by_a_document(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.livekit.register_worker("anna")
        call = w.telnyx.place_call(TEXML, CALLER)
        await eventually(lambda: len(w.livekit.jobs) == 1)
        await eventually(lambda: bool(call.dialled) and call.dialled[0].state == "bridged")
        w.telnyx.hang_up(call)
        record, _ = await w.ended(call)
        assert (record.agent, record.disposition) == ("anna", "answered")
        assert commands(call) == []


async def test_a_texml_dial_that_fails_leads_to_the_fallback_of_the_called_number(
    tmp_path: Path,
) -> None:
    """Though Telnyx repeats neither the number nor the query after a dial."""
    async with world(tmp_path, dispatch={"deadline": 0.3}) as w:
        call = w.telnyx.place_call(TEXML_NOBODY, CALLER)
        await eventually(lambda: len(call.dialled) == 2 and call.dialled[1].state == "bridged")
        w.telnyx.hang_up(call)
        record, events = await w.ended(call)
        agent, fallback = call.dialled
        assert agent.to.startswith(f"sip:{record.call_id}@")
        assert fallback.to == FALLBACK
        assert types(events).count("call.forwarded") == 1
        assert (record.disposition, record.to_number) == ("forwarded", TEXML_NOBODY)


async def test_what_could_not_be_delivered_is_caught_up_at_the_next_start(tmp_path: Path) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    async with (
        LiveKitStandIn(api_key=KEY, api_secret=SECRET) as livekit,
        TelnyxStandIn(
            api_key=API_KEY, seed=SEED, webhook_base=base, dial_sip=livekit.invite, retries=()
        ) as telnyx,
    ):
        settings = settings_of(tmp_path, telnyx, port, livekit.url)
        routes = await apply_text(settings, MAPPING)
        call = telnyx.place_call(ANNA, CALLER)  # nobody is listening
        telnyx.hang_up(call)
        await call.ended()
        await eventually(lambda: all(each.status == "failed" for each in telnyx.deliveries))
        async with running(settings, routes=routes):
            record, events = await World(settings, telnyx, livekit).ended(call)
        assert (record.state, record.disposition) == ("ended", "canceled")
        assert types(events).count("call.initiated") == 1
        assert record.agent == "anna"
        assert livekit.jobs == []
        assert commands(call) == []


@pytest.mark.parametrize("has_worker", [True, False])
async def test_an_agent_lost_in_the_middle_of_a_call_is_replaced_or_the_caller_put_through(
    tmp_path: Path, has_worker: bool
) -> None:
    async with world(tmp_path, dispatch={"deadline": 0.5}) as w:
        w.livekit.register_worker("anna")
        call = w.telnyx.place_call(ANNA, CALLER)
        assert await call.answered()
        await eventually(lambda: any(room.agents for room in w.livekit.rooms))
        await asyncio.sleep(0.3)
        if not has_worker:
            w.livekit.workers.unregister("anna")
        w.livekit.workers.kill(lingers=0.0)
        if has_worker:
            await eventually(lambda: len(w.livekit.jobs) == 2, within=3.0)
            await asyncio.sleep(0.5)
            assert commands(call) == ["transfer"]
        else:
            await eventually(lambda: call.whats().count("dial.answered") == 2, within=5.0)
            assert [leg.to for leg in call.dialled[1:]] == [FALLBACK]
        await asyncio.sleep(0.3)
        assert call.caller.is_alive
        w.telnyx.hang_up(call)
        record, _ = await w.ended(call)
        assert record.disposition == ("answered" if has_worker else "forwarded")
        await eventually(lambda: not list(w.livekit.rooms))


@pytest.mark.parametrize("number", [TEXML, TEXML_ANNA])
async def test_a_texml_caller_whose_agent_is_lost_gets_another_document(
    tmp_path: Path, number: str
) -> None:
    async with world(tmp_path, dispatch={"deadline": 0.5}) as w:
        w.livekit.register_worker("anna")
        call = w.telnyx.place_call(number, CALLER)
        assert await call.answered()
        await eventually(lambda: "dial.answered" in call.whats())
        w.livekit.workers.unregister("anna")
        w.livekit.workers.kill(lingers=0.0)
        await eventually(lambda: "rest.redirected" in call.whats(), within=5.0)
        if number == TEXML:  # without a fallback
            await eventually(lambda: bool(call.said))
        else:
            await eventually(lambda: call.whats().count("dial.answered") == 2)
            assert call.dialled[-1].to == FALLBACK
            w.telnyx.hang_up(call)
        await w.ended(call)
