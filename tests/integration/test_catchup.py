"""What a provider could not deliver is fetched, decided, and put onto the log once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs
from typing_extensions import override

from config import Settings
from router import catchup
from router.catchup import catch_up, keep_up, run
from router.clock import SystemClock
from router.errors import Ambiguous, EffectError, Permanent, Transient
from router.eventlog.open import open_log
from router.events.codec import decode
from router.events.model import Event
from router.events.types import EventType as T
from router.provider import Carrier
from router.providers.livekit.client import open_livekit
from router.resources import Resources
from router.storage import calls, outbox
from router.storage.engine import Database, open_database
from router.storage.mapping import fingerprint
from tests.support.fake_events import event, initiated, new_call
from tests.support.nodes import apply_text, free_port, node_settings, running

CALL = new_call("missed")
MAPPING = """
agents: [{name: anna, livekit_agent_name: anna}]
numbers: [{number: "+14155550100", provider: twilio, agent: anna}]
"""


def missed_call(to: str = "+14155550100") -> Event:
    """As the provider's parser makes it: nothing is decided yet."""
    whole = initiated(CALL)
    data = msgspec.structs.replace(whole.data, stage="route", decision=None, to_number=to)
    return msgspec.structs.replace(whole, data=data)


@dataclass
class FakeCarrier:
    events: list[Event]
    error: EffectError | None = None
    asked: list[int] = field(default_factory=list)

    async def missed(self, since: int) -> AsyncIterator[Event]:
        self.asked.append(since)
        for each in self.events:
            yield each
        if self.error is not None:
            raise self.error


@pytest.fixture
async def settings(tmp_path: Path) -> Settings:
    found = node_settings(tmp_path, port=free_port(), livekit_url="http://127.0.0.1:1")
    await apply_text(found, MAPPING)
    return found


async def drafted(settings: Settings) -> list[Event]:
    """The events that wait in the outbox, without those of the mapping."""
    async with open_database(settings) as database:
        entries = await outbox.pending(database, 100)
    told = [decode(e.key, e.headers, e.value) for e in entries if "calls" in e.topic]
    await _empty(settings, [e.id for e in entries])
    return told


async def _empty(settings: Settings, ids: list[int]) -> None:
    async with open_database(settings) as database:
        await outbox.done(database, ids)


async def test_a_missed_call_is_decided_by_the_mapping_as_it_is_now(settings: Settings) -> None:
    carrier = FakeCarrier([missed_call(), event(CALL, T.CALL_ENDED, 5.0)])
    async with open_database(settings) as database:
        assert await catch_up(database, Carrier(missed=carrier.missed), 17) == 2
    assert carrier.asked == [17]
    first, second = await drafted(settings)
    assert first.data.decision is not None
    assert (first.data.decision.action, first.data.decision.agent) == ("dispatch", "anna")
    assert second.type is T.CALL_ENDED


async def test_a_call_to_an_unmapped_number_is_kept_with_the_reason(settings: Settings) -> None:
    carrier = FakeCarrier([missed_call("+14155559999")])
    async with open_database(settings) as database:
        await catch_up(database, Carrier(missed=carrier.missed), 0)
    (told,) = await drafted(settings)
    assert told.data.decision is not None
    assert told.data.decision.reason == "number is not mapped"


async def test_what_was_found_before_the_provider_broke_is_kept(settings: Settings) -> None:
    carrier = FakeCarrier([missed_call()], Transient("away"))
    async with open_database(settings) as database:
        with pytest.raises(Transient):
            await catch_up(database, Carrier(missed=carrier.missed), 0)
    assert [told.id for told in await drafted(settings)] == [missed_call().id]


async def test_a_provider_that_keeps_nothing_is_no_error(settings: Settings) -> None:
    async with open_database(settings) as database:
        assert await catch_up(database, Carrier(), 0) == 0


@dataclass
class Hurried:
    """A clock on which nobody waits; `slept` is what was waited for, in seconds."""

    slept: list[float] = field(default_factory=list)

    def now(self) -> int:
        return 1_800_000_000_000_000 + round(self.monotonic() * 1_000_000)

    def monotonic(self) -> float:
        return sum(self.slept)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@dataclass
class Away:
    """A carrier that fails in these ways, then works."""

    errors: list[EffectError]
    asked: list[int] = field(default_factory=list)

    async def missed(self, since: int) -> AsyncIterator[Event]:
        self.asked.append(since)
        if self.errors:
            raise self.errors.pop(0)
        yield missed_call()


