"""The log over the real Kafka: what is particular to this adapter."""

import asyncio
import gc
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]

from router.eventlog.journal import open_journal
from router.eventlog.journal_writer import RELAY
from router.eventlog.kafka_follower import KafkaFollower
from router.eventlog.kafka_reader import KafkaReader
from router.eventlog.open import open_log
from router.eventlog.slots import take_slot
from router.eventlog.tail import open_tail
from router.events.ids import call_id
from router.events.types import CALLS_TOPIC, ROUTES_TOPIC
from tests.support.kafka_records import append, fetch, first_seen, headers, ids, new_topic, read
from tests.support.kafka_settings import log_settings
from tests.support.servers.kafka import Kafka
from tests.support.servers.ports import HOST, free_port


async def test_replicated_means_that_kafka_has_it(kafka: Kafka, tmp_path: Path) -> None:
    settings = log_settings(tmp_path, bootstrap=kafka.bootstrap, kafka={"ack_deadline": 10})
    topic = new_topic()
    async with open_log(settings) as log:
        appended = await log.append(topic, "key", b"", headers("id-1"))
        assert log.relay is not None
        assert log.relay.acked_seq >= appended.position.offset


async def test_a_log_that_is_closed_while_it_connects_leaves_nothing_open(
    kafka: Kafka, tmp_path: Path
) -> None:
    settings = log_settings(tmp_path, bootstrap=kafka.bootstrap)
    with warnings.catch_warnings(record=True) as unclosed:
        warnings.simplefilter("always", ResourceWarning)
        for step in range(30):
            async with open_log(settings):
                await asyncio.sleep(step * 0.002)  # it is connected after about 0.04 s
            gc.collect()
    assert [str(each.message) for each in unclosed] == []


async def test_topics_are_made_with_their_policies(kafka: Kafka, tmp_path: Path) -> None:
    settings = log_settings(tmp_path, bootstrap=kafka.bootstrap)
    async with open_log(settings):
        policies = await asyncio.to_thread(_policies, kafka.bootstrap, CALLS_TOPIC, ROUTES_TOPIC)
    assert policies == {CALLS_TOPIC: "delete", ROUTES_TOPIC: "compact"}


def _policies(bootstrap: str, *topics: str) -> dict[str, str]:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    while not set(topics) <= set(admin.list_topics(timeout=10).topics):
        time.sleep(0.05)
    resources = [ConfigResource("topic", topic) for topic in topics]
    found = admin.describe_configs(resources)
    return {r.name: future.result(10)["cleanup.policy"].value for r, future in found.items()}


async def test_a_calls_events_are_in_one_partition_whoever_writes_them(
    kafka: Kafka, tmp_path: Path
) -> None:
    settings = log_settings(tmp_path, bootstrap=kafka.bootstrap, kafka={"partitions": 6})
    topic = new_topic()
    calls = [call_id("twilio", "AC1", f"CA{number}") for number in range(20)]
    async with (
        open_log(settings) as first,
        open_log(settings) as second,
        first.follow([topic], after={}) as follower,
    ):
        for step in range(3):
            for call in calls:
                await append(first if step % 2 else second, topic, call, f"{call}-{step}")
        found = await read(follower, 3 * len(calls))
        await asyncio.to_thread(_produce_as_others_do, kafka.bootstrap, topic, calls)
        found += await read(follower, len(calls))
    places = {(record.key, record.position.partition) for record in found}
    assert len(places) == len(calls)
    assert len({partition for _, partition in places}) > 1


