"""`router.providers.twilio.api` against Twilio's stand-in, and against what else may answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from config import load
from router.clock import SystemClock
from router.errors import Ambiguous, EffectError, Permanent, Transient
from router.events.model import Event
from router.provider import CallRef, Carrier, ProviderContext, SipTarget, Standing
from router.providers.twilio.api import open_carrier
from router.providers.twilio.events import incoming_call
from router.sandbox.serve import serve
from router.sandbox.twilio import TwilioStandIn
from tests.support.nodes import free_port
from tests.support.sandbox_twilio import (
    ACCOUNT,
    CALLED,
    CALLER,
    TOKEN,
    Server,
    Switch,
    answers,
    refuses,
    server,
)

SUBACCOUNT, ITS_TOKEN = "AC" + "5" * 32, "the-token-of-the-subaccount"
TOKENLESS = "AC" + "6" * 32
SID = "CA" + "1" * 32
DIAL = '<Dial answerOnBridge="true"><Sip username="u" password="p">sip:a@sip.example</Sip></Dial>'

Ask = Callable[[CallRef], Awaitable[Standing | None]]


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[Ask]:
    """Twilio at `url`, with a subaccount, and with an account that has no token."""
    twilio = {
        "account_sid": ACCOUNT,
        "auth_tokens": [TOKEN, "the-next-auth-token"],
        "accounts": {SUBACCOUNT: [ITS_TOKEN], TOKENLESS: [], ACCOUNT: ["one-more-auth-token"]},
        "api_url": url,
    }
    async with carrier_at(twilio) as carrier:
        assert carrier.standing is not None
        yield carrier.standing


@asynccontextmanager
async def carrier_at(twilio: Mapping[str, object]) -> AsyncIterator[Carrier]:
    overrides = {"public_url": "https://switchboard.example", "providers": {"twilio": twilio}}
    target = SipTarget("sip.example", "udp", "user", "password")
    context = ProviderContext(load(overrides=overrides), target, SystemClock())
    async with open_carrier(context) as carrier:
        yield carrier


@asynccontextmanager
async def redirecting(url: str) -> AsyncIterator[Callable[[Event, str], Awaitable[None]]]:
    twilio = {"account_sid": ACCOUNT, "auth_tokens": [TOKEN], "api_url": url}
    async with carrier_at(twilio) as carrier:
        assert carrier.redirect is not None
        yield carrier.redirect


def incoming(sid: str, account: str = ACCOUNT) -> Event:
    fields = {"CallSid": sid, "From": CALLER, "To": CALLED, "CallStatus": "ringing"}
    return incoming_call({**fields, "AccountSid": account}, account, 0)


def ref(sid: str = SID, account: str = ACCOUNT) -> CallRef:
    return CallRef("our-id", sid, account)


@pytest.fixture
async def web_server() -> AsyncIterator[Server]:
    async with server() as it:
        yield it


@pytest.fixture
def switch() -> Switch:
    return Switch()


@pytest.fixture
async def twilio(web_server: Server, switch: Switch) -> AsyncIterator[TwilioStandIn]:
    web_server.says("/webhooks/twilio/voice", DIAL)
    async with TwilioStandIn(
        account_sid=ACCOUNT,
        auth_token=TOKEN,
        webhook_base=web_server.url,
        dial_sip=switch.dial,
    ) as it:
        yield it


async def test_a_call_goes_on_until_it_is_over(twilio: TwilioStandIn, switch: Switch) -> None:
    switch.prepare = answers
    call = twilio.place_call(CALLED, CALLER)
    await call.answered()
    async with asking(twilio.url) as ask:
        assert await ask(ref(call.sid)) == Standing(over=False)
        call.hangup()
        await call.ended()
        standing = await ask(ref(call.sid))
    assert call.end_time is not None
    second = call.end_time // 1_000_000 * 1_000_000
    assert standing == Standing(
        over=True, disposition="answered", ended_at=second, duration=float(call.duration)
    )


async def test_a_call_that_nobody_took_was_not_answered(
    twilio: TwilioStandIn, switch: Switch
) -> None:
    switch.prepare = refuses(486)
    call = twilio.place_call(CALLED, CALLER)
    await call.ended()
    async with asking(twilio.url) as ask:
        standing = await ask(ref(call.sid))
    assert standing is not None
    assert (standing.over, standing.disposition, standing.duration) == (True, "no_answer", 0.0)


async def test_twilio_knows_no_such_call(twilio: TwilioStandIn) -> None:
    async with asking(twilio.url) as ask:
        assert await ask(ref()) is None


async def test_the_token_is_that_of_the_account(twilio: TwilioStandIn) -> None:
    async with asking(twilio.url) as ask:
        with pytest.raises(Permanent, match=r"401.*20003"):
            await ask(ref(account=SUBACCOUNT))  # the stand-in has another one
        for account in (TOKENLESS, "AC" + "7" * 32, ""):
            with pytest.raises(Permanent, match="no Auth Token"):
                await ask(ref(account=account))


@asynccontextmanager
async def api(answer: Callable[[web.Request], web.Response]) -> AsyncIterator[str]:
    async def handle(request: web.Request) -> web.Response:
        return answer(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with serve(app, 0) as url:
        yield url


async def test_every_account_is_asked_with_its_first_token() -> None:
    asked: list[tuple[str, str]] = []

    def answer(request: web.Request) -> web.Response:
        asked.append((request.raw_path, request.headers["Authorization"]))
        return web.json_response({"status": "in-progress"})

    async with api(answer) as url, asking(url) as ask:
        await ask(ref())
        await ask(ref("CA/../1", SUBACCOUNT))
    assert asked == [
        (
            f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{SID}.json",
            aiohttp.encode_basic_auth(ACCOUNT, TOKEN),
        ),
        (
            f"/2010-04-01/Accounts/{SUBACCOUNT}/Calls/CA%2F..%2F1.json",
            aiohttp.encode_basic_auth(SUBACCOUNT, ITS_TOKEN),
        ),
    ]


@pytest.mark.parametrize(
    ("status", "standing"),
    [
        ("queued", Standing(over=False)),
        ("ringing", Standing(over=False)),
        ("a-new-status", Standing(over=False)),
        ("completed", Standing(True, "answered", 1_301_538_171_000_000, 15.0)),
        ("busy", Standing(True, "busy", 1_301_538_171_000_000, 15.0)),
        ("failed", Standing(True, "failed", 1_301_538_171_000_000, 15.0)),
        ("no-answer", Standing(True, "no_answer", 1_301_538_171_000_000, 15.0)),
        ("canceled", Standing(True, "canceled", 1_301_538_171_000_000, 15.0)),
    ],
)
async def test_what_twilio_calls_its_states(status: str, standing: Standing) -> None:
    shown = {"status": status, "end_time": "Thu, 31 Mar 2011 02:22:51 +0000", "duration": "15"}
    async with api(lambda _: web.json_response(shown)) as url, asking(url) as ask:
        assert await ask(ref()) == standing


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ('{"status": 7}', 200, Ambiguous),
        ("[]", 200, Ambiguous),
        ('{"status": "completed", "end_time": "yesterday"}', 200, Ambiguous),
        ('{"status": "completed", "duration": "long"}', 200, Ambiguous),
        ("<html>", 200, Ambiguous),
        ("<html>", 502, Ambiguous),
        ('{"code": 20429}', 429, Transient),
        ('{"code": 20003}', 401, Permanent),
        ("[]", 403, Permanent),
    ],
)
async def test_what_is_no_answer_is_an_error(
    body: str, status: int, error: type[EffectError]
) -> None:
    answer = web.Response
    async with api(lambda _: answer(text=body, status=status)) as url, asking(url) as ask:
        with pytest.raises(error) as caught:
            await ask(ref())
    assert TOKEN not in str(caught.value)


async def test_a_wrong_url_does_not_mean_that_there_is_no_such_call() -> None:
    async with api(lambda _: web.Response(status=404)) as url, asking(url) as ask:
        with pytest.raises(Permanent, match="api_url"):
            await ask(ref())


async def test_twilio_that_is_away_can_be_asked_again() -> None:
    async with asking(f"http://127.0.0.1:{free_port()}") as ask:
        with pytest.raises(Transient):
            await asyncio.gather(ask(ref()), ask(ref()))


@pytest.mark.parametrize("fallback", ["+14155550199", ""])
async def test_an_answered_caller_is_redirected(
    twilio: TwilioStandIn, switch: Switch, web_server: Server, fallback: str
) -> None:
    switch.prepare = answers
    call = twilio.place_call(CALLED, CALLER)
    await call.answered()
    async with redirecting(twilio.url) as redirect:
        await redirect(incoming(call.sid), fallback)
        await call.changed.until(lambda: len(call.twiml) == 2)
        if fallback:
            assert "<Number>+14155550199</Number>" in call.twiml[1]
            assert (
                "https://switchboard.example/webhooks/twilio/dial?stage=fallback" in call.twiml[1]
            )
            call.hangup()
        await call.ended()
        assert ("said" in call.whats()) is not bool(fallback)
        await redirect(incoming(call.sid), fallback)  # it is over: nobody is left to be told
        assert call.whats().count("rest.redirected") == 1


async def test_who_can_not_be_redirected(twilio: TwilioStandIn) -> None:
    async with redirecting(twilio.url) as redirect:
        await redirect(incoming(SID), "+14155550199")  # no such call
        with pytest.raises(Permanent, match="no Auth Token"):
            await redirect(incoming(SID, "AC" + "7" * 32), "+14155550199")
        with pytest.raises(Permanent, match=r"E\.164"):
            await redirect(incoming(SID), "12")
