"""What is taken over: everything that nobody handled in time, whoever has it; and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from typing_extensions import override

from router.clock import SYSTEM, SystemClock
from router.eventlog.base import Lag, Position, Record
from router.eventlog.journal import Journal, open_journal
from router.eventlog.journal_writer import RELAY
from router.eventlog.takeover import KafkaTakeover
from tests.support.kafka_records import headers, ids
from tests.support.kafka_settings import log_settings

TOPIC = "telephony.calls"


class Kafka:
    """What relay and group know; `RelayState` and the group's offsets."""

    healthy = True
    lag = Lag(0, 0.0)
    trouble = ""

    def __init__(self) -> None:
        self.places: dict[int, Position] = {}
        self.offsets: Mapping[tuple[str, int], int] | None = {}
        self.asked = 0
        self.acked_seq = 0

    def place(self, seq: int) -> Position | None:
        return self.places.get(seq)

    def take(self, *seqs: int) -> None:
        """Acknowledge records; their offsets are ten higher than their seqs."""
        for seq in seqs:
            self.places[seq] = Position(TOPIC, 0, seq + 10)
            self.acked_seq = max(self.acked_seq, seq)

    async def ask(self) -> Mapping[tuple[str, int], int] | None:
        self.asked += 1
        return self.offsets

    async def close(self) -> None:
        pass


@asynccontextmanager
async def world(tmp_path: Path) -> AsyncIterator[tuple[Journal, Kafka, KafkaTakeover]]:
    settings = log_settings(tmp_path)
    async with open_journal(tmp_path, settings.journal, pinned_by=RELAY) as journal:
        kafka = Kafka()
        yield (
            journal,
            kafka,
            KafkaTakeover(
                journal,
                kafka,
                [TOPIC],
                after_seconds=0.2,
                offsets=kafka,
                clock=SYSTEM,
            ),
        )


async def fill(journal: Journal, *numbers: int) -> None:
    for number in numbers:
        await journal.append(TOPIC, f"call-{number}", b"", headers(f"id-{number}"))


def record(number: int) -> Record:
    return Record(
        Position(TOPIC, 1, number), f"call-{number}", b"", headers(f"id-{number}"), SYSTEM.now()
    )


async def over(takeover: KafkaTakeover, seconds: float = 0.5) -> Sequence[str]:
    found: list[str] = []
    end = asyncio.get_running_loop().time() + seconds
    while (left := end - asyncio.get_running_loop().time()) > 0:
        found += ids(await takeover.fetch(limit=10, wait=left))
    return found


async def test_what_kafka_has_not_is_taken_over_once_and_not_before_its_time(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as (journal, kafka, takeover):
        await journal.append("other", "key", b"", headers("id-other"))
        await fill(journal, 1)
        assert await over(takeover, 0.1) == []
        assert await over(takeover) == ["id-1"]
        assert not await takeover.fetch(limit=0, wait=0.0)
        assert kafka.asked == 0


async def test_what_this_process_handled_costs_no_question(tmp_path: Path) -> None:
    async with world(tmp_path) as (journal, kafka, takeover):
        await fill(journal, *range(1, 6))
        kafka.take(*range(1, 6))
        for number in range(1, 6):
            takeover.begun(record(number))
            takeover.ended(record(number), done=True)
        assert await over(takeover) == []
        assert kafka.asked == 0


async def test_what_another_process_committed_is_left_alone(tmp_path: Path) -> None:
    async with world(tmp_path) as (journal, kafka, takeover):
        await fill(journal, 1, 2, 3)
        kafka.take(1, 2, 3)
        kafka.offsets = {(TOPIC, 0): 13}  # up to 12, the offset of the second
        assert await over(takeover) == ["id-3"]
        assert 1 <= kafka.asked <= 4


async def test_what_kafka_has_and_nobody_can_read_is_taken_over(tmp_path: Path) -> None:
    async with world(tmp_path) as (journal, kafka, takeover):
        await fill(journal, 1, 2)
        kafka.take(1, 2)
        kafka.offsets = None  # it does not even answer
        assert await over(takeover) == ["id-1", "id-2"]
        assert kafka.asked == 1
        await fill(journal, 3)
        kafka.take(3)
        assert await over(takeover) == ["id-3"]
        assert kafka.asked == 1  # not again so soon


async def test_what_is_in_hand_waits_and_is_taken_over_when_it_was_let_go(tmp_path: Path) -> None:
    async with world(tmp_path) as (journal, kafka, takeover):
        await fill(journal, 1)
        kafka.take(1)
        takeover.begun(record(1))
        assert await over(takeover) == []
        takeover.ended(record(1), done=False)  # its partition was revoked
        assert await over(takeover) == ["id-1"]


async def test_a_clock_that_jumps_delays_nothing(tmp_path: Path) -> None:
    class Ahead(SystemClock):
        off = 7200 * 1_000_000

        @override
        def now(self) -> int:
            return super().now() + self.off

    settings, clock = log_settings(tmp_path), Ahead()

    async with open_journal(tmp_path, settings.journal, pinned_by=RELAY, clock=clock) as journal:
        kafka = Kafka()
        takeover = KafkaTakeover(
            journal, kafka, [TOPIC], after_seconds=0.2, offsets=kafka, clock=clock
        )
        await fill(journal, 1)
        clock.off = 0
        assert await over(takeover) == ["id-1"]


async def test_no_more_than_was_asked_for_and_in_order(tmp_path: Path) -> None:
    async with world(tmp_path) as (journal, _, takeover):
        await fill(journal, *range(25))
        await asyncio.sleep(0.3)
        got = [ids(await takeover.fetch(limit=10, wait=0.0)) for _ in range(4)]
        assert [len(some) for some in got] == [10, 10, 5, 0]
        assert [each for some in got for each in some] == [f"id-{n}" for n in range(25)]
