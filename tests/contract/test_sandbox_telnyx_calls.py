"""Calls through Telnyx's stand-in, commanded by Telnyx's own SDK."""

import base64
from collections.abc import AsyncIterator

import pytest
import telnyx
from telnyx import AsyncTelnyx

from router.sandbox.telnyx import Call, TelnyxStandIn
from router.sandbox.twilio.phones import Phone
from tests.support.sandbox_clock import START, FakeClock
from tests.support.sandbox_livekit import eventually
from tests.support.sandbox_telnyx import (
    API_KEY,
    CALLED,
    CALLER,
    OTHER,
    SEED,
    Server,
    client,
    server,
)
from tests.support.sandbox_twilio import Switch, answers, refuses

SIP = "sip:a-call-id@sip.example;transport=tcp"
STATE = base64.b64encode(b'{"switchboard":"agent"}').decode()


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
        yield it


@pytest.fixture
async def sdk(standin: TelnyxStandIn) -> AsyncIterator[AsyncTelnyx]:
    async with client(standin.url) as it:
        yield it


async def transfer(sdk: AsyncTelnyx, call: Call, to: str = SIP, **more: object) -> None:
    answer = await sdk.calls.actions.transfer(
        call.caller.control_id,
        to=to,
        target_leg_client_state=STATE,
        **more,  # type: ignore[arg-type] # the SDK's parameters, by name
    )
    assert answer.data is not None
    assert answer.data.result == "ok"


async def test_a_call_that_came_in_is_parked(standin: TelnyxStandIn, web: Server) -> None:
    call = standin.place_call(CALLED, CALLER, custom_headers={"X-Tenant": "7"})
    await eventually(lambda: len(web.received) == 1)
    (request,) = web.received
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["telnyx-timestamp"] == str(START // 1_000_000)
    assert request.meta == {"attempt": 1, "delivered_to": web.url + "/webhooks/telnyx"}
    assert request.data["record_type"] == "event"
    assert request.data["event_type"] == "call.initiated"
    payload = request.payload
    assert (payload["direction"], payload["state"]) == ("incoming", "parked")
    assert (payload["from"], payload["to"]) == (CALLER, CALLED)
    assert payload["call_session_id"] == call.session_id
    assert payload["call_control_id"] == call.caller.control_id
    assert payload["custom_headers"] == [{"name": "X-Tenant", "value": "7"}]
    assert payload["client_state"] is None


async def test_a_transfer_to_sip_that_is_answered(
    standin: TelnyxStandIn, sdk: AsyncTelnyx, web: Server, switch: Switch, clock: FakeClock
) -> None:
    call = standin.place_call(CALLED, CALLER)
    await transfer(
        sdk,
        call,
        from_=CALLER,
        sip_auth_username="u",
        sip_auth_password="p",
        sip_transport_protocol="TCP",
        custom_headers=[{"name": "X-call_session_id", "value": call.session_id}],
        timeout_secs=20,
    )
    (invite,), (leg,) = switch.invites, switch.legs
    assert (invite.to_user, invite.from_user, invite.transport) == ("a-call-id", CALLER, "tcp")
    assert (invite.username, invite.password) == ("u", "p")
    assert invite.headers == {"X-call_session_id": call.session_id}
    leg.ring()
    assert call.caller.answered_at is None  # the caller hears ringing
    leg.answer()
    assert await call.answered()
    await clock.advance(65)
    leg.bye()
    await call.ended()
    assert web.events() == [
        ("call.initiated", "incoming"),
        ("call.initiated", "outgoing"),
        ("call.answered", "outgoing"),
        ("call.answered", "incoming"),
        ("call.bridged", "incoming"),
        ("call.bridged", "outgoing"),
        ("call.hangup", "outgoing"),
        ("call.hangup", "incoming"),
    ]
    new = call.dialled[0]
    states = {
        request.payload["call_leg_id"]: request.payload["client_state"] for request in web.received
    }
    assert states == {call.caller.leg_id: None, new.leg_id: STATE}
    assert {request.payload["call_session_id"] for request in web.received} == {call.session_id}
    for hangup in web.of("call.hangup"):
        assert hangup.payload["hangup_cause"] == "normal_clearing"
        assert hangup.payload["hangup_source"] == "callee"


async def test_a_transfer_that_nobody_answers_leaves_the_caller_to_the_next(
    standin: TelnyxStandIn, sdk: AsyncTelnyx, web: Server, switch: Switch, clock: FakeClock
) -> None:
    call = standin.place_call(CALLED, CALLER)
    await transfer(sdk, call, timeout_secs=20)
    switch.legs[0].ring()
    await clock.advance(20)
    await eventually(lambda: bool(web.of("call.hangup")))
    (hangup,) = web.of("call.hangup")
    assert hangup.payload["hangup_cause"] == "timeout"
    assert hangup.payload["client_state"] == STATE
    assert switch.legs[0].is_ended
    assert call.caller.is_alive
    await transfer(sdk, call, to=OTHER)  # a telephone answers at once
    assert await call.answered()
    standin.hang_up(call)
    await call.ended()
    assert [leg.payload["hangup_source"] for leg in web.of("call.hangup")[1:]] == ["caller"] * 2


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (486, "user_busy"),
        (603, "call_rejected"),
        (404, "not_found"),
        (480, "no_answer"),
        (503, "unspecified"),
    ],
)
async def test_a_refused_transfer_says_why(
    standin: TelnyxStandIn,
    sdk: AsyncTelnyx,
    web: Server,
    switch: Switch,
    status: int,
    cause: str,
) -> None:
    switch.prepare = refuses(status)
    call = standin.place_call(CALLED, CALLER)
    await transfer(sdk, call)
    await eventually(lambda: bool(web.of("call.hangup")))
    (hangup,) = web.of("call.hangup")
    assert hangup.payload["hangup_cause"] == cause
    assert hangup.payload["sip_hangup_cause"] == str(status)
    assert call.caller.is_alive


