"""Our client of Telnyx's API against the stand-in, which Telnyx's own SDK agrees with."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
import pytest
from aiohttp import web as http

from config import load
from router.clock import Clock
from router.errors import Ambiguous, EffectError, Permanent, Transient
from router.events.ids import call_id
from router.events.model import Decision, Event
from router.events.types import EventType
from router.provider import CallRef, Carrier, ProviderContext, SipTarget
from router.providers.telnyx.api import open_carrier
from router.providers.telnyx.events import parse_event
from router.providers.telnyx.missed import _whole
from router.sandbox.serve import serve
from router.sandbox.telnyx import Call, TelnyxStandIn
from router.sandbox.telnyx.delivery import Delivery
from tests.support.sandbox_clock import START, FakeClock
from tests.support.sandbox_livekit import eventually
from tests.support.sandbox_telnyx import (
    API_KEY,
    CALLED,
    CALLER,
    OTHER,
    PATH,
    SEED,
    VOICE,
    Server,
    client,
    server,
)
from tests.support.sandbox_twilio import Switch, answers, refuses

TARGET = SipTarget("sip.example", "tls", "switchboard", "Correct-horse-1")
DISPATCH = Decision(action="dispatch", reason="mapped", table_version=1, agent="anna")
FORWARD = Decision(action="forward", reason="nobody", table_version=1, fallback=OTHER)
REJECT = Decision(action="reject", reason="not mapped", table_version=1)


def context(api_url: str, clock: Clock, api_key: str = API_KEY) -> ProviderContext:
    telnyx = {"api_key": api_key, "api_url": api_url, "dial_timeout": 20}
    return ProviderContext(load(overrides={"providers": {"telnyx": telnyx}}), TARGET, clock)


@dataclass
class World:
    """Telnyx and a client of it."""

    standin: TelnyxStandIn
    web: Server
    switch: Switch
    clock: FakeClock
    carrier: Carrier

    async def calls(self, **more: Any) -> tuple[Call, Event]:
        """A call, and its first event as the webhook told it."""
        call = self.standin.place_call(CALLED, CALLER, **more)
        await eventually(lambda: self.told(call, "call.initiated") is not None)
        event = self.told(call, "call.initiated")
        assert event is not None
        return call, event

    def told(self, call: Call, kind: str, leg: str = "") -> Event | None:
        """The (last) event of a kind about a leg of a call, the caller's unless told."""
        found = [
            request.data
            for request in self.web.of(kind)
            if request.payload["call_leg_id"] == (leg or call.caller.leg_id)
        ]
        return parse_event(found[-1], self.clock.now())[0] if found else None

    async def carry_out(self, event: Event, decision: Decision) -> None:
        assert self.carrier.carry_out is not None
        await self.carrier.carry_out(decided(event, decision))

    async def missed(self, since: int = START) -> list[Event]:
        assert self.carrier.missed is not None
        return [event async for event in self.carrier.missed(since)]


def decided(event: Event, decision: Decision) -> Event:
    return msgspec.structs.replace(
        event, data=msgspec.structs.replace(event.data, decision=decision)
    )


@pytest.fixture
async def world() -> AsyncIterator[World]:
    clock, switch = FakeClock(), Switch()
    async with (
        server() as web,
        TelnyxStandIn(
            api_key=API_KEY, seed=SEED, webhook_base=web.url, dial_sip=switch.dial, clock=clock
        ) as standin,
        open_carrier(context(standin.url, clock)) as carrier,
    ):
        web.key = standin.public_key
        yield World(standin, web, switch, clock, carrier)


@asynccontextmanager
async def answering(
    handle: Callable[[http.Request], Awaitable[http.Response]], clock: Clock | None = None
) -> AsyncIterator[Carrier]:
    """A client of an API that answers with `handle`, whatever is asked."""
    app = http.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with serve(app, 0) as url, open_carrier(context(url, clock or FakeClock())) as carrier:
        yield carrier


def says(status: int, text: str = "", **headers: str) -> Callable[..., Awaitable[http.Response]]:
    async def handle(_: http.Request) -> http.Response:
        return http.Response(
            status=status, text=text, content_type="application/json", headers=headers
        )

    return handle


async def test_a_dispatched_call_is_transferred_to_its_room(world: World) -> None:
    world.switch.prepare = answers
    call, event = await world.calls(custom_headers={"X-Tenant": "7", "x-call_session_id": "forged"})
    await world.carry_out(event, DISPATCH)
    (invite,) = world.switch.invites
    assert invite.to_user == event.call_id == call_id("telnyx", "", call.session_id)
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


def has_tried(delivery: Delivery, times: int) -> bool:
    return len(delivery.attempts) == times


