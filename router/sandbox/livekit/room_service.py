"""The room service: create, list, delete rooms; list, get, remove, ask participants.

What it answers for absent things was observed on livekit-server 1.13.5: an unknown room has an
empty list of participants, but can't be deleted. An RPC that no agent knows is answered by the
SDK in the agent's process; without that process by nobody (1.13.5, livekit-agents 1.8.9).
"""

from typing import Final

from google.protobuf.message import Message
from livekit.api.access_token import Claims
from livekit.protocol import room as proto
from livekit.protocol.models import DisconnectReason, ParticipantInfo

from router.clock import Clock
from router.sandbox.livekit.errors import from_rpc
from router.sandbox.livekit.rooms import Rooms
from router.sandbox.livekit.twirp import Method, Methods, room_admin
from router.sandbox.livekit.workers import Workers

_BUS_TIMEOUT: Final = 3.0  # seconds
_RPC_TIMEOUT: Final = 15_000  # ms


class RoomService:
    """The RPCs over `Rooms`."""

    def __init__(self, rooms: Rooms, workers: Workers, clock: Clock) -> None:
        self._rooms, self._workers, self._clock = rooms, workers, clock

    def methods(self) -> Methods:
        """The service's RPCs."""
        identity = proto.RoomParticipantIdentity
        return {
            "RoomService/CreateRoom": Method(proto.CreateRoomRequest, _may_create, self._create),
            "RoomService/ListRooms": Method(proto.ListRoomsRequest, _may_list, self._list),
            "RoomService/DeleteRoom": Method(proto.DeleteRoomRequest, _may_create, self._delete),
            "RoomService/ListParticipants": Method(
                proto.ListParticipantsRequest, room_admin, self._list_participants
            ),
            "RoomService/PerformRpc": Method(proto.PerformRpcRequest, room_admin, self._rpc),
            "RoomService/GetParticipant": Method(identity, room_admin, self._get_participant),
            "RoomService/RemoveParticipant": Method(identity, room_admin, self._remove_participant),
        }

    def _create(self, request: proto.CreateRoomRequest) -> Message:
        config = proto.RoomConfiguration(
            empty_timeout=request.empty_timeout,
            departure_timeout=request.departure_timeout,
            max_participants=request.max_participants,
            metadata=request.metadata,
            agents=request.agents,
        )
        return self._rooms.open(request.name, config).info

    def _list(self, request: proto.ListRoomsRequest) -> Message:
        wanted = set(request.names)
        return proto.ListRoomsResponse(
            rooms=[room.info for room in self._rooms if not wanted or room.name in wanted]
        )

    def _delete(self, request: proto.DeleteRoomRequest) -> Message:
        room = self._rooms.get(request.room)
        if room is None:
            raise from_rpc("not_found", "requested room does not exist")
        self._rooms.close(room)
        return proto.DeleteRoomResponse()

    def _list_participants(self, request: proto.ListParticipantsRequest) -> Message:
        room = self._rooms.get(request.room)
        participants = room.participants.values() if room is not None else ()
        return proto.ListParticipantsResponse(participants=participants)

    def _get_participant(self, request: proto.RoomParticipantIdentity) -> ParticipantInfo:
        room = self._rooms.get(request.room)
        participant = room.participants.get(request.identity) if room is not None else None
        if participant is None:
            raise from_rpc("not_found", "participant does not exist")
        return participant

    async def _rpc(self, request: proto.PerformRpcRequest) -> Message:
        room = self._rooms.get(request.room)
        identity = request.destination_identity
        if room is None or identity not in room.participants:
            await self._clock.sleep(_BUS_TIMEOUT)
            raise from_rpc("unavailable", "no response from servers")
        if not self._workers.answers(identity):
            await self._clock.sleep((request.response_timeout_ms or _RPC_TIMEOUT) / 1000)
            raise from_rpc("canceled", "RpcError 1502: Response timeout")
        raise from_rpc("invalid_argument", "RpcError 1400: Method not supported at destination")

    def _remove_participant(self, request: proto.RoomParticipantIdentity) -> Message:
        participant = self._get_participant(request)
        room = self._rooms.get(request.room)
        if room is not None:
            reason = DisconnectReason.PARTICIPANT_REMOVED
            self._rooms.leave(room, participant.identity, reason)
        return proto.RemoveParticipantResponse()


def _may_create(claims: Claims, _: Message) -> bool:
    return claims.video is not None and bool(claims.video.room_create)


def _may_list(claims: Claims, _: Message) -> bool:
    return claims.video is not None and bool(claims.video.room_list)