def _produce_as_others_do(bootstrap: str, topic: str, calls: Sequence[str]) -> None:
    """As a client in Java would: that is librdkafka's murmur2_random."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "log_level": 0}
    )
    for call in calls:
        attributes: dict[str, str | bytes | None] = {**headers(f"{call}-other")}
        producer.produce(topic, key=call.encode(), value=b"", headers=attributes)
    assert producer.flush(30) == 0


async def test_a_broker_that_is_away_at_start_is_no_error(tmp_path: Path) -> None:
    settings = log_settings(
        tmp_path, bootstrap=f"{HOST}:{free_port()}", kafka={"ack_deadline": 0.3}
    )
    loop = asyncio.get_running_loop()
    async with open_log(settings) as log:
        assert log.relay is not None
        takeover = log.takeover(["t"], group="g")
        assert takeover is not None
        async with (
            log.reader(["t"], group="g") as reader,
            log.follow(["t"], after={}) as follower,
            takeover.reader() as local,
        ):
            await append(log, "t", "key", "id-1")
            assert not await fetch(reader)
            assert not await fetch(follower)
            assert ids(await read(local, 1)) == ["id-1"]
            assert not log.relay.healthy
        begun = loop.time()
    assert loop.time() - begun < 10


async def test_what_a_dead_process_left_is_drained_by_another(kafka: Kafka, tmp_path: Path) -> None:
    settings = log_settings(tmp_path, bootstrap=kafka.bootstrap)
    topic = new_topic()
    with take_slot(tmp_path, shared=True), take_slot(tmp_path, shared=True) as second:
        async with open_journal(second, settings.journal, pinned_by=RELAY) as journal:
            for number in range(20):
                await journal.append(topic, "key", b"", headers(f"id-{number}"))
    async with open_log(settings) as log, log.follow([topic], after={}) as follower:
        assert ids(await read(follower, 20)) == [f"id-{number}" for number in range(20)]


async def test_a_topic_that_was_made_anew_is_read_from_its_beginning(
    kafka: Kafka, tmp_path: Path
) -> None:
    settings = log_settings(tmp_path, bootstrap=kafka.bootstrap)
    topic = new_topic()
    async with open_log(settings) as log, log.follow([topic], after={}) as follower:
        for number in range(9):
            await append(log, topic, f"key-{number}", f"id-{number}")
        await read(follower, 9)
        await asyncio.to_thread(_delete, kafka.bootstrap, topic)
        await append(log, topic, "key-0", "id-anew")
        assert "id-anew" in ids(await read(follower, 1))


def _delete(bootstrap: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    for future in admin.delete_topics([topic]).values():
        future.result(20)


async def test_a_consumer_that_ended_by_itself_is_made_anew(kafka: Kafka, tmp_path: Path) -> None:
    settings = log_settings(tmp_path, bootstrap=kafka.bootstrap)
    topic = new_topic()
    revoked: list[tuple[str, int]] = []

    async def on_revoke(partitions: Sequence[tuple[str, int]], _seconds: float) -> None:
        revoked.extend(partitions)

    async with (
        open_log(settings) as log,
        log.reader([topic], group="g", on_revoke=on_revoke) as reader,
    ):
        assert isinstance(reader, KafkaReader)
        await append(log, topic, "key", "id-1")
        (first,) = await read(reader, 1)
        await reader.commit([first.position])
        revoked.clear()
        assert reader._consumer is not None
        await reader._consumer.stop()
        await append(log, topic, "key", "id-2")
        assert ids(await read(reader, 1)) == ["id-2"]
        assert {(topic, number) for number in range(3)} <= set(revoked)


async def test_tail_some_records_back(kafka: Kafka, tmp_path: Path) -> None:
    settings = log_settings(tmp_path, bootstrap=kafka.bootstrap, kafka={"partitions": 1})
    topic = new_topic()
    async with open_log(settings) as log:
        for number in range(6):
            await append(log, topic, "key", f"id-{number}")
        async with open_tail(settings, [topic], last=2) as tail:
            assert ids(await read(tail, 2)) == ["id-4", "id-5"]
            await append(log, topic, "key", "id-6")
            assert ids(await read(tail, 1)) == ["id-6"]


async def test_a_follower_goes_on_from_its_place_when_its_consumer_is_lost(
    kafka: Kafka, tmp_path: Path
) -> None:
    settings = log_settings(tmp_path, bootstrap=kafka.bootstrap)
    topic = new_topic()
    async with open_log(settings) as log:
        await append(log, topic, "key", "id-1")
        follower = KafkaFollower(settings.kafka, [topic], after={})
        try:
            assert ids(await read(follower, 1)) == ["id-1"]
            assert follower._consumer is not None
            await follower._consumer.stop()
            await append(log, topic, "key", "id-2")
            assert first_seen(ids(await read(follower, 1))) == ["id-2"]
        finally:
            await follower.close()
