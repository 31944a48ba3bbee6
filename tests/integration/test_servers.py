"""The servers that tests stand on are real: they start, serve, survive a crash, and stop."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.support.servers import build, inventory
from tests.support.servers.kafka import kafka_cluster, kafka_server
from tests.support.servers.livekit import livekit_server, livekit_sip
from tests.support.servers.ports import HOST, free_port, free_range
from tests.support.servers.postgres import Postgres, postgres_server
from tests.support.servers.process import ServerFailed
from tests.support.servers.redis import Redis, redis_server


async def create_topic(bootstrap: str, name: str, *, copies: int = 1) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=copies)])
    finally:
        await admin.close()


async def produce(bootstrap: str, topic: str, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(topic, value)
    finally:
        await producer.stop()


async def consume(bootstrap: str, topic: str, count: int) -> list[bytes | None]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        return [(await consumer.getone()).value for _ in range(count)]
    finally:
        await consumer.stop()


def query(server: Postgres, statement: LiteralString) -> object:
    url = server.url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        row = cursor.fetchone() if cursor.description else None
        return None if row is None else row[0]


def redis_says(server: Redis, *words: str) -> bytes:
    with socket.create_connection((HOST, server.port), timeout=5) as connection:
        connection.sendall(" ".join(words).encode() + b"\r\n")
        return connection.recv(1000)


def refuses_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


@pytest.mark.kafka
class TestKafka:
    async def test_keeps_acknowledged_records_over_a_crash_and_a_restart(self) -> None:
        with kafka_server() as kafka:
            await create_topic(kafka.bootstrap, "calls")
            await produce(kafka.bootstrap, "calls", [b"one"])
            kafka.kill()
            kafka.restart()
            await produce(kafka.bootstrap, "calls", [b"two"])
            kafka.restart()
            assert await consume(kafka.bootstrap, "calls", 2) == [b"one", b"two"]

    async def test_paused_it_takes_connections_and_answers_nobody(self) -> None:
        with kafka_server() as kafka:
            kafka.pause()
            port = int(kafka.bootstrap.rpartition(":")[2])
            with socket.create_connection((HOST, port), timeout=5):
                assert not kafka.serves()
            kafka.resume()
            kafka.wait_until_serving()

    async def test_cluster_serves_while_one_node_is_away(self) -> None:
        with kafka_cluster() as cluster:
            await create_topic(cluster.bootstrap, "calls", copies=3)
            first, *rest = cluster.nodes
            first.kill()
            alive = ",".join(node.bootstrap for node in rest)
            await produce(alive, "calls", [b"one", b"two"])
            first.restart()
            assert await consume(first.bootstrap, "calls", 2) == [b"one", b"two"]


@pytest.mark.postgres
class TestPostgres:
    def test_keeps_committed_rows_over_a_crash(self) -> None:
        with postgres_server() as postgres:
            query(postgres, "CREATE TABLE kept AS SELECT 7 AS answer")
            postgres.kill()
            postgres.restart()
            assert query(postgres, "SELECT answer FROM kept") == 7

    def test_writes_to_the_disk_before_it_answers(self, postgres: Postgres) -> None:
        assert query(postgres, "SHOW fsync") == "on"
        assert query(postgres, "SHOW synchronous_commit") == "on"

    def test_databases_are_separate(self, postgres: Postgres) -> None:
        name = f"separate_{os.getpid()}"
        url = postgres.create_database(name)
        assert url.endswith(f"/{name}")
        with pytest.raises(psycopg.errors.DuplicateDatabase):
            postgres.create_database(name)
        with pytest.raises(ValueError, match="plain database name"):
            postgres.create_database('x"; DROP DATABASE postgres; --')


@pytest.mark.redis
class TestRedis:
    def test_answers_and_begins_empty_after_a_restart(self) -> None:
        with redis_server() as redis:
            assert redis_says(redis, "SET", "key", "value") == b"+OK\r\n"
            redis.restart()
            assert redis_says(redis, "GET", "key") == b"$-1\r\n"


@pytest.mark.sip
class TestLiveKit:
    def test_server_and_bridge_survive_a_crash(self, redis: Redis) -> None:
        with livekit_server(redis=redis) as livekit, livekit_sip(livekit, redis=redis) as sip:
            for server in (livekit, sip):
                server.kill()
                server.restart()
            with urllib.request.urlopen(livekit.url, timeout=5) as answer:
                assert answer.read() == b"OK"
            assert sip_options(sip.address).startswith(b"SIP/2.0 200")


def sip_options(address: tuple[str, int]) -> bytes:
    """The bridge's answer to OPTIONS, RFC 3261 §11."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((HOST, 0))
        probe.settimeout(5)
        own = f"{HOST}:{probe.getsockname()[1]}"
        lines = [
            f"OPTIONS sip:{address[0]}:{address[1]} SIP/2.0",
            f"Via: SIP/2.0/UDP {own};branch=z9hG4bK-probe",
            f"From: <sip:probe@{own}>;tag=probe",
            f"To: <sip:{address[0]}:{address[1]}>",
            f"Call-ID: {time.time_ns()}@{HOST}",
            "CSeq: 1 OPTIONS",
            "Max-Forwards: 70",
            "Content-Length: 0",
        ]
        probe.sendto("\r\n".join([*lines, "", ""]).encode(), address)
        return probe.recv(2000)


