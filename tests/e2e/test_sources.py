"""Calls of other sources than Twilio's webhooks, with the real LiveKit server and SIP bridge.

Telnyx is its stand-in, but the SIP leg of its transfer is SIPp's, with the URI, the credentials and
the headers of the command. In trunk mode SIPp calls the number itself, and nobody tells Switchboard
of the call but LiveKit.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from livekit import api

from config import Settings
from router.events.call import CallRecord
from router.events.ids import DEFAULT_ACCOUNT, call_id
from router.events.model import Event
from router.events.types import EventType as T
from router.sandbox.sip import Invite, Leg
from router.sandbox.telnyx.standin import TelnyxStandIn
from router.storage import calls as call_store
from router.storage.engine import open_database
from tests.support.nodes import apply_text, eventually, node_settings, running
from tests.support.sandbox_telnyx import API_KEY, SEED
from tests.support.sip.caller import SipCall, SipResult, place_calls
from tests.support.telephony import Telephony, assert_hears_only, real_telephony

pytestmark = [pytest.mark.livekit, pytest.mark.sip, pytest.mark.timeout(240)]

NUMBER, TRUNK_NUMBER, CALLER = "+14155550100", "+14155550177", "+12125550123"
ACCOUNT = "AC" + "a1" * 16
MAPPING = f"""
agents: [{{name: anna, livekit_agent_name: anna}}]
numbers: [{{number: "{NUMBER}", provider: telnyx, agent: anna}}]
"""


@pytest.fixture(scope="module")
def telephony() -> Iterator[Telephony]:
    with real_telephony() as found:
        yield found


@asynccontextmanager
async def node(telephony: Telephony, folder: Path, **providers: Any) -> AsyncIterator[Settings]:
    livekit, sip = telephony.livekit, telephony.sip
    settings = node_settings(
        folder,
        port=telephony.port,
        livekit_url=livekit.url,
        providers=providers,
        livekit={
            "api_key": livekit.api_key,
            "api_secret": livekit.api_secret,
            "sip_host": f"{sip.host}:{sip.port}",
        },
    )
    routes = await apply_text(settings, MAPPING)
    async with running(settings, routes=routes) as found:
        await eventually(lambda: found.health()[1]["livekit"] == "ok")
        yield settings


async def record(settings: Settings, wanted: str, *, until: T) -> tuple[CallRecord, list[Event]]:
    """The call's record and events, once it has an event of that type."""
    told: list[Event] = []
    async with open_database(settings) as database:
        for _ in range(600):
            told = list(await call_store.events(database, wanted))
            found = await call_store.get(database, DEFAULT_ACCOUNT, wanted)
            if found is not None and until in [event.type for event in told]:
                return found, told
            await asyncio.sleep(0.05)
    raise AssertionError(f"no {until} among {[event.type.value for event in told]}")


class SippLegs:
    """What a stand-in dials, carried by SIPp to the real bridge."""

    def __init__(self, telephony: Telephony) -> None:
        self._telephony = telephony
        self._tasks: set[asyncio.Task[None]] = set()
        self.results: list[SipResult] = []

    def dial(self, invite: Invite) -> Leg:
        leg = Leg()
        task = asyncio.create_task(self._carry(invite, leg))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return leg

    async def _carry(self, invite: Invite, leg: Leg) -> None:
        call = SipCall(
            from_user=invite.from_user, to_user=invite.to_user, headers=dict(invite.headers)
        )
        [result] = await place_calls(
            [call],
            server=self._telephony.sip.address,
            username=invite.username,
            password=invite.password,
        )
        self.results.append(result)
        if result.status != 200:
            return leg.refuse(result.status or 480)
        leg.ring()  # SIPp tells how it went when it is over
        leg.answer()
        await asyncio.sleep(0.2)
        leg.bye()
        return None


