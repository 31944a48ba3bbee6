"""The role `api` in a running process: where it listens, and what it must not disturb."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from config import Settings
from router import runtime
from router.clock import SystemClock
from router.control import accounts, tokens
from router.control.context import control_of
from router.control.model import Actor, Plan
from router.events.ids import DEFAULT_ACCOUNT
from router.node import PREPARING, Node
from router.secrets import load_key
from router.storage.engine import open_database
from router.storage.sqlite import Gate
from tests.support.nodes import apply_text, free_port, node_settings, running
from tests.support.twilio_requests import form, new_sid, sign
from tests.support.twilio_requests import headers as twilio_headers

ME = "/api/switchboard/v1/me"


async def _token(settings: Settings) -> str:
    actor = Actor(account_id=DEFAULT_ACCOUNT)
    key = load_key("", settings.data_dir)
    async with open_database(settings) as database:
        control = control_of(settings, database, [key], SystemClock())
        account = await accounts.create(control, actor, name="acme", plan=Plan())
        _, token = await tokens.create(
            control, actor, account=account.id, scopes=("agents:write", "numbers:write")
        )
    return token


@asynccontextmanager
async def _node(folder: Path, **more: Any) -> AsyncIterator[tuple[Node, str]]:
    port = free_port()
    settings = node_settings(folder, port=port, livekit_url="http://127.0.0.1:1", **more)
    holds = await apply_text(settings)
    token = await _token(settings)
    async with running(settings, routes=holds) as node:
        yield node, token


async def _get(port: int, path: str, token: str = "") -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
        session.get(path, headers=headers) as answer,
    ):
        is_json = answer.content_type.endswith("json")
        return answer.status, await answer.json(content_type=None) if is_json else None


async def test_it_is_beside_the_webhooks_unless_it_has_a_port(tmp_path: Path) -> None:
    async with _node(tmp_path) as (node, token):
        assert node.api_port == node.http_port
        status, me = await _get(node.http_port, ME, token)
        assert (status, me["account_name"]) == (200, "acme")
        assert (await _get(node.http_port, "/openapi.json"))[0] == 200
        _, facts = await _get(node.http_port, "/readyz")
        assert facts["api"] == {"state": "ok", "in_flight": 0}


async def test_on_a_port_of_its_own_the_webhooks_have_no_api(tmp_path: Path) -> None:
    api_port = free_port()
    async with _node(tmp_path, api={"port": api_port}) as (node, token):
        assert (node.api_port, node.http_port == api_port) == (api_port, False)
        assert (await _get(api_port, ME, token))[0] == 200
        assert (await _get(node.http_port, ME, token))[0] == 404
        assert (await _get(node.http_port, "/openapi.json"))[0] == 404
        assert (await _get(api_port, "/readyz"))[0] == 200
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{api_port}") as session,
            session.post("/webhooks/twilio/voice") as answer,
        ):
            assert answer.status == 404


async def test_without_the_role_there_is_none(tmp_path: Path) -> None:
    roles = ["ingress", "dispatch", "calls", "relay"]
    async with _node(tmp_path, roles=roles) as (node, token):
        assert (await _get(node.http_port, ME, token))[0] == 404
        assert "api" not in (await _get(node.http_port, "/readyz"))[1]


async def test_a_database_that_is_held_keeps_no_webhook(tmp_path: Path) -> None:
    """A write that waits for the database takes no place of a webhook's."""
    more = {"api": {"max_in_flight": 5}}
    async with _node(tmp_path, **more) as (node, token):
        gate = Gate(tmp_path / "switchboard.db.lock", limit=5.0)
        base = f"http://127.0.0.1:{node.http_port}"
        headers = {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession(base, headers=headers) as session:

            async def make(name: str) -> int:
                path = "/api/switchboard/v1/agents"
                async with session.post(path, json={"name": name}) as answer:
                    return answer.status

            async with gate.held():
                waiting = [asyncio.create_task(make(f"agent-{number}")) for number in range(5)]
                await asyncio.sleep(0.3)
                assert await make("one-more") == 503
                began = time.monotonic()
                path, fields = "/webhooks/twilio/voice", form(CallSid=new_sid())
                signed = twilio_headers(sign(path, fields, base=base))
                async with session.post(path, data=fields, headers=signed) as answer:
                    assert answer.status == 200
                print(f"a webhook beside a held database: {time.monotonic() - began:.3f} s")
                assert (await _get(node.http_port, "/healthz"))[0] == 200
            assert await asyncio.gather(*waiting) == [201] * 5
        gate.close()


async def test_a_change_is_visible_at_the_ingress(tmp_path: Path) -> None:
    """Made by the API, decided by the route table of the same process."""
    async with _node(tmp_path) as (node, token):
        assert node.routes is not None
        before = node.routes.facts()["numbers"]
        base = f"http://127.0.0.1:{node.http_port}/api/switchboard/v1"
        headers = {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            async with session.post(f"{base}/agents", json={"name": "carla"}) as answer:
                assert answer.status == 201
            async with session.get(f"{base}/numbers") as answer:
                assert (await answer.json())["total"] == 0  # the file's are of another account
        assert before == 3


async def test_an_api_alone_is_not_ready_before_the_schema_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, told = asyncio.Event(), []

    async def until_the_end(_: Settings) -> None:
        await stop.wait()

    async def look(node: Node) -> None:
        told.append(await _get(node.api_port, "/readyz"))
        stop.set()

    monkeypatch.setattr(runtime, "prepare", until_the_end)
    settings = node_settings(
        tmp_path,
        port=free_port(),
        livekit_url="http://127.0.0.1:1",
        roles=["api"],
        secret_key="ab" * 32,
        database={"url": "postgresql+psycopg://127.0.0.1:1/none"},
    )
    await runtime.run(settings, stop=stop, started=look)
    [(status, facts)] = told
    assert (status, facts["database"]) == (503, PREPARING)


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"api": {"host": "127.0.0.1"}}, "api.host"),
        ({"http": {"port": 8080}, "api": {"port": 8080}}, "api.port"),
        ({"roles": ["api"]}, "roles"),
        ({"api": {"cors_origins": ["https://App.example.com"]}}, "api.cors_origins"),
        ({"api": {"cors_origins": ["*"]}}, "api.cors_origins"),
        ({"api": {"cors_origins": ["https://app.example.com/"]}}, "api.cors_origins"),
        ({"api": {"cors_origins": ["https://app.example.com:443"]}}, "api.cors_origins"),
    ],
)
def test_settings_that_can_not_be_meant_are_refused(
    tmp_path: Path, more: dict[str, Any], key: str
) -> None:
    with pytest.raises(Exception, match=key.replace(".", r"\.")):
        node_settings(tmp_path, port=8080, livekit_url="http://127.0.0.1:1", **more)
