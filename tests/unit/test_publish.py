"""From the outbox to the log: order, repeats, and a topic that was lost. Over a real SQLite."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from typing_extensions import override

from router.clock import SystemClock
from router.errors import LogUnavailable
from router.eventlog.base import Follower, Record
from router.eventlog.open import open_log
from router.events.types import NUMBERS_TOPIC, ROUTES_TOPIC
from router.ingress.routes import RouteFollower
from router.numbers import publish
from router.routing.spec import AgentSpec, MappingSpec, NumberSpec
from router.routing.table import Route, RouteTable, Version
from router.storage import outbox
from router.storage.engine import Database, open_database
from router.storage.mapping import apply_mapping, delete_numbers, fingerprint
from router.storage.migrate import prepare
from tests.support.fake_log import FakeLog
from tests.support.kafka_settings import log_settings
from tests.support.nodes import eventually, node_settings

A, B = "+14155550100", "+14155550101"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    settings = node_settings(tmp_path / "db", port=1, livekit_url="http://127.0.0.1:1")
    await prepare(settings)
    async with open_database(settings) as database:
        yield database


async def maps(database: Database, **agents: str) -> None:
    """Link numbers, `a=` and `b=`, to agents."""
    numbers = {"a": A, "b": B}
    await apply_mapping(
        database,
        MappingSpec(
            agents=tuple(
                AgentSpec(name=name, livekit_agent_name=name) for name in sorted({*agents.values()})
            ),
            numbers=tuple(
                NumberSpec(number=numbers[which], provider="twilio", agent=agent)
                for which, agent in agents.items()
            ),
        ),
    )


@asynccontextmanager
async def publishing(database: Database, log: FakeLog) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(publish.run(database, log, SystemClock()))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def forgotten(database: Database) -> None:
    """Wait until the outbox holds nothing: what it held is in the log."""
    async with asyncio.timeout(15):
        while await outbox.pending(database, 10):  # noqa: ASYNC110 - it empties in the database
            await asyncio.sleep(0.01)


def told(records: list[Record]) -> list[tuple[str, int, str]]:
    """(number, rev, agent or nothing) of route records."""
    found = []
    for record in records:
        agent = ""
        if record.value is not None:
            agent = msgspec.json.decode(record.value, type=Route).targets[0].agent
        found.append((record.key, int(record.headers["rev"]), agent))
    return found


async def table(log: FakeLog, path: Path) -> RouteTable:
    """What an ingress makes of the topic."""
    follower = RouteFollower(RouteTable(), log, SystemClock(), path)
    task = asyncio.create_task(follower.run())
    await eventually(lambda: follower.caught_up_at is not None)
    task.cancel()
    return follower.table


async def test_changes_reach_both_topics_in_their_order(database: Database, tmp_path: Path) -> None:
    log = FakeLog()
    async with publishing(database, log):
        await maps(database, a="anna", b="anna")
        await maps(database, a="bob")
        await delete_numbers(database, [A])
        await maps(database, a="anna")
        await forgotten(database)
    of_a = [entry for entry in told(log.all(ROUTES_TOPIC)) if entry[0] == A]
    assert of_a == [(A, 1, "anna"), (A, 2, "bob"), (A, 3, ""), (A, 4, "anna")]
    assert len(log.all(NUMBERS_TOPIC)) == 5
    found = await table(log, tmp_path / "routes.json")
    assert found.fingerprint == await fingerprint(database)


async def test_what_was_appended_but_not_forgotten_is_the_same_again(database: Database) -> None:
    """A crash between the append and the delete: the log knows the ids."""
    log = FakeLog()
    await maps(database, a="anna")
    for entry in await outbox.pending(database, 10):
        await log.append(entry.topic, entry.key, entry.value, entry.headers)
    async with publishing(database, log):
        await maps(database, b="bob")
        await eventually(lambda: len(log.all(ROUTES_TOPIC)) == 2)
        assert [entry[:2] for entry in sorted(told(log.all(ROUTES_TOPIC)))] == [(A, 1), (B, 2)]


async def test_an_outage_of_the_log_is_waited_out(database: Database) -> None:
    log = FakeLog(unavailable=True)
    await maps(database, a="anna")
    async with publishing(database, log) as task:
        await asyncio.sleep(0.1)
        assert not task.done()
        log.unavailable = False
        await eventually(lambda: log.all(ROUTES_TOPIC))


class _Endless(FakeLog):
    """A topic whose end never comes: Kafka is away, and its follower keeps trying."""

    @override
    def follow(self, topics: object, *, after: object) -> AbstractAsyncContextManager[Follower]:  # type: ignore[override]
        return self._silence()

    @asynccontextmanager
    async def _silence(self) -> AsyncIterator[Follower]:
        yield _Silence()


class _Silence:
    caught_up = False

    async def fetch(self, *, limit: int, wait: float) -> list[Record]:
        await asyncio.sleep(wait / 100)
        return []


async def test_a_topic_that_can_not_be_read_ends_no_process(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "_READ", 0.1)
    with pytest.raises(LogUnavailable, match="not read"):
        await publish.republish(database, _Endless(), SystemClock())
    async with publishing(database, _Endless()) as task:
        await asyncio.sleep(0.3)
        assert not task.done()


async def test_a_lost_topic_is_published_anew(database: Database, tmp_path: Path) -> None:
    await maps(database, a="anna", b="bob")
    log = FakeLog()
    async with publishing(database, log):
        await eventually(lambda: len(log.all(ROUTES_TOPIC)) == 2)
    empty = FakeLog()
    async with publishing(database, empty):
        await eventually(lambda: len(empty.all(ROUTES_TOPIC)) == 2)
    found = await table(empty, tmp_path / "routes.json")
    assert found.fingerprint == await fingerprint(database)
    assert found.version == 1
    assert await publish.republish(database, empty, SystemClock()) == 0


async def test_a_journal_replaced_by_an_empty_one_is_filled(
    database: Database, tmp_path: Path
) -> None:
    await maps(database, a="anna", b="bob")
    await delete_numbers(database, [B])
    for name in ("first", "second"):
        async with open_log(log_settings(tmp_path / name)) as log:
            await publish.republish(database, log, SystemClock())
            follower = RouteFollower(RouteTable(), log, SystemClock(), tmp_path / f"{name}.json")
            task = asyncio.create_task(follower.run())
            await eventually(lambda: follower.caught_up_at is not None)  # noqa: B023 - awaited here
            task.cancel()
            assert follower.table.fingerprint == await fingerprint(database)
            assert [found.number for found in follower.table] == [A]


async def test_an_old_or_odd_topic_is_brought_up_to_date(
    database: Database, tmp_path: Path
) -> None:
    """Restored from a backup: older routes, numbers that are gone, and a record without a rev."""
    log = FakeLog()
    await maps(database, a="anna")
    for entry in await outbox.pending(database, 10):
        await log.append(entry.topic, entry.key, entry.value, entry.headers)
    await maps(database, a="bob", b="bob")
    await delete_numbers(database, [B])
    gone = msgspec.json.encode(Route(number=B, provider="twilio", rev=2))
    await log.append(ROUTES_TOPIC, B, gone, {"ce_id": "restored", "rev": "2"})
    await log.append(ROUTES_TOPIC, "+1999", b"?", {"ce_id": "odd", "rev": "two"})
    await publish.republish(database, log, SystemClock())
    found = await table(log, tmp_path / "routes.json")
    assert [(r.number, r.targets[0].agent) for r in found] == [(A, "bob")]
    assert found.fingerprint == await fingerprint(database)


def test_fingerprints_are_equal_only_for_equal_routes() -> None:
    one, other = RouteTable(), RouteTable()
    revs: Mapping[str, int] = {A: 1, B: 2}
    for number in revs:
        one.put(Route(number=number, provider="twilio", rev=revs[number]))
    for number in reversed(list(revs)):
        other.put(Route(number=number, provider="twilio", rev=revs[number]))
    assert one.fingerprint == other.fingerprint != 0
    other.remove(B, Version(1, 3))
    assert one.fingerprint != other.fingerprint