async def test_what_could_not_be_delivered_is_found_again(world: World) -> None:
    world.web.statuses[PATH] = [503] * 6
    call, _ = await world.calls()
    lost = {request.data["id"] for request in world.web.at(PATH)}
    (delivery,) = world.standin.deliveries
    for times, pause in ((1, 1), (2, 5)):
        await eventually(partial(has_tried, delivery, times))
        assert await world.missed() == []  # it is still tried
        await world.clock.advance(pause)
    await eventually(lambda: world.standin.deliveries[0].status == "failed")
    world.web.statuses.clear()
    world.standin.hang_up(call)
    await call.ended()
    found = await world.missed()
    assert {event.data.raw["id"] for event in found} == lost
    (event,) = found  # though it is in both lists
    assert (event.type, event.data.stage) == (EventType.CALL_INITIATED, "route")
    assert event.data.decision is None
    assert await world.missed(since=world.clock.now() + 1) == []


async def test_the_oldest_comes_first(world: World) -> None:
    call, _ = await world.calls()
    await world.clock.advance(10)
    world.standin.hang_up(call)
    await call.ended()
    newest_first = [{"webhook": each.event} for each in reversed(world.standin.deliveries)]
    told = listing({"/webhook_deliveries": newest_first})
    async with answering(told, world.clock) as carrier:
        found, error = await until_the_end(carrier)
    assert [event.type for event in found] == [EventType.CALL_INITIATED, EventType.CALL_ENDED]
    assert error is None


async def test_a_list_that_breaks_off_does_not_keep_back_the_others_events(world: World) -> None:
    _, event = await world.calls()
    whole = listing({"/call_events": [{"metadata": {"raw_event": dict(event.data.raw)}}]})

    async def handle(request: http.Request) -> http.Response:
        if request.path == "/webhook_deliveries":
            return http.Response(status=503)
        return await whole(request)

    async with answering(handle) as carrier:
        found, error = await until_the_end(carrier)
    assert [each.id for each in found] == [event.id]
    assert isinstance(error, Ambiguous)


async def until_the_end(carrier: Carrier) -> tuple[list[Event], EffectError | None]:
    """What was missed, and what kept the rest back."""
    assert carrier.missed is not None
    found: list[Event] = []
    try:
        async for event in carrier.missed(START):
            found.append(event)  # noqa: PERF401 - it may break off
    except EffectError as error:
        return found, error
    return found, None


def listing(items: Mapping[str, Sequence[object]]) -> Callable[..., Awaitable[http.Response]]:
    async def handle(request: http.Request) -> http.Response:
        data = items.get(request.path, ())
        return http.json_response({"data": list(data), "meta": {"total_pages": 1}})

    return handle


async def test_a_long_list_is_read_page_by_page(world: World) -> None:
    async with server() as web, open_many(web, world) as (standin, carrier):
        assert carrier.missed is not None
        ids = [event.id async for event in carrier.missed(START)]
        assert len(set(ids)) == 600
        async with client(standin.url) as sdk:
            page = await sdk.webhook_deliveries.list(filter={"status": {"eq": "failed"}})
            listed = [delivery async for delivery in page]
        assert len(listed) == 600
        assert {delivery.status for delivery in listed} == {"failed"}


@asynccontextmanager
async def open_many(web: Server, world: World) -> AsyncIterator[tuple[TelnyxStandIn, Carrier]]:
    """A stand-in of which 600 webhooks could not be delivered: nobody is there."""
    async with (
        TelnyxStandIn(
            api_key=API_KEY,
            seed=SEED,
            webhook_base="http://127.0.0.1:9",
            dial_sip=world.switch.dial,
            retries=(),
            clock=world.clock,
        ) as standin,
        open_carrier(context(standin.url, world.clock)) as carrier,
    ):
        calls = [standin.place_call(CALLED, CALLER) for _ in range(300)]
        for call in calls:
            standin.hang_up(call)
        await eventually(lambda: all(each.status for each in standin.deliveries), seconds=30)
        yield standin, carrier


async def test_one_unreadable_event_does_not_hide_the_next(world: World) -> None:
    _, event = await world.calls()
    good = dict(event.data.raw)
    items: dict[str, list[object]] = {
        "/webhook_deliveries": [{"webhook": {"id": 7}}, {}, {"webhook": good}],
        "/call_events": [{"metadata": {}}, {"metadata": []}],
    }
    async with answering(listing(items)) as carrier:
        found, error = await until_the_end(carrier)
    assert [each.id for each in found] == [event.id]
    assert error is None


@pytest.mark.parametrize("answer", ["[]", "{}", '{"data":[7]}'])
async def test_a_list_that_cannot_be_read_is_not_an_empty_one(answer: str) -> None:
    async with answering(says(200, answer)) as carrier:
        found, error = await until_the_end(carrier)
    assert found == []
    assert isinstance(error, Ambiguous)


def test_an_event_in_a_call_events_metadata_is_taken_whole_or_not_at_all() -> None:
    event = {"id": "1", "event_type": "call.answered", "payload": {}}
    assert _whole(event) == event
    assert _whole({"raw_event": event, "extra": 1}) == event
    assert _whole({"payload": {}}) is None
    assert _whole(None) is None


def test_the_clients_repr_holds_no_key() -> None:
    settings = context("https://api.example", FakeClock())
    assert API_KEY not in repr(settings)
    assert TARGET.password not in repr(replace(TARGET))