async def test_a_caller_who_gives_up_cancels_the_transfer(
    standin: TelnyxStandIn, sdk: AsyncTelnyx, web: Server, switch: Switch
) -> None:
    call = standin.place_call(CALLED, CALLER)
    await transfer(sdk, call)
    standin.hang_up(call)
    await call.ended()
    assert switch.legs[0].status == 487
    causes = [leg.payload["hangup_cause"] for leg in web.of("call.hangup")]
    assert causes == ["originator_cancel"] * 2
    assert {leg.payload["sip_hangup_cause"] for leg in web.of("call.hangup")} == {"487"}


async def test_a_caller_who_leaves_as_the_call_is_answered_was_not_bridged(
    standin: TelnyxStandIn, sdk: AsyncTelnyx, web: Server, switch: Switch
) -> None:
    call = standin.place_call(CALLED, CALLER)
    await transfer(sdk, call)
    switch.legs[0].answer()
    standin.hang_up(call)
    await call.ended()
    assert [kind for kind, _ in web.events()].count("call.hangup") == 2
    assert web.of("call.bridged") == []
    assert not await call.answered()


async def test_a_caller_does_not_listen_to_ringing_for_ever(
    standin: TelnyxStandIn, clock: FakeClock
) -> None:
    call = standin.place_call(CALLED, CALLER)
    await clock.advance(181)
    await call.ended()
    assert "caller.hung_up" in call.whats()


async def test_a_caller_stays_as_long_as_told(
    standin: TelnyxStandIn, sdk: AsyncTelnyx, switch: Switch, clock: FakeClock
) -> None:
    switch.prepare = answers
    call = standin.place_call(CALLED, CALLER, hold_seconds=30)
    await transfer(sdk, call)
    await call.answered()
    await clock.advance(31)
    await call.ended()
    assert call.caller.duration == 30


async def test_somebody_elses_number_is_shown_only_while_they_are_on_the_line(
    standin: TelnyxStandIn, sdk: AsyncTelnyx, web: Server
) -> None:
    call = standin.place_call(CALLED, CALLER)
    await transfer(sdk, call, to=OTHER, from_=CALLER)
    await eventually(lambda: bool(web.of("call.hangup")))
    assert web.of("call.hangup")[0].payload["hangup_cause"] == "call_rejected"
    await transfer(sdk, call, to=OTHER, from_=CALLER, diversion=CALLED)
    assert await call.answered()


