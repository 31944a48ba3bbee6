"""The mapping and its outbox: one transaction, one rev per change, each changed route told once."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
from sqlalchemy import event

from router.errors import ConfigError
from router.events.codec import decode
from router.events.ids import DEFAULT_ACCOUNT
from router.events.types import NUMBERS_TOPIC, ROUTES_TOPIC, EventType
from router.routing.spec import (
    AgentChange,
    AgentSpec,
    AgentStatus,
    MappingSpec,
    NumberSpec,
    RouteChange,
)
from router.routing.table import Route, Version
from router.storage import mapping, outbox
from router.storage.engine import Database
from router.storage.records import version_of

ONE, TWO, SPARE = "+14155550100", "+14155550101", "+14155550199"


def anna(status: AgentStatus = "deployed", **metadata: str) -> AgentSpec:
    return AgentSpec(name="anna", livekit_agent_name="lk-anna", metadata=metadata, status=status)


BOB = AgentSpec(name="bob", livekit_agent_name="lk-bob")


def number(number: str, agent: str | None, fallback: str = "") -> NumberSpec:
    return NumberSpec(number=number, provider="twilio", agent=agent, fallback=fallback)


BOTH = MappingSpec(agents=(anna(), BOB), numbers=(number(ONE, "anna", SPARE), number(TWO, "bob")))


async def told(db: Database) -> list[outbox.Entry]:
    """What waits in the outbox, which is empty then."""
    entries = list(await outbox.pending(db, 100))
    await outbox.done(db, [entry.id for entry in entries])
    return entries


def routes(entries: list[outbox.Entry]) -> dict[str, Route | None]:
    return {
        entry.key: None if entry.value is None else msgspec.json.decode(entry.value, type=Route)
        for entry in entries
        if entry.topic == ROUTES_TOPIC
    }


def without_ids(changes: Sequence[AgentChange | RouteChange]) -> tuple[object, ...]:
    """The changes, their routes' targets as a plan names those of new agents."""

    def nameless(route: Route | None) -> Route | None:
        if route is None:
            return None
        targets = tuple(msgspec.structs.replace(one, agent_id="") for one in route.targets)
        return msgspec.structs.replace(route, targets=targets)

    return tuple(
        RouteChange(each.number, nameless(each.before), nameless(each.after))
        if isinstance(each, RouteChange)
        else each
        for each in changes
    )


async def test_an_empty_database(db: Database) -> None:
    assert await mapping.version(db) == 0
    assert await mapping.get_route(db, DEFAULT_ACCOUNT, ONE) is None
    assert [route async for route in mapping.all_routes(db)] == []
    assert await outbox.pending(db, 10) == []


async def test_a_mapping_is_stored_and_told(db: Database) -> None:
    result = await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    assert result.version == await mapping.version(db) == 1
    assert [change.before for change in result.changes] == [None] * 4
    assert await mapping.list_agents(db, DEFAULT_ACCOUNT) == [anna(), BOB]
    assert await mapping.list_numbers(db, DEFAULT_ACCOUNT) == list(BOTH.numbers)
    route = await mapping.get_route(db, DEFAULT_ACCOUNT, ONE)
    assert route is not None
    assert (route.rev, route.provider, route.fallback) == (1, "twilio", SPARE)
    assert [target.livekit_agent_name for target in route.targets] == ["lk-anna"]
    entries = await told(db)
    assert [entry.topic for entry in entries] == [ROUTES_TOPIC, NUMBERS_TOPIC] * 2
    assert routes(entries)[ONE] == route
    assert [entry.headers["rev"] for entry in entries if entry.topic == ROUTES_TOPIC] == ["1", "1"]
    assert len({entry.headers["ce_id"] for entry in entries}) == 4


async def test_what_happened_is_an_event(db: Database) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    await mapping.delete_numbers(db, DEFAULT_ACCOUNT, [ONE])
    happened = [
        decode(entry.key, entry.headers, entry.value)
        for entry in await told(db)
        if entry.topic == NUMBERS_TOPIC and entry.key == ONE
    ]
    assert [event.type for event in happened] == [
        EventType.NUMBER_MAPPED,
        EventType.NUMBER_UNMAPPED,
    ]
    assert happened[0].data.agent == "lk-anna"
    assert happened[0].source == "switchboard"


