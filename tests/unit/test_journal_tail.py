"""`open_tail` without Kafka: looking at a journal that another process writes."""

from pathlib import Path

from router.eventlog.open import open_log
from router.eventlog.tail import open_tail
from tests.support.kafka_records import append, fetch, ids, read
from tests.support.kafka_settings import log_settings


async def test_from_the_end(tmp_path: Path) -> None:
    settings = log_settings(tmp_path)
    async with open_log(settings) as log:
        await append(log, "t", "key", "id-before")
        async with open_tail(settings, ["t"]) as tail:
            assert not await fetch(tail)
            assert tail.caught_up
            await append(log, "t", "key", "id-after")
            await append(log, "other", "key", "id-other")
            assert ids(await read(tail, 1)) == ["id-after"]


async def test_some_records_back(tmp_path: Path) -> None:
    settings = log_settings(tmp_path)
    async with open_log(settings) as log:
        for number in range(5):
            await append(log, "t", "key", f"id-{number}")
            await append(log, "other", "key", f"id-{number}")
    async with open_tail(settings, ["t"], last=2) as tail:  # its process may be gone
        assert ids(await read(tail, 2)) == ["id-3", "id-4"]


async def test_before_there_is_a_journal(tmp_path: Path) -> None:
    settings = log_settings(tmp_path)
    async with open_tail(settings, ["t"]) as tail:
        assert not await fetch(tail)
        async with open_log(settings) as log:
            await append(log, "t", "key", "id-1")
            assert ids(await read(tail, 1)) == ["id-1"]
