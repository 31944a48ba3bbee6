"""The journal under process death and failing disks: what was acknowledged is in the log."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from router.errors import LogFailed, LogUnavailable
from router.eventlog.base import EventLog
from router.eventlog.open import open_log
from tests.faults.rounds import child, in_log, kill_rounds, listen
from tests.support.kafka_records import append, headers, ids, read
from tests.support.kafka_settings import log_settings

ROUNDS = int(os.environ.get("TEST_KILL_ROUNDS", "10"))
FOLDER = "journal-0"


@pytest.fixture
def seed() -> int:
    chosen = int(os.environ.get("TEST_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"TEST_SEED={chosen}")
    return chosen


@pytest.mark.timeout(60 + ROUNDS * 5)
async def test_kill_9(tmp_path: Path, seed: int) -> None:
    acked = kill_rounds(tmp_path, ROUNDS, seed)
    assert acked
    found = await in_log(tmp_path, len(acked))
    assert len(set(found)) == len(found)
    assert not set(acked) - set(found)
    kept = set(acked)
    in_order = [identity for identity in found if identity in kept]
    for writer in {identity.rsplit("-", 1)[0] for identity in acked}:
        own = [identity for identity in acked if identity.rsplit("-", 1)[0] == writer]
        assert [i for i in in_order if i.rsplit("-", 1)[0] == writer] == own
    assert _check(tmp_path) == "ok"


def _check(folder: Path) -> str:
    return str(apsw.Connection(str(folder / FOLDER / "events.db")).pragma("integrity_check"))


@contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[Path]:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


async def test_disk_full(tmp_path: Path) -> None:
    with _small_disk(tmp_path, "3m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 1_000_000)
        acked: list[str] = []
        async with open_log(log_settings(disk)) as log:
            with pytest.raises(LogUnavailable, match="full"):
                await _fill(log, acked)
            with pytest.raises(LogUnavailable):
                await log.append("t", "key", b"x" * 100_000, headers("id-refused"))
            assert not log.failed.is_set()
            ballast.unlink()
            await append(log, "t", "key", "id-after")
            async with log.follow(["t"], after={}) as follower:
                found = ids(await read(follower, len(acked) + 1))
        assert found == [*acked, "id-after"]
        assert _check(disk) == "ok"


async def _fill(log: EventLog, acked: list[str]) -> None:
    for number in range(10_000):
        identity = f"id-{number}"
        await log.append("t", "key", b"x" * 10_000, headers(identity))
        acked.append(identity)


async def test_failed_fsync_ends_it(tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace")
    inject = "inject=fsync,fdatasync:error=EIO:when=60+"
    command = (strace, "-f", "-qq", "-o", os.devnull, "-e", "trace=fsync,fdatasync", "-e", inject)
    said = listen(child(tmp_path, "0", 4, *command))
    assert said.error == LogFailed.__name__
    assert said.acked
    found = await in_log(tmp_path, len(said.acked))
    assert not set(said.acked) - set(found)
    # Nothing was acknowledged after the failure: each writer has at most one more in the log.
    assert len(set(found) - set(said.acked)) <= 4


async def test_a_torn_tail_of_the_wal_loses_nothing_before_it(tmp_path: Path, seed: int) -> None:
    source = tmp_path / "source"
    killed = listen(child(source, "0", 4), kill_after=0.2)
    wal = source / FOLDER / "events.db-wal"
    if not wal.exists():
        pytest.fail("the killed writer left no WAL: the test has no subject")
    whole = await _rows(source, tmp_path / "whole", wal.stat().st_size, b"")
    assert not set(killed.acked) - set(whole)
    dice = random.Random(seed)
    for turn in range(8):
        cut = dice.randrange(1, wal.stat().st_size)
        garbage = dice.randbytes(dice.choice((0, 3, 4096)))
        rows = await _rows(source, tmp_path / f"cut-{turn}", cut, garbage)
        assert rows == whole[: len(rows)]


async def _rows(source: Path, target: Path, cut: int, garbage: bytes) -> list[str]:
    """The ids in a copy of the journal whose WAL ends at `cut`, with garbage behind."""
    (target / FOLDER).mkdir(parents=True)
    for name in ("events.db", "events.db-wal"):
        shutil.copy(source / FOLDER / name, target / FOLDER / name)
    wal = target / FOLDER / "events.db-wal"
    wal.write_bytes(wal.read_bytes()[:cut] + garbage)
    found = await in_log(target, 0)
    assert _check(target) == "ok"
    return found
