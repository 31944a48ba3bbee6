"""Calls through a whole node while its database or LiveKit is away, or with a backlog before them.

Each prints what became of its calls. How many there are is asked for by TEST_BACKLOG, TEST_CALLERS.
"""

import asyncio
import fcntl
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from sqlalchemy import select

from config import Settings
from router.eventlog.journal import open_journal
from router.eventlog.slots import seat_of, take_slot
from router.events.codec import encode
from router.events.ids import call_id
from router.events.types import CALLS_TOPIC, EventType, dead_topic
from router.runtime import run
from router.sandbox.livekit.standin import LiveKitStandIn
from router.sandbox.livekit.workers import Behaviour
from router.sandbox.twilio.call import Call
from router.sandbox.twilio.standin import TwilioStandIn
from router.storage import claims, schema
from router.storage.engine import open_database
from tests.support.fake_events import dispatch_decision, initiated
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

pytestmark = pytest.mark.timeout(180)

BACKLOG = int(os.environ.get("TEST_BACKLOG", "1000"))
CALLERS = int(os.environ.get("TEST_CALLERS", "8"))
MAPPED, CALLER, FALLBACK = "+14155550100", "+12125550123", "+14155550199"
DIAL_TIMEOUT = 5


class World:
    """A node, not yet started, with Twilio and LiveKit around it."""

    def __init__(
        self, settings: Settings, routes: int, twilio: TwilioStandIn, livekit: LiveKitStandIn
    ) -> None:
        self.settings, self.routes = settings, routes
        self.twilio, self.livekit = twilio, livekit
        self.node: Any = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with running(self.settings, routes=self.routes) as node:
            self.node = node
            yield

    async def callers(self, count: int, *, pause: float, **more: Any) -> list[Call]:
        """So many callers, one after the other."""
        calls = []
        for _ in range(count):
            calls.append(self.twilio.place_call(MAPPED, CALLER, **more))
            await asyncio.sleep(pause)
        return calls

    def trouble(self) -> str:
        found = self.node.health()[1]["dispatching"]
        return "" if found == "ok" else str(found)


@asynccontextmanager
async def world(
    folder: Path, *, dial_timeout: int = DIAL_TIMEOUT, deadline: float = 2.0, lease: float = 15.0
) -> AsyncIterator[World]:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    async with (
        LiveKitStandIn(
            api_key=KEY, api_secret=SECRET, webhook_url=f"{base}/webhooks/livekit"
        ) as livekit,
        TwilioStandIn(
            account_sid=ACCOUNT, auth_token=TOKEN, webhook_base=base, dial_sip=livekit.invite
        ) as twilio,
    ):
        livekit.register_worker("anna")
        settings = node_settings(
            folder,
            port=port,
            livekit_url=livekit.url,
            dispatch={"deadline": deadline, "lease": lease},
            providers={"twilio": {"api_url": twilio.url, "dial_timeout": dial_timeout}},
        )
        yield World(settings, await apply_text(settings), twilio, livekit)


@asynccontextmanager
async def database_stalled(settings: Settings) -> AsyncIterator[None]:
    """Another process writes to the database and does not come to an end."""
    descriptor = os.open(settings.data_dir / "switchboard.db.lock", os.O_RDWR)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.001)
        yield
    finally:
        os.close(descriptor)


def went_to(calls: list[Call]) -> Counter[str]:
    """Where the callers were put through to."""
    return Counter(
        "fallback" if any(FALLBACK in document for document in call.twiml) else "agent"
        for call in calls
    )