@asynccontextmanager
async def resources(settings: Settings, away: Away) -> AsyncIterator[Resources]:
    async with (
        open_log(settings) as log,
        open_database(settings) as database,
        open_livekit(settings.livekit) as livekit,
    ):
        carriers = {"telnyx": Carrier(missed=away.missed)}
        yield Resources(settings, log, database, livekit, carriers, SystemClock())


async def test_a_provider_that_is_away_longer_than_we_were_is_asked_until_it_answers(
    settings: Settings,
) -> None:
    clock, away = Hurried(), Away([Transient("away"), *[Ambiguous("503")] * 20])
    began = clock.now()
    async with resources(settings, away) as found:
        await run(found, clock)
    assert away.asked == [began - 24 * 3_600_000_000] * 22
    assert clock.slept == [0.0, 5.0, 30.0, 120.0, *[600.0] * 18]
    assert [told.id for told in await drafted(settings)] == [missed_call().id]


@pytest.mark.parametrize(
    ("errors", "asked", "lines"),
    [
        ([Permanent("Telnyx answered 401, code 10009")] * 9, 1, ["catch_up.refused"]),
        ([Transient("away")] * 999, 148, ["catch_up.failed"] * 148 + ["catch_up.given_up"]),
    ],
    ids=["wrong-key", "away-for-a-day"],
)
async def test_what_can_not_be_fetched_is_told_and_nothing_else_suffers(
    settings: Settings, errors: list[EffectError], asked: int, lines: list[str]
) -> None:
    away = Away(errors)
    async with resources(settings, away) as found:
        with capture_logs() as told:
            await run(found, Hurried())
    assert len(away.asked) == asked
    assert [line["event"] for line in told] == lines
    assert await drafted(settings) == []


class _Enough(Exception):
    """The test has seen what it wanted."""


@dataclass
class Bounded(Hurried):
    """A clock that ends the test after a while, in seconds."""

    until: float = 3600.0

    @override
    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        if self.monotonic() > self.until:
            raise _Enough


async def test_it_is_asked_again_and_again_for_what_came_since_the_last_answer(
    settings: Settings,
) -> None:
    clock, away = Bounded(until=4000.0), Away([])
    began = clock.now()
    async with resources(settings, away) as found:
        with pytest.raises(_Enough):
            await keep_up(found, clock)
    assert away.asked[0] == began - 24 * 3_600_000_000
    assert 4 <= len(away.asked) <= 9
    for before, after in pairwise(away.asked[1:]):
        assert 450_000_000 <= after - before <= 900_000_000
    assert away.asked[1] == began - 60_000_000


async def test_a_process_that_does_not_lead_asks_once_it_does(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    leads = iter([False, False])

    @asynccontextmanager
    async def leader(_database: Database, _name: str) -> AsyncIterator[bool]:
        yield next(leads, True)

    monkeypatch.setattr(catchup, "leader", leader)
    clock, away = Bounded(until=4000.0), Away([])
    began = clock.now()
    async with resources(settings, away) as found:
        with pytest.raises(_Enough):
            await keep_up(found, clock)
    # From the start on: it does not know what the others had fetched.
    assert began - 24 * 3_600_000_000 <= away.asked[0] <= clock.now() - 24 * 3_600_000_000


async def test_where_nothing_is_to_be_fetched_at_start_nobody_is_asked(settings: Settings) -> None:
    away = Away([])
    never = settings.model_copy(
        update={"calls": settings.calls.model_copy(update={"catch_up_hours": 0.0})}
    )
    async with resources(never, away) as found:
        await run(found, SystemClock())
    assert away.asked == []


async def test_what_is_fetched_twice_is_on_the_log_once_and_too_old_to_start_anything(
    settings: Settings,
) -> None:
    carrier = FakeCarrier([missed_call()])
    async with open_database(settings) as database:
        routes = await fingerprint(database)
    async with running(settings, routes=routes), open_database(settings) as database:
        for _ in range(2):
            await catch_up(database, Carrier(missed=carrier.missed), 0)
        found: list[T] = []

        async def expired() -> bool:
            found[:] = [told.type for told in await calls.events(database, CALL)]
            return T.CALL_EXPIRED in found

        async with asyncio.timeout(15):
            while not await expired():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.02)
        assert found.count(T.CALL_INITIATED) == 1
