"""A node whose database is damaged, gone, or old: calls go on, and it says what to do."""

import asyncio
import json
import sqlite3
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import psycopg
import pytest

from config import Settings
from router import runtime
from router.cli.waiting import wait_until_held
from router.events.ids import call_id
from router.node import Node
from router.routing.spec import route_of
from router.storage import changes, claims, mapping
from router.storage.engine import Database, open_database
from router.storage.migrate import current, prepare, rollback
from tests.integration.test_runtime import NOWHERE, call
from tests.support.cli import Shell
from tests.support.ingress import logged
from tests.support.nodes import (
    ACCOUNT,
    KEY,
    MAPPING,
    SECRET,
    TOKEN,
    apply_text,
    eventually,
    free_port,
    node_settings,
    running,
)
from tests.support.servers.kafka import kafka_server
from tests.support.servers.postgres import Postgres
from tests.support.twilio_requests import new_sid

TO_BOB = 'numbers: [{number: "+14155550100", provider: twilio, agent: bob}]'


def facts(node: Node) -> Any:
    return node.health()[1]


def restored(node: Node) -> str:
    return str(facts(node)["routes"].get("restored", ""))


def without(folder: Path) -> None:
    for file in folder.glob("switchboard.db*"):
        file.unlink()


def leads_to(node: Node) -> str:
    assert node.routes is not None
    route = node.routes.table.get("+14155550100")
    return route.targets[0].agent if route is not None else ""


async def test_a_damaged_database_stops_no_call_and_is_used_when_it_is_mended(
    tmp_path: Path,
) -> None:
    settings = node_settings(tmp_path, port=free_port(), livekit_url=NOWHERE)
    routes = await apply_text(settings)
    async with running(settings, routes=routes):
        pass
    file = tmp_path / "switchboard.db"
    whole = file.read_bytes()
    without(tmp_path)
    file.write_bytes(b"\0" * 100 + whole[100:])
    with logged() as lines:
        async with running(settings, routes=routes) as node:
            assert (
                "<Dial" in (await call(settings.public_url))[1]
            )  # the agent, or at once the fallback
            await eventually(lambda: facts(node)["database"] != "ok")
            for part in (str(file), "backup", ".recover"):
                assert part in facts(node)["database"]
            without(tmp_path)
            file.write_bytes(whole)
            await eventually(lambda: facts(node)["database"] == "ok")
    assert len(lines.of("database.unusable")) == 1


