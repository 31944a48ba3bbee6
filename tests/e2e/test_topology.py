"""The telephony topology by itself, without Switchboard: what its design stands on.

One authenticated wildcard trunk and one callee rule (`randomize=false`, no prefix): the SIP user of
the INVITE is the room, and the leg is answered when a dispatched agent's audio is there.
"""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from uuid import uuid4

import numpy as np
import pytest
from livekit import api

from tests.support.servers.ports import HOST, free_port
from tests.support.sip.agent import agent_worker
from tests.support.sip.caller import SipCall, SipResult, Transport, place_calls
from tests.support.sip.rtp import SAMPLE_RATE, decode_ulaw, tone_score
from tests.support.telephony import Telephony, assert_hears_only, real_telephony

USERNAME = "carrier"
PASSWORD = "password-of-the-trunk"
_SIP = api.ParticipantInfo.Kind.SIP
_AGENT = api.ParticipantInfo.Kind.AGENT


@pytest.fixture(scope="module")
def telephony() -> Iterator[Telephony]:
    with real_telephony() as telephony:
        yield telephony


@pytest.fixture
async def client(telephony: Telephony) -> AsyncIterator[api.LiveKitAPI]:
    """LiveKit's API, with the trunk and the rule in place for the length of a test."""
    server = telephony.livekit
    async with api.LiveKitAPI(server.url, server.api_key, server.api_secret) as client:
        trunk = await client.sip.create_inbound_trunk(
            api.CreateSIPInboundTrunkRequest(
                trunk=api.SIPInboundTrunkInfo(
                    name="wildcard", auth_username=USERNAME, auth_password=PASSWORD
                )
            )
        )
        callee = api.SIPDispatchRuleCallee(room_prefix="", randomize=False)
        rule = await client.sip.create_dispatch_rule(
            api.CreateSIPDispatchRuleRequest(
                dispatch_rule=api.SIPDispatchRuleInfo(
                    name="callee",
                    trunk_ids=[trunk.sip_trunk_id],
                    rule=api.SIPDispatchRule(dispatch_rule_callee=callee),
                )
            )
        )
        yield client
        await client.sip.delete_dispatch_rule(
            api.DeleteSIPDispatchRuleRequest(sip_dispatch_rule_id=rule.sip_dispatch_rule_id)
        )
        await client.sip.delete_trunk(api.DeleteSIPTrunkRequest(sip_trunk_id=trunk.sip_trunk_id))


async def dispatch(client: api.LiveKitAPI, agent: str, room: str, metadata: object = None) -> None:
    await client.agent_dispatch.create_dispatch(
        api.CreateAgentDispatchRequest(agent_name=agent, room=room, metadata=json.dumps(metadata))
    )


Present = dict[int, dict[str, str]]


async def participants(client: api.LiveKitAPI, room: str) -> Present:
    """Kind → attributes of who is in the room."""
    answer = await client.room.list_participants(api.ListParticipantsRequest(room=room))
    return {each.kind: dict(each.attributes) for each in answer.participants}


async def until(client: api.LiveKitAPI, room: str, holds: Callable[[Present], bool]) -> Present:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        present = await participants(client, room)
        if holds(present):
            return present
        await asyncio.sleep(0.05)
    raise TimeoutError(f"only these are in the room: {await participants(client, room)}")


async def delete(client: api.LiveKitAPI, *rooms: str) -> None:
    for room in rooms:
        await client.room.delete_room(api.DeleteRoomRequest(room=room))


def call_to(room: str) -> SipCall:
    return SipCall(from_user="+14155550100", to_user=room, call_sid=f"CA{uuid4().hex}")


async def place(
    telephony: Telephony,
    *calls: SipCall,
    password: str = PASSWORD,
    enough: float = 1.5,
    hold: float = 30.0,
    patience: float = 30.0,
    transport: Transport = "udp",
) -> list[SipResult]:
    return await place_calls(
        calls,
        server=telephony.sip.address,
        username=USERNAME,
        password=password,
        enough=enough,
        hold=hold,
        rate=5,
        patience=patience,
        transport=transport,
    )


