"""Files of the data folder are their owner's alone, in anybody's folder and whatever the umask."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import load
from router import files
from router.cli import instance
from router.eventlog.journal_db import JournalDb
from router.events.ids import DEFAULT_ACCOUNT
from router.secrets import load_key
from router.storage.engine import open_database
from router.storage.mapping import counts
from router.storage.migrate import migrate
from tests.support.nodes import apply_text, free_port, node_settings, running


@pytest.fixture(params=[0o000, 0o077, 0o277], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder that somebody else made, readable by all."""
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(0o755)
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): mode(path) for path in folder.rglob("*")}


async def test_every_file_of_a_run_is_its_owners_alone(foreign: Path, umask: int) -> None:
    settings = node_settings(foreign, port=free_port(), livekit_url="http://127.0.0.1:1")
    routes = await apply_text(settings)
    (foreign / "mapping.yaml").unlink()  # the test's own
    seen: dict[str, int] = {}
    with instance.claimed(foreign, sandbox=True):
        async with running(settings, routes=routes) as node:
            assert node.routes is not None
            seen |= modes(foreign)
    seen |= modes(foreign)
    folders = {
        name for name in seen if "." not in Path(name).name and not name.endswith(("lock", "seat"))
    }
    assert folders == {"journal-0"}
    assert seen.pop("journal-0") == 0o700
    assert set(seen.values()) == {0o600}, {name: oct(found) for name, found in seen.items()}
    assert {
        *("secret.key", "routes.json", "sandbox.json", "switchboard.db", "switchboard.db.lock"),
        *("switchboard.db-wal", "switchboard.db-shm", "journal-0/events.db", "journal-0/lock"),
        *("journal-0/events.db-wal", "journal-0/events.db-shm", "journal-0/seat"),
    } <= set(seen)
    assert mode(foreign) == 0o755  # it is not ours


async def test_folders_that_are_made_here_are_their_owners_alone(
    tmp_path: Path, umask: int
) -> None:
    folder = tmp_path / "made" / "by" / "us"
    await migrate(load(overrides={"data_dir": str(folder)}))
    load_key("", tmp_path / "other" / "data")
    for path in (folder, folder.parent, folder.parent.parent, tmp_path / "other"):
        assert mode(path) == 0o700, path


async def test_files_of_an_earlier_version_are_closed_to_others(foreign: Path) -> None:
    settings = load(overrides={"data_dir": str(foreign)})
    await migrate(settings)
    load_key("", foreign)
    (foreign / "journal-0").mkdir()
    JournalDb(foreign / "journal-0").close()
    for path in files_in(foreign):
        path.chmod(0o644)
    load_key("", foreign)
    async with open_database(settings) as database:
        await counts(database, DEFAULT_ACCOUNT)  # it is opened when it is first needed
    JournalDb(foreign / "journal-0").close()
    with instance.claimed(foreign, sandbox=True):
        pass
    assert {mode(path) for path in files_in(foreign)} == {0o600}


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(OSError, match="ot a directory") as caught:
            files.make_folder(path)
        assert caught.value.filename in (str(path), path)


def test_an_existing_database_is_not_opened_for_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing any descriptor of it would drop the locks of SQLite's connections."""
    path = tmp_path / "x.db"
    files.make_sqlite_file(path)
    path.chmod(0o644)
    opened: list[object] = []
    real = os.open

    def spied(name: str | Path, flags: int, mode: int = 0o777) -> int:
        descriptor = real(name, flags, mode)  # raises where it would not make the file
        opened.append(name)
        return descriptor

    monkeypatch.setattr(os, "open", spied)
    files.make_sqlite_file(path)
    assert opened == []
    assert mode(path) == 0o600


def test_the_secret_key_is_durable_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes before it has its name, then the name: else a power cut makes another key."""
    folder = tmp_path / "data"
    folder.mkdir()
    synced: list[str] = []
    real = os.fsync

    def spied(descriptor: int) -> None:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            assert found.st_ino == folder.stat().st_ino
            assert (folder / "secret.key").stat().st_size == 64
            synced.append("folder")
        else:
            assert found.st_size == 64
            assert not (folder / "secret.key").exists()
            synced.append("file")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", spied)
    key = load_key("", folder)
    assert synced == ["file", "folder"]
    assert load_key("", folder) == key
    assert synced == ["file", "folder"]
    assert [path.name for path in folder.iterdir()] == ["secret.key"]


def test_of_two_that_make_the_key_at_once_both_have_the_first_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[bytes] = []
    real = Path.exists

    def exists(path: Path) -> bool:
        found = real(path)
        if path.name == "secret.key" and not found and not others:
            monkeypatch.setattr(Path, "exists", real)
            others.append(load_key("", tmp_path))
        return found

    monkeypatch.setattr(Path, "exists", exists)
    assert load_key("", tmp_path) == others[0]
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]
