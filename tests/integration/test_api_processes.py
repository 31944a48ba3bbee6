"""The control API as a process of its own, beside those that take the calls.

They share PostgreSQL, and Kafka or nothing more: what the API changes is published by the role
relay, wherever that is.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest

from router.sandbox.livekit.standin import LiveKitStandIn
from router.sandbox.twilio.standin import TwilioStandIn
from tests.support.api import RunningApi
from tests.support.api_node import NATIVE, VoiceAi, api_of, call_of
from tests.support.cli import Shell, Started
from tests.support.nodes import ACCOUNT, KEY, SECRET, TOKEN, free_port, node_settings
from tests.support.servers.kafka import Kafka, delete_topics
from tests.support.servers.postgres import Postgres
from tests.support.twilio_requests import form, headers, new_sid, sign

SECRET_KEY = "ab" * 32
OF_CALLS = "ingress,dispatch,calls,relay"


@dataclass
class Processes:
    """What runs, and where it listens."""

    api: RunningApi  # of the process that is nothing else
    webhooks: int  # the ingress' port
    other_api: int  # of the node that takes the calls; 0: it has none
    livekit: LiveKitStandIn
    twilio: TwilioStandIn

    async def answer(self, number: str) -> str:
        """What the ingress answers a call to the number: its TwiML."""
        base, path = f"http://127.0.0.1:{self.webhooks}", "/webhooks/twilio/voice"
        fields = form(CallSid=new_sid(), To=number)
        signed = headers(sign(path, fields, base=base))
        body = urlencode(fields).encode()
        async with self.api.session.post(base + path, data=body, headers=signed) as answer:
            return await answer.text() if answer.status == 200 else ""

    async def visible(self, number: str, verb: str) -> float:
        """The seconds until a call to the number is answered so."""
        began = time.monotonic()
        async with asyncio.timeout(20):
            # What is waited for has no event.
            while f"<{verb}" not in await self.answer(number):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return time.monotonic() - began

    async def ready(self, port: int) -> None:
        """Until the process there says that it is."""
        async with asyncio.timeout(20):
            while await self.status(port, "/readyz") != 200:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.05)

    async def status(self, port: int, path: str, token: str = "", method: str = "GET") -> int:
        """How a request to this port is answered."""
        url = f"http://127.0.0.1:{port}{path}"
        bearer = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.api.session.request(method, url, headers=bearer) as answer:
            return answer.status


@asynccontextmanager
async def processes(
    folder: Path, postgres: Postgres, roles: Sequence[str], kafka: str = ""
) -> AsyncIterator[Processes]:
    """Processes with these roles; the first has the webhooks' port, `api` alone its own one."""
    port, api_port, other_api = free_port(), free_port(), free_port()
    base = f"http://127.0.0.1:{port}"
    database = postgres.create_database(f"api_{uuid.uuid4().hex[:8]}")
    async with (
        LiveKitStandIn(
            api_key=KEY, api_secret=SECRET, webhook_url=f"{base}/webhooks/livekit"
        ) as livekit,
        TwilioStandIn(
            account_sid=ACCOUNT,
            auth_token=TOKEN,
            webhook_base=base,
            dial_sip=livekit.invite,
            strict=True,
        ) as twilio,
        AsyncExitStack() as stack,
    ):
        livekit.register_worker("anna")
        env = {
            "SWITCHBOARD_PUBLIC_URL": base,
            "SWITCHBOARD_SECRET_KEY": SECRET_KEY,
            "SWITCHBOARD_HTTP__SHUTDOWN_GRACE": "3",
            "SWITCHBOARD_DATABASE__URL": database,
            "SWITCHBOARD_KAFKA__BOOTSTRAP_SERVERS": kafka,
            "SWITCHBOARD_LIVEKIT__URL": livekit.url,
            "SWITCHBOARD_LIVEKIT__API_KEY": KEY,
            "SWITCHBOARD_LIVEKIT__API_SECRET": SECRET,
            "SWITCHBOARD_LIVEKIT__SIP_HOST": "127.0.0.1",
            "SWITCHBOARD_PROVIDERS__TWILIO__ACCOUNT_SID": ACCOUNT,
            "SWITCHBOARD_PROVIDERS__TWILIO__AUTH_TOKENS": TOKEN,
            "SWITCHBOARD_PROVIDERS__TWILIO__API_URL": twilio.url,
        }
        started: list[Started] = []
        for index, own in enumerate(roles):
            has_folder = folder / str(index)
            has_folder.mkdir()
            listens = str(api_port if own == "api" else other_api)
            shell = Shell(has_folder, env | {"SWITCHBOARD_API__PORT": listens})
            at = str(free_port() if index else port)
            command = shell.start("up", "--roles", own, "--port", at)
            started.append(stack.enter_context(command))
        for each in started:
            await asyncio.to_thread(each.says, "Ctrl-C stops it.")
        settings = node_settings(
            folder / "here",
            port=port,
            livekit_url=livekit.url,
            secret_key=SECRET_KEY,
            database={"url": database},
            api={"port": api_port},
        )
        api = await stack.enter_async_context(api_of(settings))
        has_other = any("api" in own.split(",") for own in roles if own != "api")
        found = Processes(api, port, other_api if has_other else 0, livekit, twilio)
        for at_port in (port, api_port):
            await found.ready(at_port)
        yield found
        for each in started:
            assert await asyncio.to_thread(each.end) == 0
            assert "Traceback" not in each.text


