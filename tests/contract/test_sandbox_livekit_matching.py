"""Which trunk and rule take a call at LiveKit's stand-in, and what becomes of the others."""

from collections.abc import AsyncIterator

import pytest
from livekit.api import LiveKitAPI
from livekit.protocol import room as room_proto
from livekit.protocol import sip as proto
from livekit.protocol.agent_dispatch import RoomAgentDispatch

from router.sandbox.livekit import Leg, LiveKitStandIn
from tests.support.sandbox_clock import FakeClock
from tests.support.sandbox_livekit import (
    API_KEY,
    API_SECRET,
    CALLED,
    CALLER,
    PASSWORD,
    USER,
    call,
    put_rule,
    put_trunk,
    refusal,
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


@pytest.mark.parametrize(
    ("user", "password", "status"), [("", "", 407), (USER, "wrong", 401), ("wrong", PASSWORD, 401)]
)
async def test_a_trunk_with_credentials_wants_them(
    lk: LiveKitStandIn, client: LiveKitAPI, user: str, password: str, status: int
) -> None:
    await wildcard_trunk(client)
    assert await refusal(lk, call(user=user, password=password)) == status


async def test_several_trunks_are_503(lk: LiveKitStandIn) -> None:
    put_rule(lk, "SDR_a", proto.SIPDispatchRuleInfo())
    put_trunk(lk, "ST_a", proto.SIPInboundTrunkInfo(numbers=[CALLED]))
    put_trunk(lk, "ST_b", proto.SIPInboundTrunkInfo(numbers=[CALLED], allowed_numbers=[CALLER]))
    assert await refusal(lk, call(CALLED)) == 503
    put_trunk(lk, "ST_c", proto.SIPInboundTrunkInfo(allowed_addresses=["127.0.0.0/8"]))
    put_trunk(lk, "ST_d", proto.SIPInboundTrunkInfo(allowed_addresses=["127.0.0.1"]))
    assert await refusal(lk, call("other")) == 503


async def test_contradicting_rules_are_503(lk: LiveKitStandIn) -> None:
    put_trunk(lk, "ST_a", proto.SIPInboundTrunkInfo(numbers=[CALLED]))
    put_rule(lk, "SDR_a", proto.SIPDispatchRuleInfo(trunk_ids=["ST_a"]))
    put_rule(lk, "SDR_b", proto.SIPDispatchRuleInfo(trunk_ids=["ST_a"]))
    assert await refusal(lk, call(CALLED)) == 503


async def test_without_a_rule_the_caller_hears_ringing_for_ever(
    lk: LiveKitStandIn, client: LiveKitAPI, clock: FakeClock
) -> None:
    put_trunk(lk, "ST_a", proto.SIPInboundTrunkInfo(numbers=[CALLED]))
    # Trunks normalise numbers, rules compare them as they are: the trap.
    put_rule(lk, "SDR_a", proto.SIPDispatchRuleInfo(trunk_ids=["ST_a"], numbers=[CALLED[1:]]))
    leg = lk.invite(call(CALLED))
    assert await leg.ringing()
    await clock.advance(24 * 3600)
    assert (leg.status, leg.is_ended, leg.room) == (0, False, "")
    leg.hangup()
    assert await leg.ended() == 487


async def test_a_listed_number_beats_the_wildcard_and_needs_no_password(
    lk: LiveKitStandIn, client: LiveKitAPI
) -> None:
    await wildcard_trunk(client)
    put_trunk(lk, "ST_n", proto.SIPInboundTrunkInfo(numbers=[CALLED]))
    put_rule(
        lk,
        "SDR_n",
        proto.SIPDispatchRuleInfo(
            trunk_ids=["ST_n"],
            numbers=[CALLED],
            room_config=room_proto.RoomConfiguration(
                agents=[RoomAgentDispatch(agent_name="bob", metadata="trunk mode")]
            ),
        ),
    )
    lk.register_worker("bob")
    leg = lk.invite(call(CALLED, user="", password=""))
    assert await leg.answered()
    assert leg.room == CALLED
    assert [(j.agent_name, j.metadata) for j in lk.jobs] == [("bob", "trunk mode")]
    # The room is open now, so its configuration counts no more.
    second = lk.invite(call(CALLED, user="", password=""))
    assert await second.answered()
    assert len(lk.jobs) == 1


async def test_a_trunk_takes_only_its_callers_and_addresses(lk: LiveKitStandIn) -> None:
    # Whom no trunk takes meets only rules without trunks, and here there is none: ringing.
    put_rule(lk, "SDR_a", proto.SIPDispatchRuleInfo(trunk_ids=["ST_a"]))

    async def room_with(trunk: proto.SIPInboundTrunkInfo) -> str:
        put_trunk(lk, "ST_a", trunk)
        leg = lk.invite(call(CALLED))
        await leg.ringing()
        return leg.room

    assert await room_with(proto.SIPInboundTrunkInfo(allowed_numbers=[CALLER[1:]])) == CALLED
    assert await room_with(proto.SIPInboundTrunkInfo(allowed_numbers=[CALLED])) == ""
    assert await room_with(proto.SIPInboundTrunkInfo(allowed_addresses=["127.0.0.0/8"])) == CALLED
    assert await room_with(proto.SIPInboundTrunkInfo(allowed_addresses=["192.0.2.1"])) == ""
    assert await room_with(proto.SIPInboundTrunkInfo(allowed_addresses=["nonsense"])) == ""


async def test_a_rule_that_names_the_trunk_beats_one_that_names_none(lk: LiveKitStandIn) -> None:
    put_trunk(lk, "ST_a", proto.SIPInboundTrunkInfo(numbers=[CALLED]))
    # The rule for everybody would win by its kind.
    lobby = proto.SIPDispatchRule(dispatch_rule_direct={"room_name": "lobby"})
    put_rule(lk, "SDR_a", proto.SIPDispatchRuleInfo(rule=lobby))
    put_rule(lk, "SDR_b", proto.SIPDispatchRuleInfo(trunk_ids=["ST_a"]))
    leg = lk.invite(call(CALLED))
    await leg.ringing()
    assert leg.room == CALLED


async def test_a_rule_with_a_pin_is_not_simulated(lk: LiveKitStandIn) -> None:
    pinned = proto.SIPDispatchRule(dispatch_rule_callee={"pin": "1234"})
    put_rule(lk, "SDR_a", proto.SIPDispatchRuleInfo(rule=pinned))
    assert await refusal(lk, call()) == 501


async def test_a_rule_without_trunks_lets_strangers_in(lk: LiveKitStandIn) -> None:
    put_rule(lk, "SDR_a", proto.SIPDispatchRuleInfo())
    leg = lk.invite(call("scanner", user="", password=""))
    assert await leg.ringing()
    assert leg.room == "scanner"


@pytest.mark.parametrize(
    ("rule", "start"),
    [
        (proto.SIPDispatchRule(dispatch_rule_direct={"room_name": "lobby"}), "lobby"),
        (proto.SIPDispatchRule(dispatch_rule_individual={"room_prefix": "p"}), f"p_{CALLER}_"),
        (proto.SIPDispatchRule(dispatch_rule_callee={"room_prefix": "p"}), f"p_{CALLED}"),
        (proto.SIPDispatchRule(dispatch_rule_callee={"randomize": True}), f"{CALLED}_"),
        (proto.SIPDispatchRule(dispatch_rule_callee={}), CALLED),
    ],
)
async def test_the_rule_names_the_room(
    lk: LiveKitStandIn, rule: proto.SIPDispatchRule, start: str
) -> None:
    put_rule(lk, "SDR_a", proto.SIPDispatchRuleInfo(rule=rule))
    leg = lk.invite(call(CALLED))
    await leg.ringing()
    assert leg.room.startswith(start)
    assert start.endswith("_") == (leg.room != start)


async def test_rules_that_name_the_caller_or_number_win(lk: LiveKitStandIn) -> None:
    def direct(room: str, **fields: list[str]) -> proto.SIPDispatchRuleInfo:
        rule = proto.SIPDispatchRule(dispatch_rule_direct={"room_name": room})
        info = proto.SIPDispatchRuleInfo(rule=rule, numbers=fields.get("numbers"))
        info.inbound_numbers.extend(fields.get("callers", []))
        return info

    async def room_of(leg: Leg) -> str:
        await leg.ringing()
        return leg.room

    put_rule(lk, "SDR_a", direct("any"))
    assert await room_of(lk.invite(call(CALLED))) == "any"
    put_rule(lk, "SDR_b", direct("number", numbers=[CALLED]))
    assert await room_of(lk.invite(call(CALLED))) == "number"
    put_rule(lk, "SDR_c", direct("both", numbers=[CALLED], callers=[CALLER]))
    assert await room_of(lk.invite(call(CALLED))) == "both"


async def test_without_redis_there_is_no_sip_and_no_bridge() -> None:
    async with (
        LiveKitStandIn(api_key=API_KEY, api_secret=API_SECRET, redis=False) as lk,
        LiveKitAPI(lk.url, API_KEY, API_SECRET) as client,
    ):
        with pytest.raises(Exception, match=r"sip not connected \(redis required\)") as caught:
            await client.sip.list_inbound_trunk(proto.ListSIPInboundTrunkRequest())
        assert getattr(caught.value, "status", 0) == 500
        assert await refusal(lk, call()) == 503
