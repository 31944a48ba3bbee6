"""Our LiveKit client and set-up, against the stand-in and against the real livekit-server."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from aiohttp import web
from livekit import api

from config.settings import LiveKitSettings
from router.errors import Ambiguous, Permanent, Transient
from router.events.ids import call_id
from router.providers.livekit import setup
from router.providers.livekit.client import LiveKitClient, PollBudget, open_livekit
from router.sandbox.livekit import Behaviour, Invite, LiveKitStandIn
from router.sandbox.serve import serve
from router.secrets import SipCredentials
from tests.support.sandbox_livekit import API_KEY, API_SECRET, eventually
from tests.support.sandbox_livekit_real import BOTH, connected, real_server
from tests.support.servers.livekit import LiveKit
from tests.support.servers.ports import free_port

CREDENTIALS = SipCredentials("switchboard-1", "Correct-horse-battery-1")
ROOM = call_id("twilio", "AC1", "CA1")


@pytest.fixture(scope="module")
def real() -> Iterator[LiveKit]:
    with real_server() as server:
        yield server


@pytest.fixture(params=BOTH)
async def client(request: pytest.FixtureRequest) -> AsyncIterator[LiveKitClient]:
    async with connected(request) as sdk:
        yield LiveKitClient(sdk, timeout=5.0)


def settings(url: str, timeout: float = 5.0) -> LiveKitSettings:
    return LiveKitSettings.model_validate(
        {
            "url": url,
            "api_key": API_KEY,
            "api_secret": API_SECRET,
            "sip_host": "h",
            "sip_transport": "udp",
            "webhook_keys": {},
            "timeout": timeout,
            "poll_interval": 0.5,
            "polls_per_minute": 300,
        }
    )


async def trunk(client: LiveKitClient, info: api.SIPInboundTrunkInfo) -> api.SIPInboundTrunkInfo:
    return await client.sip.create_inbound_trunk(api.CreateSIPInboundTrunkRequest(trunk=info))


class TestSetup:
    async def test_made_once_then_found(self, client: LiveKitClient) -> None:
        assert len(await setup.inspect(client, CREDENTIALS)) == 2
        first = await setup.ensure(client, CREDENTIALS)
        assert (first.trunk, first.rule) == ("created", "created")
        again = await setup.ensure(client, CREDENTIALS)
        assert (again.trunk, again.rule) == ("found", "found")
        assert (again.trunk_id, again.rule_id) == (first.trunk_id, first.rule_id)
        assert await setup.inspect(client, CREDENTIALS) == []

    async def test_other_credentials_are_mended(self, client: LiveKitClient) -> None:
        first = await setup.ensure(client, CREDENTIALS)
        other = SipCredentials("switchboard-2", "Another-battery-2")
        assert "credentials" in (await setup.inspect(client, other))[0]
        mended = await setup.ensure(client, other)
        assert (mended.trunk, mended.trunk_id) == ("mended", first.trunk_id)
        assert await setup.inspect(client, other) == []

    async def test_a_rule_of_ours_that_was_changed_is_mended(self, client: LiveKitClient) -> None:
        done = await setup.ensure(client, CREDENTIALS)
        changed = api.SIPDispatchRuleInfo(
            name=setup.NAME,
            trunk_ids=[done.trunk_id],
            rule=api.SIPDispatchRule(
                dispatch_rule_callee=api.SIPDispatchRuleCallee(room_prefix="x", randomize=True)
            ),
        )
        await client.sip.update_dispatch_rule(done.rule_id, changed)
        assert (await setup.ensure(client, CREDENTIALS)).rule == "mended"
        assert (await setup.ensure(client, CREDENTIALS)).rule == "found"

    async def test_a_foreign_wildcard_trunk_is_reported_by_its_id(
        self, client: LiveKitClient
    ) -> None:
        foreign = await trunk(
            client,
            api.SIPInboundTrunkInfo(name="theirs", auth_username="u", auth_password="p"),
        )
        with pytest.raises(setup.SetupConflict, match=foreign.sip_trunk_id):
            await setup.ensure(client, CREDENTIALS)
        left = await client.sip.list_inbound_trunk(api.ListSIPInboundTrunkRequest())
        assert [item.sip_trunk_id for item in left.items] == [foreign.sip_trunk_id]

    async def test_foreign_objects_beside_ours_are_not_touched(self, client: LiveKitClient) -> None:
        theirs = await trunk(
            client, api.SIPInboundTrunkInfo(name="theirs", numbers=["+15550001111"])
        )
        before = await client.sip.list_inbound_trunk(api.ListSIPInboundTrunkRequest())
        await setup.ensure(client, CREDENTIALS)
        after = await client.sip.list_inbound_trunk(api.ListSIPInboundTrunkRequest())
        kept = [item for item in after.items if item.sip_trunk_id == theirs.sip_trunk_id]
        assert kept == list(before.items)


class TestRooms:
    async def test_what_is_gone_is_no_error(self, client: LiveKitClient) -> None:
        await client.delete_room(ROOM)
        assert list(await client.participants(ROOM)) == []
        assert list(await client.dispatches(ROOM)) == []
        await client.delete_dispatch(room=ROOM, dispatch_id="AD_none")
        await client.remove_participant(room=ROOM, identity="agent-none")

    async def test_open_rooms_are_listed(self, client: LiveKitClient) -> None:
        assert list(await client.rooms()) == []
        for name in (ROOM, "another"):
            await client.create_dispatch(room=name, agent_name="nobody", metadata="{}")
        found = {room.name: room for room in await client.rooms()}
        assert set(found) == {ROOM, "another"}
        assert found[ROOM].sid.startswith("RM_")
        assert found[ROOM].participants == 0
        age = time.time_ns() // 1000 - found[ROOM].created_at
        assert -1_000_000 < age < 60_000_000
        assert [room.name for room in await client.rooms([ROOM, "absent"])] == [ROOM]
        for name in (ROOM, "another"):
            await client.delete_room(name)

    async def test_a_dispatch_is_listed_and_withdrawn(self, client: LiveKitClient) -> None:
        made = await client.create_dispatch(room=ROOM, agent_name="nobody", metadata="{}")
        assert [(d.id, d.agent_name) for d in await client.dispatches(ROOM)] == [(made, "nobody")]
        await client.delete_dispatch(room=ROOM, dispatch_id=made)
        assert list(await client.dispatches(ROOM)) == []
        await client.delete_room(ROOM)


async def test_an_agents_audio_is_seen() -> None:
    async with LiveKitStandIn(api_key=API_KEY, api_secret=API_SECRET) as standin:
        standin.register_worker("anna")
        async with open_livekit(settings(standin.url)) as client:
            await client.create_dispatch(room=ROOM, agent_name="anna", metadata="{}")
            await eventually(lambda: standin.rooms.get(ROOM) is not None)
            seen = await client.participants(ROOM)
            while not (seen and seen[0].publishes_audio):  # bounded by the test's time limit
                await asyncio.sleep(0.01)
                seen = await client.participants(ROOM)
            assert (seen[0].kind, seen[0].agent_name) == ("AGENT", "anna")
            assert seen[0].publishes_audio
            assert seen[0].joined_at > 1_700_000_000_000_000


async def test_an_agent_that_came_although_it_was_withdrawn_is_told_from_the_other() -> None:
    async with LiveKitStandIn(api_key=API_KEY, api_secret=API_SECRET) as standin:
        standin.register_worker("anna", Behaviour(join_delay=0.1, stubborn=True))
        standin.rooms.open(ROOM)
        async with open_livekit(settings(standin.url)) as client:
            withdrawn = await client.create_dispatch(room=ROOM, agent_name="anna", metadata="")
            await client.delete_dispatch(room=ROOM, dispatch_id=withdrawn)
            await client.create_dispatch(room=ROOM, agent_name="anna", metadata="")
            room = standin.rooms.get(ROOM)
            assert room is not None
            await eventually(lambda: len(room.participants) == 2)
            [kept] = await client.dispatches(ROOM)
            inside = {who.identity for who in await client.participants(ROOM)}
            [stranger] = inside - set(kept.agents)
            await client.remove_participant(room=ROOM, identity=stranger)
            assert {who.identity for who in await client.participants(ROOM)} == set(kept.agents)


async def test_an_agent_answers_until_its_process_is_gone() -> None:
    async with LiveKitStandIn(api_key=API_KEY, api_secret=API_SECRET) as standin:
        standin.register_worker("anna")
        async with open_livekit(settings(standin.url)) as client:
            await client.create_dispatch(room=ROOM, agent_name="anna", metadata="")
            room = standin.rooms.get(ROOM)
            assert room is not None
            await eventually(lambda: bool(room.agents))
            [agent] = room.agents
            assert await client.answers(room=ROOM, identity=agent, within=0.2) is True
            assert standin.workers.kill("anna", lingers=0.3) == 1
            assert await client.answers(room=ROOM, identity=agent, within=0.2) is False
            await eventually(lambda: not room.agents)
            standin.faults.refuse()
            assert await client.answers(room=ROOM, identity=agent, within=0.2) is None


@pytest.mark.parametrize("takes", [True, False])
async def test_a_caller_is_transferred_where_the_carrier_does_that(takes: bool) -> None:
    async with LiveKitStandIn(api_key=API_KEY, api_secret=API_SECRET) as standin:
        standin.register_worker("anna")
        async with open_livekit(settings(standin.url)) as client:
            await setup.ensure(client, CREDENTIALS)
            await client.create_dispatch(room=ROOM, agent_name="anna", metadata="")
            invite = Invite(
                to_user=ROOM,
                from_user="+12125550123",
                username=CREDENTIALS.username,
                password=CREDENTIALS.password,
            )
            leg = standin.invite(invite)
            leg.takes_refer = takes
            assert await leg.answered()
            order = {"room": ROOM, "identity": "sip_+12125550123", "to": "tel:+14155550199"}
            if takes:
                await client.transfer(**order)
                assert (leg.referred_to, leg.is_ended) == ("tel:+14155550199", True)
            else:
                with pytest.raises(Permanent):
                    await client.transfer(**order)
                assert not leg.is_ended
            with pytest.raises(Permanent):
                await client.transfer(**(order | {"identity": "nobody"}))


def test_polls_have_a_budget_and_a_429_ends_them_for_a_while() -> None:
    now = [100.0]
    polls = PollBudget(60, lambda: now[0])
    assert sum(polls.spend(can_wait=True) for _ in range(100)) == 6  # half of ten seconds' worth
    assert sum(polls.spend() for _ in range(100)) == 4
    now[0] += 3.0
    assert sum(polls.spend() for _ in range(100)) == 3
    polls.pause(10.0)
    now[0] += 9.9
    assert not polls.spend()
    now[0] += 2.0
    assert polls.spend()


async def test_too_many_requests_pause_the_polls() -> None:
    async with (
        LiveKitStandIn(api_key=API_KEY, api_secret=API_SECRET) as standin,
        open_livekit(settings(standin.url)) as client,
    ):
        assert client.polls.spend()
        standin.faults.fail("CreateDispatch", "resource_exhausted")
        with pytest.raises(Transient):
            await client.create_dispatch(room=ROOM, agent_name="anna", metadata="")
        assert not client.polls.spend()


class TestFailures:
    async def test_nobody_there_is_transient(self) -> None:
        async with open_livekit(settings(f"http://127.0.0.1:{free_port()}")) as client:
            with pytest.raises(Transient, match=r"can't be reached: connection refused; .*livekit"):
                await client.create_dispatch(room=ROOM, agent_name="a", metadata="")

    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            ("unavailable", Ambiguous),
            ("internal", Ambiguous),
            ("resource_exhausted", Transient),
            ("permission_denied", Permanent),
            ("invalid_argument", Permanent),
        ],
    )
    async def test_refusals(self, code: str, expected: type[Exception]) -> None:
        async with LiveKitStandIn(api_key=API_KEY, api_secret=API_SECRET) as standin:
            standin.faults.fail("CreateDispatch", code)
            async with open_livekit(settings(standin.url)) as client:
                with pytest.raises(expected):
                    await client.create_dispatch(room=ROOM, agent_name="a", metadata="")

    @pytest.mark.parametrize(
        ("status", "body", "kind", "expected", "says"),
        [
            (200, "<html>", "text/html", Ambiguous, "not LiveKit"),
            (502, "<html>", "text/html", Ambiguous, "answers 502"),
            (502, "null", "application/json", Ambiguous, "not LiveKit"),
            (500, "[1]", "application/json", Ambiguous, "not LiveKit"),
            (502, '{"code": []}', "application/json", Ambiguous, "answers 502"),
            (503, '{"code": 503, "msg": "x"}', "application/json", Ambiguous, "answers 503"),
            (503, '{"code": "NO_UPSTREAM"}', "application/json", Ambiguous, "NO_UPSTREAM"),
            (429, "slow down", "text/plain", Transient, "answers 429"),
            (404, "no such page", "text/plain", Transient, "livekit.url"),
        ],
    )
    async def test_what_a_proxy_answers_in_its_place(
        self, status: int, body: str, kind: str, expected: type[Exception], says: str
    ) -> None:
        async def answer(_request: web.Request) -> web.Response:
            return web.Response(status=status, text=body, content_type=kind)

        app = web.Application()
        app.router.add_post("/{path:.*}", answer)
        async with serve(app, 0) as url, open_livekit(settings(url)) as client:
            with pytest.raises(expected, match=says):
                await client.rooms()
            with pytest.raises(expected, match=says):
                await setup.inspect(client, CREDENTIALS)

    async def test_another_projects_secret_is_named(self) -> None:
        async with (
            LiveKitStandIn(api_key=API_KEY, api_secret="x" * 32) as standin,
            open_livekit(settings(standin.url)) as client,
        ):
            with pytest.raises(Transient, match=r"401: are livekit\.api_key"):
                await client.rooms()

    async def test_no_answer_is_ambiguous_and_never_repeated(self) -> None:
        async with LiveKitStandIn(api_key=API_KEY, api_secret=API_SECRET) as standin:
            standin.register_worker("a", Behaviour())
            standin.faults.hang_after_apply("CreateDispatch")
            async with open_livekit(settings(standin.url, timeout=1.0)) as client:
                with pytest.raises(Ambiguous):
                    await client.create_dispatch(room=ROOM, agent_name="a", metadata="")
            assert len(standin.jobs) == 1

    async def test_trouble_about_a_living_room_is_not_taken_for_its_end(self) -> None:
        async with (
            LiveKitStandIn(api_key=API_KEY, api_secret=API_SECRET) as standin,
            open_livekit(settings(standin.url)) as client,
        ):
            await client.create_dispatch(room=ROOM, agent_name="a", metadata="")
            standin.faults.fail("ListDispatch", "unavailable")
            with pytest.raises(Ambiguous):
                await client.dispatches(ROOM)
