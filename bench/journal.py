"""How fast the journal is: acknowledged events per second and their latency, by writers.

    python -m bench.journal [--seconds S] [--folder DIR] [--kafka BOOTSTRAP] [--kill-rounds N]

The first table's last column is the disk's own measure in the same run: how often a second it
syncs 4 KiB appended to a file. Absolute figures depend on the disk; compare within one run.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import NamedTuple

import uvloop

from router.eventlog.journal import open_journal
from router.eventlog.journal_writer import GROUP
from router.eventlog.open import open_log
from tests.faults.rounds import in_log, kill_rounds
from tests.support.kafka_settings import log_settings

TOPIC = "telephony.calls"
WRITERS = (1, 32, 256)
VALUE = b"v" * 700  # with its headers a record is about 1 KB, as a Twilio webhook makes
HEADERS = {
    "ce_specversion": "1.0",
    "ce_type": "call.initiated",
    "ce_source": "/twilio",
    "ce_subject": "6a1a6d2e-4a5b-5f6e-8c7d-9e0f1a2b3c4d",
    "ce_time": "2023-11-14T22:13:20.000000Z",
    "ce_dataschema": "switchboard/event/1",
    "content-type": "application/json",
}

Append = Callable[[str], Awaitable[object]]


class Result(NamedTuple):
    rate: float  # events per second
    p50: float  # ms
    p99: float  # ms
    cpu: float  # µs of CPU per event, the writers' own included


async def load(append: Append, writers: int, seconds: float) -> Result:
    """Each writer appends the next record when the last one was acknowledged."""
    waits: list[float] = []
    numbers = count()
    stop = time.perf_counter() + seconds

    async def write() -> None:
        while (begun := time.perf_counter()) < stop:
            await append(f"{os.urandom(16).hex()}{next(numbers)}")
            waits.append(time.perf_counter() - begun)

    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(write() for _ in range(writers)))
    elapsed, cpu = time.perf_counter() - begun, time.process_time() - cpu
    waits.sort()
    total = len(waits)
    return Result(
        total / elapsed,
        waits[total // 2] * 1e3,
        waits[min(total - 1, total * 99 // 100)] * 1e3,
        cpu / total * 1e6,
    )


def syncs_per_second(folder: Path, seconds: float = 0.5) -> float:
    descriptor = os.open(folder / "sync-probe", os.O_CREAT | os.O_RDWR)
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        os.pwrite(descriptor, b"x" * 4096, done * 4096)
        os.fdatasync(descriptor)
        done += 1
    os.close(descriptor)
    return done / seconds


def table(name: str, writers: int, result: Result, syncs: float) -> None:
    print(
        f"{name:<10} {writers:>7} {result.rate:>10,.0f} {result.p50:>8.2f} {result.p99:>8.2f}"
        f" {result.cpu:>8.1f} {syncs:>9,.0f}"
    )


async def journal(folder: Path, seconds: float) -> None:
    for writers in WRITERS:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            path = Path(name)
            syncs = syncs_per_second(path)
            settings = log_settings(path).journal
            async with open_journal(path, settings, pinned_by=GROUP) as opened:

                async def append(identity: str) -> object:
                    headers = {**HEADERS, "ce_id": identity}
                    return await opened.append(TOPIC, identity, VALUE, headers)

                await load(append, writers, 0.3)
                table("journal", writers, await load(append, writers, seconds), syncs)


async def replicated(folder: Path, seconds: float, bootstrap: str) -> None:
    for writers in WRITERS:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            path = Path(name)
            syncs = syncs_per_second(path)
            settings = log_settings(path, bootstrap=bootstrap, kafka={"partitions": 6})
            async with open_log(settings) as log:

                async def append(identity: str) -> object:
                    headers = {**HEADERS, "ce_id": identity}
                    return await log.append(TOPIC, identity, VALUE, headers)

                await load(append, writers, 2.0)
                table("replicated", writers, await load(append, writers, seconds), syncs)


def killed(folder: Path, rounds: int) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        acked = kill_rounds(Path(name), rounds, seed)
        found = asyncio.run(in_log(Path(name), 0))
    lost, twice = set(acked) - set(found), len(found) - len(set(found))
    print(
        f"kill -9: {rounds} rounds (seed {seed}), {len(acked):,} acknowledged, {len(lost)} lost, "
        f"{twice} doubled, {len(set(found) - set(acked)):,} written but not acknowledged"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--kafka", default="", help="bootstrap server of a Kafka to replicate to")
    parser.add_argument("--kill-rounds", type=int, default=0)
    arguments = parser.parse_args()
    print("log        writers   events/s   p50 ms   p99 ms   cpu µs   syncs/s")
    uvloop.run(journal(arguments.folder, arguments.seconds))
    if arguments.kafka:
        uvloop.run(replicated(arguments.folder, arguments.seconds, arguments.kafka))
    if arguments.kill_rounds:
        killed(arguments.folder, arguments.kill_rounds)


if __name__ == "__main__":
    main()