@pytest.mark.redis
class TestServer:
    """What all servers have in common, on the one that starts at once."""

    def test_stopped_it_is_gone(self) -> None:
        with redis_server() as redis:
            folder = redis.folder
        assert refuses_connections(redis.port)
        assert not folder.exists()

    def test_one_that_ends_at_its_start_says_why(self) -> None:
        with redis_server() as redis, socket.socket() as squatter:
            redis.stop()
            squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            squatter.bind((HOST, redis.port))
            squatter.listen()
            with pytest.raises(ServerFailed, match=r"(?s)ended with 1 .*Address already in use"):
                redis.start()

    def test_one_that_ended_by_itself_is_no_server_to_have_tested_with(self) -> None:
        with redis_server() as redis:
            os.kill(redis.pid, 9)
            os.waitid(os.P_PID, redis.pid, os.WEXITED | os.WNOWAIT)
            with pytest.raises(ServerFailed, match="ended by itself with -9"):
                redis.stop()

    def test_a_paused_one_can_be_stopped(self) -> None:
        with redis_server() as redis:
            redis.pause()
            redis.stop()
            assert refuses_connections(redis.port)

    def test_not_running(self) -> None:
        with redis_server() as redis:
            redis.kill()
            for call in (redis.kill, redis.pause, redis.resume):
                with pytest.raises(ServerFailed, match="redis is not running"):
                    call()


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEST_SERVERS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.usefixtures("empty_cache")
class TestBuild:
    """A build that fails says so as itself; on a recipe whose command is ours."""

    def recipe(self, script: str) -> build.Recipe:
        return replace(build.KAFKA, command=("sh", "-c", script))

    def test_a_missing_tool_is_named_with_what_brings_it(self) -> None:
        recipe = replace(build.KAFKA, command=("no-such-tool",))
        with pytest.raises(build.BuildFailed, match=r"no-such-tool is not installed.*maven"):
            build.build(recipe)

    def test_a_failed_command_shows_its_code_and_its_last_lines(self) -> None:
        recipe = self.recipe("echo no route to host; exit 7")
        with pytest.raises(build.BuildFailed, match=r"(?s)ended with 7 .*\nno route to host"):
            build.build(recipe)
        assert recipe.built() is None

    def test_other_bytes_than_pinned_are_no_product(self) -> None:
        recipe = self.recipe("mkdir libs && echo other > libs/kafka_2.13-4.3.1.jar")
        with pytest.raises(build.BuildFailed, match="not the bytes pinned"):
            build.build(recipe)
        assert recipe.built() is None

    def test_is_done_once(self, empty_cache: Path) -> None:
        script = "echo once >> ../count && mkdir livekit-sip"
        recipe = replace(build.LIVEKIT_SIP, command=("sh", "-c", script))
        assert build.build(recipe) == build.build(recipe) == recipe.built()
        assert (empty_cache / "count").read_text() == "once\n"


@pytest.mark.parametrize(("required", "outcome"), [("", "1 skipped"), ("1", "1 error")])
def test_a_missing_server_is_never_a_pass(empty_cache: Path, required: str, outcome: str) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(
        [*command, "-k", "server_and_bridge_survive", "--import-mode=importlib"],
        env={**os.environ, "TEST_REQUIRE_SERVERS": required},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome in run.stdout, run.stdout + run.stderr
    assert f"missing: sip (livekit-server {build.LIVEKIT_SERVER.version} is missing" in run.stdout
    assert inventory.PREPARE in run.stdout


def test_ports_are_given_once() -> None:
    ports = [free_port() for _ in range(50)]
    row = free_range(50)
    assert len({*ports, *range(row, row + 50)}) == 100
