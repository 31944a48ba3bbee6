"""A change made by the API, until the ingress decides by it, against a bare produce-and-consume.

One node with all roles takes the changes (and verifies, stores, audits and publishes them); its own
ingress sees them, and with Kafka a second one. The bare program appends as many bytes to the same
kind of log and waits until they are read.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import quote

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.api import request
from bench.bare import TOPIC, make_topic
from bench.child import Child, run_child, say
from bench.load import Connection
from bench.report import Part, table, verdict
from bench.stats import percentile, ratio, spread
from bench.tenant import fill, settings
from router.eventlog.open import open_log
from router.events.types import ROUTES_TOPIC
from router.files import make_data_folder
from router.node import Node
from router.observability import log
from router.routing.table import Route, RouteTable, Target
from router.storage.records import route_record
from tests.support.nodes import eventually, running
from tests.support.servers.kafka import kafka_server
from tests.support.servers.postgres import postgres_server

_NUMBERS = 1000
_CHANGES = 40  # of a round
_PAUSE = 0.03  # seconds between two: what one leaves to be done is no part of the next
_ROUNDS = 3
_AIM = 1.5

_KEY: Final = "+14150000007"
_ROUTE: Final = Route(
    number=_KEY,
    provider="twilio",
    rev=1,
    targets=(Target(agent="agent-1", livekit_agent_name="agent-1", metadata={"greeting": "Hi"}),),
    fallback="+14155550199",
)


def run(cores: tuple[int, int]) -> Part:
    """On both cores: where changes come from, there is a node."""
    rows: list[list[str]] = []
    found: list[tuple[str, float]] = []
    with TemporaryDirectory(prefix="switchboard-bench-") as folder:
        rows += _measured("SQLite, journal", _spec(folder), cores[0], found)
    with (
        TemporaryDirectory(prefix="switchboard-bench-") as folder,
        postgres_server() as server,
        kafka_server() as broker,
    ):
        make_topic(broker.bootstrap)
        spec = _spec(folder, server.create_database("ours"), broker.bootstrap)
        rows += _measured("PostgreSQL, Kafka", spec, cores[0], found)
    lines = [
        *table(("log", "until", "p50 ms", "p99 ms", "ratio at p50"), rows),
        verdict(
            f"visible after the API's answer within {_AIM} times a bare produce-and-consume, p50",
            met=all(value <= _AIM for _, value in found),
            found=", ".join(f"{value:.2f} ({where})" for where, value in found),
        ),
        f"A number's agent is changed {_CHANGES} times a round, one after the other, by the native "
        "API of a node with all roles; `from the "
        "sending` holds all of the request: token, transaction, audit, outbox. The second "
        "ingress is a process's own log and table. Bare: a record of the same size, appended "
        "durably and read by a reader that waits for it (Kafka: aiokafka, acks=all; journal: "
        "Switchboard's own, alone).\n",
    ]
    return Part("visible", "Control API: until a change is visible at the ingress", lines)


def _spec(folder: str, url: str = "", bootstrap: str = "") -> dict[str, Any]:
    return {"folder": folder, "url": url, "bootstrap": bootstrap, "rounds": _ROUNDS}


def _measured(
    where: str, spec: Mapping[str, Any], core: int, found: list[tuple[str, float]]
) -> list[list[str]]:
    with Child("bench.visible", dict(spec), core=core) as child:
        rounds: dict[str, list[list[float]]] = child.ready["rounds"]
    bare = [percentile(times, 50) for times in rounds["bare"]]
    rows = []
    for name, several in rounds.items():
        middle = [percentile(times, 50) for times in several]
        against = ratio(middle, bare)
        rows.append(
            [
                where,
                name,
                *(
                    spread([1000 * percentile(times, p) for times in several]).show(2)
                    for p in (50, 99)
                ),
                "" if name == "bare" else against.show(2),
            ]
        )
        if "answer" in name:
            found.append((f"{where}: {name}", against.middle))
    return rows


# --- the child


class _Seen:
    """When a table took a number's route: the agent that it leads to → perf_counter.

    Told by the table itself: who looked all the time would keep the node's threads from their work.
    """

    def __init__(self, number: str) -> None:
        self._number = number
        self._waiting: dict[int, tuple[str, asyncio.Future[float]]] = {}
        original = RouteTable.put

        def put(table: RouteTable, route: Route) -> bool:
            taken = original(table, route)
            agent, future = self._waiting.get(id(table), ("", None))
            if future is None or future.done() or route.number != self._number:
                return taken
            if agent in {target.agent for target in route.targets}:
                future.set_result(time.perf_counter())
            return taken

        setattr(RouteTable, "put", put)  # noqa: B010 - an assignment is no method to mypy

    def by(self, node: Node, agent: str) -> asyncio.Future[float]:
        """Done when the node decides by it."""
        assert node.routes is not None
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting[id(node.routes.table)] = (agent, future)
        return future


@asynccontextmanager
async def _second(spec: Mapping[str, Any]) -> AsyncIterator[Node | None]:
    if not spec["bootstrap"]:
        yield None
        return
    own = settings(Path(spec["folder"]) / "second", roles=["ingress"], bootstrap=spec["bootstrap"])
    async with running(own, routes=None) as node:
        yield node


async def _changed(
    port: int, facts: Mapping[str, Any], nodes: Mapping[str, Node], seen: _Seen
) -> dict[str, list[float]]:
    connection = await Connection.open(port)
    path = f"/api/switchboard/v1/numbers/{quote(facts['number'])}/agent"
    times: dict[str, list[float]] = {}
    for turn in range(_CHANGES):
        agent = ("agent-1", "agent-2")[turn % 2]
        change = request(facts, "PUT", path, {"agent_id": facts["ids"][agent]})
        arriving = {name: seen.by(node, agent) for name, node in nodes.items()}
        sent = time.perf_counter()
        await connection.post(change)
        answered = time.perf_counter()
        async with asyncio.timeout(10):
            for name, arrival in arriving.items():
                at = await arrival
                times.setdefault(f"{name}, from the sending", []).append(at - sent)
                times.setdefault(f"{name}, from the answer", []).append(max(0.0, at - answered))
        await asyncio.sleep(_PAUSE)
    connection.close()
    return times


Append = Callable[[], Awaitable[object]]
Fetch = Callable[[], Awaitable[int]]
"""How many records came."""


def _record() -> tuple[dict[str, str], bytes | None]:
    """By its time it is one that the log does not have yet."""
    return route_record(_KEY, _ROUTE, version=_ROUTE.version, time=time.time_ns() // 1000)


async def _bare_round(append: Append, fetch: Fetch) -> list[float]:
    async def arrival() -> float:
        while not await fetch():
            pass
        return time.perf_counter()

    times = []
    for _ in range(_CHANGES):
        arriving = asyncio.create_task(arrival())
        await asyncio.sleep(_PAUSE)
        sent = time.perf_counter()
        await append()
        times.append(await arriving - sent)
    return times


@asynccontextmanager
async def _bare(spec: Mapping[str, Any]) -> AsyncIterator[tuple[Append, Fetch]]:
    if bootstrap := spec["bootstrap"]:
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=0)
        consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=bootstrap)
        async with producer, consumer:

            async def send() -> object:
                _, value = _record()
                return await producer.send_and_wait(TOPIC, key=_KEY.encode(), value=value)

            async def poll() -> int:
                return sum(map(len, (await consumer.getmany(timeout_ms=1000)).values()))

            yield send, poll
        return
    own = settings(Path(spec["folder"]) / "bare", roles=["ingress"])
    make_data_folder(own.data_dir)
    async with open_log(own) as events, events.follow([ROUTES_TOPIC], after={}) as follower:

        async def append() -> object:
            headers, value = _record()
            return await events.append(ROUTES_TOPIC, _KEY, value, headers)

        async def fetch() -> int:
            return len(await follower.fetch(limit=100, wait=1.0))

        yield append, fetch


async def main(spec: dict[str, Any], stop: asyncio.Event) -> None:
    """`spec`: folder, url, bootstrap, rounds."""
    of = settings(
        Path(spec["folder"]) / "ours",
        roles=["ingress", "relay", "api"],
        url=spec["url"],
        bootstrap=spec["bootstrap"],
    )
    log.configure(of.log)
    facts = await fill(of, _NUMBERS)
    seen = _Seen(facts["number"])
    rounds: dict[str, list[list[float]]] = {}
    async with running(of, routes=None) as node, _second(spec) as second, _bare(spec) as bare:
        nodes = {"its own ingress": node} | ({"another ingress": second} if second else {})
        await eventually(
            lambda: all(
                each.routes is not None and len(each.routes.table) >= _NUMBERS
                for each in nodes.values()
            ),
            within=60,
        )
        for turn in range(spec["rounds"] + 1):
            found = {"bare": await _bare_round(*bare)}
            found |= await _changed(node.api_port, facts, nodes, seen)
            if turn:  # the first is to warm
                for name, times in found.items():
                    rounds.setdefault(name, []).append(times)
        say({"rounds": rounds})
        await stop.wait()


if __name__ == "__main__":
    run_child(main)
