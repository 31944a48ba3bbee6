"""What Telnyx could not deliver to us, as our client reads it from the stand-in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from aiohttp import web as http
from structlog.testing import capture_logs

from router.errors import Ambiguous, EffectError, Permanent
from router.events.types import EventType
from router.provider import Carrier
from router.providers.telnyx.api import open_carrier
from router.providers.telnyx.missed import _whole
from router.sandbox.telnyx import TelnyxStandIn
from router.sandbox.telnyx.delivery import Delivery
from tests.support.sandbox_clock import START
from tests.support.sandbox_livekit import eventually
from tests.support.sandbox_telnyx import (
    API_KEY,
    CALLED,
    CALLER,
    PATH,
    SEED,
    Server,
    client,
    server,
)
from tests.support.telnyx_world import (
    World,
    answering,
    context,
    listing,
    opened,
    says,
    until_the_end,
)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with opened() as found:
        yield found


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


async def test_what_is_unreadable_is_told_once_however_often_it_is_there() -> None:
    old = {"webhook": {"event_type": "call_initiated", "payload": {}}}
    async with answering(listing({"/webhook_deliveries": [old] * 200})) as carrier:
        with capture_logs() as lines:
            found, error = await until_the_end(carrier)
    assert (found, error) == ([], None)
    assert [(line["event"], line["events"]) for line in lines] == [
        ("telnyx.missed_unreadable", 200)
    ]


@pytest.mark.parametrize(
    ("deliveries", "events", "kind"),
    [(503, 422, Ambiguous), (422, 503, Ambiguous), (401, 401, Permanent)],
)
async def test_a_list_that_is_refused_does_not_keep_the_other_from_being_asked_again(
    deliveries: int, events: int, kind: type[EffectError]
) -> None:
    statuses = {"/webhook_deliveries": deliveries, "/call_events": events}

    async def handle(request: http.Request) -> http.Response:
        return http.Response(status=statuses[request.path])

    async with answering(handle) as carrier:
        _, error = await until_the_end(carrier)
    assert type(error) is kind


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
