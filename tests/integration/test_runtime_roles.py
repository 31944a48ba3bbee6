"""The roles as processes of their own, over the real Kafka and PostgreSQL: one call through all."""

import asyncio
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from config import Settings
from router.clock import SystemClock
from router.eventlog.heartbeat import SILENCE
from router.events.types import ROUTES_TOPIC
from router.numbers import publish
from router.sandbox.livekit.standin import LiveKitStandIn
from router.sandbox.twilio.standin import TwilioStandIn
from router.storage.engine import open_database
from tests.support.cli import Shell, Started
from tests.support.fake_log import FakeLog
from tests.support.nodes import (
    ACCOUNT,
    KEY,
    MAPPING,
    SECRET,
    TOKEN,
    apply_text,
    eventually,
    free_port,
    node_settings,
)
from tests.support.servers.kafka import Kafka, delete_topics
from tests.support.servers.postgres import Postgres

ROLES = ("ingress", "dispatch,calls", "relay")


@dataclass
class Split:
    """Three processes, and what a command beside them needs."""

    shell: Shell
    port: int
    livekit_port: int
    processes: dict[str, Started]


@pytest.fixture
def split(tmp_path: Path, kafka: Kafka, postgres: Postgres) -> Iterator[Split]:
    delete_topics(kafka)
    port, livekit_port = free_port(), free_port()
    shell = Shell(
        tmp_path,
        {
            "SWITCHBOARD_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "SWITCHBOARD_SECRET_KEY": "ab" * 32,
            "SWITCHBOARD_HTTP__PORT": str(port),
            "SWITCHBOARD_HTTP__SHUTDOWN_GRACE": "3",
            "SWITCHBOARD_DATABASE__URL": postgres.create_database(f"roles_{uuid.uuid4().hex[:8]}"),
            "SWITCHBOARD_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap,
            "SWITCHBOARD_LIVEKIT__URL": f"http://127.0.0.1:{livekit_port}",
            "SWITCHBOARD_LIVEKIT__API_KEY": KEY,
            "SWITCHBOARD_LIVEKIT__API_SECRET": SECRET,
            "SWITCHBOARD_LIVEKIT__SIP_HOST": "127.0.0.1",
            "SWITCHBOARD_PROVIDERS__TWILIO__ACCOUNT_SID": ACCOUNT,
            "SWITCHBOARD_PROVIDERS__TWILIO__AUTH_TOKENS": TOKEN,
        },
    )
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    assert shell.invoke("apply", "mapping.yaml", "--yes").code == 0
    with ExitStack() as stack:
        started = {}
        for roles in ROLES:  # at once, as a supervisor would: none may need another to start
            own = port if roles == "ingress" else free_port()
            command = shell.start("up", "--roles", roles, "--port", str(own))
            started[roles] = stack.enter_context(command)
        for process in started.values():
            process.says("Ctrl-C stops it.")
        yield Split(shell, port, livekit_port, started)
        began = time.monotonic()
        codes = {roles: process.end() for roles, process in started.items()}
        print(f"SIGTERM to exit, one after the other: {time.monotonic() - began:.1f} s")
        assert codes == dict.fromkeys(ROLES, 0)
        assert "Traceback" not in "".join(process.text for process in started.values())


@asynccontextmanager
async def around(split: Split) -> AsyncIterator[tuple[LiveKitStandIn, TwilioStandIn]]:
    base = f"http://127.0.0.1:{split.port}"
    async with (
        LiveKitStandIn(
            api_key=KEY,
            api_secret=SECRET,
            webhook_url=f"{base}/webhooks/livekit",
            port=split.livekit_port,
        ) as livekit,
        TwilioStandIn(
            account_sid=ACCOUNT, auth_token=TOKEN, webhook_base=base, dial_sip=livekit.invite
        ) as twilio,
    ):
        livekit.register_worker("anna")
        livekit.register_worker("bob")
        yield livekit, twilio


async def _has_routes(port: int, count: int) -> None:
    facts: Any = {}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        for _ in range(300):
            async with session.get("/readyz") as answer:
                facts = await answer.json()
            if facts["ready"] and facts["routes"]["numbers"] == count:
                return
            await asyncio.sleep(0.1)
    raise AssertionError(f"the ingress has no routes: {facts}")


