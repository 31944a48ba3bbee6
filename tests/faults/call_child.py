"""A process that takes calls and serves them over the real log: journal, relay, Kafka, consumer.

    python -m tests.faults.call_child FOLDER BOOTSTRAP '{"rate": 5, …}'

It says what it does, one line each: `+ CALL SECONDS` a call came, `= CALL SECONDS` it was served
(its own consumer's handler saw it first), `. {…}` what the process knows of itself. With a line on
its input no more calls come; it ends when its input is closed.
"""

import asyncio
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from typing_extensions import override

from consumers import host
from consumers.consumer import Consumer, ConsumerSpec, Done, Outcome
from router.clock import SystemClock
from router.eventlog.base import OpenLog
from router.eventlog.open import open_log
from router.events.codec import encode
from router.events.model import Event
from router.events.types import CALLS_TOPIC
from router.resources import Resources
from router.supervisor import Supervisor
from tests.support.fake_consumer import call_event, spec
from tests.support.kafka_settings import log_settings


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


class AheadClock(SystemClock):
    """Runs some seconds ahead, for some seconds."""

    def __init__(self, ahead: float, seconds: float) -> None:
        self._ahead = round(ahead * 1_000_000)
        self._until = time.monotonic() + seconds

    @override
    def now(self) -> int:
        return super().now() + (self._ahead if time.monotonic() < self._until else 0)


class Server(Consumer):
    """Serves each call once; `slow` calls take their time, also to be cancelled."""

    def __init__(self, slow: float) -> None:
        self._slow = slow
        self._served: set[str] = set()

    @override
    async def handle(self, event: Event) -> Outcome:
        if event.key.startswith("slow"):
            try:
                await asyncio.sleep(self._slow)
            except asyncio.CancelledError:
                await asyncio.sleep(self._slow)
                raise
        if event.key not in self._served:
            self._served.add(event.key)
            say(f"= {event.key} {time.monotonic()}")
        return Done()

    @override
    async def run(self) -> None:
        await asyncio.Event().wait()


async def calls(log: OpenLog, name: str, per_second: float, slow: int) -> None:
    """Let calls come until cancelled; the first `slow` of them are slow ones."""
    began, number = time.monotonic(), 0
    async with asyncio.TaskGroup() as tasks:
        while True:
            while number < (time.monotonic() - began) * per_second:
                kind = "slow" if number < slow else "call"
                tasks.create_task(_call(log, f"{kind}-{name}-{number}"))
                number += 1
            await asyncio.sleep(0.05)


async def _call(log: OpenLog, key: str) -> None:
    headers, value = encode(call_event(key, 0))
    say(f"+ {key} {time.monotonic()}")
    await log.append(CALLS_TOPIC, key, value, headers)


async def facts(log: OpenLog, supervisor: Supervisor) -> None:
    while True:
        if log.relay is not None:
            lag = log.relay.lag
            known = {
                "healthy": log.relay.healthy,
                "events": lag.events,
                "age": round(lag.age, 1),
                "consumers": supervisor.group_facts(),
            }
            say(f". {json.dumps(known)}")
        await asyncio.sleep(0.5)


async def main(folder: Path, bootstrap: str, options: dict[str, Any]) -> None:
    settings = log_settings(folder, bootstrap=bootstrap, kafka=options.get("kafka", {}))
    clock = AheadClock(options.get("clock_ahead", 0.0), options.get("clock_wrong_for", 0.0))
    supervisor, stop = Supervisor(), asyncio.Event()
    consumer: ConsumerSpec = spec(takeover=options.get("takeover", True))
    async with open_log(settings, clock=clock, supervisor=supervisor) as log:
        parts = {"log": log, "clock": clock, "settings": settings, "supervisor": supervisor}
        async with asyncio.TaskGroup() as tasks:
            host.start(
                consumer,
                Server(options.get("slow_takes", 0.0)),
                cast("Resources", SimpleNamespace(**parts)),
                stop,
                tasks,
            )
            told = tasks.create_task(facts(log, supervisor))
            rate, name, slow = (options.get(key, 0) for key in ("rate", "name", "slow"))
            coming = tasks.create_task(calls(log, str(name or "c"), rate, slow))
            await asyncio.to_thread(sys.stdin.readline)
            coming.cancel()
            await asyncio.to_thread(sys.stdin.read)
            told.cancel()
            await asyncio.sleep(options.get("settle", 0.0))
            stop.set()


if __name__ == "__main__":
    with suppress(asyncio.CancelledError):
        asyncio.run(main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])))
