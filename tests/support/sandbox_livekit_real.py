"""The same test against LiveKit's stand-in and against the real livekit-server.

@pytest.fixture(scope="module")
def real() -> Iterator[LiveKit]:
    with real_server() as server:
        yield server

@pytest.fixture(params=BOTH)
async def lk(request: pytest.FixtureRequest) -> AsyncIterator[LiveKitAPI]:
    async with connected(request) as client:
        yield client
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from livekit.api import LiveKitAPI, ServerError
from livekit.protocol import room as room_proto
from livekit.protocol import sip

from router.sandbox.livekit import LiveKitStandIn
from tests.support.sandbox_livekit import API_KEY, API_SECRET
from tests.support.servers.livekit import LiveKit, livekit_server
from tests.support.servers.redis import redis_server

BOTH = ["stand-in", pytest.param("real", marks=[pytest.mark.livekit, pytest.mark.redis])]


@contextmanager
def real_server() -> Iterator[LiveKit]:
    """With a Redis of its own: the one that tests share may hold another LiveKit."""
    with redis_server() as redis, livekit_server(redis=redis) as server:
        yield server


@asynccontextmanager
async def connected(request: pytest.FixtureRequest) -> AsyncIterator[LiveKitAPI]:
    """LiveKit's client at a fresh stand-in, or at the emptied server of the fixture `real`."""
    if request.param == "stand-in":
        async with (
            LiveKitStandIn(api_key=API_KEY, api_secret=API_SECRET) as standin,
            LiveKitAPI(standin.url, API_KEY, API_SECRET) as client,
        ):
            yield client
        return
    server: LiveKit = request.getfixturevalue("real")
    async with LiveKitAPI(server.url, server.api_key, server.api_secret) as client:
        await _empty(client)
        yield client


def refused(code: str, message: str) -> pytest.RaisesExc[ServerError]:
    """The next call fails with exactly this."""

    def check(error: ServerError) -> bool:
        assert (error.code, error.message) == (code, message)
        return True

    return pytest.RaisesExc(ServerError, check=check)


async def _empty(client: LiveKitAPI) -> None:
    service = client.sip
    for trunk in (await service.list_inbound_trunk(sip.ListSIPInboundTrunkRequest())).items:
        await service.delete_trunk(sip.DeleteSIPTrunkRequest(sip_trunk_id=trunk.sip_trunk_id))
    for out in (await service.list_outbound_trunk(sip.ListSIPOutboundTrunkRequest())).items:
        await service.delete_trunk(sip.DeleteSIPTrunkRequest(sip_trunk_id=out.sip_trunk_id))
    for rule in (await service.list_dispatch_rule(sip.ListSIPDispatchRuleRequest())).items:
        key = rule.sip_dispatch_rule_id
        await service.delete_dispatch_rule(
            sip.DeleteSIPDispatchRuleRequest(sip_dispatch_rule_id=key)
        )
    for room in (await client.room.list_rooms(room_proto.ListRoomsRequest())).rooms:
        await client.room.delete_room(room_proto.DeleteRoomRequest(room=room.name))
