"""Rooms, dispatches and the Twirp front of LiveKit's stand-in, asked with LiveKit's own client.

The same tests run against the real livekit-server where there is one: what the stand-in says is
what that server says.
"""

import json
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from livekit import api
from livekit.api import LiveKitAPI
from livekit.protocol import agent_dispatch as dispatch_proto
from livekit.protocol import room as room_proto

from tests.support.sandbox_livekit_real import BOTH, connected, real_server, refused
from tests.support.servers.livekit import LiveKit


@pytest.fixture(scope="module")
def real() -> Iterator[LiveKit]:
    with real_server() as server:
        yield server


@pytest.fixture(params=BOTH)
async def lk(request: pytest.FixtureRequest) -> AsyncIterator[LiveKitAPI]:
    async with connected(request) as client:
        yield client


async def dispatch(lk: LiveKitAPI, room: str, agent: str) -> dispatch_proto.AgentDispatch:
    return await lk.agent_dispatch.create_dispatch(
        dispatch_proto.CreateAgentDispatchRequest(room=room, agent_name=agent, metadata="{}")
    )


async def test_create_dispatch_starts_the_room_and_is_not_idempotent(lk: LiveKitAPI) -> None:
    first, second = await dispatch(lk, "room", "anna"), await dispatch(lk, "room", "anna")
    assert first.id != second.id
    rooms = await lk.room.list_rooms(room_proto.ListRoomsRequest(names=["room"]))
    assert [room.name for room in rooms.rooms] == ["room"]
    listed = await lk.agent_dispatch.list_dispatch("room")
    # The one without a name is the room's own, for workers without a name.
    assert sorted(d.agent_name for d in listed) == ["", "anna", "anna"]
    assert all(not d.state.jobs for d in listed)
    found = await lk.agent_dispatch.get_dispatch(first.id, "room")
    assert found is not None
    assert found.metadata == "{}"


async def test_dispatches_of_an_absent_room_get_no_response(lk: LiveKitAPI) -> None:
    with refused("unavailable", "twirp error unknown: no response from servers"):
        await lk.agent_dispatch.list_dispatch("absent")
    with refused("unavailable", "twirp error unknown: no response from servers"):
        await lk.agent_dispatch.delete_dispatch("AD_x", "absent")


async def test_a_dispatch_is_deleted_once(lk: LiveKitAPI) -> None:
    made = await dispatch(lk, "room", "anna")
    await lk.agent_dispatch.delete_dispatch(made.id, "room")
    with refused("not_found", "twirp error unknown: dispatch ID not found"):
        await lk.agent_dispatch.delete_dispatch(made.id, "room")


async def test_rooms_are_created_once_and_deleted_once(lk: LiveKitAPI) -> None:
    first = await lk.room.create_room(room_proto.CreateRoomRequest(name="r", metadata="m"))
    again = await lk.room.create_room(room_proto.CreateRoomRequest(name="r", metadata="other"))
    assert (again.sid, again.metadata) == (first.sid, "m")
    assert (again.empty_timeout, again.departure_timeout) == (300, 20)
    await lk.room.delete_room(room_proto.DeleteRoomRequest(room="r"))
    with refused("not_found", "twirp error unknown: requested room does not exist"):
        await lk.room.delete_room(room_proto.DeleteRoomRequest(room="r"))


async def test_a_room_name_has_256_characters_at_most(lk: LiveKitAPI) -> None:
    message = "twirp error unknown: room name length exceeds limits: max length 256"
    with refused("invalid_argument", message):
        await lk.room.create_room(room_proto.CreateRoomRequest(name="x" * 257))


async def test_participants_that_are_not_there(lk: LiveKitAPI) -> None:
    answer = await lk.room.list_participants(room_proto.ListParticipantsRequest(room="absent"))
    assert not answer.participants
    nobody = room_proto.RoomParticipantIdentity(room="absent", identity="nobody")
    with refused("not_found", "twirp error unknown: participant does not exist"):
        await lk.room.get_participant(nobody)
    with refused("not_found", "twirp error unknown: participant does not exist"):
        await lk.room.remove_participant(nobody)


async def raw(
    lk: LiveKitAPI, path: str, token: str | None, body: bytes = b"{}", kind: str = "json"
) -> tuple[int, str]:
    headers = {"Content-Type": f"application/{kind}"}
    if token is not None:
        headers["Authorization"] = token
    url = f"{lk.room._client.host}/twirp/livekit.{path}"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=body, headers=headers) as response,
    ):
        return response.status, await response.text()


def token(lk: LiveKitAPI, grants: api.VideoGrants) -> str:
    made = api.AccessToken(lk.room.api_key, lk.room.api_secret).with_grants(grants)
    return "Bearer " + made.to_jwt()


DENIED = (401, {"code": "unauthenticated", "msg": "permissions denied"})


@pytest.mark.parametrize(
    "path",
    ["SIP/ListSIPInboundTrunk", "RoomService/ListRooms", "AgentDispatchService/ListDispatch"],
)
async def test_a_call_without_the_grant_is_denied(lk: LiveKitAPI, path: str) -> None:
    for given in (None, token(lk, api.VideoGrants(room_join=False))):
        status, text = await raw(lk, path, given)
        assert (status, json.loads(text)) == DENIED


async def test_an_admin_of_another_room_is_denied(lk: LiveKitAPI) -> None:
    grants = api.VideoGrants(room_admin=True, room="mine")
    status, text = await raw(
        lk, "RoomService/ListParticipants", token(lk, grants), b'{"room": "yours"}'
    )
    assert (status, json.loads(text)) == DENIED


async def test_a_forged_token_is_refused_in_plain_text(lk: LiveKitAPI) -> None:
    forged = api.AccessToken(lk.room.api_key, "x" * 40).with_grants(api.VideoGrants(room_list=True))
    status, text = await raw(lk, "RoomService/ListRooms", "Bearer " + forged.to_jwt())
    assert status == 401
    assert text.startswith("invalid token")
    status, text = await raw(lk, "RoomService/ListRooms", forged.to_jwt())
    assert (status, text) == (401, "invalid authorization header. Must start with Bearer ")


async def test_json_is_taken_and_given_with_field_names_as_in_the_schema(lk: LiveKitAPI) -> None:
    await lk.room.create_room(room_proto.CreateRoomRequest(name="r"))
    status, text = await raw(
        lk, "RoomService/ListRooms", token(lk, api.VideoGrants(room_list=True)), b'{"new": 1}'
    )
    assert status == 200
    rooms = {room["name"]: room for room in json.loads(text)["rooms"]}
    assert rooms["r"]["num_participants"] == 0


async def test_what_is_no_call(lk: LiveKitAPI) -> None:
    listing = token(lk, api.VideoGrants(room_list=True))
    status, text = await raw(lk, "RoomService/Nope", listing)
    assert (status, json.loads(text)["code"]) == (404, "bad_route")
    status, text = await raw(lk, "RoomService/ListRooms", listing, b"{x")
    assert (status, json.loads(text)["code"]) == (400, "malformed")
    status, text = await raw(lk, "RoomService/ListRooms", listing, b"\xff\xff\xff", "protobuf")
    assert (status, json.loads(text)["code"]) == (400, "malformed")
    status, text = await raw(lk, "RoomService/ListRooms", listing, b"", "xml")
    assert (status, json.loads(text)["code"]) == (404, "bad_route")
