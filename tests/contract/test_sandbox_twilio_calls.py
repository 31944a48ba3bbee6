"""Calls through Twilio's stand-in: webhook, TwiML, dial, action, end."""

from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime

import pytest

from router.sandbox.twilio import Call, Phone, TwilioStandIn
from tests.support.sandbox_clock import FakeClock
from tests.support.sandbox_livekit import eventually
from tests.support.sandbox_twilio import (
    ACCOUNT,
    CALLED,
    CALLER,
    TOKEN,
    Received,
    Server,
    Switch,
    answers,
    refuses,
    server,
)

VOICE, STATUS = "/webhooks/twilio/voice", "/webhooks/twilio/status"
SIP = "sip:a-call-id@sip.example;transport=tcp?x-route=7"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def switch() -> Switch:
    return Switch()


@pytest.fixture
async def web() -> AsyncIterator[Server]:
    async with server() as it:
        yield it


@pytest.fixture
async def twilio(web: Server, switch: Switch, clock: FakeClock) -> AsyncIterator[TwilioStandIn]:
    async with TwilioStandIn(
        account_sid=ACCOUNT,
        auth_token=TOKEN,
        webhook_base=web.url,
        dial_sip=switch.dial,
        clock=clock,
    ) as it:
        yield it


def dial(noun: str = "", *, attributes: str = 'answerOnBridge="true" action="/dial"') -> str:
    noun = noun or f'<Sip username="u" password="p">{SIP}</Sip>'
    return f"<Dial {attributes}>{noun}</Dial>"


async def reached(call: Call, what: str) -> None:
    await eventually(lambda: what in call.whats())


async def test_the_request_for_twiml(twilio: TwilioStandIn, web: Server) -> None:
    web.says(VOICE, "<Say>Hello</Say>")
    call = twilio.place_call(CALLED, CALLER, extra={"ForwardedFrom": "+15550000009"})
    assert await call.ended() == "completed"
    (request,) = web.at(VOICE)
    expected = {
        "CallSid": call.sid,
        "AccountSid": ACCOUNT,
        "ApiVersion": "2010-04-01",
        "From": CALLER,
        "To": CALLED,
        "Caller": CALLER,
        "Called": CALLED,
        "CallStatus": "ringing",
        "Direction": "inbound",
        "StirVerstat": "TN-Validation-Passed-A",
        "ForwardedFrom": "+15550000009",
    }
    assert {key: request.form[key] for key in expected} == expected
    for side in ("From", "To", "Caller", "Called"):
        assert {side + "City", side + "State", side + "Zip", side + "Country"} <= set(request.form)
    assert call.sid.startswith("CA")
    assert len(call.sid) == 34
    assert request.headers["I-Twilio-Idempotency-Token"]
    assert call.twiml == ["<Response><Say>Hello</Say></Response>"]
    assert call.whats() == [
        "webhook.sent",
        "webhook.answered",
        "twiml.received",
        "call.answered",
        "said",
        "callback.sent",
        "call.ended",
    ]


async def test_a_sip_dial_that_is_answered(
    twilio: TwilioStandIn, web: Server, switch: Switch, clock: FakeClock
) -> None:
    web.says(VOICE, dial())
    web.says("/dial", "<Hangup/>")
    call = twilio.place_call(CALLED, CALLER)
    await reached(call, "dial.started")
    (invite,) = switch.invites
    assert (invite.to_user, invite.from_user) == ("a-call-id", CALLER)
    assert (invite.username, invite.password, invite.transport) == ("u", "p", "tcp")
    assert invite.headers["x-route"] == "7"
    assert invite.headers["X-Twilio-AccountSid"] == ACCOUNT
    (leg,) = switch.legs
    leg.ring()
    await reached(call, "dial.ringing")
    assert call.status == "ringing"  # answerOnBridge: the caller still hears ringing
    leg.answer()
    assert await call.answered()
    await clock.advance(65)
    leg.bye()
    assert await call.ended() == "completed"
    (action,) = web.at("/dial")
    assert {k: v for k, v in action.form.items() if k.startswith("Dial")} == {
        "DialCallSid": invite.headers["X-Twilio-CallSid"],
        "DialCallStatus": "completed",
        "DialBridged": "true",
        "DialCallDuration": "65",
        "DialSipCallId": action.form["DialSipCallId"],
        "DialSipResponseCode": "200",
    }
    assert action.form["CallStatus"] == "in-progress"
    (status,) = web.at(STATUS)
    assert (status.form["CallStatus"], status.form["CallDuration"]) == ("completed", "65")
    assert (status.form["Duration"], status.form["CallSid"]) == ("2", call.sid)


