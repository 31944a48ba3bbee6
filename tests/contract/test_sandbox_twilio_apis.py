"""The HTTP APIs of Twilio's stand-in: the sandbox's control API and Twilio's REST API."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from twilio.base.exceptions import TwilioRestException
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.rest import Client

from router.sandbox.twilio import TwilioStandIn
from tests.support.sandbox_livekit import eventually
from tests.support.sandbox_twilio import (
    ACCOUNT,
    CALLED,
    CALLER,
    TOKEN,
    Server,
    Switch,
    answers,
    server,
)

# The SDK's asynchronous client uses what aiohttp has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:BasicAuth is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'auth' parameter is deprecated:DeprecationWarning"),
]

VOICE = "/webhooks/twilio/voice"
SECRET = "control-token"
DIAL = (
    '<Dial answerOnBridge="true" action="/dial">'
    '<Sip username="u" password="Hidden-1">sip:a-call-id@sip.example</Sip></Dial>'
)


@pytest.fixture
async def web() -> AsyncIterator[Server]:
    async with server() as it:
        yield it


@pytest.fixture
def switch() -> Switch:
    return Switch()


@pytest.fixture
async def twilio(web: Server, switch: Switch) -> AsyncIterator[TwilioStandIn]:
    async with TwilioStandIn(
        account_sid=ACCOUNT,
        auth_token=TOKEN,
        webhook_base=web.url,
        dial_sip=switch.dial,
        control_token=SECRET,
    ) as it:
        yield it


@pytest.fixture
async def control(twilio: TwilioStandIn) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {SECRET}"}
    async with aiohttp.ClientSession(twilio.url, headers=headers) as session:
        yield session


@pytest.fixture
async def rest(twilio: TwilioStandIn) -> AsyncIterator[Client]:
    http = AsyncTwilioHttpClient()
    client = Client(ACCOUNT, TOKEN, http_client=http)
    client.api.base_url = twilio.url
    yield client
    await http.close()


async def ordered(control: aiohttp.ClientSession, **body: Any) -> str:
    async with control.post("/calls", json={"to": CALLED, "from": CALLER, **body}) as answer:
        assert answer.status == 201
        return str((await answer.json())["sid"])


async def transcript(control: aiohttp.ClientSession, sid: str, **query: Any) -> dict[str, Any]:
    async with control.get(f"/calls/{sid}/transcript", params=query) as answer:
        assert answer.status == 200
        return dict(await answer.json())


async def test_another_process_places_and_follows_a_call(
    control: aiohttp.ClientSession, web: Server, switch: Switch
) -> None:
    switch.prepare = answers
    web.says(VOICE, DIAL)
    web.says("/dial", "")
    sid = await ordered(control, hold_seconds=0.05)
    steps: list[dict[str, Any]] = []
    part: dict[str, Any] = {"done": False}
    while not part["done"]:
        part = await transcript(control, sid, after=len(steps), wait=5)
        steps += part["steps"]
        assert part["next"] == len(steps)
    assert part["status"] == "completed"
    assert steps[0]["what"] == "webhook.sent"
    assert steps[-1]["what"] == "call.ended"
    assert [step["at"] for step in steps] == sorted(step["at"] for step in steps)
    (document,) = [
        s["text"] for s in steps if s["what"] == "twiml.received" and "Dial" in s["text"]
    ]
    assert 'password="***"' in document
    assert "Hidden-1" not in str(steps)


async def test_the_transcript_waits_for_something_new(
    control: aiohttp.ClientSession, web: Server, switch: Switch
) -> None:
    web.says(VOICE, DIAL)
    sid = await ordered(control)
    await eventually(lambda: bool(switch.legs))
    before = await transcript(control, sid)
    assert (await transcript(control, sid, after=before["next"]))["steps"] == []
    waiting = asyncio.create_task(transcript(control, sid, after=before["next"], wait=5))
    switch.legs[0].ring()
    assert (await waiting)["steps"][0]["what"] == "dial.ringing"
    async with control.post(f"/calls/{sid}/hangup") as answer:
        assert answer.status == 200
    await switch.legs[0].ended()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("{", ""),
        ("[]", "object"),
        ('{"from": "+15550000001"}', "to"),
        ('{"to": "15550000001", "from": "+15550000001"}', "to"),
        ('{"to": "+15550000001", "from": "+15550000001", "hold_seconds": -1}', "hold_seconds"),
        ('{"to": "+15550000001", "from": "+15550000001", "hold": 1}', "hold"),
    ],
)
async def test_an_order_that_is_refused(
    control: aiohttp.ClientSession, body: str, field: str
) -> None:
    async with control.post("/calls", data=body) as answer:
        assert answer.status == 400
        message = (await answer.json())["error"]
    assert field in message
    assert "1555" not in message


async def test_the_control_api_wants_its_token(twilio: TwilioStandIn) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {SECRET}"}):
        async with aiohttp.ClientSession(twilio.url, headers=headers) as stranger:
            for method, path in (
                ("POST", "/calls"),
                ("GET", "/calls/CA1/transcript"),
                ("POST", "/calls/CA1/hangup"),
            ):
                async with stranger.request(method, path) as answer:
                    assert answer.status == 401


async def test_unknown_calls_are_404(control: aiohttp.ClientSession) -> None:
    async with control.get("/calls/CA1/transcript") as answer:
        assert answer.status == 404
    async with control.post("/calls/CA1/hangup") as answer:
        assert answer.status == 404


async def test_without_a_token_there_is_no_control_api(web: Server, switch: Switch) -> None:
    async with (
        TwilioStandIn(
            account_sid=ACCOUNT, auth_token=TOKEN, webhook_base=web.url, dial_sip=switch.dial
        ) as twilio,
        aiohttp.ClientSession(twilio.url) as session,
        session.post("/calls", json={}) as answer,
    ):
        assert answer.status == 404


async def test_a_ringing_call_is_redirected_by_rest(
    twilio: TwilioStandIn, rest: Client, web: Server, switch: Switch
) -> None:
    web.says(VOICE, DIAL)
    web.says("/dial", "<Say>Never followed</Say>")
    call = twilio.place_call(CALLED, CALLER)
    await eventually(lambda: bool(switch.legs))
    switch.prepare = answers
    fallback = "<Response><Dial><Number>+15550000009</Number></Dial></Response>"
    shown = await rest.calls(call.sid).update_async(twiml=fallback)
    assert (shown.sid, str(shown.status)) == (call.sid, "ringing")
    await eventually(lambda: "dial.answered" in call.whats())
    assert switch.legs[0].status == 487
    # The dial's action is asked although its answer counts no more.
    assert len(web.at("/dial")) == 1
    assert "said" not in call.whats()
    assert str((await rest.calls(call.sid).fetch_async()).status) == "in-progress"
    await rest.calls(call.sid).update_async(status="completed")
    assert await call.ended() == "completed"


async def test_a_call_that_was_ended_is_not_redirected_any_more(
    twilio: TwilioStandIn, rest: Client, web: Server, switch: Switch
) -> None:
    release = asyncio.Event()
    web.says(VOICE, DIAL)
    web.says("/dial", "<Say>Never followed</Say>")
    web.hold["/dial"] = release
    call = twilio.place_call(CALLED, CALLER)
    await eventually(lambda: bool(switch.legs))
    call.hangup()
    await eventually(lambda: bool(web.at("/dial")))  # the call waits for its last webhook
    await rest.calls(call.sid).update_async(twiml="<Response><Say>Too late</Say></Response>")
    release.set()
    await call.ended()
    assert "said" not in call.whats()


async def test_a_call_is_redirected_to_a_url(
    twilio: TwilioStandIn, rest: Client, web: Server, switch: Switch
) -> None:
    switch.prepare = answers
    web.says(VOICE, DIAL)
    web.says("/elsewhere", "<Say>Elsewhere</Say>")
    call = twilio.place_call(CALLED, CALLER)
    await call.answered()
    await rest.calls(call.sid).update_async(url=web.url + "/elsewhere", method="POST")
    assert await call.ended() == "completed"
    assert "said" in call.whats()


async def test_errors_have_twilios_form(
    twilio: TwilioStandIn, rest: Client, web: Server, switch: Switch
) -> None:
    web.says(VOICE, "")
    call = twilio.place_call(CALLED, CALLER)
    await call.ended()

    async def error(sid: str, client: Client, **change: str) -> tuple[int, int | None]:
        with pytest.raises(TwilioRestException) as caught:
            await client.calls(sid).update_async(**change)
        return caught.value.status, caught.value.code

    assert await error("CA" + "0" * 32, rest, status="completed") == (404, 20404)
    assert await error(call.sid, rest, twiml="<Response/>") == (400, 21220)
    web.says(VOICE, DIAL)
    live = twilio.place_call(CALLED, CALLER)
    assert await error(live.sid, rest) == (400, 21218)
    assert await error(live.sid, rest, twiml="<Nothing/>") == (400, 12100)
    http = AsyncTwilioHttpClient()
    stranger = Client(ACCOUNT, "wrong", http_client=http)
    stranger.api.base_url = twilio.url
    assert await error(live.sid, stranger, status="completed") == (401, 20003)
    await http.close()
    live.hangup()
    await live.ended()


async def test_a_call_is_fetched_as_long_as_it_goes_on_and_when_it_is_over(
    twilio: TwilioStandIn, rest: Client, web: Server, switch: Switch
) -> None:
    switch.prepare = answers
    web.says(VOICE, DIAL)
    call = twilio.place_call(CALLED, CALLER)
    await call.answered()
    live = await rest.calls(call.sid).fetch_async()
    assert (live.sid, live.to, live._from) == (call.sid, CALLED, CALLER)
    assert (str(live.status), live.end_time, live.duration) == ("in-progress", None, None)
    call.hangup()
    await call.ended()
    over = await rest.calls(call.sid).fetch_async()
    assert (str(over.status), over.duration) == ("completed", str(call.duration))
    assert live.start_time is not None
    assert over.end_time is not None
    assert over.end_time >= live.start_time


async def test_the_account_is_fetched_with_its_own_token(twilio: TwilioStandIn) -> None:
    http = AsyncTwilioHttpClient()
    mine, stranger = (Client(ACCOUNT, key, http_client=http) for key in (TOKEN, "wrong"))
    mine.api.base_url = stranger.api.base_url = twilio.url
    account = await mine.api.v2010.accounts(ACCOUNT).fetch_async()
    assert (account.sid, str(account.status)) == (ACCOUNT, "active")
    with pytest.raises(TwilioRestException) as caught:
        await stranger.api.v2010.accounts(ACCOUNT).fetch_async()
    assert caught.value.status == 401
    with pytest.raises(TwilioRestException) as caught:
        await mine.api.v2010.accounts("AC" + "9" * 32).fetch_async()
    assert caught.value.status == 404
    await http.close()
