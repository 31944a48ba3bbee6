"""From the webhook until LiveKit has the dispatch: a whole node against a bare program.

Time runs from the moment the webhook is sent until LiveKit's stand-in has read `CreateDispatch`;
both clocks are the kernel's monotonic one. A second after each webhook its call ends, so that the
node has done all the work of a call: agent in the room, LiveKit's webhooks, call record, clean-up.

Calls come at their own pace, whether the program keeps up or not. A call whose dispatch never came
counts as endless: the percentiles then say so, and the table has a column for it.
"""

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import inf, isinf
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from bench.bare import make_topic
from bench.child import Child
from bench.livekit import KEY, SECRET
from bench.load import open_loop
from bench.report import Part, table, verdict
from bench.stats import percentile, ratio, spread
from bench.twilio import ACCOUNT, NUMBERS, TOKEN, request, voice
from router.events.ids import call_id
from tests.support.nodes import free_port
from tests.support.servers import kafka

_RATES = (5, 50)  # calls a second
_ROUNDS = 3
_TALK = 1.0  # seconds from a call's webhook to its end
_CALM = 0.1  # of a core: what a program without calls uses at most
_PATIENCE = 20.0  # seconds until it must have come to rest after a round
_AIM = 1.3


@dataclass(slots=True)
class Contender:
    """A program with its own LiveKit; `sent` is rate → rounds of CallSid → when it was sent."""

    name: str
    child: Child
    livekit: Child
    public_url: str
    sent: dict[int, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))
    cpu: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))  # s per call

    @property
    def is_ours(self) -> bool:
        return self.name != "bare, Kafka"

    def rounds(self, rate: int) -> list[list[float]]:
        """Seconds from webhook to dispatch, of each call of each round."""
        received = self.livekit.result["received"]
        return [
            [received.get(self.room(sid), inf) - at for sid, at in calls.items()]
            for calls in self.sent[rate]
        ]

    def room(self, sid: str) -> str:
        return call_id("twilio", ACCOUNT, sid) if self.is_ours else sid


def run(seconds: float, cores: tuple[int, int]) -> Part:
    """`seconds` per round; a round has at least 20 calls."""
    with kafka.kafka_server() as broker:
        make_topic(broker.bootstrap)
        with contenders(cores, broker.bootstrap) as programs:
            for program in programs:
                place(program, _RATES[0], 20)  # warm
                program.sent.clear()
                program.cpu.clear()
            for _ in range(_ROUNDS):
                for rate in _RATES:
                    for program in programs:
                        place(program, rate, max(20, int(rate * seconds)))
    return _told(programs)


def place(program: Contender, rate: int, count: int) -> None:
    """One round: new calls at this rate, and their ends."""
    sids = ["CA" + secrets.token_hex(16) for _ in range(count)]
    calls = [voice(sid, secrets.choice(NUMBERS)) for sid in sids]
    starts = [request(program.public_url, call) for call in calls]
    ends = [
        request(
            program.public_url,
            call | {"CallStatus": "completed", "CallDuration": "1", "SequenceNumber": "2"},
            "/webhooks/twilio/status",
        )
        for call in calls
    ]

    async def both() -> list[float]:
        port = program.child.ready["port"]
        starting = asyncio.create_task(open_loop(port, starts, rate=rate))
        await asyncio.sleep(_TALK)
        if program.is_ours:
            await open_loop(port, ends, rate=rate)
        return await starting

    before = program.child.cpu_seconds
    program.sent[rate].append(dict(zip(sids, asyncio.run(both()), strict=True)))
    settle(program.child)
    program.cpu[rate].append((program.child.cpu_seconds - before) / count)


def settle(child: Child) -> None:
    """Wait until what a round left to be done is done."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        before = child.cpu_seconds
        time.sleep(0.5)
        if child.cpu_seconds - before < 0.5 * _CALM:
            return


@contextmanager
def contenders(cores: tuple[int, int], bootstrap: str) -> Iterator[list[Contender]]:
    """All programs, running; their results are there when the block is left."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="switchboard-bench-")))

        def start(name: str, *, ours: bool, broker: str) -> Contender:
            port = free_port()
            url = f"http://127.0.0.1:{port}"
            hook = f"{url}/webhooks/livekit" if ours else None
            livekit = stack.enter_context(
                Child("bench.livekit", {"webhook_url": hook}, core=cores[1])
            )
            spec = {
                "public_url": url,
                "port": port,
                "bootstrap": broker,
                "livekit_url": livekit.ready["url"],
                "settings": settings(folder / str(port), url, livekit.ready["url"], broker),
            }
            module = "bench.ours" if ours else "bench.bare_dispatch"
            child = stack.enter_context(Child(module, spec, core=cores[0]))
            return Contender(name, child, livekit, url)

        yield [
            start("Switchboard, journal", ours=True, broker=""),
            start("Switchboard, Kafka", ours=True, broker=bootstrap),
            start("bare, Kafka", ours=False, broker=bootstrap),
        ]


def settings(data_dir: Path, url: str, livekit_url: str, bootstrap: str) -> dict[str, Any]:
    """Of a node with all roles."""
    return {
        "public_url": url,
        "data_dir": str(data_dir),
        "http": {"port": int(url.rpartition(":")[2])},
        "kafka": {"bootstrap_servers": bootstrap},
        "livekit": {
            "url": livekit_url,
            "api_key": KEY,
            "api_secret": SECRET,
            "sip_host": "127.0.0.1",
        },
        "providers": {"twilio": {"account_sid": ACCOUNT, "auth_tokens": [TOKEN]}},
        "log": {"level": "error"},  # an overload would write a line for each call
    }


def _told(programs: list[Contender]) -> Part:
    rows, verdicts = [], []
    for rate in _RATES:
        middles = {}
        for program in programs:
            rounds = program.rounds(rate)
            everything = [latency for calls in rounds for latency in calls]
            middles[program.name] = [percentile(calls, 50) for calls in rounds]
            rows.append(
                [
                    str(rate),
                    program.name,
                    spread([1000 * middle for middle in middles[program.name]]).show(1),
                    spread([1000 * percentile(calls, 99) for calls in rounds]).show(1),
                    spread([1000 * cpu for cpu in program.cpu[rate]]).show(1),
                    f"{sum(map(isinf, everything))} of {len(everything)}",
                ]
            )
        bare = middles.pop("bare, Kafka")
        for name, ours in middles.items():
            found = ratio(ours, bare)
            verdicts.append(
                verdict(
                    f"{name} at {rate} calls/s ≤ {_AIM} of the bare p50",
                    met=found.middle <= _AIM,
                    found=found.show(2),
                )
            )
    used = median(programs[0].cpu[_RATES[-1]])
    lines = [
        *table(("calls/s", "program", "p50 ms", "p99 ms", "CPU ms/call", "undispatched"), rows),
        *verdicts,
        f"At {1000 * used:.0f} ms of CPU a call, one core carries about {1 / used:.0f} calls a "
        "second on the journal and SQLite; beyond that, latency is the length of the queue.\n",
        _repeats(programs),
    ]
    return Part("dispatch", "Dispatch: from the webhook to LiveKit's CreateDispatch", lines)


def _repeats(programs: list[Contender]) -> str:
    extra = sum(p.livekit.result["jobs"] - len(p.livekit.result["received"]) for p in programs)
    return (
        f"Dispatches that a call got beyond its first: {extra}. A node does more for a call than "
        "the bare program: it takes about six webhooks of LiveKit and Twilio, writes claim and "
        "call record, watches the agent and closes the room. CPU includes the idling after each "
        "round.\n"
    )