async def test_the_same_again_changes_nothing(db: Database) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    await told(db)
    result = await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH, prune=True)
    assert (result.version, result.changes) == (1, ())
    assert await told(db) == []


@pytest.mark.parametrize(
    "changed",
    [anna(status="paused"), anna(status="disabled"), anna(greeting="hello")],
    ids=["paused", "disabled", "metadata"],
)
async def test_a_changed_agent_changes_its_numbers(db: Database, changed: AgentSpec) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    await told(db)
    result = await mapping.apply_mapping(db, DEFAULT_ACCOUNT, MappingSpec(agents=(changed,)))
    assert [type(change) for change in result.changes] == [AgentChange, RouteChange]
    entries = await told(db)
    assert list(routes(entries)) == [ONE]
    route = routes(entries)[ONE]
    assert route is not None
    assert route == await mapping.get_route(db, DEFAULT_ACCOUNT, ONE)
    assert route.rev == 2
    if changed.status == "deployed":
        assert route.targets[0].metadata == {"greeting": "hello"}
    else:
        assert route.targets == ()
    assert route.fallback == SPARE


async def test_a_number_that_moves_between_paused_agents_is_a_change(db: Database) -> None:
    paused = MappingSpec(
        agents=(
            anna(status="paused"),
            AgentSpec(**msgspec.structs.asdict(BOB) | {"status": "paused"}),
        ),
        numbers=(number(ONE, "anna"),),
    )
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, paused)
    result = await mapping.apply_mapping(
        db, DEFAULT_ACCOUNT, MappingSpec(numbers=(number(ONE, "bob"),))
    )
    assert result.version == 2
    assert await mapping.list_numbers(db, DEFAULT_ACCOUNT) == [number(ONE, "bob")]


async def test_without_prune_what_is_not_named_stays(db: Database) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    await told(db)
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, MappingSpec(numbers=(number(TWO, "anna"),)))
    assert await mapping.list_numbers(db, DEFAULT_ACCOUNT) == [
        number(ONE, "anna", SPARE),
        number(TWO, "anna"),
    ]
    assert list(routes(await told(db))) == [TWO]


async def test_prune_removes_what_is_not_named(db: Database) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    await told(db)
    kept = MappingSpec(agents=(BOB,), numbers=(number(TWO, "bob"),))
    result = await mapping.apply_mapping(db, DEFAULT_ACCOUNT, kept, prune=True)
    assert [change.after for change in result.changes] == [None, None]
    entries = await told(db)
    assert routes(entries) == {ONE: None}
    assert [entry.headers["rev"] for entry in entries if entry.topic == ROUTES_TOPIC] == ["2"]
    assert await mapping.list_agents(db, DEFAULT_ACCOUNT) == [BOB]
    assert await mapping.list_numbers(db, DEFAULT_ACCOUNT) == [number(TWO, "bob")]


async def test_delete_numbers(db: Database) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    assert (await mapping.delete_numbers(db, DEFAULT_ACCOUNT, [ONE])).version == 2
    assert (await mapping.delete_numbers(db, DEFAULT_ACCOUNT, [ONE])).version == 2
    assert await mapping.get_route(db, DEFAULT_ACCOUNT, ONE) is None


@pytest.mark.parametrize("prune", [False, True])
async def test_an_agent_that_does_not_exist_is_refused_as_a_whole(
    db: Database, prune: bool
) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    await told(db)
    wrong = MappingSpec(agents=(anna(greeting="new"),), numbers=(number(ONE, "anne"),))
    with pytest.raises(ConfigError, match=r"'anne'.*does not exist") as caught:
        await mapping.apply_mapping(db, DEFAULT_ACCOUNT, wrong, prune=prune)
    assert ONE not in str(caught.value)
    assert await mapping.version(db) == 1
    assert await mapping.list_agents(db, DEFAULT_ACCOUNT) == [anna(), BOB]
    assert await told(db) == []


