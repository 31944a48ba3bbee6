"""The mapping and its outbox: one transaction, one rev per change, each changed route told once."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
from sqlalchemy import Table, delete, event, select, update

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
from router.storage.schema import accounts, agents, connections, numbers

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


ACME = "ac3e0000-0000-4000-8000-000000000001"


@pytest.fixture
async def acme(db: Database) -> str:
    """The id of a second account."""
    row = {"id": ACME, "name": "acme", "worker": "", "shared_carriers": True}
    async with db.write() as connection:
        await connection.execute(accounts.insert().values(**row, created_at=1, updated_at=1))
    return ACME


THREE = "+14155550102"
ACMES = MappingSpec(
    agents=(AgentSpec(name="anna", livekit_agent_name="acme-anna"),),
    numbers=(number(THREE, "anna"),),
)


async def set_state(db: Database, number: str, state: str) -> None:
    async with db.write() as connection:
        this = numbers.c.number == number
        await connection.execute(update(numbers).where(this).values(state=state))


async def rows_of(db: Database, table: Table) -> list[dict[str, object]]:
    async with db.read() as connection:
        found = await connection.execute(select(table).order_by(table.c.id))
        return [dict(row) for row in found.mappings()]


async def test_accounts_have_agents_of_the_same_name_and_numbers_of_their_own(
    db: Database, acme: str
) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    await mapping.apply_mapping(db, acme, ACMES)
    assert await mapping.list_agents(db, acme) == list(ACMES.agents)
    assert await mapping.list_numbers(db, acme) == list(ACMES.numbers)
    assert await mapping.list_agents(db, DEFAULT_ACCOUNT) == [anna(), BOB]
    assert await mapping.counts(db, acme) == (1, 1)
    assert await mapping.counts(db, DEFAULT_ACCOUNT) == (2, 2)
    assert await mapping.size(db) == 3
    assert await mapping.get_route(db, acme, ONE) is None
    assert await mapping.get_route(db, DEFAULT_ACCOUNT, THREE) is None
    theirs = await mapping.find_route(db, THREE)
    assert theirs == await mapping.get_route(db, acme, THREE)
    assert theirs is not None
    assert theirs.account_id == acme
    assert theirs.targets[0].livekit_agent_name == "acme-anna"
    ids = await mapping.agent_ids(db, acme), await mapping.agent_ids(db, DEFAULT_ACCOUNT)
    assert ids[0]["anna"] == theirs.targets[0].agent_id
    assert ids[0]["anna"] != ids[1]["anna"]
    told_of = routes(await told(db))
    assert told_of[THREE] == theirs
    assert len(told_of) == 3


async def test_what_an_account_prunes_and_removes_is_its_own(db: Database, acme: str) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    await mapping.apply_mapping(db, acme, ACMES)
    await told(db)
    before = await rows_of(db, numbers), await rows_of(db, agents)
    assert (await mapping.delete_numbers(db, acme, [ONE, TWO])).changes == ()
    assert await told(db) == []
    result = await mapping.apply_mapping(db, acme, MappingSpec(), prune=True)
    assert [change.after for change in result.changes] == [None, None]
    assert routes(await told(db)) == {THREE: None}
    mine = tuple([row for row in rows if row["account_id"] != acme] for rows in before)
    assert (await rows_of(db, numbers), await rows_of(db, agents)) == mine


async def test_an_agent_of_one_account_changes_that_accounts_routes_alone(
    db: Database, acme: str
) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    await mapping.apply_mapping(db, acme, ACMES)
    await told(db)
    await mapping.apply_mapping(
        db, acme, MappingSpec(agents=(AgentSpec(name="anna", livekit_agent_name="newer"),))
    )
    assert list(routes(await told(db))) == [THREE]
    assert await mapping.list_agents(db, DEFAULT_ACCOUNT) == [anna(), BOB]


@pytest.mark.parametrize("prune", [False, True])
async def test_a_number_of_another_account_is_refused_without_telling_whose(
    db: Database, acme: str, prune: bool
) -> None:
    await mapping.apply_mapping(db, acme, ACMES)
    await told(db)
    wanted = msgspec.structs.replace(BOTH, numbers=(*BOTH.numbers, number(THREE, "bob")))
    for attempt in (mapping.plan_mapping, mapping.apply_mapping):
        with pytest.raises(ConfigError, match="held by another account") as caught:
            await attempt(db, DEFAULT_ACCOUNT, wanted, prune=prune)
        assert THREE not in str(caught.value)
        assert "acme" not in str(caught.value)
        assert acme not in str(caught.value)
    assert await mapping.counts(db, DEFAULT_ACCOUNT) == (0, 0)
    assert await mapping.list_numbers(db, acme) == list(ACMES.numbers)
    assert await told(db) == []


async def test_of_two_accounts_that_want_a_number_at_once_one_gets_it(
    db: Database, other: Database, acme: str
) -> None:
    for turn in range(5):
        spec = MappingSpec(numbers=(number(f"+1415555020{turn}", None),))
        outcomes = await asyncio.gather(
            mapping.apply_mapping(db, DEFAULT_ACCOUNT, spec),
            mapping.apply_mapping(other, acme, spec),
            return_exceptions=True,
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == [
            "ConfigError",
            "MappingResult",
        ]
    held = [*await mapping.list_numbers(db, DEFAULT_ACCOUNT), *await mapping.list_numbers(db, acme)]
    assert len(held) == 5
    assert len([entry for entry in await told(db) if entry.topic == ROUTES_TOPIC]) == 5


async def test_two_who_add_an_agent_at_once_mean_the_same_one(
    db: Database, other: Database
) -> None:
    specs = [MappingSpec(agents=(anna(),), numbers=(number(one, "anna"),)) for one in (ONE, TWO)]
    await asyncio.gather(
        mapping.apply_mapping(db, DEFAULT_ACCOUNT, specs[0]),
        mapping.apply_mapping(other, DEFAULT_ACCOUNT, specs[1]),
    )
    ids = await mapping.agent_ids(db, DEFAULT_ACCOUNT)
    targets = [route.targets[0] async for route in mapping.all_routes(db)]
    assert [target.agent_id for target in targets] == [ids["anna"]] * 2


@pytest.mark.parametrize("state", ["deleting", "corrupted"])
@pytest.mark.parametrize("prune", [False, True])
async def test_a_number_that_is_being_released_is_no_part_of_the_mapping(
    db: Database, state: str, prune: bool
) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    await told(db)
    await set_state(db, ONE, state)
    assert await mapping.get_route(db, DEFAULT_ACCOUNT, ONE) is None
    assert await mapping.find_route(db, ONE) is None
    assert [route.number async for route in mapping.all_routes(db)] == [TWO]
    assert await mapping.list_numbers(db, DEFAULT_ACCOUNT) == [number(TWO, "bob")]
    assert await mapping.counts(db, DEFAULT_ACCOUNT) == (2, 1)
    assert await mapping.missing(db, [ONE, TWO]) == {ONE}
    assert await mapping.fallbacks(db, DEFAULT_ACCOUNT, [ONE]) == {}
    with pytest.raises(ConfigError, match="is being released"):
        await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH, prune=prune)
    assert (await mapping.delete_numbers(db, DEFAULT_ACCOUNT, [ONE])).changes == ()
    # Nor does it keep its agent: that may go.
    kept = MappingSpec(agents=(BOB,), numbers=(number(TWO, "bob"),))
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, kept, prune=True)
    assert await mapping.list_agents(db, DEFAULT_ACCOUNT) == [BOB]
    states = {row["number"]: row["state"] for row in await rows_of(db, numbers)}
    assert states == {ONE: state, TWO: "active"}
    assert ONE not in routes(await told(db))


async def test_a_change_keeps_what_is_no_part_of_the_mapping(db: Database) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    async with db.write() as connection:
        await connection.execute(
            update(numbers).values(label="desk", details='{"a":1}', bought=True, mode="trunk")
        )
        await connection.execute(
            update(agents).values(label="Anna B.", origin="vocode", config='{"b":2}')
        )
    before = {row["number"]: row for row in await rows_of(db, numbers)}
    moved = MappingSpec(agents=(anna(new="yes"),), numbers=(number(ONE, "bob"),))
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, moved)
    after = {row["number"]: row for row in await rows_of(db, numbers)}
    changed = {key for key, value in after[ONE].items() if value != before[ONE][key]}
    assert changed == {"agent_id", "fallback", "rev", "updated_at"}
    assert {(row["label"], row["origin"], row["config"]) for row in await rows_of(db, agents)} == {
        ("Anna B.", "vocode", '{"b":2}')
    }


async def connect(db: Database, of: str, connection_id: str) -> None:
    row = {
        "id": connection_id,
        "account_id": of,
        "provider": "twilio",
        "label": "own",
        "provider_account": "AC1",
        "details": "{}",
        "sealed": b"",
        "is_default": True,
        "rev": 1,
        "created_at": 1,
        "updated_at": 1,
    }
    async with db.write() as connection:
        await connection.execute(connections.insert().values(row))


async def test_a_number_keeps_its_connection_until_it_moves_to_another_carrier(
    db: Database, acme: str
) -> None:
    await connect(db, acme, "c0ffee00-0000-4000-8000-000000000001")
    connected = msgspec.structs.replace(
        ACMES.numbers[0], connection="c0ffee00-0000-4000-8000-000000000001"
    )
    first = msgspec.structs.replace(ACMES, numbers=(connected,))
    await mapping.apply_mapping(db, acme, first)
    route = await mapping.get_route(db, acme, THREE)
    assert route is not None
    assert route.connection_id == connected.connection
    assert (await mapping.apply_mapping(db, acme, ACMES)).changes == ()
    with_fallback = MappingSpec(numbers=(number(THREE, "anna", SPARE),))
    await mapping.apply_mapping(db, acme, with_fallback)
    route = await mapping.get_route(db, acme, THREE)
    assert route is not None
    assert (route.connection_id, route.fallback) == (connected.connection, SPARE)
    await mapping.apply_mapping(
        db, acme, MappingSpec(agents=(AgentSpec(name="anna", livekit_agent_name="newer"),))
    )
    assert routes(await told(db))[THREE] == await mapping.get_route(db, acme, THREE)
    elsewhere = NumberSpec(number=THREE, provider="telnyx", agent="anna")
    await mapping.apply_mapping(db, acme, MappingSpec(numbers=(elsewhere,)))
    route = await mapping.get_route(db, acme, THREE)
    assert route is not None
    assert (route.provider, route.connection_id) == ("telnyx", "")


async def test_what_happened_to_a_number_names_its_account(db: Database, acme: str) -> None:
    await mapping.apply_mapping(db, acme, ACMES)
    await mapping.delete_numbers(db, acme, [THREE])
    happened = [
        decode(entry.key, entry.headers, entry.value)
        for entry in await told(db)
        if entry.topic == NUMBERS_TOPIC
    ]
    assert [(event.type, event.data.account_id) for event in happened] == [
        (EventType.NUMBER_MAPPED, acme),
        (EventType.NUMBER_UNMAPPED, acme),
    ]
    assert happened[0].data.agent_id == (await mapping.agent_ids(db, acme))["anna"]


async def test_agents_changes_of_every_account_are_finished(db: Database, acme: str) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    await mapping.apply_mapping(db, acme, ACMES)
    await told(db)
    async with db.write() as connection:
        await connection.execute(update(agents).values(rev=99))
    behind = {route.number for route in await mapping.told_routes(db, [ONE, TWO, THREE])}
    assert behind == set()
    assert await mapping.tell_outdated(db) == 3
    assert set(routes(await told(db))) == {ONE, TWO, THREE}


async def test_what_another_function_wrote_is_published_with_it(db: Database) -> None:
    await mapping.apply_mapping(db, DEFAULT_ACCOUNT, BOTH)
    await told(db)
    async with db.write() as connection:
        this = numbers.c.number == ONE
        await connection.execute(update(numbers).where(this).values(agent_id=None))
        await connection.execute(delete(numbers).where(numbers.c.number == TWO))
        rev = await mapping.publish(connection, DEFAULT_ACCOUNT, [ONE, TWO])
    entries = await told(db)
    assert routes(entries) == {
        ONE: await mapping.get_route(db, DEFAULT_ACCOUNT, ONE),
        TWO: None,
    }
    versions = {version_of(entry.headers) for entry in entries if entry.topic == ROUTES_TOPIC}
    assert versions == {Version(1, rev)}
