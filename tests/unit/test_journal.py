"""The journal: what its adapter must do beyond the port's promises."""

import asyncio
import os
import resource
import subprocess
import sys
from pathlib import Path

import apsw
import pytest
from typing_extensions import override

from config.settings import JournalSettings
from router.clock import SystemClock
from router.errors import ConfigError, LogFailed, LogUnavailable
from router.eventlog import journal_db
from router.eventlog.journal import Journal, open_journal
from router.eventlog.journal_db import JournalReader, meaning
from router.eventlog.journal_writer import GROUP
from router.eventlog.open import open_log
from router.eventlog.slots import slot_folders, take_slot
from router.events.types import CALLS_TOPIC, ROUTES_TOPIC
from tests.support.kafka_records import headers
from tests.support.kafka_settings import log_settings

HOUR = 3_600_000_000  # µs


class Clock(SystemClock):
    def __init__(self) -> None:
        self.time = 1_700_000_000_000_000

    @override
    def now(self) -> int:
        return self.time


def settings(tmp_path: Path, **journal: object) -> JournalSettings:
    return log_settings(tmp_path, journal=journal).journal


async def put(journal: Journal, identity: str, topic: str = CALLS_TOPIC, key: str = "k") -> int:
    appended = await journal.append(topic, key, b"value", headers(identity))
    return appended.position.offset


async def test_a_full_queue_refuses(tmp_path: Path) -> None:
    limits = settings(tmp_path, queue_limit=4, batch_limit=1)
    async with open_journal(tmp_path, limits, pinned_by=GROUP) as journal:
        outcomes = await asyncio.gather(
            *(put(journal, f"id-{number}") for number in range(20)), return_exceptions=True
        )
        refused = [outcome for outcome in outcomes if isinstance(outcome, LogUnavailable)]
        assert len(refused) == 16
        await put(journal, "id-later")


async def test_a_row_that_cant_be_stored_does_not_fail_its_neighbours(tmp_path: Path) -> None:
    async with open_journal(tmp_path, settings(tmp_path), pinned_by=GROUP) as journal:
        first, bad, last = await asyncio.gather(
            put(journal, "id-1"),
            put(journal, "id-2", key="\ud800"),  # no UTF-8 has this
            put(journal, "id-3"),
            return_exceptions=True,
        )
        assert isinstance(first, int)
        assert isinstance(bad, ValueError)
        assert isinstance(last, int)
        records, _ = await journal.read(0, limit=10)
        assert [record.headers["ce_id"] for record in records] == ["id-1", "id-3"]


async def test_a_nearly_full_disk_refuses_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/proc")  # its file system has no free space at all
    limits = settings(tmp_path, min_free_bytes=1)
    async with open_journal(tmp_path, limits, pinned_by=GROUP) as journal:
        await put(journal, "id-1")
        monkeypatch.setattr(journal._writer, "_folder", full)
        with pytest.raises(LogUnavailable, match="nearly full"):
            await put(journal, "id-2")
        await journal.move({"group/g/t": 1})  # positions may use the reserve
        monkeypatch.undo()
        assert await put(journal, "id-2") == 2


async def test_positions_survive_and_never_move_back(tmp_path: Path) -> None:
    async with open_journal(tmp_path, settings(tmp_path), pinned_by=GROUP) as journal:
        await asyncio.gather(*(journal.move({"group/g/t": seq}) for seq in (3, 7, 5)))
        await journal.move({"group/g/t": 2})
        assert journal.position("group/g/t") == 7
    async with open_journal(tmp_path, settings(tmp_path), pinned_by=GROUP) as journal:
        assert journal.position("group/g/t") == 7
        assert journal.position("group/other/t") is None


async def test_reading_behind_what_memory_holds(tmp_path: Path) -> None:
    async with open_journal(tmp_path, settings(tmp_path), pinned_by=GROUP) as journal:
        await asyncio.gather(
            *(put(journal, f"id-{n}", CALLS_TOPIC if n % 2 else "other") for n in range(6000))
        )
        found, after = [], 0
        while after < journal.last_seq:
            records, after = await journal.read(after, limit=500, topics=[CALLS_TOPIC])
            found += [record.headers["ce_id"] for record in records]
        assert found == [f"id-{number}" for number in range(6000) if number % 2]


async def test_a_waiting_reader_is_woken_by_the_commit(tmp_path: Path) -> None:
    async with open_journal(tmp_path, settings(tmp_path), pinned_by=GROUP) as journal:
        waiting = asyncio.create_task(journal.wait(0, timeout=60))
        await asyncio.sleep(0)
        await put(journal, "id-1")
        async with asyncio.timeout(1):
            await waiting


