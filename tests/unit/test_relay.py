"""The relay over a real journal and a broker that misbehaves on command."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from router.eventlog.base import now_micros
from router.eventlog.dead import MAX_DEAD_RECORD, MAX_RECORD
from router.eventlog.journal import Journal, open_journal
from router.eventlog.journal_writer import RELAY
from router.eventlog.orphans import drain_orphans
from router.eventlog.relay import Relay, open_relay
from router.eventlog.takeover import TakeoverReader
from tests.support.kafka_producer import FakeBroker
from tests.support.kafka_records import headers, ids
from tests.support.kafka_settings import log_settings

TOPIC = "telephony.calls"


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@asynccontextmanager
async def relaying(
    tmp_path: Path, broker: FakeBroker, **kafka: float
) -> AsyncIterator[tuple[Journal, Relay]]:
    short = {"stall_after": 0.5, "ack_deadline": 0.3}
    settings = log_settings(tmp_path, kafka=short | kafka)
    async with (
        open_journal(tmp_path, settings.journal, pinned_by=RELAY) as journal,
        open_relay(journal, broker.connect, settings.kafka) as relay,
    ):
        yield journal, relay


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 what it looks at tells nobody
            await asyncio.sleep(0.01)


async def fill(journal: Journal, *numbers: int, size: int = 10) -> None:
    for number in numbers:
        await journal.append(TOPIC, "key", b"x" * size, headers(f"id-{number}"))


def expected(*numbers: int) -> list[str]:
    return [f"id-{number}" for number in numbers]


async def test_copies_in_order_and_goes_on_after_a_restart(
    tmp_path: Path, broker: FakeBroker
) -> None:
    async with relaying(tmp_path, broker) as (journal, relay):
        await fill(journal, *range(50))
        async with asyncio.timeout(5):
            await relay.drained()
        assert relay.lag == (0, 0.0)
    async with relaying(tmp_path, broker) as (journal, relay):
        await fill(journal, 50)
        async with asyncio.timeout(5):
            await relay.drained()
    assert broker.ids(TOPIC) == expected(*range(51))


async def test_only_the_prefix_that_is_acknowledged_counts(
    tmp_path: Path, broker: FakeBroker
) -> None:
    broker.mute = True
    async with relaying(tmp_path, broker, stall_after=60) as (journal, relay):
        await fill(journal, 1, 2, 3)
        await until(lambda: bool(broker.producers) and len(broker.producers[0].waiting) == 3)
        (_, first), (_, second), (_, third) = broker.producers[0].waiting
        third.set_result(None)
        second.set_result(None)
        await asyncio.sleep(0.05)
        assert relay.acked_seq == 0
        first.set_result(None)
        await until(lambda: relay.acked_seq == 3)


async def test_a_mute_producer_is_replaced_and_everything_sent_again(
    tmp_path: Path, broker: FakeBroker
) -> None:
    async with relaying(tmp_path, broker) as (journal, relay):
        await fill(journal, 1)
        await until(lambda: relay.acked_seq == 1)
        broker.mute = True
        await fill(journal, 2, 3)
        await until(lambda: len(broker.producers) >= 2)
        broker.mute = False
        async with asyncio.timeout(10):
            await relay.drained()
    assert broker.ids(TOPIC) == expected(1, 2, 3)


async def test_a_dead_sender_is_replaced(tmp_path: Path, broker: FakeBroker) -> None:
    async with relaying(tmp_path, broker) as (journal, relay):
        await fill(journal, 1)
        await until(lambda: relay.acked_seq == 1)
        broker.producers[0].alive = False
        await fill(journal, 2)
        async with asyncio.timeout(10):
            await relay.drained()
    assert broker.ids(TOPIC) == expected(1, 2)


async def test_a_poisoned_producer_is_replaced(tmp_path: Path, broker: FakeBroker) -> None:
    async with relaying(tmp_path, broker) as (journal, relay):
        await fill(journal, 1)
        await until(lambda: relay.acked_seq == 1)
        broker.producers[0].poisoned = True
        await fill(journal, 2, 3)
        async with asyncio.timeout(10):
            await relay.drained()
    assert broker.ids(TOPIC) == expected(1, 2, 3)


async def test_a_record_that_the_broker_refuses_goes_to_the_dead_topic_alone(
    tmp_path: Path, broker: FakeBroker
) -> None:
    broker.largest[TOPIC] = 100
    broker.away = True
    async with relaying(tmp_path, broker) as (journal, relay):
        await fill(journal, 1, 2)
        await fill(journal, 3, size=101)
        await fill(journal, 4, 5)
        broker.away = False  # all five are one batch now
        async with asyncio.timeout(20):
            await relay.drained()
    assert broker.ids(TOPIC) == expected(1, 2, 4, 5)
    (dead,) = [r for r in broker.taken if r.position.topic == TOPIC + ".dead"]
    assert dead.headers["ce_id"] == "id-3"
    assert dead.headers["dlq.reason"] == "too_large"
    assert dead.headers["dlq.offset"] == "3"
    assert dead.value == b"x" * 101


async def test_what_the_dead_topic_refuses_too_goes_there_without_its_value(
    tmp_path: Path, broker: FakeBroker
) -> None:
    broker.largest = {TOPIC: 100, TOPIC + ".dead": 100}
    async with relaying(tmp_path, broker) as (journal, relay):
        await fill(journal, 1, size=101)
        await fill(journal, 2)
        async with asyncio.timeout(20):
            await relay.drained()
    assert broker.ids(TOPIC) == expected(2)
    (dead,) = [r for r in broker.taken if r.position.topic == TOPIC + ".dead"]
    assert dead.value is None
    assert dead.headers["ce_id"] == "id-1"


async def test_sizes_are_known_before_anything_is_sent(tmp_path: Path, broker: FakeBroker) -> None:
    broker.largest = {TOPIC: MAX_RECORD, TOPIC + ".dead": MAX_DEAD_RECORD}
    async with relaying(tmp_path, broker) as (journal, relay):
        await fill(journal, 1, size=MAX_RECORD)
        await fill(journal, 2, size=MAX_DEAD_RECORD)
        async with asyncio.timeout(20):
            await relay.drained()
    assert len(broker.producers) == 1  # none was poisoned
    assert [len(r.value or b"") for r in broker.taken] == [MAX_RECORD, 0]


async def test_waiting_for_kafka_ends_at_the_deadline_and_stops_while_it_is_away(
    tmp_path: Path, broker: FakeBroker
) -> None:
    broker.mute = True
    loop = asyncio.get_running_loop()
    async with relaying(tmp_path, broker, stall_after=60) as (journal, relay):
        await fill(journal, 1)
        begun = loop.time()
        assert not await relay.wait_acked(1)
        assert 0.2 < loop.time() - begun < 2
        await until(lambda: not relay.healthy)
        await fill(journal, 2)
        begun = loop.time()
        assert not await relay.wait_acked(2)
        assert loop.time() - begun < 0.1
        assert relay.lag.events == 2
        assert relay.lag.age >= 0.3
        broker.mute = False
        broker.producers[0].deliver()
        await until(lambda: relay.healthy)
        assert await relay.wait_acked(2)


async def test_without_a_broker_it_keeps_trying(tmp_path: Path, broker: FakeBroker) -> None:
    broker.away = True
    async with relaying(tmp_path, broker) as (journal, relay):
        await fill(journal, 1)
        await until(lambda: not relay.healthy)
        broker.away = False
        async with asyncio.timeout(10):
            await relay.drained()


async def test_retention_waits_for_the_relay(tmp_path: Path, broker: FakeBroker) -> None:
    broker.away = True
    async with relaying(tmp_path, broker) as (journal, _):
        assert journal.position(RELAY) == 0


async def test_takeover_hands_out_what_the_relay_did_not_move_in_time(
    tmp_path: Path, broker: FakeBroker
) -> None:
    broker.away = True
    async with relaying(tmp_path, broker) as (journal, relay):
        reader = TakeoverReader(journal, relay, [TOPIC], after_seconds=0.3, clock=now_micros)
        await journal.append("other", "key", b"", headers("id-other"))
        await fill(journal, 1)
        assert not await reader.fetch(limit=10, wait=0.1)
        records = await reader.fetch(limit=10, wait=5.0)
        assert ids(records) == ["id-1"]
        await reader.commit(records[0].position)
        assert not await reader.fetch(limit=10, wait=0.5)  # each once
        assert not await reader.fetch(limit=0, wait=0.5)


async def test_takeover_leaves_alone_what_the_relay_moves(
    tmp_path: Path, broker: FakeBroker
) -> None:
    async with relaying(tmp_path, broker) as (journal, relay):
        reader = TakeoverReader(journal, relay, [TOPIC], after_seconds=0.3, clock=now_micros)
        await fill(journal, 1)
        assert not await reader.fetch(limit=10, wait=0.8)


async def test_a_stop_is_bounded_while_the_broker_is_mute(
    tmp_path: Path, broker: FakeBroker
) -> None:
    broker.mute = True
    loop = asyncio.get_running_loop()
    async with relaying(tmp_path, broker, stall_after=60) as (journal, _):
        await fill(journal, 1)
        begun = loop.time()
    assert loop.time() - begun < 5
    assert broker.producers[0].ended


async def test_what_a_dead_process_left_is_drained_whatever_lies_beside_it(
    tmp_path: Path, broker: FakeBroker
) -> None:
    settings = log_settings(tmp_path, kafka={"stall_after": 0.5, "ack_deadline": 0.3})
    (tmp_path / "journal-1").mkdir()
    async with open_journal(tmp_path / "journal-1", settings.journal, pinned_by=RELAY) as dead:
        await fill(dead, 1, 2)
    (tmp_path / "journal-0.bak").mkdir()
    (tmp_path / "journal-0").mkdir()
    (tmp_path / "journal-0" / "events.db").write_bytes(b"not a database" * 100)
    (tmp_path / "journal-3").symlink_to(tmp_path / "nowhere")
    with capture_logs() as lines:
        async with drain_orphans(settings, tmp_path / "journal-4", broker.connect, now_micros):
            await until(lambda: len(broker.ids(TOPIC)) == 2)
    assert broker.ids(TOPIC) == expected(1, 2)
    [ignored] = [line for line in lines if line["event"] == "journal.ignored"]
    assert ignored["names"] == ["journal-0.bak", "journal-3"]
    failed = [line["journal"] for line in lines if line["event"] == "relay.orphan_failed"]
    assert failed == ["journal-0"]
