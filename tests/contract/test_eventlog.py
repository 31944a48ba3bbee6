"""What `router.eventlog.base` promises, one test for each line, on every adapter.

The Kafka adapter runs over the real Apache Kafka, its relay and its own journal.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from config import Settings
from router.errors import PartitionLost
from router.eventlog.base import Follower, OpenLog, Position, Reader
from router.eventlog.open import open_log
from tests.support.kafka_records import (
    append,
    by_key,
    fetch,
    headers,
    ids,
    new_topic,
    read,
)
from tests.support.kafka_settings import log_settings


@pytest.fixture(params=["journal", pytest.param("kafka", marks=pytest.mark.kafka)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "journal":
        return log_settings(tmp_path)
    return log_settings(tmp_path, bootstrap=request.getfixturevalue("kafka").bootstrap)


@pytest.fixture
async def log(settings: Settings) -> AsyncIterator[OpenLog]:
    async with open_log(settings) as opened:
        yield opened


async def test_durable_on_return(settings: Settings) -> None:
    topic = new_topic()
    async with open_log(settings) as log:
        for number in range(20):
            await append(log, topic, "key", f"id-{number}")
    async with open_log(settings) as log, log.follow([topic], after={}) as follower:
        records = await read(follower, 20)
    assert ids(records) == [f"id-{number}" for number in range(20)]


async def test_a_record_comes_back_as_it_was(log: OpenLog) -> None:
    topic = new_topic()
    sent = headers("id-1") | {"note": "schön ☎"}
    await log.append(topic, "ключ", b"\x00\xff", sent)
    await log.append(topic, "ключ", None, headers("id-2"))
    async with log.follow([topic], after={}) as follower:
        record, tombstone = await read(follower, 2)
    assert (record.key, record.value, dict(record.headers)) == ("ключ", b"\x00\xff", sent)
    assert record.position.topic == topic
    assert tombstone.value is None


async def test_idempotent_by_id(log: OpenLog) -> None:
    topic = new_topic()
    first = await log.append(topic, "key", b"first", headers("id-1"))
    again = await log.append(topic, "key", b"second", headers("id-1"))
    assert first.existing is None
    assert again.existing is not None
    assert again.existing.value == b"first"
    assert again.position == first.position
    await append(log, topic, "key", "id-2")
    async with log.follow([topic], after={}) as follower:
        assert ids(await read(follower, 2)) == ["id-1", "id-2"]


async def test_idempotent_when_twins_come_together(log: OpenLog) -> None:
    topic = new_topic()
    appended = await asyncio.gather(
        *(log.append(topic, "key", bytes([number]), headers("id-1")) for number in range(8))
    )
    assert len({position for position, _ in appended}) == 1
    assert [existing.value for _, existing in appended if existing is not None] == [b"\x00"] * 7


async def test_who_stops_waiting_takes_nothing_back(log: OpenLog) -> None:
    topic = new_topic()
    waiting = [asyncio.create_task(append(log, topic, "key", f"id-{n}")) for n in range(20)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert all(task.cancelled() for task in waiting)
    async with log.follow([topic], after={}) as follower:
        assert ids(await read(follower, 20)) == [f"id-{n}" for n in range(20)]


async def test_the_same_id_in_another_topic_is_another_record(log: OpenLog) -> None:
    topic, dead = new_topic(), new_topic()
    await append(log, topic, "key", "id-1")
    assert (await log.append(dead, "key", b"", headers("id-1"))).existing is None


async def test_order_per_key(log: OpenLog) -> None:
    topic = new_topic()
    sent = [(f"key-{number % 7}", f"id-{number}") for number in range(700)]
    await asyncio.gather(*(append(log, topic, key, identity) for key, identity in sent))
    async with log.reader([topic], group="group") as reader:
        found = by_key(await read(reader, len(sent)))
    for key in {key for key, _ in sent}:
        assert found[key] == [identity for other, identity in sent if other == key]


async def test_at_least_once_until_committed(log: OpenLog) -> None:
    topic = new_topic()
    for number in range(6):
        await append(log, topic, "key", f"id-{number}")
    async with log.reader([topic], group="group") as reader:
        records = await read(reader, 6)
        await reader.commit([records[2].position])
    async with log.reader([topic], group="group") as reader:
        assert ids(await read(reader, 3)) == ["id-3", "id-4", "id-5"]


async def test_a_new_group_starts_at_the_beginning_and_groups_are_independent(
    log: OpenLog,
) -> None:
    topic = new_topic()
    await append(log, topic, "key", "id-1")
    async with (
        log.reader([topic], group="one") as one,
        log.reader([topic], group="two") as two,
    ):
        record = (await read(one, 1))[0]
        await one.commit([record.position])
        assert ids(await read(two, 1)) == ["id-1"]


async def test_members_of_a_group_share_no_partition(log: OpenLog) -> None:
    topic = new_topic()
    await append(log, topic, "warm-up", "id-warm-up")
    async with (
        log.reader([topic], group="group") as one,
        log.reader([topic], group="group") as two,
    ):
        await _settle(one, two)
        for number in range(90):
            await append(log, topic, f"key-{number}", f"id-{number}")
        seen_by_one: set[tuple[str, int]] = set()
        seen_by_two: set[tuple[str, int]] = set()
        found: set[str] = set()
        async with asyncio.timeout(30):
            while len(found - {"id-warm-up"}) < 90:
                for member, seen in ((one, seen_by_one), (two, seen_by_two)):
                    records = await fetch(member, wait=0.05)
                    seen |= {(r.position.topic, r.position.partition) for r in records}
                    found |= set(ids(records))
    assert not seen_by_one & seen_by_two


async def _settle(*members: Reader) -> None:
    """Let both join before anything that counts is read."""
    for _ in range(15):
        for member in members:
            await fetch(member, wait=0.1)


async def test_what_a_member_left_goes_to_the_next(log: OpenLog) -> None:
    topic = new_topic()
    for number in range(4):
        await append(log, topic, "key", f"id-{number}")
    async with log.reader([topic], group="group") as one:
        records = await read(one, 4)
        await one.commit([records[1].position])
        async with log.reader([topic], group="group") as two:
            await fetch(two)
    async with log.reader([topic], group="group") as three:
        assert ids(await read(three, 2)) == ["id-2", "id-3"]


async def test_a_member_may_not_commit_what_it_does_not_hold(log: OpenLog) -> None:
    topic, other = new_topic(), new_topic()
    await append(log, topic, "key", "id-1")
    async with log.reader([topic], group="group") as reader:
        await read(reader, 1)
        with pytest.raises(PartitionLost):
            await reader.commit([Position(other, 0, 0)])


async def test_one_commit_is_for_many_partitions_and_names_those_that_are_lost(
    log: OpenLog,
) -> None:
    topic, second, other = new_topic(), new_topic(), new_topic()
    for number in range(30):
        await append(log, topic, f"key-{number}", f"id-{number}")
        await append(log, second, f"key-{number}", f"id-{number}")
    async with log.reader([topic, second], group="group") as reader:
        records = await read(reader, 30)
        while len(records) < 60:
            records += await fetch(reader)
        last = {(r.position.topic, r.position.partition): r.position for r in records}
        with pytest.raises(PartitionLost) as lost:
            await reader.commit([*last.values(), Position(other, 0, 0)])
        assert list(lost.value.partitions) == [(other, 0)]
    await append(log, topic, "key-0", "id-after")
    async with log.reader([topic, second], group="group") as reader:
        assert ids(await read(reader, 1)) == ["id-after"]


async def test_a_fetch_of_nothing_keeps_the_place(log: OpenLog) -> None:
    topic = new_topic()
    await append(log, topic, "key", "id-1")
    async with log.reader([topic], group="group") as reader:
        await read(reader, 1)
        await append(log, topic, "key", "id-2")
        for _ in range(3):
            assert not await reader.fetch(limit=0, wait=0.0)
        assert ids(await read(reader, 1)) == ["id-2"]


async def test_a_follower_misses_nothing_and_says_when_it_is_there(log: OpenLog) -> None:
    topic = new_topic()
    for number in range(30):
        await append(log, topic, f"key-{number % 4}", f"id-{number}")
    async with log.follow([topic], after={}) as follower:
        assert not follower.caught_up
        records = await read(follower, 30)
        await _until_caught_up(follower)
        await append(log, topic, "key-0", "id-30")
        assert ids(await read(follower, 1)) == ["id-30"]
    after = {(r.position.topic, r.position.partition): r.position.offset for r in records}
    async with log.follow([topic], after=after) as follower:
        assert ids(await read(follower, 1)) == ["id-30"]


async def test_an_empty_log_is_caught_up_with(log: OpenLog) -> None:
    async with log.follow([new_topic()], after={}) as follower:
        await _until_caught_up(follower)


async def _until_caught_up(follower: Follower) -> None:
    async with asyncio.timeout(20):
        while not follower.caught_up:
            assert not await fetch(follower)


async def test_a_log_shorter_than_the_position_is_read_from_its_beginning(log: OpenLog) -> None:
    topic = new_topic()
    await append(log, topic, "key", "id-1")
    places = {(topic, partition): 1_000_000 for partition in range(3)}
    async with log.follow([topic], after=places) as follower:
        assert ids(await read(follower, 1)) == ["id-1"]


async def test_a_record_without_an_id_is_refused(log: OpenLog) -> None:
    with pytest.raises(ValueError, match="ce_id"):
        await log.append(new_topic(), "key", b"", {"ce_type": "call.initiated"})
