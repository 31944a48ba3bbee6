"""A large `apply` beside a node: how long it takes, and how long calls wait for claims then."""

import asyncio
import resource
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from bench.child import Child, run_child, say
from bench.report import Part, table, verdict
from bench.routes import numbers
from config import Settings, load
from router import runtime
from router.clock import SystemClock
from router.eventlog.open import open_log
from router.events.ids import DEFAULT_ACCOUNT
from router.ingress.routes import RouteFollower
from router.numbers import publish
from router.routing.spec import AgentSpec, MappingSpec, NumberSpec
from router.routing.table import RouteTable
from router.storage import claims, mapping
from router.storage.engine import Database, open_database
from router.storage.migrate import prepare

_COUNT = 100_000
_AGENTS = 50
_EVERY = 0.05  # seconds between two claims
_QUIET = 5.0  # seconds of claims before the apply
_AIM_SECONDS, _AIM_AGAIN, _AIM_MEMORY = 20.0, 3.0, 300  # MB
_AIM_CLAIM = 0.25  # seconds that the slowest claim may take meanwhile


def run(cores: tuple[int, int]) -> Part:
    with tempfile.TemporaryDirectory() as folder:
        spec = {"folder": folder}
        with Child("bench.mapping", spec | {"part": "node"}, core=cores[0]) as node:
            time.sleep(_QUIET)
            with Child("bench.mapping", spec | {"part": "apply"}, core=cores[1]) as apply:
                applied = apply.ready
                spent = apply.cpu_seconds
            _wait_for(Path(folder) / "published")
            of_node = node.cpu_seconds
    waits = [(at, 1000 * waited) for at, waited in node.result["claims"]]
    quiet = [waited for at, waited in waits if at < applied["began"]]
    busy = [w for at, w in waits if applied["began"] <= at < node.result["published"]]
    published = node.result["published"] - applied["began"]
    rows = [[name, *_row(found)] for name, found in (("quiet", quiet), ("while applied", busy))]
    lines = [
        *table(("claims", "number", "p50 ms", "p99 ms", "slowest ms"), rows),
        verdict(
            f"no claim waits longer than {_AIM_CLAIM * 1000:.0f} ms while {_COUNT:,} numbers are "
            "applied and published",
            met=max(busy) <= _AIM_CLAIM * 1000,
            found=f"{max(busy):.0f} ms",
        ),
        verdict(
            f"{_COUNT:,} numbers stored and in the node's table within {_AIM_SECONDS:g} s",
            met=published <= _AIM_SECONDS,
            found=f"stored after {applied['seconds']:.1f} s, all in the table after "
            f"{published:.1f} s (CPU: {spent:.1f} s of apply, {of_node:.1f} s of the node)",
        ),
        verdict(
            f"once more without a change within {_AIM_AGAIN:g} s, and ≤ {_AIM_MEMORY} MB",
            met=applied["again"] <= _AIM_AGAIN and applied["memory"] <= _AIM_MEMORY,
            found=f"{applied['again']:.1f} s; {applied['memory']} MB at most",
        ),
        f"SQLite and the journal in one folder; a claim every {_EVERY * 1000:.0f} ms by the node "
        "that publishes, `apply_mapping` by another process, without reading a file.\n",
    ]
    return Part("mapping", "Mapping: a large apply beside a node that takes calls", lines)


def _row(found: list[float]) -> list[str]:
    ordered = sorted(found)
    picked = (ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)], ordered[-1])
    return [str(len(ordered)), *(f"{value:,.1f}" for value in picked)]


def _wait_for(path: Path) -> None:
    give_up = time.monotonic() + 120
    while not path.exists() and time.monotonic() < give_up:
        time.sleep(0.1)


def _settings(folder: str) -> Settings:
    return load(overrides={"data_dir": folder})


def wanted(count: int) -> MappingSpec:
    names = [f"agent-{n}" for n in range(_AGENTS)]
    greeting = {"greeting": "Hello"}
    return MappingSpec(
        agents=tuple(
            AgentSpec(name=name, livekit_agent_name=name, metadata=greeting) for name in names
        ),
        numbers=tuple(
            NumberSpec(
                number=number,
                provider="twilio",
                agent=names[index % _AGENTS],
                fallback="+14155550199",
            )
            for index, number in enumerate(numbers(count))
        ),
    )


async def _apply(folder: str, stop: asyncio.Event) -> None:
    async with open_database(_settings(folder)) as database:
        desired = wanted(_COUNT)
        began = time.time()
        await mapping.apply_mapping(database, DEFAULT_ACCOUNT, desired)
        stored = time.time()
        await mapping.apply_mapping(database, DEFAULT_ACCOUNT, desired)
        again = time.time() - stored
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    say({"began": began, "seconds": stored - began, "again": again, "memory": memory})
    await stop.wait()


async def _node(folder: str, stop: asyncio.Event) -> None:
    runtime._calm_garbage_collection()
    settings = _settings(folder)
    await prepare(settings)
    async with open_log(settings) as log, open_database(settings) as database:
        follower = RouteFollower(RouteTable(), log, SystemClock(), Path(folder) / "routes.json")
        guard = publish.Guard(table=follower.table, loaded=follower.looked)
        tasks = [
            asyncio.create_task(follower.run()),
            asyncio.create_task(publish.run(database, log, SystemClock(), guard)),
        ]
        say({})
        waits: list[tuple[float, float]] = []
        published = 0.0
        while not stop.is_set():
            waits.append(await _claim(database))
            if not published and len(follower.table) == _COUNT:
                published = time.time()
                (Path(folder) / "published").touch()
            await asyncio.sleep(_EVERY)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    say({"claims": waits, "published": published})


async def _claim(database: Database) -> tuple[float, float]:
    """When, and how long it took."""
    began, at = time.perf_counter(), time.time()
    await claims.claim(
        database,
        str(uuid.uuid4()),
        owner="bench",
        lease=30.0,
        agent="agent-1",
        livekit_agent_name="agent-1",
        initiated=b"{}",
    )
    return at, time.perf_counter() - began


async def main(spec: dict[str, Any], stop: asyncio.Event) -> None:
    """`spec`: folder, and the part to play: node or apply."""
    await {"node": _node, "apply": _apply}[spec["part"]](spec["folder"], stop)


if __name__ == "__main__":
    run_child(main)
