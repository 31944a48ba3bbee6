"""How Twilio's stand-in calls webhooks: signature, retries, overrides, fallback, disorder."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web as aioweb
from twilio.request_validator import RequestValidator

from router.sandbox.serve import serve
from router.sandbox.twilio import Disorder, Number, TwilioStandIn
from router.sandbox.twilio.errors import TwilioError
from router.sandbox.twilio.overrides import split
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

VOICE, FALLBACK = "/webhooks/twilio/voice", "/webhooks/twilio/fallback"
CALLBACKS = (
    '<Dial answerOnBridge="true"><Sip statusCallback="/leg"'
    ' statusCallbackEvent="initiated ringing answered completed">sip:a@b</Sip></Dial>'
)


@pytest.fixture
async def web() -> AsyncIterator[Server]:
    async with server() as it:
        yield it


def standin(web: Server, disorder: Disorder | None = None) -> TwilioStandIn:
    switch = Switch(prepare=answers)
    return TwilioStandIn(
        account_sid=ACCOUNT,
        auth_token=TOKEN,
        webhook_base=web.url,
        dial_sip=switch.dial,
        disorder=disorder,
    )


async def test_signed_over_the_url_without_its_fragment(web: Server) -> None:
    web.says("/v", "")
    async with standin(web) as twilio:
        url = f"{web.url}/v?b=2&a=%2f+x"
        twilio.numbers[CALLED] = Number(voice_url=url + "#rc=0")
        await twilio.place_call(CALLED, CALLER).ended()
    (request,) = web.at("/v")  # the server checked the signature over the URL as it came
    validator, given = RequestValidator(TOKEN), request.headers["X-Twilio-Signature"]
    assert validator.validate(url, dict(request.form), given)
    assert not validator.validate(url, {**request.form, "From": "+15550000009"}, given)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (lambda: aioweb.Response(status=500), 11217),
        (lambda: aioweb.Response(status=404), 11217),
        (lambda: aioweb.Response(text="<Response/>", content_type="text/html"), 12300),
        (lambda: aioweb.Response(text="no xml", content_type="text/xml"), 12100),
        (lambda: aioweb.Response(text="<Response><X/></Response>", content_type="text/xml"), 12200),
    ],
)
async def test_the_fallback_is_told_why(
    web: Server, answer: Callable[[], aioweb.Response], code: int
) -> None:
    web.answers[VOICE] = answer
    web.says(FALLBACK, "<Say>Fallback</Say>")
    async with standin(web) as twilio:
        call = twilio.place_call(CALLED, CALLER)
        assert await call.ended() == "completed"
    assert len(web.at(VOICE)) == 1  # neither a 5xx nor bad TwiML is tried again
    (request,) = web.at(FALLBACK)
    assert request.form["ErrorCode"] == str(code)
    assert request.form["ErrorUrl"] == web.url + VOICE
    assert request.form["CallSid"] == call.sid
    assert [s.detail["text"] for s in call.steps if s.what == "said"] == ["Fallback"]


async def test_without_a_fallback_the_caller_hears_an_apology(web: Server) -> None:
    web.answers[VOICE] = lambda: aioweb.Response(status=500)
    async with standin(web) as twilio:
        twilio.numbers[CALLED] = Number(voice_url=web.url + VOICE)
        call = twilio.place_call(CALLED, CALLER)
        assert await call.ended() == "completed"
    (said,) = [s.detail["text"] for s in call.steps if s.what == "said"]
    assert "application error" in str(said)


async def in_pieces(document: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(document), 1000):
        yield document[start : start + 1000]
        await asyncio.sleep(0)  # what was sent so far can be read


@pytest.mark.parametrize(("size", "codes"), [(60_000, []), (70_000, [12100])])
async def test_a_document_is_read_whole_up_to_64_kib(
    web: Server, size: int, codes: list[int]
) -> None:
    document = b"<Response><Say>%b</Say></Response>" % (b"x" * size)
    web.answers[VOICE] = lambda: aioweb.Response(body=in_pieces(document), content_type="text/xml")
    web.says(FALLBACK, "<Say>Fallback</Say>")
    async with standin(web) as twilio:
        call = twilio.place_call(CALLED, CALLER)
        assert await call.ended() == "completed"
    assert [s.detail["code"] for s in call.steps if s.what == "error"] == codes
    (said,) = [s.detail["text"] for s in call.steps if s.what == "said"]
    assert said == ("Fallback" if codes else "x" * size)


async def test_a_5xx_is_tried_again_where_the_url_says_so(web: Server) -> None:
    web.answers[VOICE] = lambda: aioweb.Response(status=500)
    async with standin(web) as twilio:
        twilio.numbers[CALLED] = Number(voice_url=f"{web.url}{VOICE}#rc=3&rp=5xx")
        await twilio.place_call(CALLED, CALLER).ended()
    requests = web.at(VOICE)
    assert len(requests) == 4
    assert len({r.headers["I-Twilio-Idempotency-Token"] for r in requests}) == 1
    assert len({r.headers["X-Twilio-Signature"] for r in requests}) == 1


async def test_a_server_that_is_away_is_tried_twice_then_the_fallback(web: Server) -> None:
    tries = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        writer.close()

    # A server that takes connections and closes them is no failed connect: it is tried once.
    closing = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = closing.sockets[0].getsockname()[1]
    web.says(FALLBACK, "")
    async with standin(web) as twilio, closing:
        twilio.numbers[CALLED] = Number(
            voice_url=f"http://127.0.0.1:{port}/voice", voice_fallback_url=web.url + FALLBACK
        )
        await twilio.place_call(CALLED, CALLER).ended()
        assert tries == 1
        closing.close()
        await closing.wait_closed()
        await twilio.place_call(CALLED, CALLER).ended()
    assert [r.form["ErrorCode"] for r in web.at(FALLBACK)] == ["11200", "11205"]


async def test_no_answer_in_time_is_not_tried_again(web: Server) -> None:
    started = 0

    async def slow(_: aioweb.Request) -> aioweb.Response:
        nonlocal started
        started += 1
        await asyncio.sleep(60)
        return aioweb.Response()

    app = aioweb.Application()
    app.router.add_post("/slow", slow)
    web.says(FALLBACK, "")
    async with serve(app, 0) as url, standin(web) as twilio:
        twilio.numbers[CALLED] = Number(
            voice_url=f"{url}/slow#rt=100", voice_fallback_url=web.url + FALLBACK
        )
        await twilio.place_call(CALLED, CALLER).ended()
        twilio.numbers[CALLED] = Number(
            voice_url=f"{url}/slow#tt=100&rp=rt", voice_fallback_url=web.url + FALLBACK
        )
        await twilio.place_call(CALLED, CALLER).ended()
    assert started == 1 + 2
    assert [r.form["ErrorCode"] for r in web.at(FALLBACK)] == ["11200", "11200"]


async def test_a_redirect_loses_the_parameters(web: Server) -> None:
    def redirect() -> aioweb.Response:
        return aioweb.Response(status=302, headers={"Location": "/moved"})

    web.answers[VOICE] = redirect
    web.says("/moved", "")
    async with standin(web) as twilio:
        await twilio.place_call(CALLED, CALLER).ended()
    (request,) = web.at("/moved")
    assert (request.method, request.form) == ("GET", {})


def test_the_limits_of_overrides() -> None:
    url, overrides = split("http://host/path?q=1#ct=2000&rt=8000&rc=2&rp=4xx,5xx")
    assert url == "http://host/path?q=1"
    assert (overrides.connect, overrides.read, overrides.total) == (2.0, 8.0, 15.0)
    assert overrides.retries == 2
    assert [overrides.retries_on(reason) for reason in ("ct", "rt", "4xx", "5xx")] == [
        False,
        False,
        True,
        True,
    ]
    assert split("http://host/")[1].retries_on("ct")
    for fragment in ("rc=6", "ct=99", "rt=15001", "rc=x", "rp=3xx"):
        with pytest.raises(TwilioError):
            split(f"http://host/#{fragment}")


async def test_copies_of_a_webhook_share_the_token(web: Server) -> None:
    web.says(VOICE, CALLBACKS)
    async with standin(web, Disorder(copies=3)) as twilio:
        call = twilio.place_call(CALLED, CALLER, hold_seconds=0)
        await call.ended()
    requests = web.at(VOICE)
    assert len(requests) == 3
    assert len({r.headers["I-Twilio-Idempotency-Token"] for r in requests}) == 1
    assert len(call.bodies) == 3
    assert len(call.twiml) == 1
    assert len(web.at("/leg")) == 3 * 4


async def test_shuffled_callbacks_are_all_there_in_another_order_by_seed(web: Server) -> None:
    web.says(VOICE, CALLBACKS)
    orders = []
    for seed in (7, 7, 8, 9, 10):
        web.received.clear()
        async with standin(web, Disorder(copies=2, window=4, seed=seed)) as twilio:
            await twilio.place_call(CALLED, CALLER, hold_seconds=0).ended()
        orders.append([r.form["SequenceNumber"] for r in web.at("/leg")])
    assert all(sorted(order) == sorted("00112233") for order in orders)
    assert any(order != sorted(order) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


async def test_a_callback_that_fails_is_lost_and_does_not_disturb_the_call(web: Server) -> None:
    web.says(VOICE, CALLBACKS)
    web.answers["/leg"] = lambda: aioweb.Response(status=503)
    async with standin(web) as twilio:
        call = twilio.place_call(CALLED, CALLER, hold_seconds=0)
        assert await call.ended() == "completed"
    assert len(web.at("/leg")) == 4
    sent = [s for s in call.steps if s.what == "callback.sent"]
    assert sum("11217" in str(step.detail["outcome"]) for step in sent) == 4


async def test_a_slow_callback_does_not_delay_the_call(web: Server) -> None:
    release = asyncio.Event()

    async def slow(_: aioweb.Request) -> aioweb.Response:
        await release.wait()
        return aioweb.Response(status=204)

    app = aioweb.Application()
    app.router.add_post("/leg", slow)
    async with serve(app, 0) as url, standin(web) as twilio:
        web.says(VOICE, CALLBACKS.replace('"/leg"', f'"{url}/leg"'))
        call = twilio.place_call(CALLED, CALLER)
        await eventually(lambda: "dial.answered" in call.whats())
        assert "callback.sent" not in call.whats()
        call.hangup()
        release.set()
        await call.ended()
