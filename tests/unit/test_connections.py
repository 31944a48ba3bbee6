"""The table of connections and its follower: versions, keys that are not here, the copy."""

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from router.clock import SystemClock
from router.connections import ConnectionFollower, ConnectionTable
from router.events.types import CONNECTIONS_TOPIC
from router.routing.scope import OPERATOR
from router.routing.table import Version
from router.storage.connections import SealedConnection, connection_draft
from router.vault import Vault
from tests.support.fake_log import FakeLog
from tests.support.ingress import logged
from tests.support.nodes import eventually
from tests.support.tenants import (
    ACME,
    ACMES,
    OTHER_TOKEN,
    RIVAL,
    RIVALS,
    SID,
    TOKEN,
    VAULT,
    book,
    connection,
)

NEW_KEY = Vault([b"n" * 32])


async def tell(log: FakeLog, sealed: SealedConnection, *, removed: bool = False) -> None:
    draft = connection_draft(
        sealed.id, None if removed else sealed, version=sealed.version, time=sealed.rev
    )
    await log.append(draft.topic, draft.key, draft.value, draft.headers)


@asynccontextmanager
async def following(
    log: FakeLog, path: Path, vault: Vault = VAULT
) -> AsyncIterator[ConnectionFollower]:
    follower = ConnectionFollower(ConnectionTable(vault), log, SystemClock(), path)
    task = asyncio.create_task(follower.run())
    try:
        await eventually(lambda: follower.ready)
        yield follower
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def tokens(table: ConnectionTable, sid: str = SID) -> list[str]:
    return [each.secrets["auth_token"] for each in table.of_account("twilio", sid)]


async def test_what_was_followed_is_there_again_while_the_log_is_away(tmp_path: Path) -> None:
    log, path = FakeLog(), tmp_path / "connections.json"
    path.with_suffix(".new").touch(0o644)
    await tell(log, connection())
    await tell(log, connection(RIVALS, RIVAL, secrets={"auth_token": OTHER_TOKEN}, rev=2))
    await tell(log, connection(RIVALS, RIVAL, rev=3), removed=True)
    async with following(log, path) as first:
        assert tokens(first.table) == [TOKEN]
        assert first.facts() == {"connections": 1, "unreadable": 0, "current": True}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert TOKEN.encode() not in path.read_bytes()
    assert OTHER_TOKEN.encode() not in path.read_bytes()
    log.unavailable = True
    async with following(log, path) as again:
        assert tokens(again.table) == [TOKEN]
        assert not again.facts()["current"]
        assert not again.table.put(connection(RIVALS, RIVAL, rev=2))  # the tombstone was kept


async def test_nothing_secret_is_on_the_topic() -> None:
    log = FakeLog()
    await tell(log, connection())
    (record,) = log.all(CONNECTIONS_TOPIC)
    assert TOKEN.encode() not in (record.value or b"")
    assert TOKEN not in str(record.headers)


async def test_what_can_not_be_read_is_said_and_passed_over(tmp_path: Path) -> None:
    log = FakeLog()
    good = connection()
    await log.append(CONNECTIONS_TOPIC, "a", b"{", {"ce_id": "1", "rev": "1"})
    await log.append(CONNECTIONS_TOPIC, "a", b"{}", {"ce_id": "2", "rev": "1"})
    await log.append(CONNECTIONS_TOPIC, "a", msgspec.json.encode(good), {"ce_id": "3"})
    await log.append(CONNECTIONS_TOPIC, "a", msgspec.json.encode(good), {"ce_id": "4", "rev": "1"})
    await tell(log, good)
    with logged() as lines:
        async with following(log, tmp_path / "connections.json") as found:
            assert tokens(found.table) == [TOKEN]
    assert len(lines.of("connections.unreadable")) == 4
    assert TOKEN not in lines.text


