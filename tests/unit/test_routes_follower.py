"""The route table's follower: the copy in the data folder, tombstones, and what it can't read."""

import asyncio
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from router.clock import Clock, SystemClock
from router.eventlog.base import Record
from router.events.types import ROUTES_TOPIC
from router.ingress.routes import RouteFollower
from router.routing.table import Route, RouteTable, Target, Version, fingerprint
from router.storage.records import route_record
from tests.support.fake_log import FakeLog
from tests.support.ingress import logged, route
from tests.support.nodes import eventually

A, B, C = "+14155550100", "+14155550101", "+14155550102"


async def put(log: FakeLog, number: str, rev: int, *, agent: str | None = "anna") -> None:
    """Publish a route, or its tombstone for no agent."""
    value = None if agent is None else route(number, agent=agent, rev=rev)
    headers, encoded = route_record(number, value, version=Version(1, rev), time=rev)
    await log.append(ROUTES_TOPIC, number, encoded, headers)


class QuickClock(SystemClock):
    """Pauses are a hundredth of what they should be; threads are real, so time must be too."""

    @override
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 100)


@asynccontextmanager
async def following(
    log: FakeLog, path: Path, clock: Clock | None = None
) -> AsyncIterator[RouteFollower]:
    follower = RouteFollower(RouteTable(), log, clock or QuickClock(), path)
    task = asyncio.create_task(follower.run())
    try:
        if not log.unavailable:
            await eventually(lambda: follower.caught_up_at is not None)
        yield follower
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def agents(table: RouteTable) -> dict[str, str]:
    return {found.number: found.targets[0].agent for found in table}


async def test_what_was_followed_is_there_again_while_the_log_is_away(tmp_path: Path) -> None:
    log, path = FakeLog(), tmp_path / "routes.json"
    await put(log, A, 1)
    await put(log, B, 2, agent="bob")
    async with following(log, path) as first:
        await put(log, C, 3)
        await put(log, C, 4, agent=None)
        await eventually(lambda: first.table.version == 4)
        assert agents(first.table) == {A: "anna", B: "bob"}
        assert first.facts()["current"] is True
    log.unavailable = True
    async with following(log, path) as again:
        await eventually(lambda: again.loaded_copy)
        assert again.ready
        assert again.facts()["current"] is False
        assert again.age is None
        assert agents(again.table) == {A: "anna", B: "bob"}
        assert again.table.fingerprint == first.table.fingerprint
        assert again.table.version == 4
        assert not again.table.put(route(C, rev=3))  # the tombstone was kept as well


async def test_the_copy_is_its_owners_alone_and_keeps_the_epoch(tmp_path: Path) -> None:
    log, path = FakeLog(), tmp_path / "routes.json"
    path.with_suffix(".new").touch(0o644)
    removed = Version(2, 4)
    for number, version in ((A, Version(1, 9)), (B, Version(2, 3)), (C, removed)):
        held = Route(number=number, provider="x", rev=version.rev, epoch=version.epoch)
        value = None if number == C else held
        headers, encoded = route_record(number, value, version=version, time=1)
        await log.append(ROUTES_TOPIC, number, encoded, headers)
    async with following(log, path) as first:
        assert first.facts()["epoch"] == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    log.unavailable = True
    async with following(log, path) as again:
        await eventually(lambda: again.loaded_copy)
        assert again.table.fingerprint == first.table.fingerprint
        assert again.table.newest == removed
        assert not again.table.put(Route(number=C, provider="x", rev=99))  # of the epoch before
        assert again.table.put(Route(number=A, provider="x", rev=1, epoch=2))


async def test_a_change_just_before_the_end_is_in_the_copy(tmp_path: Path) -> None:
    log, path = FakeLog(), tmp_path / "routes.json"
    async with following(log, path, SystemClock()) as first:  # saves every 2 s
        await put(log, A, 1)
        await eventually(lambda: agents(first.table) == {A: "anna"})
    log.unavailable = True
    async with following(log, path) as again:
        await eventually(lambda: again.loaded_copy)
        assert agents(again.table) == {A: "anna"}


async def test_a_disk_that_refuses_is_tried_again(tmp_path: Path) -> None:
    log, path = FakeLog(), tmp_path / "gone" / "routes.json"
    with logged() as lines:
        async with following(log, path):
            await put(log, A, 1)
            await eventually(lambda: lines.of("routes.copy_not_saved"))
            said = lines.of("routes.copy_not_saved")[0]
            assert (said["path"], said["why"]) == (str(path), "No such file or directory")
            path.parent.mkdir()
            await eventually(path.exists)