async def test_racing_changes_commit_in_the_order_of_their_revs(
    db: Database, other: Database
) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    await told(db)
    results = await asyncio.gather(
        *(
            mapping.apply_mapping(
                db if n % 2 else other, DEFAULT_ACCOUNT, MappingSpec(agents=(anna(turn=str(n)),))
            )
            for n in range(20)
        )
    )
    assert sorted(result.version for result in results) == list(range(2, 22))
    entries = [entry for entry in await told(db) if entry.topic == ROUTES_TOPIC]
    assert [int(entry.headers["rev"]) for entry in entries] == list(range(2, 22))
    final = await mapping.get_route(db, DEFAULT_ACCOUNT, ONE)
    assert final is not None
    assert entries[-1].value == msgspec.json.encode(final)


async def test_a_large_mapping_is_paged(db: Database) -> None:
    many = tuple(number(f"+1415{n:07}", "anna") for n in range(2500))
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, MappingSpec(agents=(anna(),), numbers=many))
    found = [route.number async for route in mapping.all_routes(db)]
    assert found == sorted(spec.number for spec in many)
    page = await mapping.list_numbers(db, DEFAULT_ACCOUNT, after=found[9], limit=5)
    assert [spec.number for spec in page] == found[10:15]
    result = await mapping.apply_mapping(db, DEFAULT_ACCOUNT, MappingSpec(), prune=True)
    assert len(result.changes) == 2501


async def test_the_outbox_is_read_in_order_and_in_pieces(db: Database) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    first = await outbox.pending(db, 3)
    assert await outbox.pending(db, 3) == first
    await outbox.done(db, [entry.id for entry in first])
    (last,) = await outbox.pending(db, 3)
    assert last.id > first[-1].id
    await outbox.done(db, [last.id])
    await outbox.done(db, [])
    await mapping.delete_numbers(db, DEFAULT_ACCOUNT, [ONE])
    assert (await outbox.pending(db, 1))[0].id > last.id


async def test_what_is_done_is_forgotten_and_nothing_between(db: Database) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    first, second, third, fourth = await outbox.pending(db, 10)
    await outbox.done(db, [third.id, first.id])
    assert await outbox.pending(db, 10) == [second, fourth]
    assert (await outbox.count(db), await mapping.at_most_unpublished(db)) == (2, 3)
    await outbox.done(db, [second.id, fourth.id])
    assert (await outbox.count(db), await mapping.at_most_unpublished(db)) == (0, 0)


async def test_one_change_does_not_load_the_mapping(db: Database) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    seen: list[str] = []
    event.listen(
        db._engine.sync_engine,
        "before_cursor_execute",
        lambda *arguments: seen.append(arguments[2]),
    )
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, MappingSpec(numbers=(number(ONE, "bob"),)))
    selects = [sql for sql in seen if sql.startswith("SELECT") and "FROM numbers" in sql]
    assert selects
    assert all("WHERE" in sql for sql in selects)


async def test_a_plan_says_what_an_apply_would_change_and_writes_nothing(db: Database) -> None:
    plan = await mapping.plan_mapping(db, DEFAULT_ACCOUNT, BOTH)
    assert (plan.version, await mapping.version(db)) == (0, 0)
    assert await mapping.counts(db, DEFAULT_ACCOUNT) == (0, 0)
    assert await mapping.unpublished(db) == 0
    told_of: list[tuple[int, int]] = []
    done = await mapping.apply_mapping(
        db, DEFAULT_ACCOUNT, BOTH, progress=lambda done, total: told_of.append((done, total))
    )
    assert without_ids(done.changes) == plan.changes  # agents get their ids with their rows
    assert told_of[-1] == (4, 4)
    assert await mapping.counts(db, DEFAULT_ACCOUNT) == (2, 2)
    assert await mapping.unpublished(db) == 4
    pruned = await mapping.plan_mapping(db, DEFAULT_ACCOUNT, MappingSpec(agents=(BOB,)), prune=True)
    assert [change.after for change in pruned.changes] == [None] * 3
    assert (await mapping.plan_mapping(db, DEFAULT_ACCOUNT, BOTH)).changes == ()
    with pytest.raises(ConfigError, match="anne"):
        await mapping.plan_mapping(db, DEFAULT_ACCOUNT, MappingSpec(numbers=(number(ONE, "anne"),)))


