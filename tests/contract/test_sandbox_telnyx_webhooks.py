"""Webhooks of Telnyx's stand-in: signatures, retries, failover, disorder, and their history."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import telnyx
from telnyx import types
from telnyx.lib.webhook_verification import WebhookVerificationError, verify_webhook_signature

from router.sandbox.telnyx import TelnyxStandIn
from router.sandbox.twilio.delivery import Disorder
from tests.support.sandbox_clock import FakeClock
from tests.support.sandbox_livekit import eventually
from tests.support.sandbox_telnyx import (
    API_KEY,
    CALLED,
    CALLER,
    OTHER,
    PATH,
    SEED,
    Server,
    client,
    server,
)
from tests.support.sandbox_twilio import Switch

MODELS: dict[str, Any] = {
    "call.initiated": types.CallInitiated,
    "call.answered": types.CallAnswered,
    "call.bridged": types.CallBridged,
    "call.speak.started": types.CallSpeakStarted,
    "call.speak.ended": types.CallSpeakEnded,
    "call.hangup": types.CallHangup,
}
# In captured webhooks, but not in the SDK.
CAPTURED = {"calling_party_type", "from_sip_uri", "to_sip_uri", "end_time"}


@pytest.fixture
async def web() -> AsyncIterator[Server]:
    async with server() as it:
        yield it


@asynccontextmanager
async def standing_in(web: Server, **more: Any) -> AsyncIterator[TelnyxStandIn]:
    async with TelnyxStandIn(
        api_key=API_KEY, seed=SEED, webhook_base=web.url, dial_sip=Switch().dial, **more
    ) as standin:
        web.key = standin.public_key
        yield standin


async def tried(standin: TelnyxStandIn, times: int) -> None:
    """Wait until the answer to that try of the first event was seen."""
    await eventually(lambda: len(standin.deliveries[0].attempts) == times)


async def test_telnyxs_own_verifier_accepts_them(web: Server) -> None:
    async with standing_in(web) as standin:
        standin.place_call(CALLED, CALLER)
        await eventually(lambda: len(web.received) == 1)
        request = web.received[0]
        verify_webhook_signature(request.body, request.headers, standin.public_key)
        with pytest.raises(WebhookVerificationError):
            verify_webhook_signature(request.body + b" ", request.headers, standin.public_key)


async def test_they_say_what_the_sdk_knows_of_them(web: Server) -> None:
    async with standing_in(web) as standin, client(standin.url) as sdk:
        call = standin.place_call(CALLED, CALLER, custom_headers={"X-Tenant": "7"})
        await sdk.calls.actions.transfer(call.caller.control_id, to=OTHER)
        await call.answered()
        await sdk.calls.actions.speak(call.caller.control_id, payload="Hi", voice="female")
        standin.hang_up(call)
        await call.ended()
    kinds = {request.data["event_type"] for request in web.received}
    assert kinds == MODELS.keys()
    for request in web.received:
        event = MODELS[request.data["event_type"]].model_validate(request.data)
        assert event.payload is not None
        unknown = set(event.payload.model_extra or ()) - CAPTURED
        assert not unknown, (request.data["event_type"], unknown)


async def test_an_event_is_tried_again_with_a_new_signature(web: Server) -> None:
    web.statuses[PATH] = [503, 500]
    clock = FakeClock()
    async with standing_in(web, clock=clock) as standin:
        standin.place_call(CALLED, CALLER)
        await tried(standin, 1)
        await clock.advance(1)
        await tried(standin, 2)
        await clock.advance(5)
        await tried(standin, 3)
        assert [request.meta["attempt"] for request in web.received] == [1, 2, 3]
        assert len({request.data["id"] for request in web.received}) == 1
        signatures = {request.headers["telnyx-signature-ed25519"] for request in web.received}
        assert len(signatures) == 3
        timestamps = [int(request.headers["telnyx-timestamp"]) for request in web.received]
        assert [moment - timestamps[0] for moment in timestamps] == [0, 1, 6]
        await eventually(lambda: standin.deliveries[0].status == "delivered")


async def test_what_the_first_url_refuses_goes_to_the_failover_url(web: Server) -> None:
    web.statuses[PATH] = [503]
    async with standing_in(web, failover_url=web.url + "/elsewhere") as standin:
        standin.place_call(CALLED, CALLER)
        await eventually(lambda: len(web.at("/elsewhere")) == 1)
        request = web.at("/elsewhere")[0]
        assert request.meta == {"attempt": 2, "delivered_to": web.url + "/elsewhere"}
        await eventually(lambda: standin.deliveries[0].status == "delivered")


async def test_a_redirect_is_no_delivery(web: Server) -> None:
    web.statuses[PATH] = [302]
    async with standing_in(web, retries=()) as standin:
        standin.place_call(CALLED, CALLER)
        await eventually(lambda: bool(standin.deliveries) and standin.deliveries[0].status != "")
        assert standin.deliveries[0].status == "failed"


async def test_an_event_that_fails_does_not_hold_up_the_next(web: Server) -> None:
    web.statuses[PATH] = [503]
    async with standing_in(web, clock=FakeClock()) as standin:
        call = standin.place_call(CALLED, CALLER)
        standin.hang_up(call)
        await call.ended()
        kinds = [request.data["event_type"] for request in web.received]
        assert kinds == ["call.initiated", "call.hangup"]


async def test_disorder_repeats_and_shuffles(web: Server) -> None:
    disorder = Disorder(copies=3, window=10, seed=3)
    async with standing_in(web, disorder=disorder) as standin:
        call = standin.place_call(CALLED, CALLER)
        standin.hang_up(call)
        await call.ended()
    kinds = [request.data["event_type"] for request in web.received]
    assert sorted(kinds) == ["call.hangup"] * 3 + ["call.initiated"] * 3
    assert kinds != sorted(kinds, reverse=True)
    assert len({request.data["id"] for request in web.received}) == 2


async def test_deliveries_are_listed_with_their_attempts(web: Server) -> None:
    web.statuses[PATH] = [503, 503]
    clock = FakeClock()
    async with standing_in(web, retries=(1.0,), clock=clock) as standin, client(standin.url) as sdk:
        call = standin.place_call(CALLED, CALLER)
        await tried(standin, 1)
        await clock.advance(1)
        await eventually(lambda: standin.deliveries[0].status == "failed")
        standin.hang_up(call)
        await call.ended()
        failed = (await sdk.webhook_deliveries.list(filter={"status": {"eq": "failed"}})).data
        (delivery,) = failed
        assert delivery.webhook is not None
        event = standin.deliveries[0].event
        assert (delivery.webhook.id, delivery.webhook.event_type) == (event["id"], "call.initiated")
        assert delivery.webhook.payload == event["payload"]
        attempts = delivery.attempts or []
        assert [attempt.status for attempt in attempts] == ["failed", "failed"]
        assert attempts[0].http is not None
        assert attempts[0].http.response is not None
        assert attempts[0].http.response.status == 503
        assert attempts[0].started_at is not None
        assert attempts[1].started_at is not None
        assert attempts[0].started_at > attempts[1].started_at  # the most recent first
        everything = (await sdk.webhook_deliveries.list()).data
        assert [each.status for each in everything] == ["delivered", "failed"]
        with pytest.raises(telnyx.UnprocessableEntityError):
            await sdk.webhook_deliveries.list(filter={"webhook": {"contains": "x"}})


async def test_call_events_are_those_of_a_day(web: Server) -> None:
    clock = FakeClock()
    async with standing_in(web, clock=clock) as standin, client(standin.url) as sdk:
        call = standin.place_call(CALLED, CALLER)
        await sdk.calls.actions.answer(call.caller.control_id)
        await clock.advance(10)
        standin.hang_up(call)
        await call.ended()
        events = (await sdk.call_events.list()).data
        assert sorted((event.type, event.name) for event in events) == [
            ("command", "answer"),
            ("webhook", "call.answered"),
            ("webhook", "call.hangup"),
            ("webhook", "call.initiated"),
        ]
        assert events[-1].name == "call.hangup"
        assert {event.call_session_id for event in events} == {call.session_id}
        await clock.advance(24 * 3600 + 1)
        assert (await sdk.call_events.list()).data == []
        by_leg = await sdk.call_events.list(filter={"leg_id": call.caller.leg_id})
        assert len(by_leg.data) == 4
