"""A route table of many numbers as a child process: what a decision and a number cost."""

import asyncio
import gc
import random
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.child import run_child, say
from router.routing.decide import decide_call
from router.routing.table import Route, RouteTable, Target

_AGENTS = 50
_ASKED = 20_000  # numbers per round
_ROUNDS = 15
_PAGE = 4096  # bytes


def numbers(count: int) -> list[str]:
    return [f"+{14_150_000_000 + 7 * index}" for index in range(count)]


def build(count: int) -> RouteTable:
    """As the ingress builds it: each route decoded from the bytes that the log holds."""
    table = RouteTable()
    encoded = [msgspec.json.encode(_route(agent, "+10")) for agent in range(_AGENTS)]
    decoder = msgspec.json.Decoder(Route)
    for rev, number in enumerate(numbers(count), 1):
        value = encoded[rev % _AGENTS].replace(b'"+10"', f'"{number}"'.encode())
        table.put(msgspec.structs.replace(decoder.decode(value), rev=rev))
    return table


def _route(agent: int, number: str) -> Route:
    name = f"agent-{agent}"
    target = Target(agent=name, livekit_agent_name=name, metadata={"greeting": "Hello"})
    return Route(
        number=number, provider="twilio", rev=1, targets=(target,), fallback="+14155550199"
    )


def _nanos_each(asked: Sequence[str], once: Callable[[str], object]) -> float:
    started = time.perf_counter_ns()
    for number in asked:
        once(number)
    return (time.perf_counter_ns() - started) / len(asked)


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


async def main(spec: dict[str, Any], stop: asyncio.Event) -> None:
    """`spec`: count; trace: measure memory by tracemalloc, which slows all else down."""
    count: int = spec["count"]
    if spec["trace"]:
        tracemalloc.start()
    before = _resident()
    traced_before = tracemalloc.get_traced_memory()[0] if spec["trace"] else 0
    table = build(count)
    if spec["trace"]:
        used = tracemalloc.get_traced_memory()[0] - traced_before
        say({"bytes": used / count})
        return
    grown = _resident() - before
    gc.freeze()  # otherwise a collection would look at every route in the middle of a round
    found, decided = [], []
    for _ in range(_ROUNDS):
        asked = [f"+{14_150_000_000 + 7 * random.randrange(count)}" for _ in range(_ASKED)]
        found.append(_nanos_each(asked, table.get))
        decided.append(_nanos_each(asked, lambda number: decide_call(number, "twilio", table)))
    say({"rss": grown / count, "get": found, "decide": decided})
    await stop.wait()


if __name__ == "__main__":
    run_child(main)