@pytest.mark.parametrize(
    ("sip_status", "dial_status"),
    [(486, "busy"), (480, "no-answer"), (503, "failed"), (401, "failed"), (404, "failed")],
)
async def test_a_dial_that_is_refused_asks_the_action(
    twilio: TwilioStandIn, web: Server, switch: Switch, sip_status: int, dial_status: str
) -> None:
    switch.prepare = refuses(sip_status)
    web.says(VOICE, dial())
    web.says("/dial", "<Say>Nobody</Say>")
    call = twilio.place_call(CALLED, CALLER)
    await call.ended()
    (action,) = web.at("/dial")
    assert action.form["DialCallStatus"] == dial_status
    assert action.form["DialSipResponseCode"] == str(sip_status)
    assert "DialCallDuration" not in action.form
    assert action.form["CallStatus"] == "ringing"
    assert "said" in call.whats()


async def test_a_dial_gives_up_after_its_timeout(
    twilio: TwilioStandIn, web: Server, switch: Switch, clock: FakeClock
) -> None:
    web.says(VOICE, dial(attributes='answerOnBridge="true" timeout="7" action="/dial"'))
    web.says("/dial", "")
    call = twilio.place_call(CALLED, CALLER)
    await reached(call, "dial.started")
    switch.legs[0].ring()
    await clock.advance(6.9)
    assert not switch.legs[0].is_ended
    await clock.advance(0.1)
    assert await call.ended() == "no-answer"
    assert (switch.legs[0].status, switch.legs[0].ended_by) == (487, "caller")
    (action,) = web.at("/dial")
    assert action.form["DialCallStatus"] == "no-answer"


async def test_without_an_action_the_document_goes_on(
    twilio: TwilioStandIn, web: Server, switch: Switch
) -> None:
    switch.prepare = refuses(486)
    web.says(VOICE, dial(attributes='timeout="5"') + "<Say>Sorry</Say>")
    call = twilio.place_call(CALLED, CALLER)
    assert await call.ended() == "completed"
    assert call.whats().index("call.answered") < call.whats().index("dial.started")
    assert [step.detail["text"] for step in call.steps if step.what == "said"] == ["Sorry"]


async def test_the_action_may_dial_the_next_target(
    twilio: TwilioStandIn, web: Server, switch: Switch
) -> None:
    switch.prepare = refuses(486)
    twilio.phones["+15550000009"] = Phone(behaviour="answers")
    web.says(VOICE, dial())
    web.says("/dial", dial("<Number>+15550000009</Number>", attributes='answerOnBridge="true"'))
    call = twilio.place_call(CALLED, CALLER, hold_seconds=0)
    assert await call.ended() == "completed"
    assert [s.detail["status"] for s in call.steps if s.what == "dial.ended"] == [
        "busy",
        "completed",
    ]


@pytest.mark.parametrize("behaviour", ["busy", "no-answer", "failed"])
async def test_phones_behave_as_told(
    twilio: TwilioStandIn, web: Server, clock: FakeClock, behaviour: str
) -> None:
    twilio.phones["+15550000009"] = Phone(behaviour=behaviour)  # type: ignore[arg-type]
    web.says(VOICE, dial("<Number>+15550000009</Number>"))
    web.says("/dial", "")
    call = twilio.place_call(CALLED, CALLER)
    await reached(call, "dial.started")
    await clock.advance(30)
    await call.ended()
    (action,) = web.at("/dial")
    assert action.form["DialCallStatus"] == behaviour
    assert "DialSipResponseCode" not in action.form


async def test_a_phone_rings_before_it_answers(
    twilio: TwilioStandIn, web: Server, clock: FakeClock
) -> None:
    twilio.phones["+15550000009"] = Phone(rings=8)
    web.says(VOICE, dial("<Number>+15550000009</Number>", attributes='answerOnBridge="true"'))
    call = twilio.place_call(CALLED, CALLER)
    await reached(call, "dial.ringing")
    await clock.advance(7)
    assert call.answered_at is None
    await clock.advance(1)
    assert await call.answered()
    call.hangup()
    assert await call.ended() == "completed"


async def test_the_callers_hang_up_ends_the_leg_and_still_asks_the_action(
    twilio: TwilioStandIn, web: Server, switch: Switch
) -> None:
    switch.prepare = answers
    web.says(VOICE, dial())
    web.says("/dial", "<Say>Never heard</Say>")
    call = twilio.place_call(CALLED, CALLER)
    await call.answered()
    call.hangup()
    assert await call.ended() == "completed"
    assert switch.legs[0].ended_by == "caller"
    (action,) = web.at("/dial")
    assert (action.form["DialCallStatus"], action.form["CallStatus"]) == ("completed", "completed")
    assert "said" not in call.whats()


async def test_a_caller_who_gives_up_while_it_rings(
    twilio: TwilioStandIn, web: Server, switch: Switch
) -> None:
    web.says(VOICE, dial())
    call = twilio.place_call(CALLED, CALLER)
    await reached(call, "dial.started")
    call.hangup()
    assert await call.ended() == "no-answer"
    assert switch.legs[0].status == 487
    (action,) = web.at("/dial")
    assert (action.form["DialCallStatus"], action.form["CallStatus"]) == ("canceled", "no-answer")
    assert web.at(STATUS)[0].form["CallStatus"] == "no-answer"


