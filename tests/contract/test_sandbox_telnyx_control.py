"""The control API of Telnyx's stand-in: another process places a call and follows it."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from router.sandbox.telnyx import TelnyxStandIn
from tests.support.sandbox_livekit import eventually
from tests.support.sandbox_telnyx import (
    API_KEY,
    CALLED,
    CALLER,
    PATH,
    SEED,
    VOICE,
    Server,
    client,
    server,
)
from tests.support.sandbox_twilio import Switch, answers

TOKEN = "control-token"
URI = "sip:a-call-id@sip.example"


@pytest.fixture
async def web() -> AsyncIterator[Server]:
    async with server() as it:
        yield it


@pytest.fixture
async def standin(web: Server) -> AsyncIterator[TelnyxStandIn]:
    async with TelnyxStandIn(
        api_key=API_KEY,
        seed=SEED,
        webhook_base=web.url,
        dial_sip=Switch(prepare=answers).dial,
        control_token=TOKEN,
    ) as it:
        web.key = it.public_key
        yield it


@pytest.fixture
async def control(standin: TelnyxStandIn) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(standin.control_url, headers=headers) as session:
        yield session


async def ordered(control: aiohttp.ClientSession) -> str:
    async with control.post("/calls", json={"to": CALLED, "from": CALLER}) as answer:
        assert answer.status == 201
        return str((await answer.json())["sid"])


async def to_the_end(control: aiohttp.ClientSession, sid: str) -> list[dict[str, Any]]:
    """Hang up; the whole transcript."""
    async with control.post(f"/calls/{sid}/hangup") as answer:
        assert answer.status == 200
    steps: list[dict[str, Any]] = []
    page: dict[str, Any] = {"done": False}
    while not page["done"]:
        path = f"/calls/{sid}/transcript?after={len(steps)}&wait=5"
        async with control.get(path) as answer:
            page = await answer.json()
        steps += page["steps"]
    assert page["status"] == "hangup"
    return steps


async def test_a_call_is_placed_commanded_and_followed(
    standin: TelnyxStandIn, control: aiohttp.ClientSession, web: Server
) -> None:
    sid = await ordered(control)
    await eventually(lambda: bool(web.at(PATH)))
    payload = web.at(PATH)[0].payload
    assert payload["call_control_id"] == sid
    async with client(standin.url) as telnyx:
        await telnyx.calls.actions.transfer(
            payload["call_control_id"], to=URI, sip_auth_username="u", sip_auth_password="Hidden-1"
        )
    await eventually(lambda: bool(web.of("call.bridged")))
    steps = await to_the_end(control, sid)
    told = [step["what"] for step in steps if "." in step["what"] and "call" not in step["what"]]
    assert told == [
        "webhook.sent",
        "webhook.answered",
        "command.received",
        "dial.ringing",
        "dial.answered",
        "dial.ended",
    ]
    (command,) = [step for step in steps if step["what"] == "command.received"]
    assert (command["action"], command["to"]) == ("transfer", URI)
    assert {"caller.hung_up", "call.ended"} <= {step["what"] for step in steps}
    assert "Hidden-1" not in str(steps)


async def test_a_texml_call_is_known_by_its_call_sid(
    standin: TelnyxStandIn, control: aiohttp.ClientSession, web: Server
) -> None:
    standin.texml_numbers.add(CALLED)
    web.says(VOICE, f'<Say>Hello</Say><Dial><Sip username="u" password="p">{URI}</Sip></Dial>')
    sid = await ordered(control)
    await eventually(lambda: bool(web.at(VOICE)))
    assert web.at(VOICE)[0].form["CallSid"] == sid
    call = standin.call(sid)
    assert call is not None
    await eventually(lambda: "dial.answered" in call.whats())
    steps = await to_the_end(control, sid)
    order = ["webhook.sent", "webhook.answered", "said", "dial.ringing", "dial.answered"]
    order += ["caller.hung_up", "dial.ended", "call.ended"]
    assert [step["what"] for step in steps if step["what"] in order] == order


async def test_without_the_token_nothing_is_told(standin: TelnyxStandIn) -> None:
    async with (
        aiohttp.ClientSession(standin.control_url) as stranger,
        stranger.post("/calls", json={"to": CALLED, "from": CALLER}) as answer,
    ):
        assert answer.status == 401
