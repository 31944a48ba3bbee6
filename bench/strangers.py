"""Real webhooks beside strangers: how long Twilio waits while somebody else sends what he likes.

Real voice webhooks come at a steady rate; beside them strangers of one sort send as fast as they
are answered, from a process of their own. What a stranger's request costs is the CPU that the
server needs for it beyond what the real ones need.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from bench.child import Child, run_child, say
from bench.ingress import PUBLIC_URL, settings
from bench.load import open_loop
from bench.report import Part, table, verdict
from bench.stats import Spread, percentile, spread
from bench.twilio import PATH, new_calls, request, voice

_RATE: Final = 50  # real webhooks a second
_CLIENTS: Final = 3
_SLOW_CLIENTS: Final = 300  # more than http.max_bodies
_ROUNDS: Final = 3
_FORGED: Final = f"X-Twilio-Signature: {'A' * 27}=\r\n"
_HEAD: Final = ("beside the real ones", "p50 ms", "p99 ms", "strangers/s", "CPU ms of one")


def _post(body: bytes, more: str = "") -> bytes:
    return _head(f"{more}Content-Length: {len(body)}\r\n") + body


def _head(more: str) -> bytes:
    form = "Content-Type: application/x-www-form-urlencoded"
    return f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{form}\r\n{more}\r\n".encode()


def _wrong() -> bytes:
    # Signed for another URL, so that every key and form of the URL is tried.
    return request("https://calls.example.net", voice("CA" + "0" * 32, "+14155550100"))


_ESCAPES: Final = b"%41" * 230_000
_CRUMBS: Final = b"1\r\na\r\n" * 60_000 + b"0\r\n\r\n"

SORTS: Final[Mapping[str, Callable[[], bytes]]] = {
    "nobody": lambda: b"",
    "no signature": lambda: _post(_wrong().partition(b"\r\n\r\n")[2]),
    "a wrong signature": _wrong,
    "690 kB, no signature": lambda: _post(b"a" * 690_000),
    "690 kB of %41, no signature": lambda: _post(_ESCAPES),
    "64 kB of %41, forged": lambda: _post(_ESCAPES[:65_000], _FORGED),
    "chunks of a byte, forged": lambda: _head(f"{_FORGED}Transfer-Encoding: chunked\r\n") + _CRUMBS,
    "slow bodies, forged": lambda: _head(f"{_FORGED}Content-Length: 4000\r\n") + b"a",
}
"""What strangers send, by its name in the table."""


@dataclass(frozen=True, slots=True)
class _Round:
    latencies: list[float]
    strangers: int
    cpu: float  # seconds of the server
    elapsed: float


def run(seconds: float, cores: tuple[int, int]) -> Part:
    """`seconds` per round."""
    found: dict[str, list[_Round]] = {name: [] for name in SORTS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="switchboard-bench-")))
        ours = {"settings": settings(folder, "")}
        server = stack.enter_context(Child("bench.ours", ours, core=cores[0]))
        _round("nobody", server, 1.0, cores[1])  # warm
        for _ in range(_ROUNDS):
            for name, rounds in found.items():
                rounds.append(_round(name, server, seconds, cores[1]))
    alone = spread([r.cpu / r.elapsed for r in found["nobody"]]).middle
    costs = {name: spread(_costs(rounds, alone)) for name, rounds in found.items()}
    dearest = max((name for name in SORTS if name != "nobody"), key=lambda name: costs[name].middle)
    told = f"{costs[dearest].show(2)} ms ({dearest}), a real one {costs['nobody'].show(2)} ms"
    lines = [
        *table(_HEAD, [_row(name, rounds, costs[name]) for name, rounds in found.items()]),
        verdict(
            "no stranger's request costs more CPU than a real one",
            met=costs[dearest].middle <= costs["nobody"].middle,
            found=told,
        ),
        f"{_RATE} real webhooks a second, timed from when each was due. {_CLIENTS} strangers send "
        f"without a pause, {_SLOW_CLIENTS} where they are slow. They and the load generator share "
        "a core, the server has its own. What a real webhook needs is in the first row.\n",
    ]
    return Part("strangers", "Strangers: real webhooks' latency beside them", lines)


def _round(name: str, server: Child, seconds: float, core: int) -> _Round:
    port = server.ready["port"]
    latencies: list[float] = []
    real = new_calls(PUBLIC_URL, int(_RATE * seconds))
    with ExitStack() as stack:
        spec = {"port": port, "sort": name}
        strangers = stack.enter_context(Child("bench.strangers", spec, core=core))
        before = server.cpu_seconds
        asyncio.run(open_loop(port, real, rate=_RATE, latencies=latencies))
        cpu = server.cpu_seconds - before
    return _Round(latencies, strangers.result["sent"], cpu, seconds)


def _millis(rounds: list[_Round], percent: float) -> Spread:
    return spread([percentile(r.latencies, percent) * 1000 for r in rounds])


def _costs(rounds: list[_Round], alone: float) -> list[float]:
    """CPU ms of a stranger's request in each round; of a real one where there are no strangers."""
    return [
        1000 * max(0.0, r.cpu - alone * r.elapsed) / r.strangers
        if r.strangers
        else 1000 * r.cpu / len(r.latencies)
        for r in rounds
    ]


def _row(name: str, rounds: list[_Round], cost: Spread) -> list[str]:
    rates = spread([r.strangers / r.elapsed for r in rounds])
    return [
        name,
        *(_millis(rounds, percent).show(2) for percent in (50, 99)),
        rates.show() if name != "nobody" else "",
        cost.show(2),
    ]


async def main(spec: dict[str, Any], stop: asyncio.Event) -> None:
    """The strangers' process: `port`, and `sort` of `SORTS`."""
    payload = SORTS[spec["sort"]]()
    slow = spec["sort"].startswith("slow")
    sent = 0

    async def stranger() -> None:
        nonlocal sent
        while True:
            with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                await _ask(spec["port"], payload)
            sent += 1

    clients = (_SLOW_CLIENTS if slow else _CLIENTS) if payload else 0
    tasks = [asyncio.create_task(stranger()) for _ in range(clients)]
    say({})
    await stop.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    say({"sent": sent})


async def _ask(port: int, payload: bytes) -> None:
    """One request, until its answer has begun; then the stranger goes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(payload)
        async with asyncio.timeout(30):
            await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.transport.abort()


if __name__ == "__main__":
    os.nice(5)  # the load generator is on the same core, and its clock must not wait for them
    run_child(main)