async def test_while_the_database_stalls_callers_go_to_the_fallback_at_once(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w, w.running():
        async with database_stalled(w.settings):
            early = await w.callers(3, pause=0.1, hold_seconds=0.2)
            began = time.monotonic()
            await eventually(w.trouble)
            noticed = time.monotonic() - began
            late = await w.callers(CALLERS, pause=0.2, hold_seconds=0.2)
            first = [call.twiml[0] for call in late if call.twiml]
            await asyncio.sleep(DIAL_TIMEOUT)
        began = time.monotonic()
        await eventually(lambda: not w.trouble(), within=20.0)
        back = time.monotonic() - began
        after = await w.callers(2, pause=0.5, hold_seconds=0.5)
        await eventually(lambda: all(call.is_ended for call in (*early, *late, *after)))
        await asyncio.sleep(1.0)
        jobs = [job.agent_name for job in w.livekit.jobs]
    print(
        f"\nbefore it was noticed ({noticed:.1f} s): {went_to(early)}; after: {went_to(late)}, "
        f"at once: {sum(FALLBACK in document for document in first)}; "
        f"over {back:.1f} s after the stall; then {went_to(after)}; "
        f"dead starts: {len(jobs) - went_to(after)['agent']}"
    )
    assert went_to(late) == {"fallback": CALLERS}
    assert all(FALLBACK in document for document in first)
    assert went_to(after) == {"agent": 2}
    assert len(jobs) == 2  # nobody was dispatched to a caller who had gone


async def test_a_backlog_holds_up_no_live_caller(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await fill(w.settings, BACKLOG, age=300.0)
        began = time.monotonic()
        async with w.running():
            calls = await w.callers(CALLERS, pause=0.2, hold_seconds=1.0)
            await eventually(lambda: all(call.is_ended for call in calls), within=60.0)
            await eventually(lambda: not w.node.health()[1]["consumers"]["dispatch"]["in_flight"])
            took = time.monotonic() - began
            heard = len(w.livekit.jobs)
        expired, dead = await told(w.settings)
    print(
        f"\n{BACKLOG} old calls done {took:.1f} s after the start: {expired} expired, {dead} dead; "
        f"live callers: {went_to(calls)}, agents dispatched: {heard}"
    )
    assert went_to(calls) == {"agent": CALLERS}
    assert heard == CALLERS
    assert (expired, dead) == (BACKLOG, 0)


async def fill(settings: Settings, count: int, *, age: float) -> None:
    """Put calls of so many seconds ago into the journal."""
    at = (time.time() - age - 1_700_000_000) * 1.0
    with take_slot(settings.data_dir, shared=False) as folder:
        async with open_journal(folder, settings.journal, pinned_by="group/") as journal:
            for number in range(count):
                event = initiated(call_id("twilio", ACCOUNT, f"CA-old-{number}"), at)
                headers, value = encode(event)
                await journal.append(CALLS_TOPIC, event.key, value, headers)


async def told(settings: Settings) -> tuple[int, int]:
    """How many calls expired, and how many records are dead."""
    found: Counter[str] = Counter()
    with take_slot(settings.data_dir, shared=False) as folder:
        async with open_journal(folder, settings.journal, pinned_by="group/") as journal:
            after = 0
            while after < journal.last_seq:
                records, after = await journal.read(
                    after, limit=5000, topics=[CALLS_TOPIC, dead_topic(CALLS_TOPIC)]
                )
                for record in records:
                    is_dead = record.position.topic == dead_topic(CALLS_TOPIC)
                    found["dead" if is_dead else record.headers["ce_type"]] += 1
    return found[EventType.CALL_EXPIRED.value], found["dead"]


async def test_a_killed_node_takes_its_claims_back_at_once(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        with take_slot(w.settings.data_dir, shared=False) as folder:
            seat = seat_of(folder)
        room = await claim_of_the_dead(w.settings, seat)
        began = time.monotonic()
        async with w.running():
            await eventually(lambda: bool(w.livekit.jobs), within=20.0)
            took = time.monotonic() - began
            assert [job.room for job in w.livekit.jobs] == [room]
    print(f"\nthe call of the killed process has an agent {took:.1f} s after the start")
    assert took < 5.0


async def claim_of_the_dead(settings: Settings, seat: str) -> str:
    now = (time.time() - 1_700_000_000) * 1.0
    name = call_id("twilio", ACCOUNT, "CA-of-the-dead")
    decision = msgspec.structs.replace(dispatch_decision(), livekit_agent_name="anna")
    event = initiated(name, now, decision)
    async with open_database(settings) as database:
        assert await claims.claim(
            database,
            name,
            owner=f"{seat}/dead",
            lease=15.0,
            agent="anna",
            livekit_agent_name="anna",
            initiated=msgspec.json.encode(event),
        )
    return name


@pytest.mark.parametrize("asked", [True, False], ids=["agent asked for", "nobody asked for yet"])
async def test_a_node_that_is_killed_while_it_brings_an_agent_goes_on_when_it_is_started_again(
    tmp_path: Path, asked: bool
) -> None:
    """The lease would be over long after the caller: only the same seat takes the claim before."""
    async with world(tmp_path, dial_timeout=40, deadline=12.0, lease=300.0) as w:
        w.livekit.register_worker("anna", Behaviour(publish_delay=5.0 if asked else 0.0))
        with node_process(w.settings) as first:
            await answers(w.settings)
            if not asked:
                w.livekit.faults.refuse()
            w.twilio.place_call(MAPPED, CALLER, hold_seconds=60.0)
            held = await claimed(w.settings)
            await eventually(lambda: len(w.livekit.jobs) == asked)
            first.kill()
            await asyncio.to_thread(first.join, 10)
            assert first.exitcode == -9
        left = await claimed(w.settings)
        assert left.fence == held.fence
        assert left.state in claims.OPEN
        w.livekit.faults.accept()
        began = time.monotonic()
        with node_process(w.settings):
            taken = await claimed(w.settings, fence=held.fence + 1)
            took = time.monotonic() - began
            await answers(w.settings)
            up = time.monotonic() - began
            ready = await claimed(w.settings, state="ready", within=30.0)
            heard = time.monotonic() - began
            await asyncio.sleep(1.0)  # a second agent would come now
        jobs = [job.room for job in w.livekit.jobs]
    print(
        f"\nafter kill -9: answers webhooks {up:.1f} s after the start of the process, has the "
        f"claim {took:.1f} s after it, the agent is heard {heard:.1f} s after it; "
        f"agents: {len(jobs)}"
    )
    assert taken.owner.partition("/")[0] == held.owner.partition("/")[0]
    assert ready.fence == taken.fence
    assert jobs == [held.call_id]
    assert took < up + 2.0


def _live(settings: Settings) -> None:
    asyncio.run(run(settings, stop=asyncio.Event()))


@contextmanager
def node_process(settings: Settings) -> Iterator[SpawnProcess]:
    """A node in a process of its own; it is killed at the end, as it may be at any time."""
    process = multiprocessing.get_context("spawn").Process(target=_live, args=(settings,))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join(10)
        process.close()


async def answers(settings: Settings, *, within: float = 20.0) -> None:
    """Wait until the node is ready for calls."""
    async with asyncio.timeout(within), aiohttp.ClientSession() as session:
        while True:
            with suppress(aiohttp.ClientError):
                async with session.get(f"{settings.public_url}/readyz") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.02)


async def claimed(
    settings: Settings, *, fence: int = 1, state: str = "", within: float = 20.0
) -> claims.Claim:
    """The only claim, once it was taken so often and is in that state."""
    async with asyncio.timeout(within), open_database(settings) as database:
        while True:
            async with database.read() as connection:
                names = (await connection.execute(select(schema.claims.c.call_id))).scalars().all()
            found = await claims.get(database, names[0]) if names else None
            if found is not None and found.fence >= fence and state in ("", found.state):
                return found
            await asyncio.sleep(0.02)