async def test_routes_by_the_thousand_survive_the_copy(tmp_path: Path) -> None:
    log, path = FakeLog(), tmp_path / "routes.json"
    numbers = [f"+1415{number:07}" for number in range(2500)]
    async with following(log, path) as first:
        for rev, number in enumerate(numbers, 1):
            first.table.put(route(number, rev=rev))
        await put(log, A, 9999)
        await eventually(lambda: first.table.version == 9999)
    assert len(path.read_bytes().splitlines()) == 4
    log.unavailable = True
    async with following(log, path) as again:
        await eventually(lambda: again.loaded_copy)
        assert again.table.fingerprint == first.table.fingerprint
        assert len(again.table) == 2501


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"{", b"[" * 100_000, b'{"routes": [{"number": 1}]}', b'{"routes": 1}\n{}'],
)
async def test_an_unreadable_copy_is_ignored_and_said(tmp_path: Path, content: bytes) -> None:
    log, path = FakeLog(), tmp_path / "routes.json"
    path.write_bytes(content)
    await put(log, A, 1)
    with logged() as lines:
        async with following(log, path) as follower:
            assert agents(follower.table) == {A: "anna"}
            assert not follower.loaded_copy
    [said] = lines.of("routes.copy_unreadable")
    assert (said["path"], said["why"]) == (str(path), "it is damaged")


@pytest.mark.parametrize("kind", ["folder", "empty", "half"])
async def test_other_kinds_of_broken_copies(tmp_path: Path, kind: str) -> None:
    log, path = FakeLog(unavailable=True), tmp_path / "routes.json"
    if kind == "folder":
        path.mkdir()
    else:
        whole = msgspec.json.encode({"routes": [route(A)], "removed": {}}) + b"\n"
        path.write_bytes(b"" if kind == "empty" else whole + whole[:-9])
    async with following(log, path) as follower:
        await asyncio.sleep(0.1)
        assert not follower.ready  # better no answer than one by half a table
        assert len(follower.table) == 0


async def test_what_can_not_be_read_is_passed_over(tmp_path: Path) -> None:
    log = FakeLog()
    good = {"rev": "7"}
    broken: list[tuple[bytes | None, dict[str, str]]] = [
        (b"{}", good),
        (b"\xff", good),
        (b"[" * 100_000, good),
        (msgspec.json.encode(route(B)), {}),
        (msgspec.json.encode(route(B)), {"rev": "-1"}),
        (None, {"rev": "9" * 30}),
        (None, {"rev": "7", "epoch": "0"}),
        (None, {"rev": "7", "epoch": "two"}),
        (None, {"rev": "²"}),
    ]
    for index, (value, headers) in enumerate(broken):
        await log.append(ROUTES_TOPIC, B, value, {"ce_id": f"broken-{index}", **headers})
    await put(log, A, 1)
    with logged() as lines:
        async with following(log, tmp_path / "routes.json") as follower:
            assert agents(follower.table) == {A: "anna"}
    assert len(lines.of("routes.unreadable")) == len(broken)
    assert B not in lines.text


async def test_an_outage_is_waited_out_and_the_table_stays(tmp_path: Path) -> None:
    log = FakeLog()
    await put(log, A, 1)
    async with following(log, tmp_path / "routes.json") as follower:
        log.unavailable = True
        await asyncio.sleep(0.1)
        assert agents(follower.table) == {A: "anna"}
        log.unavailable = False
        await put(log, B, 2)
        await eventually(lambda: agents(follower.table) == {A: "anna", B: "anna"})
        assert follower.age is not None
        assert follower.age < 5


CHANGE = st.tuples(st.sampled_from([A, B, C]), st.sampled_from(["anna", "bob", None]))


@given(changes=st.lists(CHANGE, max_size=20), data=st.data())
def test_any_order_of_delivery_gives_the_same_table(
    changes: list[tuple[str, str | None]], data: st.DataObject
) -> None:
    """The log may deliver twice or late; the rev decides. Equal to the database's fingerprint."""
    final: dict[str, tuple[int, str | None]] = {}
    records = []
    for rev, (number, agent) in enumerate(changes, 1):
        final[number] = (rev, agent)
        records.append((rev, number, agent))
    table = RouteTable()
    repeated = records + data.draw(
        st.lists(st.sampled_from(records), max_size=5) if records else st.just([])
    )
    for rev, number, agent in data.draw(st.permutations(repeated)):
        if agent is None:
            table.remove(number, Version(1, rev))
        else:
            target = Target(agent=agent, livekit_agent_name=agent)
            table.put(Route(number=number, provider="twilio", rev=rev, targets=(target,)))
    alive = {number: rev for number, (rev, agent) in final.items() if agent is not None}
    assert agents(table) == {n: a for n, (_, a) in final.items() if a is not None}
    assert table.fingerprint == fingerprint((n, Version(1, rev)) for n, rev in alive.items())


class Counting(FakeLog):
    """Counts the records that its readers got."""

    handed_out = 0

    @override
    async def read(
        self, places: dict[tuple[str, int], int], limit: int, wait: float
    ) -> Sequence[Record]:
        found = await super().read(places, limit, wait)
        self.handed_out += len(found)
        return found


async def test_an_outage_of_the_log_costs_no_route_twice(tmp_path: Path) -> None:
    """A million routes, read anew by all ingresses at once, after each slow answer of Kafka."""
    log = Counting()
    for rev in range(1, 51):
        await put(log, f"+1415555{rev:04}", rev)
    async with following(log, tmp_path / "routes.json") as follower:
        for _ in range(3):
            log.unavailable = True
            log._grown.set()  # the fetch under way ends
            await asyncio.sleep(0.1)
            log.unavailable = False
            await asyncio.sleep(0.1)
        await put(log, A, 99)
        await eventually(lambda: len(follower.table) == 51)
        assert log.handed_out == 51
