"""A whole node's life: start among things that are away, stop in order, die loudly."""

import asyncio
import time
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import pytest

from router.errors import ConfigError, LogFailed
from router.events.codec import SCHEMA
from router.node import Node
from router.numbers import publish
from router.runtime import run
from router.sandbox.livekit.standin import LiveKitStandIn
from router.storage.engine import open_database
from router.storage.mapping import fingerprint
from tests.support.ingress import exchange, logged, status
from tests.support.nodes import (
    KEY,
    SECRET,
    apply_text,
    eventually,
    free_port,
    node_settings,
    running,
)
from tests.support.twilio_requests import form, headers, new_sid, sign

VOICE = "/webhooks/twilio/voice"
NOWHERE = "http://127.0.0.1:1"  # nothing listens there


async def call(base: str, sid: str = "") -> tuple[int, str]:
    """A signed incoming call; status and TwiML."""
    fields = form(CallSid=sid or new_sid())
    signed = headers(sign(VOICE, fields, base=base))
    async with (
        aiohttp.ClientSession() as session,
        session.post(base + VOICE, data=urlencode(fields), headers=signed) as answer,
    ):
        return answer.status, await answer.text()


async def test_a_request_in_flight_at_the_stop_is_answered(tmp_path: Path) -> None:
    port = free_port()
    settings = node_settings(tmp_path, port=port, livekit_url=NOWHERE)
    routes = await apply_text(settings)
    fields = form(CallSid=new_sid())
    body = urlencode(fields).encode()
    head = (
        f"POST {VOICE} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n"
        f"X-Twilio-Signature: {sign(VOICE, fields, base=settings.public_url)}\r\n\r\n"
    ).encode()
    async with running(settings, routes=routes) as node:
        talk = asyncio.create_task(exchange(port, head + body[:10], body[10:], pause=0.6))
        await asyncio.sleep(0.3)
        began = time.monotonic()
    assert status(await talk) == 200
    assert node.stopping
    assert node.health()[0] is False
    assert time.monotonic() - began < 2 * settings.http.shutdown_grace
    with pytest.raises(aiohttp.ClientConnectionError):
        await call(settings.public_url)


async def test_a_restart_answers_a_repeat_as_before(tmp_path: Path) -> None:
    settings = node_settings(tmp_path, port=free_port(), livekit_url=NOWHERE)
    routes = await apply_text(settings)
    sid = new_sid()
    async with running(settings, routes=routes):
        first = await call(settings.public_url, sid)
    changed = await apply_text(
        settings, 'numbers: [{number: "+14155550100", provider: twilio, agent: bob}]'
    )
    async with running(settings, routes=changed):
        assert await call(settings.public_url, sid) == first
    assert first[0] == 200


async def test_livekit_away_at_the_start(tmp_path: Path) -> None:
    port, livekit_port = free_port(), free_port()
    settings = node_settings(tmp_path, port=port, livekit_url=f"http://127.0.0.1:{livekit_port}")
    routes = await apply_text(settings)
    with logged():
        async with running(settings, routes=routes) as node:
            assert (await call(settings.public_url))[0] == 200
            assert node.health()[1]["livekit"] != "ok"
            async with LiveKitStandIn(api_key=KEY, api_secret=SECRET, port=livekit_port):
                await eventually(lambda: node.health()[1]["livekit"] == "ok")


async def test_an_ingress_alone_needs_neither_database_nor_kafka(tmp_path: Path) -> None:
    """It starts in the middle of an outage of both, and answers from its copy of the routes."""
    port = free_port()
    settings = node_settings(tmp_path, port=port, livekit_url=NOWHERE)
    routes = await apply_text(settings)
    async with running(settings, routes=routes):
        pass  # leaves the copy behind
    alone = node_settings(
        tmp_path,
        port=port,
        livekit_url=NOWHERE,
        roles=["ingress"],
        secret_key="ab" * 32,
        kafka={"bootstrap_servers": ["127.0.0.1:1"]},
        database={"url": "postgresql+psycopg://127.0.0.1:1/none"},
    )
    with logged():
        async with running(alone, routes=routes) as node:
            began = time.monotonic()
            code, twiml = await call(alone.public_url)
            took = time.monotonic() - began
            assert node.health()[1]["routes"]["current"] is False
    assert (code, "<Sip" in twiml) == (200, True)
    assert took < 2 * alone.kafka.ack_deadline


