"""From the outbox to the log: order, repeats, and a topic that was lost. Over a real SQLite."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import delete, insert, select, update
from typing_extensions import override

from config import Settings
from router.clock import SystemClock
from router.errors import LogUnavailable
from router.eventlog.base import Appended, Follower, Record
from router.eventlog.open import open_log
from router.events.ids import DEFAULT_ACCOUNT
from router.events.types import CONNECTIONS_TOPIC, NUMBERS_TOPIC, ROUTES_TOPIC
from router.ingress.routes import RouteFollower
from router.numbers import publish
from router.routing.spec import AgentSpec, MappingSpec, NumberSpec
from router.routing.table import Route, RouteTable, Version
from router.storage import batch, outbox
from router.storage.connections import SealedConnection, tell
from router.storage.engine import Database, open_database
from router.storage.mapping import apply_mapping, delete_numbers, fingerprint
from router.storage.migrate import prepare
from router.storage.records import version_of
from router.storage.schema import connections, revision
from tests.support.fake_log import FakeLog
from tests.support.ingress import logged
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
        DEFAULT_ACCOUNT,
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
async def publishing(
    database: Database, log: FakeLog, guard: publish.Guard | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(publish.run(database, log, SystemClock(), guard))
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


def agents_of(table: RouteTable) -> dict[str, str]:
    return {route.number: route.targets[0].agent for route in table}


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
        await delete_numbers(database, DEFAULT_ACCOUNT, [A])
        await maps(database, a="anna")
        await forgotten(database)
    of_a = [entry for entry in told(log.all(ROUTES_TOPIC)) if entry[0] == A]
    assert of_a == [(A, 1, "anna"), (A, 2, "bob"), (A, 3, ""), (A, 4, "anna")]
    assert len(log.all(NUMBERS_TOPIC)) == 5
    found = await table(log, tmp_path / "routes.json")
    assert found.fingerprint == await fingerprint(database)


async def test_a_change_does_not_wait_for_the_next_look(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "_POLL", 60.0)
    log = FakeLog()
    async with publishing(database, log):
        for rev, agent in enumerate(("anna", "bob", "anna"), 1):
            await maps(database, a=agent)
            # The first one may be there twice: from the outbox, and from the look at the start.
            newest = [(A, rev, agent)]
            await eventually(lambda newest=newest: told(log.all(ROUTES_TOPIC))[-1:] == newest)


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
    await delete_numbers(database, DEFAULT_ACCOUNT, [B])
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
    await delete_numbers(database, DEFAULT_ACCOUNT, [B])
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


# A database that is an older state than the routes in use, or none at all.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The data folder of the database; `backup` and `restored` work on its file."""
    return tmp_path / "db"


def settings_in(folder: Path) -> Settings:
    return node_settings(folder, port=1, livekit_url="http://127.0.0.1:1")


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Database]:
    await prepare(settings_in(folder))
    async with open_database(settings_in(folder)) as database:
        yield database


def backup(folder: Path) -> bytes:
    return (folder / "switchboard.db").read_bytes()


def restore(folder: Path, content: bytes | None) -> None:
    for file in folder.glob("switchboard.db*"):
        file.unlink()
    if content is not None:
        (folder / "switchboard.db").write_bytes(content)


async def published(folder: Path, log: FakeLog, guard: publish.Guard | None = None) -> int:
    """Publish until all is on the topic; the fingerprint of the database's routes."""
    async with opened(folder) as database:
        guard = guard or publish.Guard()
        found = await publish._admitted(database, log, SystemClock(), guard)
        await publish._mend(database, log, SystemClock(), guard, found)
        return await fingerprint(database)


async def maps_in(folder: Path, **agents: str) -> None:
    async with opened(folder) as database:
        await maps(database, **agents)


async def maps_many(database: Database, count: int, agent: str = "anna") -> None:
    numbers = (
        NumberSpec(number=f"+1415556{n:04}", provider="x", agent=agent) for n in range(count)
    )
    agents = (AgentSpec(name=agent, livekit_agent_name=agent),)
    await apply_mapping(
        database, DEFAULT_ACCOUNT, MappingSpec(agents=agents, numbers=tuple(numbers))
    )


