"""Agent workers of LiveKit's stand-in, their misbehaviour, and faults of the API."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from livekit.api import LiveKitAPI, ServerError
from livekit.protocol import agent_dispatch as proto
from livekit.protocol.models import ParticipantInfo

from router.sandbox.livekit import Behaviour, LiveKitStandIn
from tests.support.sandbox_clock import FakeClock, settle
from tests.support.sandbox_livekit import API_KEY, API_SECRET, eventually

ROOM = "a-call-id"


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


async def dispatch(client: LiveKitAPI, agent: str = "anna") -> proto.AgentDispatch:
    request = proto.CreateAgentDispatchRequest(room=ROOM, agent_name=agent)
    return await client.agent_dispatch.create_dispatch(request)


def agents(lk: LiveKitStandIn) -> list[ParticipantInfo]:
    room = lk.rooms.get(ROOM)
    return list(room.participants.values()) if room is not None else []


async def test_every_dispatch_is_one_more_agent(lk: LiveKitStandIn, client: LiveKitAPI) -> None:
    lk.register_worker("anna")
    await asyncio.gather(dispatch(client), dispatch(client))
    await settle()
    assert len(agents(lk)) == 2


async def test_a_dispatch_without_a_worker_is_lost_for_good(
    lk: LiveKitStandIn, client: LiveKitAPI
) -> None:
    await dispatch(client)
    lk.register_worker("anna")
    await settle()
    assert (agents(lk), lk.jobs) == ([], [])
    await dispatch(client)
    await settle()
    assert len(agents(lk)) == 1


async def test_the_first_dispatches_may_get_lost(lk: LiveKitStandIn, client: LiveKitAPI) -> None:
    lk.register_worker("anna", Behaviour(drop_first=2))
    made = [await dispatch(client) for _ in range(3)]
    await settle()
    assert [job.dispatch_id for job in lk.jobs] == [made[2].id]


async def test_an_agent_that_never_joins_got_its_job(
    lk: LiveKitStandIn, client: LiveKitAPI, clock: FakeClock
) -> None:
    lk.register_worker("anna", Behaviour(never_joins=True))
    await dispatch(client)
    await clock.advance(60)
    assert len(lk.jobs) == 1
    assert agents(lk) == []


async def test_an_agent_that_never_publishes_is_there_but_mute(
    lk: LiveKitStandIn, client: LiveKitAPI, clock: FakeClock
) -> None:
    lk.register_worker("anna", Behaviour(never_publishes=True))
    await dispatch(client)
    await clock.advance(60)
    (agent,) = agents(lk)
    assert not agent.tracks


async def test_a_deleted_dispatch_takes_its_agent_along(
    lk: LiveKitStandIn, client: LiveKitAPI
) -> None:
    lk.register_worker("anna")
    first, second = await dispatch(client), await dispatch(client)
    await settle()
    await client.agent_dispatch.delete_dispatch(first.id, ROOM)
    kept = [job.id for job in lk.jobs if job.dispatch_id == second.id]
    assert [agent.identity for agent in agents(lk)] == [f"agent-{job}" for job in kept]


async def test_a_stubborn_agent_comes_although_its_dispatch_was_deleted(
    lk: LiveKitStandIn, client: LiveKitAPI, clock: FakeClock
) -> None:
    lk.register_worker("anna", Behaviour(join_delay=5, stubborn=True))
    made = await dispatch(client)
    await client.agent_dispatch.delete_dispatch(made.id, ROOM)
    await clock.advance(5)
    assert len(agents(lk)) == 1


@pytest.mark.parametrize(("is_new", "after"), [(True, 5.0), (False, 0.0)])
async def test_a_job_is_listed_late_where_its_dispatch_made_the_room(
    lk: LiveKitStandIn, client: LiveKitAPI, clock: FakeClock, is_new: bool, after: float
) -> None:
    if not is_new:
        lk.rooms.open(ROOM)
    lk.register_worker("anna")
    await dispatch(client)
    await clock.advance(after)
    [listed] = [d for d in await client.agent_dispatch.list_dispatch(ROOM) if d.agent_name]
    [job], [agent] = listed.state.jobs, agents(lk)
    assert (job.id, job.state.participant_identity) == (lk.jobs[0].id, agent.identity)


async def test_a_dispatch_deleted_before_the_agent_comes_brings_none(
    lk: LiveKitStandIn, client: LiveKitAPI, clock: FakeClock
) -> None:
    lk.register_worker("anna", Behaviour(join_delay=5))
    made = await dispatch(client)
    await client.agent_dispatch.delete_dispatch(made.id, ROOM)
    await clock.advance(5)
    assert agents(lk) == []


async def test_a_worker_without_a_name_joins_rooms_that_want_nobody(
    lk: LiveKitStandIn, client: LiveKitAPI
) -> None:
    lk.register_worker("")
    lk.register_worker("anna")
    await dispatch(client)
    await settle()
    assert sorted(job.agent_name for job in lk.jobs) == ["", "anna"]


async def test_a_worker_that_is_gone_takes_no_jobs(lk: LiveKitStandIn, client: LiveKitAPI) -> None:
    lk.register_worker("anna")
    lk.workers.unregister("anna")
    await dispatch(client)
    await settle()
    assert lk.jobs == []


async def test_injected_failures_change_nothing_and_end(
    lk: LiveKitStandIn, client: LiveKitAPI
) -> None:
    lk.faults.fail("CreateDispatch", "unavailable", times=2)
    for _ in range(2):
        with pytest.raises(ServerError) as caught:
            await dispatch(client)
        assert (caught.value.code, caught.value.status) == ("unavailable", 503)
    assert lk.rooms.get(ROOM) is None
    await dispatch(client)
    with pytest.raises(ValueError, match="no Twirp error code"):
        lk.faults.fail("CreateDispatch", "broken")


async def test_a_call_may_take_effect_and_never_be_answered(
    lk: LiveKitStandIn, client: LiveKitAPI
) -> None:
    lk.register_worker("anna")
    lk.faults.hang_after_apply("CreateDispatch")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await dispatch(client)
    assert len(lk.jobs) == 1
    await dispatch(client)
    assert len(lk.jobs) == 2


async def test_closing_does_not_wait_for_calls_that_hang() -> None:
    async with LiveKitStandIn(api_key=API_KEY, api_secret=API_SECRET) as lk:
        lk.faults.hang_after_apply("CreateDispatch")
        api = LiveKitAPI(lk.url, API_KEY, API_SECRET)
        hanging = asyncio.create_task(dispatch(api))
        async with asyncio.timeout(2):
            while lk.rooms.get(ROOM) is None:  # noqa: ASYNC110 - the other end has no event
                await asyncio.sleep(0.005)
    with pytest.raises(aiohttp.ClientError):
        await hanging
    await api.aclose()


async def test_a_server_that_refuses_takes_nothing(lk: LiveKitStandIn, client: LiveKitAPI) -> None:
    lk.faults.refuse()
    with pytest.raises(aiohttp.ClientError):
        await dispatch(client)
    lk.faults.accept()
    assert lk.rooms.get(ROOM) is None
    await dispatch(client)


async def test_agents_are_lost_by_the_control_api() -> None:
    async with (
        LiveKitStandIn(api_key=API_KEY, api_secret=API_SECRET, control_token="secret") as lk,
        LiveKitAPI(lk.url, API_KEY, API_SECRET) as api,
        aiohttp.ClientSession(headers={"Authorization": "Bearer secret"}) as session,
    ):
        lk.register_worker("anna")
        order = proto.CreateAgentDispatchRequest(room=ROOM, agent_name="anna")
        await api.agent_dispatch.create_dispatch(order)
        room = lk.rooms.get(ROOM)
        assert room is not None
        await eventually(lambda: bool(room.agents))

        async def post(what: str, status: int = 200, **body: object) -> object:
            url = f"{lk.url}/agents/{what}"
            async with session.post(url, json=body) as answer:
                assert answer.status == status, await answer.text()
                return (await answer.json()).get("agents")

        assert await post("dismiss", agent_name="bob") == 0
        assert await post("kill", 400, lingers=-1) is None
        assert await post("kill", lingers=0, worker=False, agent_name="anna") == 1
        await eventually(lambda: not room.agents)
        await api.agent_dispatch.create_dispatch(order)
        assert len(lk.jobs) == 1
        session.headers["Authorization"] = "Bearer wrong"
        assert await post("dismiss", 401) is None
