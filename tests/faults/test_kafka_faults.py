"""The replicated log under load while the real broker dies, freezes, or its group changes."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from router.errors import LogUnavailable, PartitionLost
from router.eventlog import kafka_follower
from router.eventlog.base import OpenLog, Reader
from router.eventlog.kafka_follower import KafkaFollower
from router.eventlog.open import open_log
from tests.support.kafka_records import append, by_key, fetch, first_seen, ids, new_topic, read
from tests.support.kafka_settings import log_settings
from tests.support.servers.kafka import Kafka, KafkaCluster, kafka_cluster, kafka_server

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

WRITERS = 8


@pytest.fixture(scope="module")
def broker() -> Iterator[Kafka]:
    with kafka_server() as server:
        yield server


@pytest.fixture
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster(nodes=3) as servers:
        yield servers


class Load:
    """Writers that append until told to stop, and what was acknowledged to each."""

    def __init__(self, log: OpenLog, topic: str) -> None:
        self._log = log
        self._topic = topic
        self._stop = False
        self.acked: defaultdict[str, list[str]] = defaultdict(list)
        self._tasks = [asyncio.create_task(self._write(n)) for n in range(WRITERS)]

    async def _write(self, writer: int) -> None:
        key = f"key-{writer}"
        for number in count():
            if self._stop:
                return
            identity = f"{writer}-{number}"
            await append(self._log, self._topic, key, identity)
            self.acked[key].append(identity)
            await asyncio.sleep(0.002)

    async def stop(self) -> int:
        self._stop = True
        await asyncio.gather(*self._tasks)
        return sum(len(found) for found in self.acked.values())


def _waiting(log: OpenLog) -> int:
    assert log.relay is not None
    assert not log.relay.healthy
    return log.relay.lag.events


async def _goes_on(log: OpenLog) -> None:
    assert log.relay is not None
    async with asyncio.timeout(30):
        while not log.relay.healthy:  # noqa: ASYNC110 the port has no event for it
            await asyncio.sleep(0.05)


async def _drain(log: OpenLog) -> None:
    assert log.relay is not None
    async with asyncio.timeout(90):
        while log.relay.lag.events:  # noqa: ASYNC110 the port has no event for it
            await asyncio.sleep(0.05)


async def _all_there(
    broker: Kafka | KafkaCluster, topic: str, load: Load, total: int, tmp_path: Path
) -> None:
    settings = log_settings(tmp_path, bootstrap=broker.bootstrap)
    follower = KafkaFollower(settings.kafka, [topic], after={})
    try:
        found = by_key(await read(follower, total, patience=60))
    finally:
        await follower.close()
    for key, acked in load.acked.items():
        assert first_seen(found[key]) == acked  # none lost, none before its elder


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_the_broker_goes_away_under_load(broker: Kafka, tmp_path: Path, fault: str) -> None:
    topic = new_topic()
    settings = log_settings(
        tmp_path, bootstrap=broker.bootstrap, kafka={"stall_after": 2.0, "ack_deadline": 0.5}
    )
    async with open_log(settings) as log:
        load = Load(log, topic)
        await asyncio.sleep(1.5)
        if fault == "kill":
            broker.kill()
        else:
            broker.pause()
        await asyncio.sleep(5)
        assert _waiting(log) > 0  # it went on without Kafka
        if fault == "kill":
            await asyncio.to_thread(broker.start)
        else:
            broker.resume()
        await asyncio.sleep(1)
        total = await load.stop()
        await _drain(log)
    await _all_there(broker, topic, load, total, tmp_path)


async def test_each_node_of_a_cluster_dies_under_load(
    cluster: KafkaCluster, tmp_path: Path
) -> None:
    topic = new_topic()
    settings = log_settings(
        tmp_path,
        bootstrap=cluster.bootstrap,
        kafka={"replication_factor": 3, "stall_after": 5.0, "ack_deadline": 0.5},
    )
    async with open_log(settings) as log:
        load = Load(log, topic)
        await asyncio.sleep(1.5)
        for node in cluster.nodes:  # each in turn, so every partition loses its leader once
            node.kill()
            await asyncio.sleep(1)
            await _goes_on(log)  # the two others, without it
            await asyncio.to_thread(node.start)
            await asyncio.sleep(1)
        total = await load.stop()
        await _drain(log)
    await _all_there(cluster, topic, load, total, tmp_path)


async def test_a_stop_while_the_broker_is_frozen_is_bounded_and_loses_nothing(
    broker: Kafka, tmp_path: Path
) -> None:
    topic = new_topic()
    settings = log_settings(tmp_path, bootstrap=broker.bootstrap, kafka={"ack_deadline": 0.3})
    loop = asyncio.get_running_loop()
    async with open_log(settings) as log, log.reader([topic], group="g") as reader:
        await append(log, topic, "key", "id-1")
        await read(reader, 1)
        broker.pause()
        await append(log, topic, "key", "id-2")
        begun = loop.time()
    assert loop.time() - begun < 20
    broker.resume()
    async with open_log(settings) as log:
        await _drain(log)
        async with log.follow([topic], after={}) as follower:
            assert first_seen(ids(await read(follower, 2))) == ["id-1", "id-2"]


async def test_reader_and_follower_go_on_when_the_broker_is_back(
    broker: Kafka, tmp_path: Path
) -> None:
    topic = new_topic()
    settings = log_settings(tmp_path, bootstrap=broker.bootstrap)
    async with (
        open_log(settings) as log,
        log.reader([topic], group="g") as reader,
        log.follow([topic], after={}) as follower,
    ):
        await append(log, topic, "key", "id-1")
        (first,) = await read(reader, 1)
        await reader.commit([first.position])
        await read(follower, 1)
        await asyncio.to_thread(broker.kill)
        await append(log, topic, "key", "id-2")
        assert not await fetch(reader)
        await asyncio.to_thread(broker.start)
        assert first_seen(ids(await read(reader, 1, patience=60))) == ["id-2"]
        assert first_seen(ids(await read(follower, 1, patience=60))) == ["id-2"]


async def test_members_come_and_go_and_no_record_is_lost(broker: Kafka, tmp_path: Path) -> None:
    topic = new_topic()
    settings = log_settings(tmp_path, bootstrap=broker.bootstrap)
    handled: list[str] = []

    async def work(reader: Reader, turns: int) -> None:
        for _ in range(turns):
            records = await fetch(reader, limit=20, wait=0.2)
            for record in records:
                handled.append(record.headers["ce_id"])
                try:
                    await reader.commit([record.position])
                except (PartitionLost, LogUnavailable):
                    break

    async with open_log(settings) as log, log.reader([topic], group="g") as one:
        for number in range(400):
            await append(log, topic, f"key-{number % 20}", f"id-{number}")
        await work(one, 3)
        async with log.reader([topic], group="g") as two:
            await asyncio.gather(work(one, 15), work(two, 15))
        async with asyncio.timeout(60):
            while len(set(handled)) < 400:
                await work(one, 1)
    assert set(handled) == {f"id-{number}" for number in range(400)}


async def test_a_broker_that_is_slow_for_a_while_makes_a_follower_read_nothing_twice(
    broker: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_follower, "_QUIET", 0.3)
    monkeypatch.setattr(kafka_follower, "_PROBE", 0.5)
    topic = new_topic()
    settings = log_settings(tmp_path, bootstrap=broker.bootstrap)
    async with open_log(settings) as log, log.follow([topic], after={}) as follower:
        for number in range(200):
            await append(log, topic, f"key-{number}", f"id-{number}")
        records = await read(follower, 200)
        broker.pause()
        end = asyncio.get_running_loop().time() + 2.0
        while asyncio.get_running_loop().time() < end:  # enough probes for a new consumer
            records += await fetch(follower)
        broker.resume()
        for _ in range(3):
            records += await fetch(follower)
        await append(log, topic, "key", "id-last")
        records += await read(follower, 1)
    assert len(records) == 201
