"""A broker that moves behind the same bootstrap address (no Java): readers notice their silence."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from router.eventlog import kafka_follower, kafka_reader
from router.eventlog.base import Follower, Reader
from router.eventlog.kafka_follower import KafkaFollower
from router.eventlog.kafka_producer import KafkaProducer
from router.eventlog.kafka_reader import KafkaReader
from router.eventlog.topics import TOPICS
from tests.support.kafka_mock import MockCluster, mock_cluster
from tests.support.kafka_proxy import HOST, Proxy
from tests.support.kafka_records import ids, make_record, read
from tests.support.kafka_settings import log_settings

TOPIC = "t"


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    with mock_cluster() as started:
        for topic in (TOPIC, *(topic.name for topic in TOPICS)):
            started.create_topic(topic)
        yield started


@pytest.fixture(params=["reader", "follower"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for module in (kafka_reader, kafka_follower):
        monkeypatch.setattr(module, "_QUIET", 0.5)
        monkeypatch.setattr(module, "_PROBE", 1.0)
    return str(request.param)


@asynccontextmanager
async def opened(kind: str, bootstrap: str, folder: Path) -> AsyncIterator[Reader | Follower]:
    kafka = log_settings(folder, bootstrap=bootstrap).kafka
    if kind == "reader":
        found: KafkaReader | KafkaFollower = KafkaReader(kafka, [TOPIC], group="g", on_revoke=None)
    else:
        found = KafkaFollower(kafka, [TOPIC], after={})
    try:
        yield found
    finally:
        await found.close()


async def send(cluster: MockCluster, folder: Path, identity: str) -> None:
    producer = KafkaProducer(log_settings(folder, bootstrap=cluster.bootstrap).kafka)
    await producer.start()
    try:
        await (await producer.send(make_record(TOPIC, identity)))
    finally:
        await producer.end()


async def test_a_broker_that_moved_is_found_again(
    cluster: MockCluster, tmp_path: Path, kind: str
) -> None:
    stable = await Proxy(cluster.port).start()
    old = await Proxy(cluster.port).start()
    new = await Proxy(cluster.port).start()
    try:
        await send(cluster, tmp_path, "id-1")
        cluster.advertise(HOST, old.port)
        async with opened(kind, f"{HOST}:{stable.port}", tmp_path) as reader:
            assert ids(await read(reader, 1)) == ["id-1"]
            await old.close()
            cluster.advertise(HOST, new.port)
            await send(cluster, tmp_path, "id-2")
            found: list[str] = []
            while "id-2" not in found:  # what was not committed comes again before it
                found += ids(await read(reader, 1, patience=60))
    finally:
        for proxy in (stable, old, new):
            await proxy.close()
