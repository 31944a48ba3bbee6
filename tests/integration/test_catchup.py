"""What a provider could not deliver is fetched, decided, and put onto the log once."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from config import Settings
from router.catchup import catch_up
from router.errors import EffectError, Transient
from router.events.codec import decode
from router.events.model import Event
from router.events.types import EventType as T
from router.provider import Carrier
from router.storage import calls, outbox
from router.storage.engine import open_database
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
