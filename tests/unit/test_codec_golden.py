"""Every record that any version wrote is read as the event that it meant."""

from pathlib import Path

import pytest

from router.events import codec
from router.events.types import EventType
from router.events.upcast import STEPS
from tests.golden import records

ADD = "run `python -m tests.golden.write` and commit what it writes"
PATHS = records.paths()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_it_is_read_as_what_it_meant(path: Path) -> None:
    golden = records.load(path)
    event = codec.decode(golden.key, golden.headers, golden.value.encode())
    assert event == golden.event
    assert event.type.value == path.stem


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_was_read_can_be_written_and_read_again(path: Path) -> None:
    event = records.load(path).event
    headers, value = codec.encode(event)
    assert codec.decode(event.key, headers, value) == event


def test_the_corpus_has_every_version() -> None:
    versions = {f"v{schema.rpartition('/')[2]}" for schema in (*STEPS, codec.SCHEMA)}
    assert {path.parent.name for path in PATHS} == versions, ADD


def test_the_corpus_has_every_type_of_the_current_version() -> None:
    missing = [path.stem for path in records.current() if not path.exists()]
    assert not missing, ADD
    assert len(records.current()) == len(EventType)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_record_says_its_version(path: Path) -> None:
    version = path.parent.name.removeprefix("v")
    assert records.load(path).headers["ce_dataschema"] == f"switchboard/event/{version}"


@pytest.mark.parametrize("path", records.current(), ids=lambda path: str(path.stem))
def test_todays_code_writes_what_the_corpus_has(path: Path) -> None:
    """Byte for byte: another value for the same event would be another contract."""
    golden = records.load(path)
    headers, value = codec.encode(golden.event)
    assert (headers, value.decode()) == (golden.headers, golden.value)