async def test_a_call_at_telnyx_is_transferred_to_the_agent_and_livekit_knows_whose_it_is(
    telephony: Telephony, tmp_path: Path
) -> None:
    legs = SippLegs(telephony)
    base = f"http://127.0.0.1:{telephony.port}"
    async with TelnyxStandIn(
        api_key=API_KEY, seed=SEED, webhook_base=base, dial_sip=legs.dial
    ) as telnyx:
        keys = {"api_key": API_KEY, "public_keys": [telnyx.public_key], "api_url": telnyx.url}
        async with node(telephony, tmp_path, telnyx=keys) as settings:
            call = telnyx.place_call(NUMBER, CALLER)
            wanted = call_id("telnyx", "", call.caller.control_id)
            found, told = await record(settings, wanted, until=T.CALL_ENDED)
    [result] = legs.results
    assert result.status == 200, result
    assert_hears_only(result, "anna")
    assert (found.provider, found.agent, found.state) == ("telnyx", "anna", "ended")
    assert found.disposition == "answered"
    joined = next(event for event in told if event.type is T.SIP_JOINED)
    assert joined.data.provider_call_id == call.session_id  # sip.telnyx.callSessionID
    assert [event.type for event in told].count(T.AGENT_DISPATCHED) == 1


@asynccontextmanager
async def trunk(telephony: Telephony) -> AsyncIterator[None]:
    """The number on LiveKit itself: a trunk that lists it, a rule that names its agent."""
    server = telephony.livekit
    async with api.LiveKitAPI(server.url, server.api_key, server.api_secret) as client:
        made = await client.sip.create_inbound_trunk(
            api.CreateSIPInboundTrunkRequest(
                trunk=api.SIPInboundTrunkInfo(name="a-carrier", numbers=[TRUNK_NUMBER])
            )
        )
        individual = api.SIPDispatchRuleIndividual(room_prefix="trunk-call")
        rule = await client.sip.create_dispatch_rule(
            api.CreateSIPDispatchRuleRequest(
                dispatch_rule=api.SIPDispatchRuleInfo(
                    name="bobs",
                    trunk_ids=[made.sip_trunk_id],
                    numbers=[TRUNK_NUMBER],
                    rule=api.SIPDispatchRule(dispatch_rule_individual=individual),
                    room_config=api.RoomConfiguration(
                        agents=[api.RoomAgentDispatch(agent_name="bob")]
                    ),
                )
            )
        )
        yield
        await client.sip.delete_dispatch_rule(
            api.DeleteSIPDispatchRuleRequest(sip_dispatch_rule_id=rule.sip_dispatch_rule_id)
        )
        await client.sip.delete_trunk(api.DeleteSIPTrunkRequest(sip_trunk_id=made.sip_trunk_id))


async def test_a_call_of_trunk_mode_is_told_by_livekit_alone(
    telephony: Telephony, tmp_path: Path
) -> None:
    sid = f"CA{uuid4().hex}"
    async with node(telephony, tmp_path) as settings, trunk(telephony):
        call = SipCall(
            from_user=CALLER,
            to_user=TRUNK_NUMBER,
            call_sid=sid,
            headers={"X-Twilio-AccountSid": ACCOUNT},
        )
        [result] = await place_calls([call], server=telephony.sip.address)
        assert result.status == 200, result
        assert_hears_only(result, "bob")
        wanted = call_id("twilio", ACCOUNT, sid)
        found, told = await record(settings, wanted, until=T.CALL_ENDED)
    kinds = [event.type for event in told]
    assert {T.CALL_INITIATED, T.CALL_ANSWERED, T.AGENT_JOINED, T.AGENT_READY} <= set(kinds), kinds
    assert (found.provider, found.provider_call_id) == ("livekit", sid)
    assert (found.from_number, found.to_number) == (CALLER, TRUNK_NUMBER)
    assert (found.state, found.disposition, found.direction) == ("ended", "answered", "inbound")
    assert T.AGENT_DISPATCHED not in kinds  # LiveKit's rule brought the agent, not we
