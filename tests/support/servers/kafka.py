"""Apache Kafka (KRaft) from plain jars: one node, or a cluster of three.

    with kafka_server() as kafka: ...             # kafka.bootstrap
    with kafka_cluster() as cluster: ...          # cluster.bootstrap, cluster.nodes[0].kill()

Topics are never created by use (`auto.create.topics.enable=false`): make them with an admin client.
In the cluster every topic needs two in-sync copies of three, so one node may be away, two may not.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import ClassVar, Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from typing_extensions import override

from tests.support.servers.build import ASSETS
from tests.support.servers.inventory import program
from tests.support.servers.ports import HOST, free_port
from tests.support.servers.process import Server, server_folder

_CLUSTER_ID: Final = "AAAAAAAAAAAAAAAAAAAAAQ"
_JVM: Final = (
    *("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


@dataclass(frozen=True)
class Member:
    """Where a node of a cluster is found."""

    node: int
    port: int
    controller_port: int

    @property
    def voter(self) -> str:
        """As `controller.quorum.voters` wants it."""
        return f"{self.node}@{HOST}:{self.controller_port}"


class Kafka(Server):
    """One node, broker and controller in one process. `bootstrap` is its `host:port`."""

    name = "kafka"
    patience: ClassVar[float] = 60.0  # 1.6 s on an idle machine; a busy one with two cores needs it
    grace: ClassVar[float] = 5.0  # 0.5 s while there is a quorum; without one it waits for it

    def __init__(self, folder: Path, me: Member, members: Sequence[Member]) -> None:
        super().__init__(folder)
        self.bootstrap = f"{HOST}:{me.port}"
        self._node = me.node
        data = folder / "data"
        data.mkdir()
        # What `StorageTool format` would write for static voters, without a second JVM.
        (data / "meta.properties").write_text(
            f"version=1\ncluster.id={_CLUSTER_ID}\nnode.id={me.node}\n"
        )
        template = Template((ASSETS / "kafka" / "server.properties").read_text())
        (folder / "server.properties").write_text(
            template.substitute(
                node=me.node,
                port=me.port,
                controller_port=me.controller_port,
                voters=",".join(member.voter for member in members),
                data=data,
                replication=len(members),
                min_isr=len(members) // 2 + 1,
            )
        )

    @override
    def command(self) -> Sequence[str]:
        jars = program("kafka") / "*"
        return ["java", *_JVM, "-cp", str(jars), "kafka.Kafka", "server.properties"]

    @override
    def serves(self) -> bool:
        """It is in the cluster, and every partition has a leader."""
        client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        try:
            metadata = client.list_topics(timeout=2)
        except KafkaException:
            return False
        partitions = (
            part for topic in metadata.topics.values() for part in topic.partitions.values()
        )
        return self._node in metadata.brokers and all(part.leader != -1 for part in partitions)


@dataclass(frozen=True)
class KafkaCluster:
    """`bootstrap` names all nodes. Where all are away: `launch()` each, then wait for each."""

    nodes: Sequence[Kafka]

    @property
    def bootstrap(self) -> str:
        """As clients want it."""
        return ",".join(node.bootstrap for node in self.nodes)


def delete_topics(broker: Kafka) -> None:
    """Delete Switchboard's topics: the next node on this broker is the first one.

    Tests share a broker, and a node takes what another database has published for its own past.
    """
    admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})

    def there() -> list[str]:
        topics = admin.list_topics(timeout=10).topics
        return [name for name in topics if name.startswith("telephony")]

    names = there()
    for future in admin.delete_topics(names).values() if names else ():
        future.result(20)
    until = time.monotonic() + 60.0
    while there() and time.monotonic() < until:
        time.sleep(0.05)


@contextmanager
def kafka_server() -> Iterator[Kafka]:
    """One empty node on free ports."""
    member = Member(1, free_port(), free_port())
    with server_folder("kafka") as folder, Kafka(folder, member, [member]) as server:
        yield server


@contextmanager
def kafka_cluster(nodes: int = 3) -> Iterator[KafkaCluster]:
    """`nodes` empty nodes; every topic should be made with that replication factor."""
    members = [Member(node, free_port(), free_port()) for node in range(1, nodes + 1)]
    with ExitStack() as stack:
        folders = [stack.enter_context(server_folder("kafka")) for _ in members]
        servers = [Kafka(*each, members) for each in zip(folders, members, strict=True)]
        stack.callback(_stop_together, servers)
        for server in servers:
            server.launch()  # a quorum needs the others: none can be waited for alone
        for server in servers:
            server.wait_until_serving()
        yield KafkaCluster(servers)


def _stop_together(servers: Sequence[Kafka]) -> None:
    # One after the other, the last would wait for a quorum that is gone.
    with ThreadPoolExecutor(len(servers)) as pool:
        list(pool.map(Kafka.stop, servers))
