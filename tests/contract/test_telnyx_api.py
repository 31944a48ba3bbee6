"""Our client of Telnyx's API against the stand-in, which Telnyx's own SDK agrees with."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec
import pytest
from aiohttp import web as http

from router.errors import Ambiguous, EffectError, Permanent, Transient
from router.events.ids import call_id
from router.events.model import Event
from router.events.types import EventType
from router.provider import CallRef, Carrier, Standing
from router.providers.telnyx.api import open_carrier
from router.sandbox.telnyx import Call
from tests.support.sandbox_clock import START, FakeClock, settle
from tests.support.sandbox_livekit import eventually
from tests.support.sandbox_telnyx import (
    API_KEY,
    CALLED,
    CALLER,
    OTHER,
    VOICE,
)
from tests.support.sandbox_twilio import answers, refuses
from tests.support.telnyx_world import (
    DISPATCH,
    FORWARD,
    REJECT,
    TARGET,
    World,
    answering,
    context,
    decided,
    opened,
    says,
)

_GONE = '{"errors":[{"code":"90018"}]}'


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with opened() as found:
        yield found


async def test_a_dispatched_call_is_transferred_to_its_room(world: World) -> None:
    world.switch.prepare = answers
    call, event = await world.calls(custom_headers={"X-Tenant": "7", "x-call_session_id": "forged"})
    await world.carry_out(event, DISPATCH)
    (invite,) = world.switch.invites
    assert invite.to_user == event.call_id == call_id("telnyx", "", call.caller.control_id)
    assert (invite.from_user, invite.transport) == (CALLER, "tls")
    assert (invite.username, invite.password) == (TARGET.username, TARGET.password)
    assert invite.headers == {
        "X-Tenant": "7",
        "X-call_session_id": call.session_id,
        "X-call_leg_id": call.caller.leg_id,
    }
    assert await call.answered()


async def test_the_new_leg_tells_whose_it_is(world: World) -> None:
    world.switch.prepare = refuses(486)
    call, event = await world.calls()
    await world.carry_out(event, DISPATCH)
    leg = call.dialled[0]
    assert msgspec.json.decode(base64.b64decode(leg.client_state or "")) == {
        "switchboard": "agent",
        "control_id": call.caller.control_id,
        "from": CALLER,
        "to": CALLED,
    }
    await eventually(lambda: world.told(call, "call.hangup", leg.leg_id) is not None)
    ended = world.told(call, "call.hangup", leg.leg_id)
    assert ended is not None
    assert (ended.type, ended.data.stage) == (EventType.LEG_ENDED, "agent")
    assert ended.data.control_id == call.caller.control_id
    assert (ended.data.from_number, ended.data.to_number) == (CALLER, CALLED)
    await world.carry_out(ended, FORWARD)
    assert [each.to for each in call.dialled[1:]] == [OTHER]
    assert await call.answered()


async def test_a_forwarded_call_shows_the_caller_at_the_fallback(world: World) -> None:
    call, event = await world.calls()
    await world.carry_out(event, FORWARD)
    assert await call.answered()
    (leg,) = call.dialled
    assert (leg.to, leg.from_) == (OTHER, CALLER)
    mark = msgspec.json.decode(base64.b64decode(leg.client_state or ""))
    assert mark["switchboard"] == "fallback"


async def test_a_hidden_callers_call_is_forwarded_with_our_number(world: World) -> None:
    call, event = await world.calls()
    hidden = msgspec.structs.replace(event.data, from_number="anonymous")
    await world.carry_out(msgspec.structs.replace(event, data=hidden), FORWARD)
    assert await call.answered()
    assert [leg.from_ for leg in call.dialled] == [CALLED]


async def test_a_call_that_goes_nowhere_is_rejected(world: World) -> None:
    call, event = await world.calls()
    await world.carry_out(event, REJECT)
    await call.ended()
    hangup = world.told(call, "call.hangup")
    assert hangup is not None
    assert hangup.data.sip_status == 480


async def test_after_a_dial_a_reject_is_a_hangup(world: World) -> None:
    call, event = await world.calls()
    ended = msgspec.structs.replace(event, type=EventType.CALL_ENDED)
    await world.carry_out(ended, REJECT)
    await call.ended()
    assert [step.detail["action"] for step in call.steps if step.what == "command.received"] == [
        "hangup"
    ]


async def test_an_event_that_is_repeated_is_carried_out_once(world: World) -> None:
    world.switch.prepare = refuses(486)
    call, event = await world.calls()
    for _ in range(3):
        await world.carry_out(event, DISPATCH)
    assert len(world.switch.invites) == 1
    assert call.whats().count("command.ignored") == 2


async def test_a_caller_who_is_gone_is_no_error(world: World) -> None:
    call, event = await world.calls()
    world.standin.hang_up(call)
    await world.carry_out(event, DISPATCH)
    assert world.switch.invites == []
    async with answering(says(404, '{"errors":[{"code":"10005"}]}')) as carrier:
        assert carrier.carry_out is not None
        await carrier.carry_out(decided(event, DISPATCH))


@asynccontextmanager
async def over(world: World, transport: str) -> AsyncIterator[Carrier]:
    """A client that asks for this transport, of which Telnyx has three."""
    target = replace(TARGET, transport=transport)
    there = context(world.standin.url, world.clock)._replace(target=target)
    async with open_carrier(there) as carrier:
        yield carrier


def told_to(call: Call) -> list[object]:
    return [step.detail["action"] for step in call.steps if step.what == "command.received"]


async def test_a_caller_whose_transfer_is_refused_reaches_the_fallback(world: World) -> None:
    call, event = await world.calls()
    asked = decided(event, msgspec.structs.replace(DISPATCH, fallback=OTHER))
    async with over(world, "sctp") as carrier:
        assert carrier.carry_out is not None
        for _ in range(2):  # the event may come again
            with pytest.raises(Permanent, match="422, code 10032"):
                await carrier.carry_out(asked)
    assert await call.answered()
    assert told_to(call) == ["transfer"]
    (leg,) = call.dialled
    mark = msgspec.json.decode(base64.b64decode(leg.client_state or ""))
    assert (leg.to, mark["switchboard"]) == (OTHER, "fallback")


@pytest.mark.parametrize(
    ("kind", "last"), [(EventType.CALL_INITIATED, "reject"), (EventType.CALL_FORWARDED, "hangup")]
)
async def test_a_caller_for_whom_everything_is_refused_is_not_left_ringing(
    world: World, kind: EventType, last: str
) -> None:
    call, event = await world.calls()
    asked = decided(
        msgspec.structs.replace(event, type=kind),
        msgspec.structs.replace(FORWARD, fallback="no number"),
    )
    assert world.carrier.carry_out is not None
    with pytest.raises(Permanent, match="422, code 10016"):
        await world.carrier.carry_out(asked)
    await call.ended()
    assert told_to(call) == [last]


async def test_a_caller_who_leaves_while_a_transfer_is_refused_is_told_nothing(
    world: World,
) -> None:
    call, event = await world.calls()
    answers_left = [http.Response(status=403), http.Response(status=422, text=_GONE)]

    async def handle(_: http.Request) -> http.Response:
        return answers_left.pop(0)

    async with answering(handle) as carrier:
        assert carrier.carry_out is not None
        with pytest.raises(Permanent, match="403"):
            await carrier.carry_out(decided(event, DISPATCH))
    assert (answers_left, call.dialled) == ([], [])


async def test_a_key_that_was_read_from_a_file_may_end_with_a_line(world: World) -> None:
    _, event = await world.calls()
    async with open_carrier(context(world.standin.url, world.clock, f"{API_KEY}\n")) as carrier:
        assert carrier.carry_out is not None
        await carrier.carry_out(decided(event, FORWARD))


async def test_what_nobody_decided_is_no_command(world: World) -> None:
    _, event = await world.calls()
    assert world.carrier.carry_out is not None
    await world.carrier.carry_out(event)
    assert world.switch.invites == []


@pytest.mark.parametrize(
    ("handle", "error"),
    [
        (says(422, '{"errors":[{"code":"90015"}]}'), Permanent),
        (says(401, '{"errors":[{"code":"10009"}]}'), Permanent),
        (says(400, "not JSON"), Permanent),
        (says(429, "{}", **{"Retry-After": "2"}), Transient),
        (says(503), Ambiguous),
        (says(408), Ambiguous),  # of a gateway: what it stands before may have done it
    ],
)
async def test_what_may_be_tried_again_is_told_by_the_error(
    world: World, handle: Callable[..., Awaitable[http.Response]], error: type[EffectError]
) -> None:
    _, event = await world.calls()
    async with answering(handle) as carrier:
        assert carrier.carry_out is not None
        with pytest.raises(error) as refused:
            await carrier.carry_out(decided(event, DISPATCH))
    for secret in (API_KEY, CALLER, CALLED, TARGET.password):
        assert secret not in str(refused.value)


def ref(call: Call, **more: str) -> CallRef:
    return CallRef("", call.session_id, control_id=more.get("control_id", call.caller.control_id))


async def test_what_became_of_a_call(world: World) -> None:
    assert world.carrier.standing is not None
    call, event = await world.calls()
    standing = await world.carrier.standing(ref(call))
    assert standing is not None
    assert not standing.over
    await world.carry_out(event, FORWARD)
    await call.answered()
    await world.clock.advance(7)
    world.standin.hang_up(call)
    standing = await world.carrier.standing(ref(call))
    assert standing is not None
    assert (standing.over, standing.duration) == (True, 7)
    assert standing.ended_at == START + 7_000_000
    await world.clock.advance(601)
    assert await world.carrier.standing(ref(call)) is None
    assert await world.carrier.standing(ref(call, control_id="")) is None
    async with answering(says(422, '{"errors":[{"code":"90015"}]}')) as carrier:
        assert carrier.standing is not None
        assert await carrier.standing(ref(call)) is None


async def test_what_became_of_a_texml_call_is_asked_by_its_only_id(world: World) -> None:
    assert world.carrier.standing is not None
    world.standin.texml_numbers.add(CALLED)
    world.web.says(VOICE, '<Pause length="60"/>')
    call = world.standin.place_call(CALLED, CALLER)
    by_sid = CallRef("ours", call.caller.control_id)
    standing = await world.carrier.standing(by_sid)
    assert standing is not None
    assert not standing.over
    world.standin.hang_up(call)
    await call.ended()
    standing = await world.carrier.standing(by_sid)
    assert standing is not None
    assert standing.over
    assert await world.carrier.standing(CallRef("ours", call.session_id)) is None


@pytest.mark.parametrize(
    "answer",
    [says(404, '{"errors":[{"code":"10005"}]}'), says(422, '{"errors":[{"code":"90015"}]}')],
)
async def test_a_texml_call_that_is_not_known_there_is_not_taken_for_lost(
    world: World, answer: Callable[..., Awaitable[http.Response]]
) -> None:
    """Its room would be closed while people talk in it."""
    world.standin.texml_numbers.add(CALLED)
    call = world.standin.place_call(CALLED, CALLER)
    async with answering(answer) as carrier:
        assert carrier.standing is not None
        assert await carrier.standing(CallRef("ours", call.caller.control_id)) == Standing(
            over=False
        )
        assert await carrier.standing(ref(call)) is None  # Call Control's would be known


@pytest.mark.parametrize(
    "answer",
    [
        "[]",
        '{"data":{}}',
        '{"data":{"is_alive":"yes"}}',
        pytest.param('"' + 8_388_608 * "x" + '"', id="too-large"),
        '{"data":{"is_alive":false,"end_time":"yesterday"}}',
        '{"data":{"is_alive":false,"end_time":"2026-01-01T00:00:00"}}',
    ],
)
async def test_an_answer_that_cannot_be_read_says_nothing(world: World, answer: str) -> None:
    call, _ = await world.calls()
    async with answering(says(200, answer)) as carrier:
        assert carrier.standing is not None
        with pytest.raises(Ambiguous):
            await carrier.standing(ref(call))


def test_the_clients_repr_holds_no_key() -> None:
    settings = context("https://api.example", FakeClock())
    assert API_KEY not in repr(settings)
    assert TARGET.password not in repr(replace(TARGET))


async def redirect(carrier: Carrier, event: Event, number: str) -> None:
    assert carrier.redirect is not None
    await carrier.redirect(event, number)


async def test_an_answered_caller_is_transferred_to_the_fallback(world: World) -> None:
    world.switch.prepare = answers
    call, event = await world.calls()
    await world.carry_out(event, DISPATCH)
    assert await call.answered()
    await redirect(world.carrier, event, OTHER)
    await redirect(world.carrier, event, OTHER)  # an outcome that was not known
    await eventually(lambda: call.whats().count("call.bridged") == 4)
    old, new = call.dialled
    await eventually(lambda: not old.is_alive)
    assert (new.to, call.caller.is_alive) == (OTHER, True)
    world.standin.hang_up(call)
    await call.ended()


async def test_an_answered_caller_without_a_fallback_hears_the_apology_then_the_end(
    world: World,
) -> None:
    world.switch.prepare = answers
    call, event = await world.calls()
    await world.carry_out(event, DISPATCH)
    assert await call.answered()
    told = asyncio.create_task(redirect(world.carrier, event, ""))
    await eventually(lambda: bool(call.said))
    assert call.caller.is_alive
    await settle()
    await world.clock.advance(10.0)
    await told
    await call.ended()
    assert told_to(call) == ["transfer", "speak", "hangup"]
    await redirect(world.carrier, event, OTHER)  # they are gone: nothing


async def test_a_texml_call_whose_account_is_not_known_can_not_be_told(world: World) -> None:
    _, event = await world.calls()
    texml = msgspec.structs.replace(event.data, control_id="", provider_account="")
    with pytest.raises(Permanent, match="AccountSid"):
        await redirect(world.carrier, msgspec.structs.replace(event, data=texml), OTHER)
