"""Rooms that are left over, with LiveKit's stand-in, whose webhooks stay away, and a database."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random

from livekit import api

from consumers.dispatch.cleanup import LEASE, RoomCleanup, Tell
from router.events.ids import DEFAULT_ACCOUNT, call_id
from router.events.model import Event
from router.events.types import EventType as T
from router.provider import CallRef
from router.providers.livekit.client import LiveKitClient, open_livekit
from router.providers.livekit.standing import standing
from router.sandbox.livekit import LiveKitStandIn
from router.sandbox.sip import Invite, Leg
from router.storage import calls as call_store
from router.storage import claims
from router.storage.engine import Database, open_database
from router.storage.leader import leader
from tests.support.nodes import (
    KEY,
    SECRET,
    apply_text,
    eventually,
    free_port,
    node_settings,
    running,
)

OVER, TALKS = call_id("twilio", "AC1", "CA-over"), call_id("twilio", "AC1", "CA-talks")
OTHERS = call_id("twilio", "AC2", "CA-of-another-deployment")
CALL, CALLER, OURS = call_id("twilio", "AC1", "CA-trunk"), "+12125550123", "+14155550100"
MINUTE = 60_000_000


class Later:
    """A clock a minute ahead whose pauses are short: rooms of now are old enough."""

    def now(self) -> int:
        return time.time_ns() // 1000 + MINUTE

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 1000)


@asynccontextmanager
async def world(
    folder: Path, *, port: int = 1
) -> AsyncIterator[tuple[LiveKitStandIn, LiveKitClient, Database]]:
    async with LiveKitStandIn(api_key=KEY, api_secret=SECRET) as livekit:
        livekit.register_worker("anna")
        settings = node_settings(folder, port=port, livekit_url=livekit.url)
        await apply_text(settings)
        async with open_database(settings) as database, open_livekit(settings.livekit) as client:
            yield livekit, client, database


def made(client: LiveKitClient, database: Database, tell: Tell) -> RoomCleanup:
    return RoomCleanup(
        client,
        Later(),
        Random(7),
        lead=partial(leader, database, LEASE),
        states=partial(claims.states, database),
        tell=tell,
    )


async def called(livekit: LiveKitStandIn, client: LiveKitClient) -> Leg:
    """A call over a trunk whose rule brings anna."""
    number = api.SIPInboundTrunkInfo(name="trunk", numbers=[OURS])
    trunk = await client.sip.create_inbound_trunk(api.CreateSIPInboundTrunkRequest(trunk=number))
    own_room = api.SIPDispatchRuleIndividual(room_prefix="call")
    rule = api.SIPDispatchRuleInfo(
        name="anna",
        trunk_ids=[trunk.sip_trunk_id],
        rule=api.SIPDispatchRule(dispatch_rule_individual=own_room),
        room_config=api.RoomConfiguration(agents=[api.RoomAgentDispatch(agent_name="anna")]),
    )
    await client.sip.create_dispatch_rule(api.CreateSIPDispatchRuleRequest(dispatch_rule=rule))
    headers = {"X-Twilio-AccountSid": "AC1", "X-Twilio-CallSid": "CA-trunk"}
    return livekit.invite(Invite(to_user=OURS, from_user=CALLER, headers=headers))


def callers(livekit: LiveKitStandIn, name: str) -> int:
    room = livekit.rooms.get(name)
    sip = api.ParticipantInfo.Kind.SIP
    return sum(who.kind == sip for who in room.participants.values()) if room is not None else 0


async def nobody_looks(_event: Event) -> None:
    raise AssertionError("nobody looked")


async def test_an_agent_left_behind_by_a_call_that_is_over_is_put_out(tmp_path: Path) -> None:
    async with world(tmp_path) as (livekit, client, database):
        for room in (OVER, TALKS, OTHERS):
            await client.create_dispatch(room=room, agent_name="anna", metadata="{}")
        await claims.settle(database, OVER, "over")
        await claims.claim(
            database,
            TALKS,
            owner="p",
            lease=30.0,
            agent="anna",
            livekit_agent_name="anna",
            initiated=b"",
        )
        tidying = asyncio.create_task(made(client, database, nobody_looks).run())
        await eventually(lambda: livekit.rooms.get(OVER) is None)
        tidying.cancel()
        assert {room.name for room in await client.rooms()} == {TALKS, OTHERS}


async def test_a_call_stands_as_long_as_its_caller_is_in_the_room(tmp_path: Path) -> None:
    async with world(tmp_path) as (livekit, client, _):
        leg = await called(livekit, client)
        assert await leg.answered()
        ref = CallRef(CALL, "CA-trunk", room=leg.room)
        assert not (await standing(client, ref)).over
        leg.hangup()
        await eventually(lambda: callers(livekit, leg.room) == 0)
        assert (await standing(client, ref)).over


async def test_a_look_finds_the_agent_of_a_call_over_a_trunk(tmp_path: Path) -> None:
    async with world(tmp_path) as (livekit, client, database):
        leg = await called(livekit, client)
        assert await leg.answered()
        told: list[Event] = []

        async def tell(event: Event) -> None:
            told.append(event)

        await made(client, database, tell).look(leg.room)
        assert {event.call_id for event in told} == {CALL}
        kinds = [event.type for event in told]
        assert kinds == [T.CALL_INITIATED, T.CALL_ANSWERED, T.AGENT_JOINED, T.AGENT_READY]
        assert (told[0].data.from_number, told[0].data.to_number) == (CALLER, OURS)


async def test_a_call_over_a_trunk_has_its_record_from_livekits_webhooks(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/webhooks/livekit"
    async with world(tmp_path, port=port) as (livekit, client, database):
        settings = node_settings(tmp_path, port=port, livekit_url=livekit.url)
        async with running(settings, routes=await apply_text(settings)):
            livekit.webhooks.url = url
            leg = await called(livekit, client)
            assert await leg.answered()
            leg.hangup()
            record = None
            for _ in range(1000):
                record = await call_store.get(database, DEFAULT_ACCOUNT, CALL)
                if record is not None and record.state == "ended":
                    break
                await asyncio.sleep(0.01)
    assert record is not None
    assert (record.provider, record.provider_call_id) == ("livekit", "CA-trunk")
    assert (record.direction, record.from_number, record.to_number) == ("inbound", CALLER, OURS)
    assert record.state == "ended"