def large(count: int, agent: str = "anna") -> MappingSpec:
    numbers = tuple(number(f"+1415{n:07}", agent) for n in range(count))
    return MappingSpec(agents=(anna(), BOB), numbers=numbers)


async def test_others_write_between_the_pieces_of_a_large_change(
    db: Database, other: Database
) -> None:
    turns: list[int] = []

    async def others() -> None:
        while True:
            await mapping.take_version(other)
            turns.append(1)
            await asyncio.sleep(0.001)

    task = asyncio.create_task(others())
    pieces: list[int] = []
    before = 0

    def note(done: int, total: int) -> None:
        nonlocal before
        assert done <= total == 1502
        pieces.append(len(turns) - before)
        before = len(turns)

    result = await mapping.apply_mapping(db, DEFAULT_ACCOUNT, large(1500), progress=note)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(result.changes) == 1502
    assert len(pieces) > 3
    assert sum(piece > 0 for piece in pieces[1:]) >= len(pieces) // 2


class Cut(Exception):
    """A crash between two pieces."""


def cut(_done: int, _total: int) -> None:
    raise Cut


async def test_what_was_cut_short_is_done_by_applying_once_more(db: Database) -> None:
    desired = large(250)
    with pytest.raises(Cut):
        await mapping.apply_mapping(db, DEFAULT_ACCOUNT, desired, progress=cut)
    assert await mapping.counts(db, DEFAULT_ACCOUNT) == (2, 98)  # agents come first
    assert len((await mapping.apply_mapping(db, DEFAULT_ACCOUNT, desired)).changes) == 152
    assert await mapping.counts(db, DEFAULT_ACCOUNT) == (2, 250)
    left = MappingSpec(agents=(BOB,))
    with pytest.raises(Cut):
        await mapping.apply_mapping(db, DEFAULT_ACCOUNT, left, prune=True, progress=cut)
    assert await mapping.counts(db, DEFAULT_ACCOUNT) == (2, 150)  # and go last
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, left, prune=True)
    assert await mapping.counts(db, DEFAULT_ACCOUNT) == (1, 0)


async def test_an_agents_change_that_was_cut_short_is_seen_and_finished(db: Database) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, large(250))
    desired = MappingSpec(agents=(anna(greeting="new"),))
    with pytest.raises(Cut):
        await mapping.apply_mapping(db, DEFAULT_ACCOUNT, desired, progress=cut)
    plan = await mapping.plan_mapping(db, DEFAULT_ACCOUNT, desired)
    assert len(plan.changes) == 151
    assert await mapping.tell_outdated(db) == 151
    assert (await mapping.plan_mapping(db, DEFAULT_ACCOUNT, desired)).changes == ()
    entries = [entry async for entry in everything_told(db)]
    told_of = [entry for entry in entries if entry.value and b'"new"' in entry.value]
    assert len({entry.key for entry in told_of}) == len(told_of) == 250


async def everything_told(db: Database) -> AsyncIterator[outbox.Entry]:
    while entries := await told(db):
        for entry in entries:
            yield entry


async def test_nothing_is_written_of_a_large_change_that_is_refused(db: Database) -> None:
    wrong = msgspec.structs.replace(
        large(250), numbers=(*large(250).numbers, number("+14159999999", "anne"))
    )
    with pytest.raises(ConfigError, match="anne"):
        await mapping.apply_mapping(db, DEFAULT_ACCOUNT, wrong)
    assert await mapping.counts(db, DEFAULT_ACCOUNT) == (0, 0)


async def test_an_epoch_is_above_all_that_was_seen(db: Database) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    assert await mapping.position(db) == Version(1, 1)
    assert await mapping.take_epoch(db, Version(4, 90)) == Version(5, 91)
    entries = await told(db)
    assert {entry.topic for entry in entries} == {NUMBERS_TOPIC}
    route = await mapping.get_route(db, DEFAULT_ACCOUNT, ONE)
    assert route is not None
    assert route.version == Version(5, 1)
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, MappingSpec(numbers=(number(ONE, "bob"),)))
    (entry,) = [entry for entry in await told(db) if entry.topic == ROUTES_TOPIC]
    assert version_of(entry.headers) == Version(5, 92)