async def test_a_restored_database_holds_and_so_does_what_is_applied_to_it(folder: Path) -> None:
    log = FakeLog()
    await maps_in(folder, a="anna", b="anna")
    await published(folder, log)
    before = backup(folder)
    await maps_in(folder, a="bob", b="bob")
    await published(folder, log)
    restore(folder, before)
    guard = publish.Guard()
    with logged() as lines:
        held = await published(folder, log, guard)
    found = await table(log, folder / "routes.json")
    assert agents_of(found) == {A: "anna", B: "anna"}
    assert (found.fingerprint, found.newest.epoch) == (held, 2)
    assert "older state" in guard.finding
    assert lines.of("publish.restored")
    await maps_in(folder, a="cleo")
    held = await published(folder, log, guard)
    found = await table(log, folder / "routes.json")
    assert agents_of(found) == {A: "cleo", B: "anna"}
    assert (found.fingerprint, found.newest.epoch) == (held, 2)


async def test_it_is_told_although_it_gave_out_as_many_revisions_since(folder: Path) -> None:
    """Applied to before the first process that publishes was started."""
    log = FakeLog()
    await maps_in(folder, a="anna", b="anna")
    await published(folder, log)
    before = backup(folder)
    await maps_in(folder, a="bob")
    await published(folder, log)
    restore(folder, before)
    for agent in ("cleo", "dora"):  # the rev that told of bob is given out once more
        await maps_in(folder, b=agent)
    held = await published(folder, log)
    found = await table(log, folder / "routes.json")
    assert agents_of(found) == {A: "anna", B: "dora"}
    assert (found.fingerprint, found.newest.epoch) == (held, 2)


async def test_the_same_revision_with_another_content_is_told(folder: Path) -> None:
    log = FakeLog()
    await maps_in(folder, a="anna")
    await published(folder, log)
    before = backup(folder)
    await maps_in(folder, a="bob")
    await published(folder, log)
    restore(folder, before)
    await maps_in(folder, a="cleo")
    held = await published(folder, log)
    found = await table(log, folder / "routes.json")
    assert agents_of(found) == {A: "cleo"}
    assert (found.fingerprint, found.newest.epoch) == (held, 2)


async def test_a_database_that_lacks_most_routes_is_published_only_on_demand(folder: Path) -> None:
    log = FakeLog()
    await maps_in(folder, a="anna", b="bob")
    held = await published(folder, log)
    restore(folder, None)
    guard = publish.Guard()
    async with opened(folder) as database:
        await maps(database, a="cleo")  # a person applies half of the file
        async with publishing(database, log, guard):
            await eventually(lambda: guard.finding)
            assert "lacks 1 of the 2 routes" in guard.finding
            assert "--forget-routes" in guard.finding
            assert "restore" in guard.finding
            assert (await table(log, folder / "routes.json")).fingerprint == held
            await maps(database, b="cleo")  # and then all of it
            await eventually(lambda: "older state" in guard.finding)
            await forgotten(database)
            held = await fingerprint(database)
    found = await table(log, folder / "routes.json")
    assert agents_of(found) == {A: "cleo", B: "cleo"}
    assert (found.fingerprint, found.newest.epoch) == (held, 2)


async def test_an_empty_database_removes_routes_only_when_told_to(folder: Path) -> None:
    log = FakeLog()
    await maps_in(folder, a="anna", b="bob")
    held = await published(folder, log)
    restore(folder, None)
    guard = publish.Guard()
    async with opened(folder) as database, publishing(database, log, guard):
        await eventually(lambda: "2 of the 2" in guard.finding)
    assert (await table(log, folder / "routes.json")).fingerprint == held
    guard = publish.Guard(forget=True)
    await published(folder, log, guard)
    assert len(await table(log, folder / "routes.json")) == 0
    assert not guard.forget  # the word was for this once


async def test_a_few_routes_that_the_backup_had_not_yet_are_removed(folder: Path) -> None:
    log = FakeLog()
    async with opened(folder) as database:
        await maps_many(database, 20)
    await published(folder, log)
    before = backup(folder)
    await maps_in(folder, a="bob")
    await published(folder, log)
    restore(folder, before)
    held = await published(folder, log)
    found = await table(log, folder / "routes.json")
    assert (len(found), found.fingerprint) == (20, held)