async def _from_number_to_call(p: Processes) -> None:
    client = await p.api.account("acme")
    voice_ai = VoiceAi(client)
    number = await voice_ai.select()
    anna = await voice_ai.create("Anna", number)
    await voice_ai.deploy(anna)
    shown = [await p.visible(number, "Sip")]
    call = p.twilio.place_call(number, "+12125550123", hold_seconds=0.3)
    record = await call_of(client, call.sid, state="ended", disposition="answered")
    assert record["agent"] == "anna"
    assert "anna" in [job.agent_name for job in p.livekit.jobs]
    await voice_ai.pause(anna)
    shown.append(await p.visible(number, "Say"))
    await voice_ai.deploy(anna)
    shown.append(await p.visible(number, "Sip"))
    told = ", ".join(f"{1000 * seconds:.0f} ms" for seconds in shown)
    print(f"from the API's answer to another process' webhook: {told}")


@pytest.mark.timeout(120)
async def test_a_change_by_the_api_is_visible_at_an_ingress_over_kafka(
    tmp_path: Path, kafka: Kafka, postgres: Postgres
) -> None:
    delete_topics(kafka)
    roles = ("ingress", "dispatch,calls,relay", "api")
    async with processes(tmp_path, postgres, roles, kafka.bootstrap) as p:
        await _from_number_to_call(p)
        assert await p.status(p.webhooks, f"{NATIVE}/me") == 404


@pytest.mark.timeout(120)
async def test_an_api_alone_needs_the_database_only(tmp_path: Path, postgres: Postgres) -> None:
    """Beside a node with a journal; that has an API too, on a port that is not the webhooks'."""
    async with processes(tmp_path, postgres, (f"{OF_CALLS},api", "api")) as p:
        await _from_number_to_call(p)
        client, admin = await p.api.account("acme"), await p.api.admin()
        for port in (p.api.port, p.other_api):
            assert await p.status(port, f"{NATIVE}/me", client.token) == 200
            assert await p.status(port, "/webhooks/twilio/voice", method="POST") == 404
            assert await p.status(port, "/webhooks/livekit", method="POST") == 404
        for path in (f"{NATIVE}/me", "/v1/numbers/list", "/openapi.json", "/docs"):
            assert await p.status(p.webhooks, path, client.token) == 404, path
        for port in (p.webhooks, p.api.port, p.other_api):
            assert await p.status(port, "/readyz") == 200
        await admin.delete(f"{NATIVE}/tokens/{client.row.id}")  # at the one
        assert await p.status(p.other_api, f"{NATIVE}/me", client.token) == 401  # and the other