async def test_a_database_of_a_newer_version_stops_no_call(tmp_path: Path) -> None:
    settings = node_settings(tmp_path, port=free_port(), livekit_url=NOWHERE)
    routes = await apply_text(settings)
    async with running(settings, routes=routes):
        pass
    with sqlite3.connect(tmp_path / "switchboard.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    async with running(settings, routes=routes) as node:
        assert "<Dial" in (await call(settings.public_url))[1]  # the agent, or at once the fallback
        await eventually(lambda: "newer than this program" in facts(node)["database"])


async def test_a_restored_database_holds(tmp_path: Path) -> None:
    settings = node_settings(tmp_path, port=free_port(), livekit_url=NOWHERE)
    routes = await apply_text(settings)
    async with running(settings, routes=routes):
        pass
    backup = (tmp_path / "switchboard.db").read_bytes()
    changed = await apply_text(settings, TO_BOB)
    async with running(settings, routes=changed) as node:
        assert leads_to(node) == "bob"
    without(tmp_path)
    (tmp_path / "switchboard.db").write_bytes(backup)
    async with running(settings, routes=None) as node:
        await eventually(lambda: leads_to(node) == "anna")
        assert facts(node)["routes"]["epoch"] == 2
        await eventually(lambda: "must be applied again" in restored(node))
        changed = await apply_text(settings, TO_BOB)
        await eventually(lambda: leads_to(node) == "bob")
    async with running(settings, routes=changed) as node:
        assert "restored" not in facts(node)["routes"]


async def test_a_database_that_is_deleted_in_use_is_noticed_and_made_anew(tmp_path: Path) -> None:
    """Else the node would go on with a file that has no name, and `apply` with another one."""
    settings = node_settings(tmp_path, port=free_port(), livekit_url=NOWHERE)
    routes = await apply_text(settings)
    async with running(settings, routes=routes) as node:
        without(tmp_path)
        await eventually(lambda: "lacks 3 of the 3 routes" in restored(node))
        await eventually(lambda: facts(node)["database"] == "ok")
        assert "<Dial" in (await call(settings.public_url))[1]  # the agent, or at once the fallback
        assert leads_to(node) == "anna"
        # Its versions are those of the old one: only a comparison can tell that it differs.
        await apply_text(settings, MAPPING.replace("agent: anna", "agent: bob"))
        async with open_database(settings) as database:
            assert (await wait_until_held(settings, database)).holds
        assert leads_to(node) == "bob"


async def test_a_database_that_is_replaced_in_use_is_opened_anew(tmp_path: Path) -> None:
    settings = node_settings(tmp_path, port=free_port(), livekit_url=NOWHERE)
    await apply_text(settings)
    file = tmp_path / "switchboard.db"
    backup = file.read_bytes()
    changed = await apply_text(settings, TO_BOB)
    async with running(settings, routes=changed) as node:
        without(tmp_path)
        file.write_text("no database")
        await eventually(lambda: str(file) in facts(node)["database"])
        without(tmp_path)
        file.write_bytes(backup)
        await eventually(lambda: facts(node)["database"] == "ok")
        await eventually(lambda: leads_to(node) == "anna")
        assert facts(node)["routes"]["epoch"] == 2


async def test_a_database_that_is_damaged_in_use_is_told(tmp_path: Path) -> None:
    settings = node_settings(tmp_path, port=free_port(), livekit_url=NOWHERE)
    routes = await apply_text(settings)
    async with running(settings, routes=routes) as node:
        (tmp_path / "switchboard.db").write_text("no database")
        await eventually(lambda: "backup" in facts(node)["database"])


def test_a_deleted_database_removes_no_route_until_a_person_says_so(tmp_path: Path) -> None:
    """As it is met outside: the command, its log, /readyz."""
    port = free_port()
    shell = Shell(
        tmp_path,
        {
            "SWITCHBOARD_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "SWITCHBOARD_HTTP__PORT": str(port),
            "SWITCHBOARD_LIVEKIT__URL": NOWHERE,
            "SWITCHBOARD_LIVEKIT__API_KEY": KEY,
            "SWITCHBOARD_LIVEKIT__API_SECRET": SECRET,
            "SWITCHBOARD_LIVEKIT__SIP_HOST": "127.0.0.1",
            "SWITCHBOARD_PROVIDERS__TWILIO__ACCOUNT_SID": ACCOUNT,
            "SWITCHBOARD_PROVIDERS__TWILIO__AUTH_TOKENS": TOKEN,
        },
    )
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    assert shell.invoke("apply", "mapping.yaml", "--yes").code == 0

    def ready() -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:  # it is just starting
            with error:
                return json.load(error)

    with shell.start("up", until="Ctrl-C stops it."):
        wait_for(lambda: ready()["routes"]["numbers"] == 3)
    without(tmp_path / "data")
    with shell.start("up", until="--forget-routes"):
        found = ready()["routes"]
        assert found["numbers"] == 3
        assert "lacks 3 of the 3 routes" in found["restored"]
        assert "restore" in found["restored"]
    with shell.start("up", "--forget-routes", until="Ctrl-C stops it."):
        wait_for(lambda: ready()["routes"]["numbers"] == 0)


def wait_for(condition: Any) -> None:
    async def wait() -> None:
        await eventually(condition)

    asyncio.run(wait())


@pytest.mark.kafka
async def test_a_replica_without_the_last_changes_holds_as_well(
    tmp_path: Path, postgres: Postgres
) -> None:
    name = f"restored_{uuid.uuid4().hex[:8]}"
    # Its own broker: the routes that this leaves behind are no other test's.
    with kafka_server() as kafka:

        def on(url: str, folder: str) -> Settings:
            return node_settings(
                tmp_path / folder,
                port=free_port(),
                livekit_url=NOWHERE,
                secret_key="ab" * 32,
                kafka={"bootstrap_servers": kafka.bootstrap},
                database={"url": url},
            )

        primary = on(postgres.create_database(name), "one")
        await apply_text(primary)
        copy_of(postgres, name)
        await apply_text(primary, TO_BOB)
        async with running(primary, routes=None) as node:
            await eventually(lambda: leads_to(node) == "bob", within=30)
        replica = on(primary.database.url.replace(name, f"{name}_copy"), "two")
        async with running(replica, routes=None) as node:
            await eventually(lambda: leads_to(node) == "anna", within=30)
            await eventually(lambda: "older state" in restored(node))
            await apply_text(replica, TO_BOB)
            await eventually(lambda: leads_to(node) == "bob")


def copy_of(postgres: Postgres, name: str) -> None:
    """What a backup holds."""
    url = postgres.url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}_copy" TEMPLATE "{name}"')


async def test_calls_go_on_while_a_database_from_before_accounts_is_migrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = node_settings(tmp_path, port=free_port(), livekit_url=NOWHERE)
    with monkeypatch.context() as patch:  # as the older version told routes: without ids
        patch.setattr(changes, "route_of", lambda spec, agent, at, **_: route_of(spec, agent, at))
        routes = await apply_text(settings)
        async with running(settings, routes=routes):
            pass
    await rollback(settings, to="0003")
    migrating, may_go_on = asyncio.Event(), asyncio.Event()

    async def slowly(settings: Settings) -> None:
        migrating.set()
        await may_go_on.wait()
        await prepare(settings)

    monkeypatch.setattr(runtime, "prepare", slowly)
    with logged() as lines:
        async with running(settings, routes=routes) as node:
            await migrating.wait()
            assert await current(settings) == "0003"
            promised = [sid for sid in (new_sid(),) if await is_promised(settings, sid)]
            assert promised
            may_go_on.set()
            promised += [sid for sid in (new_sid(),) if await is_promised(settings, sid)]
            async with asyncio.timeout(15):
                while await current(settings) != "0004":  # noqa: ASYNC110 - it is in a database
                    await asyncio.sleep(0.05)
            promised += [sid for sid in (new_sid(),) if await is_promised(settings, sid)]
            async with open_database(settings) as database:
                for sid in promised:
                    assert await claimed(database, call_id("twilio", ACCOUNT, sid))
                assert await mapping.position(database) == (1, 1)
            assert facts(node)["routes"]["epoch"] == 1
            assert "restored" not in facts(node)["routes"]
    assert not lines.of("publish.republished")
    assert not lines.of("publish.restored")


async def is_promised(settings: Settings, sid: str) -> bool:
    """Call; whether the answer promises an agent. LiveKit is away: once that is known, a number."""
    answer = (await call(settings.public_url, sid))[1]
    assert "<Dial" in answer
    return "<Sip" in answer


async def claimed(database: Database, call: str) -> bool:
    """Whether the dispatch consumer took the call, within some seconds."""
    for _ in range(200):
        if await claims.get(database, call) is not None:
            return True
        await asyncio.sleep(0.05)
    return False