async def test_removals_that_wait_in_the_outbox_are_no_loss(folder: Path) -> None:
    log = FakeLog()
    await maps_in(folder, a="anna", b="bob")
    await published(folder, log)
    async with opened(folder) as database:
        await delete_numbers(database, DEFAULT_ACCOUNT, [A, B])
    guard = publish.Guard()
    await published(folder, log, guard)
    assert not guard.finding
    found = await table(log, folder / "routes.json")
    assert (len(found), found.newest.epoch) == (0, 1)


async def test_a_copy_that_outlived_both_is_compared_as_well(folder: Path) -> None:
    """The journal and the database are gone or old; the node answers from routes.json."""
    await maps_in(folder, a="anna")
    before = backup(folder)
    await maps_in(folder, a="bob")
    first = FakeLog()
    await published(folder, first)
    own = await table(first, folder / "routes.json")
    restore(folder, before)
    guard, log = publish.Guard(table=own), FakeLog()
    await published(folder, log, guard)
    assert agents_of(await table(log, folder / "new.json")) == {A: "anna"}
    assert "older state" in guard.finding
    restore(folder, None)
    guard = publish.Guard(table=own)
    guard.loaded.set()
    async with opened(folder) as database, publishing(database, FakeLog(), guard):
        await eventually(lambda: "1 of the 1" in guard.finding)


async def test_a_change_of_an_agent_that_was_cut_short_is_finished(folder: Path) -> None:
    """The agent is written, its numbers are not told: neither a restore nor for ever."""
    log = FakeLog()
    async with opened(folder) as database:
        await maps_many(database, 250)
    await published(folder, log)
    changed = AgentSpec(name="anna", livekit_agent_name="anna-2")

    class Cut(Exception):
        pass

    def cut(done: int, total: int) -> None:
        assert (done, total) == (100, 251)
        raise Cut

    async with opened(folder) as database:
        with pytest.raises(Cut):
            await apply_mapping(
                database, DEFAULT_ACCOUNT, MappingSpec(agents=(changed,)), progress=cut
            )
        found = await publish.compare(database, log)
        assert not found.behind
        assert not found.lost
    held = await published(folder, log)
    found_table = await table(log, folder / "routes.json")
    assert {route.targets[0].livekit_agent_name for route in found_table} == {"anna-2"}
    assert (found_table.fingerprint, found_table.newest.epoch) == (held, 1)


async def test_records_of_one_number_are_appended_one_after_the_other(database: Database) -> None:
    log = _Slow()
    for agent in ("anna", "bob", "cleo"):
        await maps(database, a=agent, b=agent)
    async with publishing(database, log):
        await forgotten(database)
    assert log.at_once == 4  # two numbers on two topics
    assert [entry[1] for entry in told(log.all(ROUTES_TOPIC)) if entry[0] == A] == [1, 2, 3]


async def test_of_many_records_a_bounded_number_is_ahead_of_an_event(database: Database) -> None:
    log = _Slow()
    await maps_many(database, 600)
    async with publishing(database, log):
        await forgotten(database)
    assert log.at_once == 500
    assert len(told(log.all(ROUTES_TOPIC))) == 600


class _Slow(FakeLog):
    """Counts how many are appended side by side."""

    at_once = 0
    now = 0

    @override
    async def append(
        self, topic: str, key: str, value: bytes | None, headers: Mapping[str, str]
    ) -> Appended:
        self.now += 1
        self.at_once = max(self.at_once, self.now)
        await asyncio.sleep(0.02)
        try:
            return await super().append(topic, key, value, headers)
        finally:
            self.now -= 1


def sealed_of(log: FakeLog) -> list[tuple[str, int, bool]]:
    """(connection, rev, whether it is there) of the records."""
    return [
        (record.key, int(record.headers["rev"]), record.value is not None)
        for record in log.all(CONNECTIONS_TOPIC)
    ]


async def holds(database: Database, connection_id: str) -> None:
    """Give account `default` a connection at Twilio, told in the outbox; or change it."""
    async with database.write() as connection:
        epoch, taken, now = (await connection.execute(batch.NEXT)).one()
        values = {
            "id": connection_id,
            "account_id": DEFAULT_ACCOUNT,
            "provider": "twilio",
            "label": "",
            "provider_account": "AC" + "c3" * 16,
            "details": "{}",
            "sealed": f"sealed {taken}".encode(),
            "is_default": False,
            "rev": taken,
            "created_at": now,
            "updated_at": now,
        }
        this = connections.c.id == connection_id
        await connection.execute(delete(connections).where(this))
        await connection.execute(insert(connections).values(values))
        row = (await connection.execute(select(connections).where(this))).mappings().one()
        await tell(connection, connection_id, row, version=(epoch, taken), now=now)


