"""Calls of a TeXML application through Telnyx's stand-in."""

from collections.abc import AsyncIterator

import pytest

from router.sandbox.telnyx import TelnyxStandIn
from router.sandbox.twilio.phones import Phone
from tests.support.sandbox_clock import FakeClock
from tests.support.sandbox_livekit import eventually
from tests.support.sandbox_telnyx import (
    API_KEY,
    CALLED,
    CALLER,
    OTHER,
    PATH,
    SEED,
    STATUS,
    VOICE,
    Server,
    server,
)
from tests.support.sandbox_twilio import Switch, answers, refuses

SIP = '<Sip username="u" password="p">sip:a-call-id@sip.example;transport=tcp</Sip>'


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
async def standin(web: Server, switch: Switch, clock: FakeClock) -> AsyncIterator[TelnyxStandIn]:
    async with TelnyxStandIn(
        api_key=API_KEY, seed=SEED, webhook_base=web.url, dial_sip=switch.dial, clock=clock
    ) as it:
        web.key = it.public_key
        it.texml_numbers.add(CALLED)
        yield it


async def test_the_request_for_a_document(standin: TelnyxStandIn, web: Server) -> None:
    web.says(VOICE, "<Say>Hello</Say>")
    call = standin.place_call(CALLED, CALLER)
    await call.ended()
    (request,) = web.at(VOICE)
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    form = request.form
    assert form["CallSid"] == form["CallSidLegacy"] == call.caller.control_id
    assert (form["From"], form["To"], form["CallStatus"]) == (CALLER, CALLED, "ringing")
    assert call.said == ["Hello"]
    (status,) = web.at(STATUS)
    assert (status.form["CallStatus"], status.form["CallDuration"]) == ("completed", "0")
    assert status.form["CallSid"] == call.caller.control_id
    assert web.at(PATH) == []  # a TeXML application sends no Call Control events


async def test_a_sip_dial_asks_its_action_what_comes_next(
    standin: TelnyxStandIn, web: Server, switch: Switch, clock: FakeClock
) -> None:
    switch.prepare = answers
    web.says(VOICE, f'<Dial action="/dial?stage=lost" timeout="20">{SIP}</Dial>')
    web.says("/dial", "<Hangup/>")
    call = standin.place_call(CALLED, CALLER)
    assert await call.answered()
    (invite,), (leg,) = switch.invites, switch.legs
    assert (invite.to_user, invite.username, invite.password) == ("a-call-id", "u", "p")
    assert invite.headers["X-call_session_id"] == call.session_id
    await clock.advance(65)
    leg.bye()
    await call.ended()
    (action,) = web.at("/dial")  # the query is lost
    assert {key: value for key, value in action.form.items() if key.startswith("Dial")} == {
        "DialCallSid": call.dialled[0].control_id,
        "DialCallStatus": "completed",
        "DialCallDuration": "65",
    }
    assert action.form["To"] == "sip:a-call-id@sip.example;transport=tcp"  # what was dialled


@pytest.mark.parametrize(
    ("sip_status", "dial_status"),
    [(486, "busy"), (480, "no-answer"), (503, "failed"), (404, "failed")],
)
async def test_a_dial_that_fails_says_how(
    standin: TelnyxStandIn, web: Server, switch: Switch, sip_status: int, dial_status: str
) -> None:
    switch.prepare = refuses(sip_status)
    web.says(VOICE, f'<Dial action="/dial">{SIP}</Dial>')
    web.says("/dial", f"<Dial><Number>{OTHER}</Number></Dial>")
    call = standin.place_call(CALLED, CALLER, hold_seconds=0)
    await call.ended()
    (action,) = web.at("/dial")
    assert action.form["DialCallStatus"] == dial_status


async def test_a_dial_that_is_not_answered_in_time(
    standin: TelnyxStandIn, web: Server, switch: Switch, clock: FakeClock
) -> None:
    web.says(VOICE, f'<Dial action="/dial" timeout="20">{SIP}</Dial>')
    web.says("/dial", f"<Dial><Number>{OTHER}</Number></Dial>")
    standin.phones[OTHER] = Phone(behaviour="busy")
    call = standin.place_call(CALLED, CALLER)
    await eventually(lambda: len(switch.legs) == 1)
    await clock.advance(20)
    await call.ended()
    (action,) = web.at("/dial")
    assert action.form["DialCallStatus"] == "no-answer"
    assert switch.legs[0].status == 487
    assert [leg.to for leg in call.dialled[1:]] == [OTHER]


async def test_the_dialled_leg_reports_to_its_callback(
    standin: TelnyxStandIn, web: Server, switch: Switch
) -> None:
    switch.prepare = answers
    noun = SIP.replace(
        "<Sip", f'<Sip statusCallback="{STATUS}" statusCallbackEvent="answered completed"'
    )
    web.says(VOICE, f"<Dial>{noun}</Dial>")
    call = standin.place_call(CALLED, CALLER)
    assert await call.answered()
    await eventually(lambda: bool(switch.legs))
    standin.hang_up(call)
    await call.ended()
    leg = call.dialled[0].control_id
    told = {
        each.form["CallStatus"]: each.form
        for each in web.at(STATUS)
        if "ParentCallSid" in each.form
    }
    assert {form["CallSid"] for form in told.values()} == {leg}
    assert {form["ParentCallSid"] for form in told.values()} == {call.caller.control_id}
    assert "completed" in told or "canceled" in told


async def test_a_rejected_call_was_never_answered(standin: TelnyxStandIn, web: Server) -> None:
    web.says(VOICE, '<Reject reason="busy"/>')
    call = standin.place_call(CALLED, CALLER)
    await call.ended()
    (status,) = web.at(STATUS)
    assert status.form["CallStatus"] == "busy"
    assert not await call.answered()


@pytest.mark.parametrize(
    "document", ["<Shout/>", '<Dial timeout="4">+15550000003</Dial>', "<Dial><Sip>x</Sip></Dial>"]
)
async def test_a_document_that_is_no_texml_ends_the_call(
    standin: TelnyxStandIn, web: Server, document: str
) -> None:
    web.says(VOICE, document)
    call = standin.place_call(CALLED, CALLER)
    await call.ended()
    assert "error" in call.whats()
    assert call.dialled == []


async def test_without_a_document_the_call_ends(standin: TelnyxStandIn, web: Server) -> None:
    web.statuses[VOICE] = [503]
    call = standin.place_call(CALLED, CALLER)
    await call.ended()
    (status,) = web.at(STATUS)
    assert status.form["CallStatus"] == "no-answer"


async def test_a_caller_leaves_in_the_middle_of_a_pause(
    standin: TelnyxStandIn, web: Server, clock: FakeClock
) -> None:
    web.says(VOICE, '<Pause length="60"/><Say>Too late</Say>')
    call = standin.place_call(CALLED, CALLER)
    assert await call.answered()
    await clock.advance(3)
    standin.hang_up(call)
    await call.ended()
    assert call.said == []
    (status,) = web.at(STATUS)
    assert status.form["CallDuration"] == "3"
