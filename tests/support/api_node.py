"""The control API of a whole node, and what its clients do with it from number to call."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from config import Settings
from router.api.app import dialects
from router.clock import SystemClock
from router.control.context import control_of
from router.secrets import load_keys
from router.storage.engine import open_database
from tests.support.api import Client, FakeCarriers, Reply, RunningApi

NATIVE = "/api/switchboard/v1"


@asynccontextmanager
async def api_of(settings: Settings) -> AsyncIterator[RunningApi]:
    """The API of a node with these settings; accounts and tokens are made in its database.

    `carriers` are nobody's: the node speaks to those of its settings.
    """
    keys = load_keys(settings.secret_key.get_secret_value(), (), settings.data_dir)
    port = settings.api.port or settings.http.port
    async with open_database(settings) as database, aiohttp.ClientSession() as session:
        control = control_of(settings, database, keys, SystemClock())
        url = f"http://127.0.0.1:{port}"
        yield RunningApi(url, port, settings, control, dialects(), session, FakeCarriers())


@dataclass
class VoiceAi:
    """A voice.ai client, as far as the way from a number to a call; what fails is an error."""

    client: Client
    provider: str = "twilio"

    async def search(self, area_code: str = "415") -> list[str]:
        """The numbers that can be selected."""
        asked = {"area_code": area_code, "provider": self.provider}
        found = await self._post("search-phone-numbers", asked)
        assert found["total_results"] == len(found["results"]) > 0
        return [each["phone_number"] for each in found["results"]]

    async def select(self) -> str:
        """Buy the first number that there is."""
        number = (await self.search())[0]
        selected = await self._post("select-phone-number", self._named(number))
        assert selected == {"phone_number": number, "status": "selected"}
        return number

    async def create(self, name: str, number: str) -> str:
        """An agent of this name whose number it is; its id."""
        config = {"phone_number": number, "prompt": f"You are {name}."}
        made = await self._post("", {"name": name, "config": config})
        assert (made["status"], made["config"]["phone_number"]) == ("paused", number)
        return str(made["agent_id"])

    async def deploy(self, agent_id: str) -> None:
        """Let it take calls."""
        deployed = await self._post(f"{agent_id}/deploy")
        assert (deployed["agent"]["status"], deployed["sip_status"]) == ("deployed", "ready")

    async def pause(self, agent_id: str) -> None:
        """Let it take none."""
        assert (await self._post(f"{agent_id}/pause"))["agent"]["status"] == "paused"

    async def release(self, number: str) -> Reply:
        """Give the number back; the answer as it is."""
        return await self.client.post("/api/v1/agent/release-phone-number", self._named(number))

    async def _post(self, path: str, body: Any = None) -> Any:
        reply = await self.client.post(f"/api/v1/agent/{path}".rstrip("/"), body)
        assert reply.status == 200, reply.text
        return reply.json

    def _named(self, number: str) -> dict[str, str]:
        return {"phone_number": number, "provider": self.provider}


async def set_fallback(client: Client, number: str, fallback: str) -> None:
    """Who is called when no agent takes calls; "": nobody."""
    path = f"{NATIVE}/numbers/{number.removeprefix('+')}"
    reply = await client.patch(path, {"fallback": fallback})
    assert reply.status == 200, reply.text


async def call_of(client: Client, provider_call_id: str, **wanted: Any) -> dict[str, Any]:
    """The record of the account's call, once it has these values."""
    call: dict[str, Any] = {}
    for _ in range(150):
        call = await _record(client, provider_call_id)
        if call and wanted.items() <= call.items():
            return call
        await asyncio.sleep(0.1)  # a token has 600 requests a minute
    raise AssertionError(f"not {wanted}: {call}")


async def _record(client: Client, provider_call_id: str) -> dict[str, Any]:
    """Empty: the account has no such call (yet)."""
    reply = await client.get(f"{NATIVE}/calls")
    assert reply.status == 200, reply.text
    calls: list[dict[str, Any]] = reply.json["items"]
    return next((call for call in calls if call["provider_call_id"] == provider_call_id), {})