async def test_closing_writes_what_is_queued_and_refuses_what_comes(tmp_path: Path) -> None:
    async with open_journal(tmp_path, settings(tmp_path), pinned_by=GROUP) as journal:
        queued = [asyncio.create_task(put(journal, f"id-{number}")) for number in range(50)]
        await asyncio.sleep(0)
    assert await asyncio.gather(*queued) == list(range(1, 51))
    with pytest.raises(LogUnavailable, match="closing"):
        await put(journal, "id-late")


async def _turn_over(tmp_path: Path, clock: Clock, **journal: object) -> list[str]:
    """Reopen, so that retention looks at once, and say what is left."""
    limits = settings(tmp_path, **journal)
    async with open_journal(tmp_path, limits, pinned_by=GROUP, clock=clock) as opened:
        await put(opened, f"id-turn-{clock.time}")
    reader = JournalReader(tmp_path)
    rows = reader.read(0, upto=1 << 62, topics=None, limit=10_000)
    reader.close()
    return [row[2] for row in rows if "turn" not in row[2]]


async def test_retention_keeps_what_a_group_has_not_read(tmp_path: Path) -> None:
    clock = Clock()
    limits = settings(tmp_path)
    async with open_journal(tmp_path, limits, pinned_by=GROUP, clock=clock) as journal:
        for number in range(4):
            await put(journal, f"id-{number}")
        await put(journal, "id-other", topic="other")
        await journal.move({f"group/g/{CALLS_TOPIC}": 2})
        await journal.move({"relay": 0})  # of a time with Kafka: holds nothing back now
    assert len(await _turn_over(tmp_path, clock, retention_hours=1)) == 5
    clock.time += 2 * HOUR
    assert await _turn_over(tmp_path, clock, retention_hours=1) == ["id-2", "id-3"]


async def test_retention_keeps_the_newest_of_each_key_of_a_compacted_topic(tmp_path: Path) -> None:
    clock = Clock()
    limits = settings(tmp_path)
    async with open_journal(tmp_path, limits, pinned_by=GROUP, clock=clock) as journal:
        for number in range(6):
            await put(journal, f"id-{number}", topic=ROUTES_TOPIC, key=f"key-{number % 2}")
    clock.time += 2 * HOUR
    assert await _turn_over(tmp_path, clock, retention_hours=1) == ["id-4", "id-5"]


async def test_offsets_are_not_given_twice_after_retention(tmp_path: Path) -> None:
    clock = Clock()
    limits = settings(tmp_path, retention_hours=1)
    async with open_journal(tmp_path, limits, pinned_by=GROUP, clock=clock) as journal:
        last = [await put(journal, f"id-{number}") for number in range(5)][-1]
    clock.time += 2 * HOUR
    assert await _turn_over(tmp_path, clock, retention_hours=1) == []
    async with open_journal(tmp_path, limits, pinned_by=GROUP, clock=clock) as journal:
        assert await put(journal, "id-new") > last + 1


def test_a_second_process_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with (
        take_slot(tmp_path, shared=False),
        pytest.raises(ConfigError, match=r"another process .* own data_dir") as refused,
        take_slot(tmp_path, shared=False),
    ):
        pytest.fail("two processes have one journal")
    assert refused.value.key == "data_dir"
    with take_slot(tmp_path, shared=False):
        pass


@pytest.mark.parametrize("name", ["lock", "events.db", "events.db-wal", "events.db-shm"])
async def test_a_folder_in_a_files_place_is_named_with_the_mend(tmp_path: Path, name: str) -> None:
    (tmp_path / "journal-0" / name).mkdir(parents=True)
    with pytest.raises(ConfigError, match=rf"journal-0/{name} .*move (it|that folder) away"):
        async with open_log(log_settings(tmp_path)):
            pass
    assert (tmp_path / "journal-0" / name).stat().st_mode & 0o111  # it is as it was


def test_processes_that_share_a_folder_take_the_next_journal(tmp_path: Path) -> None:
    with take_slot(tmp_path, shared=True) as one, take_slot(tmp_path, shared=True) as two:
        assert [one.name, two.name] == ["journal-0", "journal-1"]
        assert slot_folders(tmp_path) == [one, two]
    with take_slot(tmp_path, shared=True) as again:
        assert again == one


async def test_a_journal_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    async with open_journal(tmp_path, settings(tmp_path), pinned_by=GROUP) as journal:
        journal._writer._folder.joinpath("note").touch()
    _set_version(tmp_path, 99)
    with pytest.raises(ConfigError, match="format 99"):
        async with open_journal(tmp_path, settings(tmp_path), pinned_by=GROUP):
            pytest.fail("it was opened")


def _set_version(folder: Path, version: int) -> None:
    # Bytes 60 to 64 of the file are `user_version` (sqlite.org/fileformat2.html §1.3).
    with (folder / "events.db").open("r+b") as file:
        file.seek(60)
        file.write(version.to_bytes(4, "big"))


