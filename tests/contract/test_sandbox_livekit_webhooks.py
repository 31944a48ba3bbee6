"""Webhooks of LiveKit's stand-in, checked with LiveKit's own receiver."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from livekit.api import LiveKitAPI, TokenVerifier
from livekit.protocol import agent_dispatch as dispatch_proto
from livekit.protocol import room as room_proto
from livekit.protocol.models import ParticipantInfo

from router.clock import SystemClock
from router.sandbox.livekit import Invite, LiveKitStandIn
from tests.support.sandbox_clock import FakeClock
from tests.support.sandbox_livekit import (
    API_KEY,
    API_SECRET,
    PASSWORD,
    USER,
    Receiver,
    eventually,
    receiver,
    wildcard_trunk,
)

ROOM, CALLER = "a-call-id", "+15550000001"


@pytest.fixture
async def hook() -> AsyncIterator[Receiver]:
    async with receiver() as it:
        yield it


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def lk(hook: Receiver, clock: FakeClock) -> AsyncIterator[LiveKitStandIn]:
    async with LiveKitStandIn(
        api_key=API_KEY, api_secret=API_SECRET, webhook_url=hook.url, clock=clock
    ) as standin:
        yield standin


@pytest.fixture
async def client(lk: LiveKitStandIn) -> AsyncIterator[LiveKitAPI]:
    async with LiveKitAPI(lk.url, API_KEY, API_SECRET) as api:
        yield api


async def attempted(lk: LiveKitStandIn, count: int) -> None:
    await eventually(lambda: len(lk.webhooks.attempts) >= count)


async def create(client: LiveKitAPI, name: str) -> None:
    await client.room.create_room(room_proto.CreateRoomRequest(name=name))


async def test_the_events_of_a_call(lk: LiveKitStandIn, client: LiveKitAPI, hook: Receiver) -> None:
    await wildcard_trunk(client)
    lk.register_worker("anna")
    leg = lk.invite(
        Invite(
            to_user=ROOM,
            from_user=CALLER,
            username=USER,
            password=PASSWORD,
            headers={"X-Twilio-CallSid": "CA1"},
        )
    )
    await leg.ringing()
    await client.agent_dispatch.create_dispatch(
        dispatch_proto.CreateAgentDispatchRequest(room=ROOM, agent_name="anna")
    )
    await leg.answered()
    leg.hangup()
    await eventually(lambda: "participant_left" in hook.names)
    await client.room.delete_room(room_proto.DeleteRoomRequest(room=ROOM))
    await eventually(lambda: "room_finished" in hook.names)
    sip, agent = ParticipantInfo.Kind.SIP, ParticipantInfo.Kind.AGENT
    assert [(e.event, e.participant.kind) for e in hook.events if e.HasField("participant")] == [
        ("participant_joined", sip),
        ("track_published", sip),
        ("participant_joined", agent),
        ("track_published", agent),
        ("track_unpublished", sip),
        ("participant_left", sip),
        ("track_unpublished", agent),
        ("participant_left", agent),
    ]
    assert (hook.names[0], hook.names[-1]) == ("room_started", "room_finished")
    joined, left = (
        next(e.participant for e in hook.events if e.event == name and e.participant.kind == sip)
        for name in ("participant_joined", "participant_left")
    )
    # Each event shows the participant as it was then.
    assert joined.attributes["sip.callStatus"] == "ringing"
    assert joined.attributes["sip.twilio.callSid"] == "CA1"
    assert left.attributes["sip.callStatus"] == "hangup"
    assert all(event.room.name == ROOM for event in hook.events)
    assert len({event.id for event in hook.events}) == len(hook.events)


async def test_signed_as_the_real_server_signs(
    lk: LiveKitStandIn, client: LiveKitAPI, hook: Receiver, clock: FakeClock
) -> None:
    await create(client, "r")
    await eventually(lambda: bool(hook.events))
    (headers,) = hook.headers
    assert headers["Content-Type"] == "application/webhook+json"
    assert not headers["Authorization"].startswith("Bearer")
    claims = TokenVerifier(API_KEY, API_SECRET).verify(headers["Authorization"])
    assert claims.sha256
    (event,) = hook.events
    assert event.id.startswith("EV_")
    assert event.created_at == clock.now() // 1_000_000
    assert b'"createdAt": "' in hook.bodies[0]
    assert event.room.creation_time == event.created_at
    started = datetime.fromtimestamp(event.created_at, UTC)
    assert started.year > 2000


async def test_a_5xx_is_tried_again_with_the_same_body_and_token(
    lk: LiveKitStandIn, client: LiveKitAPI, hook: Receiver, clock: FakeClock
) -> None:
    hook.statuses = [503, 429, 200]
    await create(client, "r")
    for seconds, count in ((0, 1), (1, 2), (2, 3)):
        await clock.advance(seconds)
        await attempted(lk, count)
    assert [a.status for a in lk.webhooks.attempts] == [503, 429, 200]
    assert len(set(hook.bodies)) == 1
    assert len({headers["Authorization"] for headers in hook.headers}) == 1


async def test_a_4xx_counts_as_delivered(
    lk: LiveKitStandIn, client: LiveKitAPI, hook: Receiver, clock: FakeClock
) -> None:
    hook.statuses = [400]
    await create(client, "r")
    await eventually(lambda: len(lk.webhooks.attempts) == 1)
    await clock.advance(60)
    assert len(hook.events) == 1


async def test_five_attempts_then_the_event_is_lost(
    lk: LiveKitStandIn, client: LiveKitAPI, hook: Receiver, clock: FakeClock
) -> None:
    hook.statuses = [500] * 5
    await create(client, "r")
    for count in range(1, 6):
        await attempted(lk, count)
        await clock.advance(2.0 ** (count - 1))
    await client.room.delete_room(room_proto.DeleteRoomRequest(room="r"))
    await eventually(lambda: "room_finished" in hook.names)
    assert hook.names == ["room_started"] * 5 + ["room_finished"]
    assert hook.events[-1].num_dropped == 1


async def test_an_event_that_waited_half_a_minute_is_dropped(
    lk: LiveKitStandIn, client: LiveKitAPI, hook: Receiver, clock: FakeClock
) -> None:
    hook.open.clear()  # the first event is on its way, and stays there
    await create(client, "r")
    await client.room.delete_room(room_proto.DeleteRoomRequest(room="r"))
    await eventually(lambda: len(hook.events) == 1)
    await clock.advance(31)
    hook.open.set()
    await attempted(lk, 1)
    await create(client, "later")
    await eventually(lambda: hook.events[-1].room.name == "later")
    assert hook.names == ["room_started", "room_started"]
    assert hook.events[-1].num_dropped == 1


async def test_rooms_do_not_wait_for_each_other(
    lk: LiveKitStandIn, client: LiveKitAPI, hook: Receiver
) -> None:
    hook.statuses = [500]
    await create(client, "stuck")
    await eventually(lambda: len(hook.events) == 1)
    await create(client, "free")
    await client.room.delete_room(room_proto.DeleteRoomRequest(room="free"))
    await eventually(lambda: len(hook.events) == 3)
    assert [e.event for e in hook.events if e.room.name == "free"] == [
        "room_started",
        "room_finished",
    ]


async def test_webhooks_may_stay_away_and_come_later(hook: Receiver) -> None:
    async with (
        LiveKitStandIn(api_key=API_KEY, api_secret=API_SECRET, clock=SystemClock()) as lk,
        LiveKitAPI(lk.url, API_KEY, API_SECRET) as client,
    ):
        await create(client, "quiet")
        lk.webhooks.url = hook.url
        await create(client, "loud")
        await eventually(lambda: len(hook.events) == 1)
        assert hook.events[0].room.name == "loud"


async def test_a_receiver_that_is_away_is_tried_again(
    client: LiveKitAPI, lk: LiveKitStandIn, clock: FakeClock
) -> None:
    lk.webhooks.url = "http://127.0.0.1:9/hook"  # the discard port: nobody listens
    await create(client, "r")
    await eventually(lambda: [a.status for a in lk.webhooks.attempts] == [0])
    await clock.advance(1)
    await eventually(lambda: [a.status for a in lk.webhooks.attempts] == [0, 0])