async def test_hold_seconds_after_the_answer_the_caller_hangs_up(
    twilio: TwilioStandIn, web: Server, switch: Switch, clock: FakeClock
) -> None:
    switch.prepare = answers
    web.says(VOICE, dial(attributes='answerOnBridge="true"'))
    call = twilio.place_call(CALLED, CALLER, hold_seconds=10)
    await call.answered()
    await clock.advance(9.9)
    assert not switch.legs[0].is_ended
    await clock.advance(0.2)
    assert await call.ended() == "completed"


async def test_a_time_limit_ends_the_talk(
    twilio: TwilioStandIn, web: Server, switch: Switch, clock: FakeClock
) -> None:
    switch.prepare = answers
    web.says(VOICE, dial(attributes='timeLimit="60"'))
    call = twilio.place_call(CALLED, CALLER)
    await reached(call, "dial.answered")
    await clock.advance(60)
    assert await call.ended() == "completed"


@pytest.mark.parametrize(("reason", "status"), [("busy", "busy"), ("rejected", "no-answer")])
async def test_a_reject_is_never_answered(
    twilio: TwilioStandIn, web: Server, reason: str, status: str
) -> None:
    web.says(VOICE, f'<Reject reason="{reason}"/><Say>Never</Say>')
    call = twilio.place_call(CALLED, CALLER)
    assert await call.ended() == status
    assert call.answered_at is None


async def test_a_redirect_keeps_ringing_and_a_pause_answers(
    twilio: TwilioStandIn, web: Server, clock: FakeClock
) -> None:
    web.says(VOICE, "<Redirect>next?n=1</Redirect>")
    web.says("/webhooks/twilio/next", '<Pause length="5"/><Hangup/>')
    call = twilio.place_call(CALLED, CALLER)
    await reached(call, "call.answered")
    (request,) = web.at("/webhooks/twilio/next")
    assert request.form["CallStatus"] == "ringing"
    assert not call.is_ended
    await clock.advance(5)
    assert await call.ended() == "completed"


async def test_a_redirect_in_a_circle_ends(twilio: TwilioStandIn, web: Server) -> None:
    web.says(VOICE, "<Redirect>/webhooks/twilio/voice</Redirect>")
    call = twilio.place_call(CALLED, CALLER)
    await call.ended()
    assert len(web.at(VOICE)) == 50
    assert [s.detail["code"] for s in call.steps if s.what == "error"] == [11215]


def statuses(requests: list[Received]) -> list[tuple[str, str]]:
    return [(r.form["SequenceNumber"], r.form["CallStatus"]) for r in requests]


async def test_callbacks_of_the_child_leg(
    twilio: TwilioStandIn, web: Server, switch: Switch, clock: FakeClock
) -> None:
    switch.prepare = answers
    noun = (
        '<Sip statusCallback="/leg" statusCallbackEvent="initiated ringing answered completed">'
        f"{SIP}</Sip>"
    )
    web.says(VOICE, dial(noun, attributes='answerOnBridge="true"'))
    call = twilio.place_call(CALLED, CALLER)
    await call.answered()
    await clock.advance(3)
    call.hangup()
    await call.ended()
    requests = web.at("/leg")
    assert statuses(requests) == [
        ("0", "initiated"),
        ("1", "ringing"),
        ("2", "in-progress"),
        ("3", "completed"),
    ]
    last = requests[-1].form
    child = switch.invites[0].headers["X-Twilio-CallSid"]
    assert (last["CallSid"], last["ParentCallSid"]) == (child, call.sid)
    assert (last["Direction"], last["CallbackSource"]) == ("outbound-dial", "call-progress-events")
    assert (last["CallDuration"], last["Duration"]) == ("3", "1")
    assert last["To"] == SIP
    moment = parsedate_to_datetime(last["Timestamp"])
    assert moment.timestamp() == clock.now() // 1_000_000


async def test_only_the_events_that_were_asked_for(
    twilio: TwilioStandIn, web: Server, switch: Switch
) -> None:
    switch.prepare = refuses(486)
    noun = f'<Sip statusCallback="/leg" statusCallbackMethod="GET">{SIP}</Sip>'
    web.says(VOICE, dial(noun, attributes=""))
    await twilio.place_call(CALLED, CALLER).ended()
    (request,) = web.at("/leg")
    assert request.method == "GET"  # the parameters are in the signed URL


async def test_a_call_sid_can_be_used_again(twilio: TwilioStandIn, web: Server) -> None:
    web.says(VOICE, "")
    sid = "CA" + "1" * 32
    for _ in range(2):
        await twilio.place_call(CALLED, CALLER, call_sid=sid).ended()
    assert [request.form["CallSid"] for request in web.at(VOICE)] == [sid, sid]