@pytest.mark.livekit
@pytest.mark.sip
class TestTopology:
    @pytest.mark.parametrize(("transport", "hold"), [("udp", 30.0), ("tcp", 4.0)])
    async def test_a_caller_hears_the_dispatched_agent_and_only_that(
        self, telephony: Telephony, client: api.LiveKitAPI, transport: Transport, hold: float
    ) -> None:
        room, anna = str(uuid4()), telephony.agents["anna"]
        await dispatch(client, "anna", room, {"number": "one"})

        [result] = await place(telephony, call_to(room), transport=transport, hold=hold)

        assert result.status == 200, result.trouble
        assert result.responses == [100, 407, 100, 180, 200]
        assert result.ended_by == "caller"
        assert result.audio.hears(440)
        assert not result.audio.hears(880)
        assert json.loads((await anna.wait_for("job", room=room)).metadata) == {"number": "one"}
        await delete(client, room)
        await anna.wait_for("left", room=room)

    async def test_many_calls_reach_each_its_own_agent(
        self, telephony: Telephony, client: api.LiveKitAPI
    ) -> None:
        rooms = {str(uuid4()): name for name in ["anna", "bob"] * 3}
        await asyncio.gather(*(dispatch(client, name, room) for room, name in rooms.items()))

        results = await place(telephony, *map(call_to, rooms))

        assert [result.status for result in results] == [200] * len(rooms)
        for result, name in zip(results, rooms.values(), strict=True):
            assert_hears_only(result, name)
        await delete(client, *rooms)

    async def test_dispatched_after_the_invite_and_hung_up_by_deleting_the_room(
        self, telephony: Telephony, client: api.LiveKitAPI
    ) -> None:
        call = call_to(str(uuid4()))
        room, anna = call.to_user, telephony.agents["anna"]
        calling = asyncio.create_task(place(telephony, call, enough=math.inf))
        await until(client, room, lambda present: _SIP in present)
        await dispatch(client, "anna", room)
        present = await until(
            client, room, lambda present: present[_SIP]["sip.callStatus"] == "active"
        )
        assert present[_SIP]["sip.twilio.callSid"] == call.call_sid
        assert present[_SIP]["sip.phoneNumber"] == call.from_user
        assert present[_AGENT]["lk.agent_name"] == "anna"

        await delete(client, room)

        [result] = await calling
        assert result.status == 200
        assert result.ended_by == "callee"
        await anna.wait_for("left", room=room)

    async def test_a_wrong_password_is_refused(
        self, telephony: Telephony, client: api.LiveKitAPI
    ) -> None:
        [result] = await place(telephony, call_to(str(uuid4())), password="wrong")
        assert result.responses == [100, 407, 100, 401]
        assert result.status == 401
        assert result.audio.packets == 0

    async def test_a_mute_agent_is_in_the_room_and_the_caller_gives_up(
        self, telephony: Telephony, client: api.LiveKitAPI
    ) -> None:
        room = str(uuid4())
        with agent_worker(
            "mute", tone=440, livekit=telephony.livekit, never_publish=True, delay_join=0.5
        ) as mute:
            await dispatch(client, "mute", room)
            [result] = await place(telephony, call_to(room), patience=3)
            taken = await mute.wait_for("job", room=room)
            joined = await mute.wait_for("joined", room=room)
            assert joined.at - taken.at >= 500_000
            assert _AGENT in await participants(client, room)
            await delete(client, room)
        assert result.status == 487
        assert result.answered_after is None
        assert not result.audio.hears(440)

    async def test_nobody_there_is_no_answer(self) -> None:
        [result] = await place_calls([call_to("room")], server=(HOST, free_port()), patience=0.5)
        assert result.status is None
        assert result.responses == []
        assert "timeout" in result.trouble


class TestEar:
    """What the tests above hear with."""

    def test_ulaw_by_the_table(self) -> None:
        """ITU-T G.711 table 2a, scaled to 16 bits."""
        codes = {0x00: -32124, 0x7F: 0, 0x80: 32124, 0xEF: 132, 0xFE: 8, 0xFF: 0, 0x7E: -8}
        assert decode_ulaw(bytes(codes)).tolist() == list(codes.values())

    def test_scores(self) -> None:
        moments = np.arange(SAMPLE_RATE) / SAMPLE_RATE
        tone = (8000 * np.sin(2 * np.pi * 440 * moments)).astype(np.int16)
        other = (8000 * np.sin(2 * np.pi * 880 * moments)).astype(np.int16)
        assert tone_score(tone, 440) == pytest.approx(1, abs=0.01)
        assert tone_score(tone, 880) == pytest.approx(0, abs=0.01)
        assert tone_score(tone // 8, 440) == pytest.approx(1, abs=0.01)
        assert tone_score(tone + other, 440) == pytest.approx(0.5, abs=0.01)
        assert tone_score(np.delete(tone, slice(1000, 1160)), 440) > 0.9, "a lost packet"

    def test_silence_and_noise_are_no_tone(self) -> None:
        noise = np.random.default_rng(7).integers(-8000, 8000, SAMPLE_RATE).astype(np.int16)
        assert tone_score(noise, 440) < 0.1
        assert tone_score(np.zeros(SAMPLE_RATE, dtype=np.int16), 440) == 0
        assert tone_score(np.zeros(0, dtype=np.int16), 440) == 0
