"""Kill rounds: start the writer, SIGKILL it at a random moment, compare its word with the log."""

import random
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from router.eventlog.open import open_log
from tests.support.kafka_records import ids, read
from tests.support.kafka_settings import log_settings


@dataclass(frozen=True)
class Said:
    """What a child said before its end."""

    acked: list[str]
    error: str  # the error's name, or "" when it was killed


def child(folder: Path, turn: str, writers: int, *prefix: str) -> "subprocess.Popen[bytes]":
    """The writer, after an optional `prefix` command such as strace."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "tests.faults.child", str(folder), turn, str(writers)],
        stdout=subprocess.PIPE,
    )


def listen(process: "subprocess.Popen[bytes]", kill_after: float | None = None) -> Said:
    """Everything it says; `kill_after` seconds after its first word it is killed."""
    if process.stdout is None:
        raise RuntimeError("the child has no pipe")
    acked, error, timer = [], "", None
    for line in process.stdout:
        if not line.endswith(b"\n"):
            break  # cut off by the kill
        word = line.decode().strip()
        if word.startswith("! "):
            error = error or word[2:]
        else:
            acked.append(word)
        if timer is None and kill_after is not None:
            timer = threading.Timer(kill_after, process.kill)
            timer.start()
    process.wait()
    process.stdout.close()
    if timer is not None:
        timer.cancel()
    return Said(acked, error)


def kill_rounds(folder: Path, rounds: int, seed: int, writers: int = 8) -> list[str]:
    """Everything that was acknowledged in `rounds` lives of a writer, in order."""
    dice = random.Random(seed)
    acked: list[str] = []
    for turn in range(rounds):
        acked += listen(child(folder, str(turn), writers), dice.uniform(0.0, 0.25)).acked
    return acked


async def in_log(folder: Path, least: int) -> list[str]:
    """All ids that the journal holds, in order; at least `least`."""
    async with open_log(log_settings(folder)) as log, log.follow(["t"], after={}) as follower:
        found = ids(await read(follower, least))
        while more := await follower.fetch(limit=1000, wait=0.0):
            found += ids(more)
        return found
