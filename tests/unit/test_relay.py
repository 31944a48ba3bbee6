"""The relay over a real journal and a broker that misbehaves on command."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import errors
from structlog.testing import capture_logs
from typing_extensions import override

from router.clock import SYSTEM, Clock, SystemClock
from router.eventlog import kafka_errors
from router.eventlog import relay as relay_module
from router.eventlog.base import Record
from router.eventlog.dead_letter import MAX_DEAD_RECORD, MAX_RECORD
from router.eventlog.journal import Journal, open_journal
from router.eventlog.journal_writer import RELAY
from router.eventlog.kafka_errors import verdict
from router.eventlog.orphans import drain_orphans
from router.eventlog.relay import Relay, open_relay
from router.supervisor import Supervisor
from tests.support.kafka_producer import FakeBroker
from tests.support.kafka_records import headers
from tests.support.kafka_settings import log_settings

TOPIC = "telephony.calls"


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@asynccontextmanager
async def relaying(
    tmp_path: Path, broker: FakeBroker, *, clock: Clock = SYSTEM, **kafka: float
) -> AsyncIterator[tuple[Journal, Relay]]:
    short = {"stall_after": 0.5, "ack_deadline": 0.3}
    settings = log_settings(tmp_path, kafka=short | kafka)
    async with (
        open_journal(tmp_path, settings.journal, pinned_by=RELAY, clock=clock) as journal,
        open_relay(journal, broker.connect, settings.kafka, Supervisor(), clock=clock) as relay,
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
        own, supervisor = tmp_path / "journal-4", Supervisor()
        async with drain_orphans(settings, own, broker.connect, SYSTEM, supervisor):
            await until(lambda: len(broker.ids(TOPIC)) == 2)
    assert broker.ids(TOPIC) == expected(1, 2)
    [ignored] = [line for line in lines if line["event"] == "journal.ignored"]
    assert ignored["names"] == ["journal-0.bak", "journal-3"]
    failed = [line["journal"] for line in lines if line["event"] == "relay.orphan_failed"]
    assert failed == ["journal-0"]


def _errors_of_aiokafka() -> list[type[Exception]]:
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]


def test_people_are_told_why_without_the_name_of_a_class() -> None:
    for kind in [*_errors_of_aiokafka(), TimeoutError, ConnectionRefusedError, AssertionError]:
        assert kind.__name__ not in (said := kafka_errors.why(kind())), said
    assert "no broker answers" in kafka_errors.why(errors.KafkaConnectionError())
    assert kafka_errors.why(TimeoutError()) == "no answer in time"
    assert "user, password or rights" in kafka_errors.why(errors.TopicAuthorizationFailedError())
    assert kafka_errors.why(OSError(113, "No route to host")) == "No route to host"


def test_every_error_of_aiokafka_has_a_verdict_of_its_own() -> None:
    kinds = _errors_of_aiokafka()
    assert len(kinds) > 90
    assert [kind.__name__ for kind in kinds if kind not in kafka_errors._VERDICTS] == []
    lists: list[object] = [*kafka_errors._AGAIN, *kafka_errors._RECORD, *kafka_errors._TIME]
    lists += [*kafka_errors._DOUBTFUL, *kafka_errors._CLIENT]
    assert len(lists) == len(set(lists))
    for kind in kinds:  # what Kafka says may be tried again says nothing about a record
        if getattr(kind, "retriable", False):
            assert verdict(kind()) == "again", kind.__name__


@pytest.mark.parametrize(
    "kind",
    [k for k in dict.fromkeys(_errors_of_aiokafka()) if verdict(k()) in ("record", "doubtful")],
)
async def test_no_refusal_of_a_record_blocks_the_relay(
    tmp_path: Path,
    broker: FakeBroker,
    kind: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever Kafka says to one record, for good: what is behind it arrives."""
    monkeypatch.setattr("router.eventlog.relay.jitter", lambda seconds: seconds / 20)
    broker.refuse = lambda record: kind() if record.headers["ce_id"] == "id-2" else None
    async with relaying(tmp_path, broker) as (journal, relay):
        await fill(journal, 1, 2, 3)
        async with asyncio.timeout(20):
            await relay.drained()
        assert relay.trouble == ""
    assert broker.ids(TOPIC) == expected(1, 3)
    assert broker.ids(TOPIC + ".dead") == []  # refused there as well, also without its value


