"""Every route's record that any version wrote is read as the route that it meant."""

from pathlib import Path

import pytest

from router.clock import SystemClock
from router.eventlog.base import Position, Record
from router.events.types import ROUTES_TOPIC
from router.ingress.routes import RouteFollower
from router.routing.table import Route, RouteTable
from router.storage.records import REV
from tests.golden import records
from tests.support.fake_log import FakeLog

ADD = "run `python -m tests.golden.write` and commit what it writes"
every = pytest.mark.parametrize(
    "path", records.route_paths(), ids=lambda path: f"{path.parent.name}-{path.stem}"
)


@every
def test_it_is_held_as_what_it_meant(path: Path) -> None:
    golden = records.load_route(path)
    value = None if golden.value is None else golden.value.encode()
    record = Record(Position(ROUTES_TOPIC, 0, 0), golden.key, value, golden.headers, 0)
    table = RouteTable()
    rev = int(golden.headers[REV])
    table.put(Route(number=golden.key, provider="twilio", rev=rev - 1, fallback="+14155550199"))
    RouteFollower(table, FakeLog(), SystemClock(), path)._apply(record)
    assert table.get(golden.key) == golden.route
    assert table.version_of(golden.key) == (1, rev)


@every
def test_a_record_says_its_version(path: Path) -> None:
    version = path.parent.name.removeprefix("v")
    assert records.load_route(path).headers["ce_dataschema"] == f"switchboard/route/{version}"


def test_todays_code_writes_what_the_corpus_has() -> None:
    for path, golden in records.current_routes().items():
        assert path.exists(), ADD
        assert records.load_route(path) == golden
