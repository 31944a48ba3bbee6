"""`open_tail` without Kafka: looking at a journal that another process writes."""

from pathlib import Path

import pytest

from config.settings import LogSettings
from router.errors import ConfigError
from router.eventlog.open import open_log
from router.eventlog.slots import foreign_names, slot_folders, take_slot
from router.eventlog.tail import open_tail
from router.observability import log as logs
from tests.support.kafka_records import append, fetch, ids, read
from tests.support.kafka_settings import log_settings


async def test_from_the_end(tmp_path: Path) -> None:
    settings = log_settings(tmp_path)
    async with open_log(settings) as log:
        await append(log, "t", "key", "id-before")
        async with open_tail(settings, ["t"]) as tail:
            assert not await fetch(tail)
            assert tail.caught_up
            await append(log, "t", "key", "id-after")
            await append(log, "other", "key", "id-other")
            assert ids(await read(tail, 1)) == ["id-after"]


async def test_its_place_is_taken_at_the_opening_and_not_at_the_first_look(tmp_path: Path) -> None:
    settings = log_settings(tmp_path)
    async with open_log(settings) as log:
        await append(log, "t", "key", "id-before")
        async with open_tail(settings, ["t"]) as tail:
            await append(log, "t", "key", "id-after")
            assert ids(await read(tail, 1)) == ["id-after"]


async def test_some_records_back(tmp_path: Path) -> None:
    settings = log_settings(tmp_path)
    async with open_log(settings) as log:
        for number in range(5):
            await append(log, "t", "key", f"id-{number}")
            await append(log, "other", "key", f"id-{number}")
    async with open_tail(settings, ["t"], last=2) as tail:  # its process may be gone
        assert ids(await read(tail, 2)) == ["id-3", "id-4"]


async def test_before_there_is_a_journal(tmp_path: Path) -> None:
    settings = log_settings(tmp_path)
    async with open_tail(settings, ["t"]) as tail:
        assert not await fetch(tail)
        async with open_log(settings) as log:
            await append(log, "t", "key", "id-1")
            assert ids(await read(tail, 1)) == ["id-1"]


def litter(folder: Path) -> list[str]:
    """What people leave beside the journals: none of it is one. Returns the names."""
    (folder / "journal-0.bak").mkdir(parents=True)
    (folder / "journal-0.bak" / "events.db").write_bytes(b"an old copy")
    for name in ("journal-x", "journal-", "journal-00", "journal-01", "journal--1", "journal-1000"):
        (folder / name).mkdir()
    (folder / ("journal-" + "9" * 5000)[:200]).mkdir()
    (folder / "journal-\u0661").mkdir()  # a digit to Python, not to us
    (folder / "journal-5").write_text("a file")
    (folder / "journal-6").symlink_to(folder / "nowhere")
    (folder / "journal-7").symlink_to(folder / "journal-0")  # the same journal once more
    return sorted(path.name for path in folder.glob("journal-*"))


async def test_foreign_names_beside_the_journals(tmp_path: Path) -> None:
    names = litter(tmp_path)
    settings = log_settings(tmp_path)
    async with open_log(settings) as log, open_tail(settings, ["t"], last=10) as tail:
        assert [folder.name for folder in slot_folders(tmp_path)] == ["journal-0"]
        assert foreign_names(tmp_path) == names
        assert not await fetch(tail)
        await append(log, "t", "key", "id-1")
        records = await read(tail, 1)
        assert (ids(records), records[0].position.partition) == (["id-1"], 0)
        assert not await fetch(tail)  # and not by its second name


async def test_one_unreadable_journal_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(LogSettings(format="json", level="info"))
    (tmp_path / "journal-1").mkdir()
    (tmp_path / "journal-1" / "events.db").write_bytes(b"not a database" * 100)
    (tmp_path / "journal-2" / "events.db").mkdir(parents=True)
    settings = log_settings(tmp_path)
    async with open_log(settings) as log, open_tail(settings, ["t"]) as tail:
        assert not await fetch(tail)
        await append(log, "t", "key", "id-1")
        assert ids(await read(tail, 1)) == ["id-1"]
        await fetch(tail)
    told = [line for line in capsys.readouterr().err.splitlines() if "tail.unreadable" in line]
    assert len(told) == 2  # once each
    assert "journal-1" in told[0] + told[1]


def test_a_folder_that_is_not_there_has_no_journals(tmp_path: Path) -> None:
    assert slot_folders(tmp_path / "none") == []
    assert foreign_names(tmp_path / "none") == []
    (tmp_path / "file").write_text("")
    assert slot_folders(tmp_path / "file") == []


def test_something_else_by_the_journals_name(tmp_path: Path) -> None:
    (tmp_path / "journal-0").write_text("a file")
    with (
        pytest.raises(ConfigError, match=r"journal-0 is not a folder.* move it away"),
        take_slot(tmp_path, shared=False),
    ):
        pytest.fail("it was taken")
    with take_slot(tmp_path, shared=True) as folder:  # there are more names
        assert folder.name == "journal-1"
