"""What all tests share: the real servers, what may run in parallel, the loopback fence, Hypothesis
profiles.

**Servers.** `kafka`, `postgres`, `redis` are started once per run, when the first test asks for
them; make your own topic or database in them. A test that stops, kills or pauses a server starts
its own (`tests.support.servers`), and says so by its marker. A marked test whose server is not on
this machine is skipped with what would bring it, or fails with `TEST_REQUIRE_SERVERS=1`. A
server that is here and does not start is an error in either case. The end of the run says which
servers were real.

**In parallel** (`make test`, `make test-all`, pytest-xdist) run the tests without a server: each
worker would start servers of its own. All of `tests/e2e` and `tests/faults`, and what is marked so,
is `serial` besides: it measures time, or kills processes in the middle of their work. The end of
the run says how many tests `-m` left out, but for `make test-all`.

**Sockets.** Connections leave neither loopback nor the machine (pytest-socket).

**Hypothesis.** `--hypothesis-profile=ci` tries more examples; a failure prints the blob that
repeats it.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import settings

from tests.support.servers import inventory
from tests.support.servers.kafka import Kafka, kafka_server
from tests.support.servers.postgres import Postgres, postgres_server
from tests.support.servers.redis import Redis, redis_server

_REQUIRED = os.environ.get("TEST_REQUIRE_SERVERS") == "1"
_IN_PARTS = os.environ.get("TEST_IN_PARTS") == "1"  # make test-all: the rest runs as well
_LOOPBACK = "127.0.0.1,::1"
_SERIAL = [Path(__file__).parent / folder for folder in ("e2e", "faults")]
_asked = pytest.StashKey[set[str]]()  # servers that this run's tests asked for
_left_out = pytest.StashKey[set[str]]()  # ids of the tests that `-m` left out

# No deadline: two cores are shared with real servers, and a slow example is no fault.
settings.register_profile("dev", max_examples=50, deadline=None, print_blob=True)
settings.register_profile("ci", max_examples=500, deadline=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.hookimpl(tryfirst=True)  # before pytest-socket reads its options
def pytest_configure(config: pytest.Config) -> None:
    config.option.allow_hosts = config.option.allow_hosts or _LOOPBACK
    config.option.allow_unix_socket = True
    config.stash[_asked] = set()
    config.stash[_left_out] = set()


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that uses a server's fixture has that server's marker."""
    for item in items:
        arguments = getattr(getattr(item, "callspec", None), "params", ())  # may be named sip, too
        fixtures = set(getattr(item, "fixturenames", ())).difference(arguments)
        for name in fixtures.intersection(inventory.NAMES):
            item.add_marker(name)
        if any(item.path.is_relative_to(folder) for folder in _SERIAL):
            item.add_marker("serial")


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        if item.config.option.markexpr:
            item.config.stash[_left_out].add(item.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Of a worker: tell the process that prints the summary."""
    told: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if told is not None:
        asked, left_out = (session.config.stash[key] for key in (_asked, _left_out))
        told.update(asked=sorted(asked), left_out=sorted(left_out))


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_testnodedown(node: Any) -> None:
    config: pytest.Config = node.config
    told: dict[str, list[str]] = getattr(node, "workeroutput", {})  # empty: the worker died
    config.stash[_asked].update(told.get("asked", []))
    config.stash[_left_out].update(told.get("left_out", []))


@pytest.hookimpl(tryfirst=True)  # before any fixture
def pytest_runtest_setup(item: pytest.Item) -> None:
    for name in inventory.NAMES:
        if item.get_closest_marker(name) is not None:
            _need(item.config, name)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    real, missing = [], []
    asked = config.stash[_asked]
    for name in sorted(asked):
        found = inventory.find(name)
        if isinstance(found, inventory.Found):
            real.append(f"{name} {found.version}")
        else:
            missing.append(f"{name} ({found})")
    if real or missing:
        terminalreporter.write_sep("-", "servers")
        terminalreporter.write_line(f"real: {', '.join(real) or 'none'}")
        terminalreporter.write_line(f"missing: {', '.join(missing) or 'none'}", red=bool(missing))
    if (left_out := config.stash[_left_out]) and not _IN_PARTS:
        terminalreporter.write_sep("-", "left out")
        chosen = f"{len(left_out)} tests, by -m {config.option.markexpr!r}"
        terminalreporter.write_line(f"{chosen}; everything: make test-all")


def _need(config: pytest.Config, name: str) -> None:
    config.stash[_asked].add(name)
    found = inventory.find(name)
    if not isinstance(found, inventory.Missing):
        return
    message = f"needs the real {name}: {found}"
    if _REQUIRED:
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """A test that configures logging does so for itself alone."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config) -> Iterator[Kafka]:
    """One Kafka node for the whole run. Never stop it; use topics of your own."""
    _need(pytestconfig, "kafka")
    with kafka_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> Iterator[Postgres]:
    """One PostgreSQL for the whole run. Never stop it; use `create_database`."""
    _need(pytestconfig, "postgres")
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def redis(pytestconfig: pytest.Config) -> Iterator[Redis]:
    """One Redis for the whole run. Never stop it; one LiveKit at a time may live in it."""
    _need(pytestconfig, "redis")
    with redis_server() as server:
        yield server