async def test_a_record_that_is_refused_by_policy_is_dead_with_the_reason(
    tmp_path: Path, broker: FakeBroker
) -> None:
    def refuse(record: Record) -> Exception | None:
        refused = record.headers["ce_id"] == "id-2" and record.position.topic == TOPIC
        return errors.PolicyViolationError() if refused else None

    broker.refuse = refuse
    async with relaying(tmp_path, broker) as (journal, relay):
        await fill(journal, 1, 2, 3)
        async with asyncio.timeout(20):
            await relay.drained()
    (dead,) = [r for r in broker.taken if r.position.topic == TOPIC + ".dead"]
    assert dead.headers["dlq.reason"] == "refused: PolicyViolationError"
    assert dead.value == b"x" * 10


async def test_a_record_that_is_refused_for_a_moment_is_not_dead(
    tmp_path: Path, broker: FakeBroker
) -> None:
    left = [errors.UnknownError(), errors.UnknownError()]
    broker.refuse = lambda record: left.pop() if left else None
    async with relaying(tmp_path, broker) as (journal, relay):
        await fill(journal, 1)
        async with asyncio.timeout(20):
            await relay.drained()
    assert broker.ids(TOPIC) == expected(1)


HOUR = 3_600_000_000


class _Clock(SystemClock):
    """This machine's, and so many µs off."""

    def __init__(self, off: int) -> None:
        self.off = off

    @override
    def now(self) -> int:
        return super().now() + self.off


def _takes_at_most_an_hour_ahead(record: Record) -> Exception | None:
    return errors.InvalidTimestampError() if record.time > SYSTEM.now() + HOUR else None


@pytest.mark.parametrize("mended", [True, False])
async def test_a_clock_that_runs_ahead_does_not_stop_the_relay(
    tmp_path: Path, broker: FakeBroker, mended: bool
) -> None:
    broker.refuse = _takes_at_most_an_hour_ahead
    clock = _Clock(5 * HOUR)
    async with relaying(tmp_path, broker, clock=clock) as (journal, relay):
        broker.away = True
        await fill(journal, 1, 2, 3)
        if mended:
            clock.off = 0
        await fill(journal, 4)
        broker.away = False
        async with asyncio.timeout(20):
            await relay.drained()
    assert broker.ids(TOPIC) == expected(1, 2, 3, 4)
    assert all(abs(record.time - SYSTEM.now()) < 8 * HOUR for record in broker.taken)


async def test_times_that_are_too_old_are_sent_as_now(tmp_path: Path, broker: FakeBroker) -> None:
    def refuse(record: Record) -> Exception | None:
        return errors.InvalidTimestampError() if record.time < SYSTEM.now() - HOUR else None

    broker.refuse = refuse
    clock = _Clock(-30 * HOUR)
    async with relaying(tmp_path, broker, clock=clock) as (journal, relay):
        broker.away = True
        await fill(journal, 1)
        clock.off = 0
        broker.away = False
        async with asyncio.timeout(20):
            await relay.drained()
    assert broker.ids(TOPIC) == expected(1)


@pytest.mark.parametrize("off", [-24 * HOUR, 24 * HOUR])
async def test_no_clock_makes_a_backlog_young(tmp_path: Path, broker: FakeBroker, off: int) -> None:
    clock = _Clock(off)
    async with relaying(tmp_path, broker, clock=clock) as (journal, relay):
        broker.mute = True
        await fill(journal, 1)
        clock.off = 0
        assert relay.lag.age < 0.3
        await asyncio.sleep(0.5)
        assert relay.lag.age >= 0.3
        assert not relay.healthy
        await fill(journal, 2)
        await asyncio.sleep(0.1)
        assert relay.lag.age >= 0.4


async def test_what_a_life_before_left_is_as_old_as_it_is(
    tmp_path: Path, broker: FakeBroker
) -> None:
    broker.away = True
    async with relaying(tmp_path, broker) as (journal, _):
        await fill(journal, 1)
    await asyncio.sleep(0.5)
    async with relaying(tmp_path, broker) as (_, relay):
        assert relay.lag.events == 1
        assert relay.lag.age >= 0.5
        assert not relay.healthy


def test_the_marks_of_a_backlog_are_bounded_and_know_its_age() -> None:
    backlog = relay_module._Backlog()
    age = 0.0
    for second in range(100_000):
        age = backlog.look(0, second + 1, float(second))
    assert age == 99_999.0
    assert len(backlog._marks) <= relay_module._MARKS
    assert backlog.look(50_000, 100_000, 100_000.0) == pytest.approx(50_000, abs=1000)
    assert backlog.look(100_000, 100_000, 100_000.0) == 0.0