async def test_a_topic_that_lost_the_connections_gets_them_again(database: Database) -> None:
    log, empty = FakeLog(), FakeLog()
    async with publishing(database, log):
        await holds(database, "c1")
        await maps(database, a="anna")
        await forgotten(database)
        assert sealed_of(log) == [("c1", 1, True)]
    async with publishing(database, empty):
        await eventually(lambda: sealed_of(empty) == [("c1", 1, True)])
    async with publishing(database, empty):  # it is all there: nothing is said
        await maps(database, b="bob")
        await forgotten(database)
        assert sealed_of(empty) == [("c1", 1, True)]


async def test_a_connection_that_the_database_has_not_is_removed(database: Database) -> None:
    log = FakeLog()
    async with publishing(database, log):
        for number in range(20):
            await holds(database, f"c{number:02}")
        await forgotten(database)
    async with database.write() as connection:  # without a word to the outbox
        await connection.execute(delete(connections).where(connections.c.id == "c07"))
    async with publishing(database, log):
        await eventually(lambda: sealed_of(log)[-1] == ("c07", 21, False))
    assert len(sealed_of(log)) == 21


async def test_a_database_without_the_connections_is_not_published(database: Database) -> None:
    log = FakeLog()
    async with publishing(database, log):
        await holds(database, "c1")
        await forgotten(database)
    async with database.write() as connection:
        await connection.execute(delete(connections))
    guard = publish.Guard()
    async with publishing(database, log, guard):
        await eventually(lambda: guard.finding)
        assert "lacks 1 of the 1 connections" in guard.finding
    async with publishing(database, log, publish.Guard(forget=True)):
        await eventually(lambda: sealed_of(log)[-1][2] is False)


async def test_connections_that_are_newer_than_the_database_begin_an_epoch(
    database: Database,
) -> None:
    log = FakeLog()
    async with publishing(database, log):
        await holds(database, "c1")
        await holds(database, "c1")
        await forgotten(database)
    async with database.write() as connection:  # the backup of yesterday
        await connection.execute(update(revision).values(value=1))
        await connection.execute(update(connections).values(rev=1, sealed=b"of yesterday"))
    async with publishing(database, log):
        await eventually(lambda: log.all(CONNECTIONS_TOPIC)[-1].headers.get("epoch") == "2")
    value = log.all(CONNECTIONS_TOPIC)[-1].value
    assert msgspec.json.decode(value or b"", type=SealedConnection).sealed == b"of yesterday"


async def told_before(database: Database, log: FakeLog, agent_id: str) -> None:
    """The changes that wait, on the log as if their agents had this id; "": none yet."""
    for entry in await outbox.pending(database, 100):
        value = entry.value
        if entry.topic == ROUTES_TOPIC and value is not None:
            route = msgspec.json.decode(value, type=Route)
            targets = tuple(msgspec.structs.replace(t, agent_id=agent_id) for t in route.targets)
            value = msgspec.json.encode(msgspec.structs.replace(route, targets=targets))
        await log.append(entry.topic, entry.key, value, entry.headers)
        await outbox.done(database, [entry.id])


async def test_routes_that_were_told_before_agents_had_ids_hold(database: Database) -> None:
    log = FakeLog()
    await maps(database, a="anna", b="bob")
    await told_before(database, log, "")
    guard = publish.Guard()
    async with publishing(database, log, guard):
        await maps(database, b="anna")
        await forgotten(database)
    assert told(log.all(ROUTES_TOPIC)) == [(A, 1, "anna"), (B, 1, "bob"), (B, 2, "anna")]
    assert guard.finding == ""


async def test_the_same_agents_of_another_database_are_told_anew(database: Database) -> None:
    """It was deleted, and the same file applied once more: the ids are not those in use."""
    log = FakeLog()
    await maps(database, a="anna", b="bob")
    await told_before(database, log, "of another database")
    async with publishing(database, log):
        await eventually(lambda: len(log.all(ROUTES_TOPIC)) == 4)
    versions = [version_of(record.headers) for record in log.all(ROUTES_TOPIC)]
    assert [version.epoch for version in versions if version] == [1, 1, 2, 2]