async def test_what_another_key_sealed_keeps_what_was_known(tmp_path: Path) -> None:
    log = FakeLog()
    rotated = {"auth_token": "a rotated token of acme"}
    await tell(log, connection())
    await tell(log, connection(RIVALS, RIVAL, vault=NEW_KEY))
    await tell(log, connection(secrets=rotated, rev=2, vault=NEW_KEY))
    with logged() as lines:
        async with following(log, tmp_path / "connections.json") as found:
            assert tokens(found.table) == [TOKEN]
            assert found.facts()["unreadable"] == 2
            await tell(log, connection(secrets=rotated, rev=3))
            await eventually(lambda: tokens(found.table) == list(rotated.values()))
            assert found.facts()["unreadable"] == 1
    assert len(lines.of("connections.sealed_with_another_key")) == 2
    both = Vault([b"n" * 32, b"k" * 32])
    async with following(log, tmp_path / "others.json", both) as found:
        assert found.facts()["unreadable"] == 0


async def test_a_start_with_another_key_is_said(tmp_path: Path) -> None:
    """Nothing is told anew then: all of it is in the copy."""
    log, path = FakeLog(), tmp_path / "connections.json"
    await tell(log, connection())
    await tell(log, connection(RIVALS, RIVAL))
    async with following(log, path) as found:
        await eventually(lambda: len(found.table) == 2)
    with logged() as lines:
        async with following(log, path, NEW_KEY) as found:
            assert found.facts()["unreadable"] == 2
    (line,) = lines.of("connections.sealed_with_another_key")
    assert (line["more"], line["mend"]) == (1, "previous_secret_keys")


@pytest.mark.parametrize("content", [b"\xff", b"{", b'{"connections": [{"id": 1}]}'])
async def test_an_unreadable_copy_is_ignored_and_said(tmp_path: Path, content: bytes) -> None:
    log, path = FakeLog(), tmp_path / "connections.json"
    path.write_bytes(content)
    await tell(log, connection())
    with logged() as lines:
        async with following(log, path) as found:
            assert tokens(found.table) == [TOKEN]
    assert lines.of("connections.copy_unreadable")


def test_an_older_change_never_wins() -> None:
    table = book(connection(rev=5))
    assert not table.put(connection(secrets={"auth_token": OTHER_TOKEN}, rev=4))
    assert not table.remove(ACMES, Version(1, 5))
    assert tokens(table) == [TOKEN]
    assert table.remove(ACMES, Version(1, 6))
    assert not table.put(connection(rev=6))
    assert table.get(ACMES) is None
    assert (len(table), tokens(table), list(table.all("twilio"))) == (0, [], [])
    assert table.holders("twilio", {"auth_token": TOKEN}) == []
    assert table.put(connection(rev=7))


def test_an_account_is_found_by_where_it_is_now() -> None:
    table = book(connection())
    other = "AC" + "d4" * 16
    assert table.put(connection(sid=other, secrets={"auth_token": OTHER_TOKEN}, rev=2))
    assert tokens(table) == []
    assert tokens(table, other) == [OTHER_TOKEN]
    assert table.holders("twilio", {"auth_token": TOKEN}) == []


def test_of_an_account_the_oldest_of_each_holder_come_first() -> None:
    table = book(
        connection("1", RIVAL, at=1, secrets={"auth_token": "r1"}),
        connection("2", RIVAL, at=2, secrets={"auth_token": "r2"}),
        connection("3", ACME, at=3, secrets={"auth_token": "a1"}),
    )
    assert tokens(table) == ["r1", "a1", "r2"]


def test_what_a_signature_proves() -> None:
    table = book(
        connection("1", RIVAL, at=2), connection("2", ACME, at=1), connection("3", ACME, at=3)
    )
    assert table.proof(["3", "2"]) == (frozenset({"2", "3"}), "2", ACME)
    assert table.proof(["1", "2"]) == (frozenset({"1", "2"}), "2", "")
    assert table.proof(["", "2"]) == (frozenset({"", "2"}), "", "")
    assert table.proof([""]) == OPERATOR
