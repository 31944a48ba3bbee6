"""aiokafka's traps, on a broker that fails on command (no Java): the relay gets out of each."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from router.eventlog import kafka_client
from router.eventlog.base import Record
from router.eventlog.journal import Journal, open_journal
from router.eventlog.journal_writer import RELAY
from router.eventlog.kafka_follower import KafkaFollower
from router.eventlog.kafka_log import connector
from router.eventlog.relay import Relay, open_relay
from router.eventlog.topics import TOPICS
from router.supervisor import Supervisor
from tests.support.kafka_mock import MSG_SIZE_TOO_LARGE, MockCluster, mock_cluster
from tests.support.kafka_proxy import HOST, Proxy
from tests.support.kafka_records import headers, ids, read
from tests.support.kafka_settings import log_settings

TOPIC = "t"


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    with mock_cluster() as started:
        started.create_topic(TOPIC)
        started.create_topic(TOPIC + ".dead")
        for topic in TOPICS:  # the mock has no CreateTopics
            started.create_topic(topic.name)
        yield started


@asynccontextmanager
async def relaying(
    tmp_path: Path, bootstrap: str, stall_after: float
) -> AsyncIterator[tuple[Journal, Relay]]:
    settings = log_settings(tmp_path, bootstrap=bootstrap, kafka={"stall_after": stall_after})
    async with (
        open_journal(tmp_path, settings.journal, pinned_by=RELAY) as journal,
        open_relay(journal, connector(settings.kafka), settings.kafka, Supervisor()) as relay,
    ):
        yield journal, relay


async def fill(journal: Journal, *numbers: int) -> None:
    for number in numbers:
        await journal.append(TOPIC, "key", b"value", headers(f"id-{number}"))


async def drained(relay: Relay, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await relay.drained()


async def in_kafka(bootstrap: str, topic: str, count: int, tmp_path: Path) -> list[Record]:
    settings = log_settings(tmp_path, bootstrap=bootstrap)
    follower = KafkaFollower(settings.kafka, [topic], after={})
    try:
        return await read(follower, count)
    finally:
        await follower.close()


async def test_a_partition_without_leader_for_longer_than_the_request_time_out(
    tmp_path: Path, cluster: MockCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failed batch has used up its sequence number: that producer is lost for good."""
    monkeypatch.setattr(kafka_client, "REQUEST_TIMEOUT", 1.0)
    async with relaying(tmp_path, cluster.bootstrap, stall_after=60) as (journal, relay):
        await fill(journal, 1)
        await drained(relay, 10)
        cluster.set_leader(TOPIC, 0, -1)
        await fill(journal, 2, 3)
        await asyncio.sleep(3)
        assert relay.acked_seq == 1
        assert not relay.healthy
        cluster.set_leader(TOPIC, 0, 1)
        await drained(relay, 15)
        await fill(journal, 4)
        await drained(relay, 5)
    assert ids(await in_kafka(cluster.bootstrap, TOPIC, 4, tmp_path)) == [
        f"id-{number}" for number in (1, 2, 3, 4)
    ]


async def test_a_broker_that_moved_behind_the_same_bootstrap_address(
    tmp_path: Path, cluster: MockCluster
) -> None:
    """aiokafka asks only the brokers that it knows, never the bootstrap address again."""
    stable = await Proxy(cluster.port).start()
    old = await Proxy(cluster.port).start()
    cluster.advertise(HOST, old.port)
    bootstrap = f"{HOST}:{stable.port}"
    new = Proxy(cluster.port)
    try:
        async with relaying(tmp_path, bootstrap, stall_after=1.0) as (journal, relay):
            await fill(journal, 1)
            await drained(relay, 10)
            await old.close()
            await new.start()
            cluster.advertise(HOST, new.port)
            await fill(journal, 2, 3)
            await drained(relay, 20)
        found = ids(await in_kafka(bootstrap, TOPIC, 3, tmp_path))
        assert list(dict.fromkeys(found)) == ["id-1", "id-2", "id-3"]
    finally:
        for proxy in (stable, old, new):
            await proxy.close()


async def test_a_record_that_the_broker_calls_too_large(
    tmp_path: Path, cluster: MockCluster
) -> None:
    async with relaying(tmp_path, cluster.bootstrap, stall_after=60) as (journal, relay):
        await fill(journal, 1)
        await drained(relay, 10)
        cluster.fail_produce(MSG_SIZE_TOO_LARGE)
        await fill(journal, 2)
        await drained(relay, 15)
        await fill(journal, 3)
        await drained(relay, 5)
    assert ids(await in_kafka(cluster.bootstrap, TOPIC, 2, tmp_path)) == ["id-1", "id-3"]
    (dead,) = await in_kafka(cluster.bootstrap, TOPIC + ".dead", 1, tmp_path)
    assert dead.headers["ce_id"] == "id-2"
    assert dead.headers["dlq.reason"] == "too_large"