@pytest.mark.timeout(180)
async def test_one_call_through_three_processes(split: Split) -> None:
    async with around(split) as (livekit, twilio):
        await _has_routes(split.port, 3)
        # LiveKit came after them: the set-up is tried again, later and later.
        await asyncio.to_thread(split.processes["dispatch,calls"].says, "livekit.set_up")
        began = time.monotonic()
        call = twilio.place_call("+14155550100", "+12125550123", hold_seconds=0.5)
        await eventually(lambda: call.is_ended, within=30)
        print(f"a call of 0.5 s through three processes took {time.monotonic() - began:.1f} s")
        assert call.status == "completed"
        assert [job.agent_name for job in livekit.jobs] == ["anna"]
        (split.shell.folder / "mapping.yaml").write_text(
            'numbers: [{number: "+14155550100", provider: twilio, agent: bob}]'
        )
        applied = await asyncio.to_thread(split.shell.run, "apply", "mapping.yaml", "--yes")
        assert "Holds now" in applied.out
        call = twilio.place_call("+14155550100", "+12125550123", hold_seconds=0.2)
        await eventually(lambda: call.is_ended, within=30)
        assert [job.agent_name for job in livekit.jobs] == ["anna", "bob"]
    listed = await asyncio.to_thread(split.shell.run, "calls", "list")
    assert listed.code == 0
    assert "anna" in listed.out
    assert "bob" in listed.out


async def _dispatching(port: int, word: str, *, within: float) -> None:
    """Until /readyz says this of who dispatches."""
    facts: Any = {}
    give_up = time.monotonic() + within
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        while time.monotonic() < give_up:
            async with session.get("/readyz") as answer:
                facts = await answer.json()
            if facts["dispatching"] == word:
                return
            await asyncio.sleep(0.1)
    raise AssertionError(f"not {word!r}: {facts}")


@pytest.mark.timeout(180)
async def test_an_ingress_alone_learns_that_nobody_dispatches(split: Split) -> None:
    """Its callers go to the fallback at once, until a dispatch process is back."""
    dispatch = "dispatch,calls"
    async with around(split) as (livekit, twilio):
        await _has_routes(split.port, 3)
        await asyncio.to_thread(split.processes[dispatch].says, "livekit.set_up")
        await asyncio.to_thread(split.processes["ingress"].says, "heartbeats.heard")
        await _dispatching(split.port, "ok", within=20)
        await asyncio.to_thread(split.processes[dispatch].end, signal.SIGKILL)
        began = time.monotonic()
        await _dispatching(split.port, SILENCE, within=15)
        print(f"nobody dispatches: known after {time.monotonic() - began:.1f} s")
        call = twilio.place_call("+14155550100", "+12125550123", hold_seconds=0.2)
        await eventually(lambda: bool(call.twiml))
        assert "<Number>+14155550199</Number>" in call.twiml[0]
        await eventually(lambda: call.is_ended, within=30)
        with split.shell.start("up", "--roles", dispatch, "--port", str(free_port())) as again:
            split.processes[dispatch] = again
            await _dispatching(split.port, "ok", within=30)
            call = twilio.place_call("+14155550100", "+12125550123", hold_seconds=0.2)
            await eventually(lambda: call.is_ended, within=30)
            assert call.status == "completed"
            assert "<Sip" in call.twiml[0]
            assert [job.agent_name for job in livekit.jobs] == ["anna"]


async def _publishers(settings: Settings, logs: list[FakeLog]) -> None:
    async with open_database(settings) as one, open_database(settings) as other:
        tasks = [
            asyncio.create_task(publish.run(database, log, SystemClock()))
            for database, log in zip((one, other), logs, strict=True)
        ]
        await eventually(lambda: any(log.all(ROUTES_TOPIC) for log in logs))
        await asyncio.sleep(2.5)  # the other one has tried to lead meanwhile
        first = next(index for index, log in enumerate(logs) if log.all(ROUTES_TOPIC))
        assert logs[1 - first].all(ROUTES_TOPIC) == []
        tasks[first].cancel()
        await asyncio.gather(tasks[first], return_exceptions=True)
        await eventually(lambda: bool(logs[1 - first].all(ROUTES_TOPIC)))
        tasks[1 - first].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_only_the_leader_publishes(tmp_path: Path, postgres: Postgres) -> None:
    """Two processes with the role relay; when the first one ends, the second takes over."""
    settings = node_settings(
        tmp_path,
        port=free_port(),
        livekit_url="http://127.0.0.1:1",
        secret_key="ab" * 32,
        database={"url": postgres.create_database(f"leader_{uuid.uuid4().hex[:8]}")},
    )
    await apply_text(settings)
    await _publishers(settings, [FakeLog(), FakeLog()])
