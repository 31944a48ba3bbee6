"""Signed Twilio voice webhooks: Switchboard's ingress against a bare handler that is as durable.

Switchboard verifies, parses, decides with a table of 1000 numbers, appends to its journal (and has
Kafka acknowledge) and answers TwiML; the bare handler verifies, makes the body durable in the same
way and answers a constant.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.bare import make_topic
from bench.child import Child
from bench.load import Load, closed_loop
from bench.report import Part, table, verdict
from bench.stats import Spread, percentile, ratio, spread
from bench.twilio import ACCOUNT, TOKEN, new_calls
from tests.support.servers import kafka

PUBLIC_URL = "https://calls.example.com"
_CONNECTIONS = (1, 32, 256)
_ROUNDS = 3
_FASTEST = 12_000  # requests a second that are prepared for
_AIM = 0.9


@dataclass(frozen=True, slots=True)
class Round:
    """One program at one number of connections."""

    load: Load
    cpu: float  # seconds of the server

    @property
    def rate(self) -> float:
        return len(self.load.latencies) / self.load.elapsed

    @property
    def per_cpu(self) -> float:
        return len(self.load.latencies) / max(self.cpu, 0.01)  # a tick of the clock

    def millis(self, percent: float) -> float:
        return percentile(self.load.latencies, percent) * 1000


Rounds = dict[int, dict[str, list[Round]]]


def settings(data_dir: Path, bootstrap: str) -> dict[str, Any]:
    """Of an ingress alone; its LiveKit is never called."""
    return {
        "public_url": PUBLIC_URL,
        "data_dir": str(data_dir),
        "roles": ["ingress"],
        "http": {"port": 0},
        "kafka": {"bootstrap_servers": bootstrap},
        "livekit": {
            "url": "http://127.0.0.1:9",
            "api_key": "key",
            "api_secret": "a-secret-of-thirty-two-characters",
            "sip_host": "127.0.0.1",
        },
        "providers": {"twilio": {"account_sid": ACCOUNT, "auth_tokens": [TOKEN]}},
        "log": {"level": "warning"},
    }


def run(seconds: float, cores: tuple[int, int]) -> Part:
    """`seconds` per round."""
    lines: list[str] = []
    with contender(cores[0]) as programs:
        lines += _told("On the journal alone", programs, seconds)
    with kafka.kafka_server() as broker:
        make_topic(broker.bootstrap)
        with contender(cores[0], broker.bootstrap) as programs:
            lines += _told("With Kafka, `durability = replicated`", programs, seconds)
    lines.append(
        "Requests per CPU second count all threads of the server process; Kafka and the load "
        "generator have the other core. Percentiles are of single requests.\n"
    )
    return Part("ingress", "Ingress: signed webhooks against a bare handler", lines)


@contextmanager
def contender(core: int, bootstrap: str = "") -> Iterator[dict[str, Child]]:
    """Both servers, running on `core`."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="switchboard-bench-")))
        ours = {"settings": settings(folder / "ours", bootstrap)}
        bare = {"public_url": PUBLIC_URL, "data_dir": str(folder), "bootstrap": bootstrap}
        yield {
            "Switchboard": stack.enter_context(Child("bench.ours", ours, core=core)),
            "bare": stack.enter_context(Child("bench.bare_ingress", bare, core=core)),
        }


def measure(child: Child, connections: int, seconds: float) -> Round:
    """One round."""
    requests = new_calls(PUBLIC_URL, int(_FASTEST * seconds))
    before = child.cpu_seconds
    load = asyncio.run(
        closed_loop(child.ready["port"], requests, connections=connections, seconds=seconds)
    )
    return Round(load, child.cpu_seconds - before)


def _told(title: str, programs: dict[str, Child], seconds: float) -> Sequence[str]:
    rounds: Rounds = {count: defaultdict(list) for count in _CONNECTIONS}
    for child in programs.values():
        measure(child, 32, 1.0)  # warm
    for _ in range(_ROUNDS):
        for connections in _CONNECTIONS:
            for name, child in programs.items():
                rounds[connections][name].append(measure(child, connections, seconds))
    memory = [f"{name} {child.peak_rss / 1e6:.0f} MB" for name, child in programs.items()]
    busiest = max(r.load.own_cpu / r.load.elapsed for r in _all(rounds))
    ratios = {count: _ratio(both, "per_cpu") for count, both in rounds.items()}
    found = ", ".join(f"{found.show(2)} at {count}" for count, found in ratios.items())
    met = all(found.middle >= _AIM for found in ratios.values())
    return [
        f"### {title}\n",
        *table(_HEAD, [_row(n, name, both[name]) for n, both in rounds.items() for name in both]),
        verdict(f"≥ {_AIM} of the bare requests per CPU second", met=met, found=found),
        "Ratio of requests per second: "
        + ", ".join(f"{_ratio(both, 'rate').show(2)} at {count}" for count, both in rounds.items())
        + f". Peak memory: {', '.join(memory)}. The load generator used {busiest:.0%} of its core "
        "at most.\n",
    ]


_HEAD = ("connections", "program", "requests/s", "per CPU s", "p50 ms", "p99 ms", "p99.9 ms")


def _row(connections: int, name: str, rounds: list[Round]) -> list[str]:
    return [
        str(connections),
        name,
        spread([r.rate for r in rounds]).show(),
        spread([r.per_cpu for r in rounds]).show(),
        *(spread([r.millis(p) for r in rounds]).show(2) for p in (50, 99, 99.9)),
    ]


def _ratio(both: dict[str, list[Round]], what: str) -> Spread:
    ours, bare = ([getattr(r, what) for r in both[name]] for name in ("Switchboard", "bare"))
    return ratio(ours, bare)


def _all(rounds: Rounds) -> Iterator[Round]:
    for both in rounds.values():
        for several in both.values():
            yield from several
