"""Calls over the real Kafka while it fails, in processes of their own: who is not served in time?

A caller who is not served within `PATIENCE` seconds hears the fallback number. What is longer than
CI has time for is asked for by the environment: TEST_KILLS, TEST_DOWN and TEST_FREEZE (seconds),
TEST_RATE (calls a second).
"""

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from router.events.types import CALLS_TOPIC
from tests.support.servers.kafka import Kafka, delete_topics, kafka_server

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

PATIENCE = 5.0  # seconds
KILLS = int(os.environ.get("TEST_KILLS", "1"))
DOWN = float(os.environ.get("TEST_DOWN", "1.5"))
RATE = float(os.environ.get("TEST_RATE", "5"))
FREEZE = float(os.environ.get("TEST_FREEZE", "4"))
AS_IN_SERVICE = {
    "takeover_after": 1.0,
    "stall_after": 10.0,
    "session_timeout": 10.0,
    "rebalance_timeout": 30.0,
}


@pytest.fixture(scope="module")
def broker() -> Iterator[Kafka]:
    with kafka_server() as server:
        yield server


class Child:
    """One process and what it said."""

    def __init__(self, folder: Path, broker: Kafka, **options: Any) -> None:
        command = [sys.executable, "-m", "tests.faults.call_child", str(folder), broker.bootstrap]
        with (folder / f"{options.get('name', 'c')}.log").open("wb") as log:  # aiokafka says much
            self.process = subprocess.Popen(
                [*command, json.dumps({"kafka": AS_IN_SERVICE} | options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.came: dict[str, float] = {}
        self.served: dict[str, float] = {}
        self.facts: list[dict[str, Any]] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        for line in self.process.stdout or ():
            kind, _, rest = line.decode().strip().partition(" ")
            if kind == ".":
                self.facts.append(json.loads(rest))
            elif kind in "+=" and " " in rest:
                call, _, when = rest.partition(" ")
                (self.came if kind == "+" else self.served).setdefault(call, float(when))

    def limit_files(self, most: int) -> int:
        """Allow the process no more than `most` open files from now on; what was allowed before."""
        before, hard = resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (most, hard))
        return before

    def calm(self) -> None:
        """No more calls."""
        if self.process.stdin is not None:
            self.process.stdin.write(b"calm\n")
            self.process.stdin.flush()

    def end(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._listener.join(5)
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextmanager
def child(folder: Path, broker: Kafka, **options: Any) -> Iterator[Child]:
    started = Child(folder, broker, **options)
    try:
        until(lambda: bool(started.came) or not options.get("rate"))
        yield started
    finally:
        started.end()


def until(condition: Any, seconds: float = 60.0) -> float:
    """Wait; how many seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - began


def late(*children: Child) -> list[str]:
    """Calls that nobody served in time, whoever took them."""
    served: dict[str, float] = {}
    for each in children:
        for call, when in each.served.items():
            served[call] = min(when, served.get(call, when))
    came = {call: when for each in children for call, when in each.came.items()}
    found = [
        call
        for call, when in came.items()
        if call.startswith("call") and served.get(call, float("inf")) - when > PATIENCE
    ]
    print(f"{len(came)} calls, {len(found)} not served within {PATIENCE:g} s: {found[:9]}")
    return found


def _admin(broker: Kafka) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})


@pytest.fixture(autouse=True)
def no_topics(broker: Kafka) -> Iterator[None]:
    delete_topics(broker)
    yield
    broker.resume()  # where a test failed in the middle of its fault


def _serves(process: Child) -> bool:
    return len(process.served) > 5


def test_the_broker_is_killed_again_and_again(broker: Kafka, tmp_path: Path) -> None:
    with child(tmp_path, broker, rate=RATE, settle=6) as process:
        until(lambda: _serves(process))
        for _ in range(KILLS):
            broker.kill()
            time.sleep(DOWN)
            broker.start()
            time.sleep(1.5)
    assert late(process) == []


def test_the_broker_is_frozen(broker: Kafka, tmp_path: Path) -> None:
    with child(tmp_path, broker, rate=RATE, settle=6) as process:
        until(lambda: _serves(process))
        broker.pause()
        time.sleep(FREEZE)
        broker.resume()
        time.sleep(2)
    assert late(process) == []


def test_the_topic_is_deleted(broker: Kafka, tmp_path: Path) -> None:
    with child(tmp_path, broker, rate=RATE, settle=6) as process:
        until(lambda: _serves(process))
        delete_topics(broker)
        began = time.monotonic()
        time.sleep(3)
        until(lambda: _reads_again(process), 90)
        print(f"consumed from Kafka again after {time.monotonic() - began:.1f} s")
    assert late(process) == []


def _reads_again(process: Child) -> bool:
    """Kafka has what came, and the group has read it."""
    known = process.facts[-1]
    group = known["consumers"].get("test", {"silent_seconds": 99.0, "unread_events": 1})
    quiet = group["silent_seconds"] < 1.0 and group["unread_events"] <= 5
    return bool(known["healthy"]) and known["events"] <= 5 and quiet


def test_what_came_in_time_is_handled_once_whoever_reads_it(broker: Kafka, tmp_path: Path) -> None:
    """The process that took a call knows of the one that serves it, and asks no database."""
    with child(tmp_path, broker, rate=20, settle=3) as taking, child(tmp_path, broker) as other:
        until(lambda: len(other.served) > 20)
        time.sleep(2)
        began = time.monotonic()
        time.sleep(5)
    both = [call for call in taking.served.keys() & other.served if taking.came[call] > began]
    print(f"{len(taking.came)} calls, {len(other.served)} by the other one, {len(both)} by both")
    assert both == []


def test_the_journal_cant_be_read_for_a_while(broker: Kafka, tmp_path: Path) -> None:
    with child(tmp_path, broker, rate=2500, settle=1, takeover=False) as process:
        until(lambda: _serves(process))
        allowed = process.limit_files(3)
        broker.pause()
        before = len(process.came)
        # More than the relay's window and the journal's memory: it must go to the file, and can't.
        until(lambda: len(process.came) > before + 8000, 30)
        broker.resume()
        time.sleep(2)
        assert process.facts[-1]["events"] > 0
        process.limit_files(allowed)
        process.calm()
        took = until(lambda: process.facts[-1]["events"] == 0, 60)
        print(f"{len(process.came)} calls; the relay had caught up {took:.1f} s after the fault")
    assert process.process.returncode == 0


def test_a_revoke_that_took_too_long_loses_nothing_that_comes_later(
    broker: Kafka, tmp_path: Path
) -> None:
    quick = AS_IN_SERVICE | {"rebalance_timeout": 4.0, "session_timeout": 4.0}
    shared = {"kafka": quick, "takeover": False}
    with child(tmp_path, broker, rate=20, slow=3, slow_takes=3.0, **shared) as stays:
        until(lambda: len(stays.came) > 10)
        time.sleep(1)
        with child(tmp_path, broker, **shared) as guest:
            time.sleep(6)
        time.sleep(7)
        newest = time.monotonic() - 5
        came = [call for call, when in stays.came.items() if when < newest]
        lost = [call for call in came if call not in stays.served | guest.served]
        lost = [call for call in lost if call.startswith("call")]
        print(f"{len(came)} calls, {len(lost)} never read: {lost[:9]}")
    assert lost == []


_SENDERS_TIME = {"message.timestamp.type": "CreateTime"}


def test_a_clock_that_ran_two_hours_ahead(broker: Kafka, tmp_path: Path) -> None:
    """Into topics as others made them: with the sender's time, refused when it is ahead."""
    topic, admin = NewTopic(CALLS_TOPIC, 3, 1, config=_SENDERS_TIME), _admin(broker)
    for future in admin.create_topics([topic]).values():
        future.result(20)
    options = {"clock_ahead": 7200.0, "clock_wrong_for": 2.0}
    with child(tmp_path, broker, rate=10, settle=2, **options) as process:
        time.sleep(3)
        took = until(lambda: process.facts[-1]["events"] <= 5, 30)
        print(f"the relay had caught up {took:.1f} s later; told: {process.facts[4]}")
        time.sleep(2)
    assert late(process) == []