@pytest.mark.parametrize("path", ["/asyncapi.json", "/schemas/event.json"])
async def test_the_contracts_are_served_as_json(tmp_path: Path, path: str) -> None:
    settings = node_settings(tmp_path, port=free_port(), livekit_url=NOWHERE)
    async with (
        running(settings),
        aiohttp.ClientSession() as session,
        session.get(settings.public_url + path) as answer,
    ):
        document = await answer.json(content_type=None)
        assert (answer.status, answer.content_type.endswith("json")) == (200, True)
    assert document.get("asyncapi", document.get("$id")) in ("3.1.0", SCHEMA)


async def test_before_its_first_routes_a_node_is_not_ready(tmp_path: Path) -> None:
    port = free_port()
    alone = node_settings(
        tmp_path,
        port=port,
        livekit_url=NOWHERE,
        roles=["ingress"],
        secret_key="ab" * 32,
        kafka={"bootstrap_servers": ["127.0.0.1:1"]},
        database={"url": "postgresql+psycopg://127.0.0.1:1/none"},
    )

    async def look(_node: Node) -> None:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{alone.public_url}/readyz") as answer:
                assert answer.status == 503
            async with session.get(f"{alone.public_url}/healthz") as answer:
                assert answer.status == 200
        assert (await call(alone.public_url))[0] == 503  # not an apology: Twilio asks the fallback
        stop.set()

    stop = asyncio.Event()
    with logged():
        await run(alone, stop=stop, started=look)
    assert stop.is_set()


async def test_a_second_node_on_the_data_folder_is_refused(tmp_path: Path) -> None:
    settings = node_settings(tmp_path, port=free_port(), livekit_url=NOWHERE)
    routes = await apply_text(settings)
    async with running(settings, routes=routes):
        with pytest.raises(ConfigError, match="has the journal in"):
            await run(settings, stop=asyncio.Event())
        assert (await call(settings.public_url))[0] == 200


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    settings = node_settings(tmp_path / "one", port=free_port(), livekit_url=NOWHERE)
    other = node_settings(tmp_path / "two", port=settings.http.port, livekit_url=NOWHERE)
    routes = await apply_text(settings)
    async with running(settings, routes=routes):
        with pytest.raises(ExceptionGroup) as caught:
            await run(other, stop=asyncio.Event())
        assert caught.group_contains(ConfigError, match=f"port {settings.http.port} is taken")


async def test_settings_that_make_no_answer_are_refused(tmp_path: Path) -> None:
    settings = node_settings(tmp_path, port=free_port(), livekit_url=NOWHERE)
    unchecked = settings.livekit.model_copy(update={"sip_host": "x" * 300})
    settings = settings.model_copy(update={"livekit": unchecked})
    with pytest.raises(ExceptionGroup) as caught:
        await run(settings, stop=asyncio.Event())
    assert caught.group_contains(ConfigError, match=r"livekit\.sip_host is too long")


async def test_a_role_that_dies_takes_the_node_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(*_: object) -> None:
        await asyncio.sleep(0.3)
        raise RuntimeError("a bug in a role")

    monkeypatch.setattr(publish, "run", dies)
    settings = node_settings(tmp_path, port=free_port(), livekit_url=NOWHERE)
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(20):
            await run(settings, stop=asyncio.Event())
    assert caught.group_contains(RuntimeError, match="a bug in a role")


async def test_a_failed_disk_ends_the_node(tmp_path: Path) -> None:
    settings = node_settings(tmp_path, port=free_port(), livekit_url=NOWHERE)

    async def fails(node: Node) -> None:
        node.log.failed.set()

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(20):
            await run(settings, stop=asyncio.Event(), started=fails)
    assert caught.group_contains(LogFailed)


async def test_a_lost_journal_is_filled_from_the_database(tmp_path: Path) -> None:
    """A new disk: the routes come back by themselves, and calls are answered as before."""
    settings = node_settings(tmp_path, port=free_port(), livekit_url=NOWHERE)
    routes = await apply_text(settings)
    async with running(settings, routes=routes):
        pass
    for file in sorted((tmp_path / "journal-0").iterdir()):
        file.unlink()
    (tmp_path / "routes.json").unlink()
    with logged() as lines:
        async with running(settings, routes=routes):
            assert "<Sip" in (await call(settings.public_url))[1]
    assert lines.of("publish.republished")
    async with open_database(settings) as database:
        assert await fingerprint(database) == routes