async def test_a_telephone_that_is_busy(
    standin: TelnyxStandIn, sdk: AsyncTelnyx, web: Server
) -> None:
    standin.phones[OTHER] = Phone(behaviour="busy")
    call = standin.place_call(CALLED, CALLER)
    await transfer(sdk, call, to=OTHER)
    await eventually(lambda: bool(web.of("call.hangup")))
    assert web.of("call.hangup")[0].payload["from"] == CALLED  # left out: the number called


async def test_answer_speak_hangup(standin: TelnyxStandIn, sdk: AsyncTelnyx, web: Server) -> None:
    call = standin.place_call(CALLED, CALLER)
    control_id = call.caller.control_id
    await sdk.calls.actions.answer(control_id, client_state=STATE)
    await sdk.calls.actions.speak(control_id, payload="Hello", voice="female")
    await sdk.calls.actions.hangup(control_id)
    await call.ended()
    assert [kind for kind, _ in web.events()] == [
        "call.initiated",
        "call.answered",
        "call.speak.started",
        "call.speak.ended",
        "call.hangup",
    ]
    assert call.said == ["Hello"]
    assert web.of("call.answered")[0].payload["client_state"] == STATE


async def test_a_rejected_call_is_over(
    standin: TelnyxStandIn, sdk: AsyncTelnyx, web: Server
) -> None:
    call = standin.place_call(CALLED, CALLER)
    await sdk.calls.actions.reject(call.caller.control_id, cause="TEMPORARILY_UNAVAILABLE")
    await call.ended()
    (hangup,) = web.of("call.hangup")
    assert hangup.payload["hangup_cause"] == "call_rejected"
    assert hangup.payload["sip_hangup_cause"] == "480"


async def test_a_command_id_is_carried_out_once_a_minute(
    standin: TelnyxStandIn, sdk: AsyncTelnyx, switch: Switch, web: Server, clock: FakeClock
) -> None:
    switch.prepare = refuses(486)
    call = standin.place_call(CALLED, CALLER)
    for _ in range(3):
        await transfer(sdk, call, command_id="one")
    assert len(switch.invites) == 1
    assert call.whats().count("command.ignored") == 2
    await eventually(lambda: bool(web.of("call.hangup")))
    await clock.advance(61)
    await transfer(sdk, call, command_id="one")
    assert len(switch.invites) == 2


async def test_a_command_that_was_refused_may_be_sent_again(
    standin: TelnyxStandIn, sdk: AsyncTelnyx
) -> None:
    call = standin.place_call(CALLED, CALLER)
    control_id = call.caller.control_id
    with pytest.raises(telnyx.UnprocessableEntityError):
        await sdk.calls.actions.speak(control_id, payload="Hi", voice="female", command_id="one")
    await sdk.calls.actions.answer(control_id)
    await sdk.calls.actions.speak(control_id, payload="Hi", voice="female", command_id="one")
    assert call.said == ["Hi"]


async def test_what_a_call_is_when_asked(
    standin: TelnyxStandIn, sdk: AsyncTelnyx, clock: FakeClock
) -> None:
    call = standin.place_call(CALLED, CALLER)
    status = (await sdk.calls.retrieve_status(call.caller.control_id)).data
    assert status is not None
    assert (status.is_alive, status.call_session_id) == (True, call.session_id)
    await sdk.calls.actions.answer(call.caller.control_id)
    await clock.advance(12)
    await sdk.calls.actions.hangup(call.caller.control_id)
    status = (await sdk.calls.retrieve_status(call.caller.control_id)).data
    assert status is not None
    assert (status.is_alive, status.call_duration) == (False, 12)
    assert status.end_time is not None
    await clock.advance(601)
    with pytest.raises(telnyx.NotFoundError):
        await sdk.calls.retrieve_status(call.caller.control_id)
