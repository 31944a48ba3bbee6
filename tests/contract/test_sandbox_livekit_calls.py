"""Calls through LiveKit's stand-in: INVITE, room, agent, answer, end."""

from collections.abc import AsyncIterator

import pytest
from livekit.api import LiveKitAPI
from livekit.protocol import agent_dispatch as dispatch_proto
from livekit.protocol import room as room_proto
from livekit.protocol import sip as proto
from livekit.protocol.models import ParticipantInfo

from router.sandbox.livekit import Behaviour, LiveKitStandIn
from tests.support.sandbox_clock import FakeClock, settle
from tests.support.sandbox_livekit import (
    API_KEY,
    API_SECRET,
    CALLED,
    CALLER,
    ROOM,
    call,
    put_rule,
    put_trunk,
    wildcard_trunk,
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def lk(clock: FakeClock) -> AsyncIterator[LiveKitStandIn]:
    async with LiveKitStandIn(api_key=API_KEY, api_secret=API_SECRET, clock=clock) as standin:
        yield standin


@pytest.fixture
async def client(lk: LiveKitStandIn) -> AsyncIterator[LiveKitAPI]:
    async with LiveKitAPI(lk.url, API_KEY, API_SECRET) as api:
        yield api


async def dispatch(client: LiveKitAPI, agent: str = "anna") -> dispatch_proto.AgentDispatch:
    return await client.agent_dispatch.create_dispatch(
        dispatch_proto.CreateAgentDispatchRequest(room=ROOM, agent_name=agent, metadata="facts")
    )


async def participants(client: LiveKitAPI) -> list[ParticipantInfo]:
    answer = await client.room.list_participants(room_proto.ListParticipantsRequest(room=ROOM))
    return list(answer.participants)


async def test_the_leg_rings_until_the_agent_is_heard(
    lk: LiveKitStandIn, client: LiveKitAPI, clock: FakeClock
) -> None:
    trunk, rule = await wildcard_trunk(client)
    lk.register_worker("anna", Behaviour(join_delay=1, publish_delay=2))
    leg = lk.invite(call())
    assert await leg.ringing()
    made = await dispatch(client)
    await clock.advance(1)
    assert not leg.is_answered
    caller, agent = await participants(client)
    assert (caller.identity, caller.kind) == (f"sip_{CALLER}", ParticipantInfo.Kind.SIP)
    attributes = dict(caller.attributes)
    assert attributes.pop("sip.callID").startswith("SCL_")
    assert attributes == {
        "sip.callStatus": "ringing",
        "sip.trunkID": trunk,
        "sip.ruleID": rule,
        "sip.phoneNumber": CALLER,
        "sip.trunkPhoneNumber": ROOM,
        "sip.hostname": "127.0.0.1",
        "sip.twilio.callSid": "CA1",
        "sip.twilio.accountSid": "AC1",
    }
    assert agent.kind == ParticipantInfo.Kind.AGENT
    assert dict(agent.attributes) == {"lk.agent_name": "anna"}
    assert not agent.tracks
    await clock.advance(2)
    assert await leg.answered()
    caller, agent = await participants(client)
    assert caller.attributes["sip.callStatus"] == "active"
    assert len(agent.tracks) == 1
    (job,) = lk.jobs
    assert agent.identity == f"agent-{job.id}"
    assert (job.dispatch_id, job.agent_name, job.room, job.metadata, job.received_at) == (
        made.id,
        "anna",
        ROOM,
        "facts",
        0.0,
    )
    listed = await client.agent_dispatch.list_dispatch(ROOM)
    assert [each.id for found in listed for each in found.state.jobs] == [job.id]


async def test_dispatch_before_the_invite_works_as_well(
    lk: LiveKitStandIn, client: LiveKitAPI
) -> None:
    await wildcard_trunk(client)
    lk.register_worker("anna")
    await dispatch(client)
    assert await lk.invite(call()).answered()


async def test_the_agent_stays_when_the_caller_leaves(
    lk: LiveKitStandIn, client: LiveKitAPI, clock: FakeClock
) -> None:
    await wildcard_trunk(client)
    lk.register_worker("anna")
    await dispatch(client)
    leg = lk.invite(call())
    await leg.answered()
    leg.hangup()
    assert await leg.ended() == 200
    assert leg.ended_by == "caller"
    await clock.advance(24 * 3600)
    assert [p.kind for p in await participants(client)] == [ParticipantInfo.Kind.AGENT]
    await client.room.delete_room(room_proto.DeleteRoomRequest(room=ROOM))
    assert lk.rooms.get(ROOM) is None


async def test_deleting_the_room_or_the_caller_ends_the_call(
    lk: LiveKitStandIn, client: LiveKitAPI
) -> None:
    await wildcard_trunk(client)
    lk.register_worker("anna")
    await dispatch(client)
    leg = lk.invite(call())
    await leg.answered()
    who = room_proto.RoomParticipantIdentity(room=ROOM, identity=f"sip_{CALLER}")
    await client.room.remove_participant(who)
    assert await leg.ended() == 200
    assert leg.ended_by == "callee"
    leg = lk.invite(call())
    await leg.answered()
    await client.room.delete_room(room_proto.DeleteRoomRequest(room=ROOM))
    await leg.ended()
    assert leg.ended_by == "callee"


async def test_nobody_comes_486_after_three_minutes(
    lk: LiveKitStandIn, client: LiveKitAPI, clock: FakeClock
) -> None:
    await wildcard_trunk(client)
    leg = lk.invite(call())
    await leg.ringing()
    await clock.advance(179)
    assert leg.status == 0
    await clock.advance(1)
    assert await leg.ended() == 486
    assert await participants(client) == []
    # The room outlives its last participant by the departure timeout.
    assert lk.rooms.get(ROOM) is not None
    await clock.advance(20)
    assert lk.rooms.get(ROOM) is None


async def test_a_room_that_nobody_joins_ends_after_five_minutes(
    lk: LiveKitStandIn, client: LiveKitAPI, clock: FakeClock
) -> None:
    await dispatch(client)
    await clock.advance(299)
    assert lk.rooms.get(ROOM) is not None
    await clock.advance(1)
    assert lk.rooms.get(ROOM) is None


async def test_giving_up_while_it_rings_is_487(lk: LiveKitStandIn, client: LiveKitAPI) -> None:
    await wildcard_trunk(client)
    leg = lk.invite(call())
    await leg.ringing()
    leg.hangup()
    assert await leg.ended() == 487
    await settle()
    assert await participants(client) == []


async def test_a_trunk_may_shorten_ringing_and_talking(
    lk: LiveKitStandIn, client: LiveKitAPI, clock: FakeClock
) -> None:
    trunk = proto.SIPInboundTrunkInfo(numbers=[ROOM])
    trunk.ringing_timeout.FromSeconds(10)
    trunk.max_call_duration.FromSeconds(60)
    put_trunk(lk, "ST_a", trunk)
    put_rule(lk, "SDR_a", proto.SIPDispatchRuleInfo(trunk_ids=["ST_a"]))
    leg = lk.invite(call())
    await leg.ringing()
    await clock.advance(10)
    assert await leg.ended() == 486
    lk.register_worker("anna")
    await dispatch(client)
    leg = lk.invite(call())
    await leg.answered()
    await clock.advance(60)
    assert (await leg.ended(), leg.ended_by) == (200, "callee")


async def test_a_hidden_number_appears_nowhere(lk: LiveKitStandIn) -> None:
    put_rule(lk, "SDR_a", proto.SIPDispatchRuleInfo(hide_phone_number=True))
    leg = lk.invite(call("room"))
    await leg.ringing()
    room = lk.rooms.get("room")
    assert room is not None
    (caller,) = room.participants.values()
    assert CALLER not in str(caller)
    assert "sip.trunkPhoneNumber" not in caller.attributes


async def test_headers_become_attributes_where_the_trunk_says_so(lk: LiveKitStandIn) -> None:
    put_trunk(
        lk,
        "ST_a",
        proto.SIPInboundTrunkInfo(
            numbers=[CALLED],
            include_headers=proto.SIPHeaderOptions.SIP_X_HEADERS,
            headers_to_attributes={"X-Route-Id": "route"},
        ),
    )
    put_rule(lk, "SDR_a", proto.SIPDispatchRuleInfo(trunk_ids=["ST_a"]))
    await lk.invite(call(CALLED)).ringing()
    room = lk.rooms.get(CALLED)
    assert room is not None
    (caller,) = room.participants.values()
    assert caller.attributes["route"] == "r"
    assert caller.attributes["sip.h.x-route-id"] == "r"