def test_every_result_code_of_sqlite_has_a_meaning() -> None:
    """By the table, not by default; sqlite.org/rescode.html."""
    no_errors = {"SQLITE_OK", "SQLITE_ROW", "SQLITE_DONE", "SQLITE_NOTICE", "SQLITE_WARNING"}
    primary = [
        code
        for name, code in apsw.mapping_result_codes.items()
        if isinstance(name, str) and isinstance(code, int) and name not in no_errors
    ]
    assert set(primary) <= journal_db._MEANING.keys()
    extended = {
        name: code
        for name, code in apsw.mapping_extended_result_codes.items()
        if isinstance(name, str) and isinstance(code, int) and code & 0xFF in primary
    }
    later = {name for name, code in extended.items() if meaning(code) == "later"}
    assert later == {
        *(name for name in extended if name.startswith(("SQLITE_BUSY_", "SQLITE_LOCKED_"))),
        *(name for name in extended if name.startswith(("SQLITE_CANTOPEN_", "SQLITE_IOERR_SHM"))),
        *("SQLITE_ABORT_ROLLBACK", "SQLITE_IOERR_NOMEM", "SQLITE_IOERR_BLOCKED"),
        *("SQLITE_IOERR_LOCK", "SQLITE_IOERR_RDLOCK", "SQLITE_IOERR_CHECKRESERVEDLOCK"),
        *("SQLITE_READONLY_RECOVERY", "SQLITE_READONLY_CANTLOCK", "SQLITE_READONLY_CANTINIT"),
    }
    for name in ("FSYNC", "DIR_FSYNC", "WRITE", "TRUNCATE", "CORRUPTFS"):
        assert meaning(extended[f"SQLITE_IOERR_{name}"]) == "failed"
    assert meaning(extended["SQLITE_IOERR_READ"], reading=True) == "later"
    assert meaning(apsw.SQLITE_CORRUPT, reading=True) == "failed"


async def test_a_lock_that_another_process_holds_too_long_refuses_and_is_no_failed_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_db, "_BUSY_TIMEOUT", 100)
    async with open_journal(tmp_path, settings(tmp_path), pinned_by=GROUP) as journal:
        await put(journal, "id-1")
        with _lock_holder(tmp_path / journal_db.FILE_NAME) as holder:
            assert holder.stdout is not None
            await asyncio.to_thread(holder.stdout.readline)
            with pytest.raises(LogUnavailable, match="another process"):
                await put(journal, "id-2")
            assert not journal.failed.is_set()
            holder.kill()
        assert await put(journal, "id-2") == 2


def _lock_holder(file: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", _HOLD, str(file)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


_HOLD = """
import sys, apsw
db = apsw.Connection(sys.argv[1])
db.execute("BEGIN IMMEDIATE")
print(flush=True)
sys.stdin.read()
"""


async def test_a_file_that_cant_be_read_for_a_while_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_journal(tmp_path, settings(tmp_path), pinned_by=GROUP) as journal:
        await put(journal, "id-1")
    async with open_journal(tmp_path, settings(tmp_path), pinned_by=GROUP) as journal:
        used = [os.open(os.devnull, os.O_RDONLY)]
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (used[0], limit[1]))
        try:
            with pytest.raises(LogUnavailable, match="open files"):
                await journal.read(0, limit=10)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            os.close(used[0])
        records, _ = await journal.read(0, limit=10)
        assert [record.headers["ce_id"] for record in records] == ["id-1"]
        assert not journal.failed.is_set()


async def test_a_corrupt_file_ends_the_process(tmp_path: Path) -> None:
    async with open_journal(tmp_path, settings(tmp_path), pinned_by=GROUP) as journal:
        for number in range(200):
            await put(journal, f"id-{number}")
    file = tmp_path / journal_db.FILE_NAME
    pages = bytearray(file.read_bytes())
    for page in range(len(pages) // 8192, len(pages) // 4096):  # of events, not of positions
        pages[page * 4096 : page * 4096 + 8] = b"\xff" * 8
    file.write_bytes(pages)
    with pytest.raises(LogFailed, match=r"events\.db is damaged; move its folder.*SQLITE_CORRUPT"):
        async with open_journal(tmp_path, settings(tmp_path), pinned_by=GROUP) as journal:
            await journal.read(0, limit=1000)
    assert journal.failed.is_set()


async def test_a_file_that_is_no_journal_is_named_with_the_mend(tmp_path: Path) -> None:
    file = tmp_path / journal_db.FILE_NAME
    file.write_text("neither a database nor a journal")
    with pytest.raises(LogFailed, match=r"events\.db is damaged; move its folder") as caught:
        async with open_journal(tmp_path, settings(tmp_path), pinned_by=GROUP):
            pass
    assert str(file) in str(caught.value)
