"""Agent dispatch, as the open-source server does it.

Creating is not idempotent: each call is one more job, even for the same agent and room. It starts
the room if absent and succeeds without any worker. A job in what it lists is no evidence of an
agent in the room, and for some seconds it lists none of a room that the dispatch made. A room that
was started without agents also holds a dispatch without a name, for workers without one.
"""

from collections.abc import Sequence
from typing import Final

from google.protobuf.message import Message
from livekit.protocol import agent_dispatch as proto

from router.clock import Clock
from router.sandbox.livekit import ids
from router.sandbox.livekit.errors import TwirpError, from_rpc
from router.sandbox.livekit.rooms import LiveRoom, Rooms
from router.sandbox.livekit.twirp import Method, Methods, room_admin
from router.sandbox.livekit.workers import Workers

_MAX_PER_ROOM: Final = 1000


class DispatchService:
    """Dispatches live in their room; this makes, lists and deletes them."""

    def __init__(self, rooms: Rooms, workers: Workers, clock: Clock) -> None:
        self._rooms, self._workers, self._clock = rooms, workers, clock
        rooms.on_started = self._room_started

    def methods(self) -> Methods:
        """The service's RPCs."""
        return {
            "AgentDispatchService/CreateDispatch": Method(
                proto.CreateAgentDispatchRequest, room_admin, self._create
            ),
            "AgentDispatchService/ListDispatch": Method(
                proto.ListAgentDispatchRequest, room_admin, self._list
            ),
            "AgentDispatchService/DeleteDispatch": Method(
                proto.DeleteAgentDispatchRequest, room_admin, self._delete
            ),
        }

    def _room_started(self, room: LiveRoom, agents: Sequence[proto.RoomAgentDispatch]) -> None:
        for agent in agents or [proto.RoomAgentDispatch()]:
            self._dispatch(room, agent.agent_name, agent.metadata, is_new=True)

    def _create(self, request: proto.CreateAgentDispatchRequest) -> Message:
        is_new = self._rooms.get(request.room) is None
        room = self._rooms.open(request.room)
        return self._dispatch(room, request.agent_name, request.metadata, is_new=is_new)

    def _dispatch(
        self, room: LiveRoom, agent_name: str, metadata: str, *, is_new: bool
    ) -> proto.AgentDispatch:
        if len(room.dispatches) >= _MAX_PER_ROOM:
            raise TwirpError("resource_exhausted", f"a room holds {_MAX_PER_ROOM} dispatches")
        dispatch = proto.AgentDispatch(
            id=ids.new_id(ids.DISPATCH),
            agent_name=agent_name,
            room=room.name,
            metadata=metadata,
            state=proto.AgentDispatchState(created_at=self._clock.now() * 1000),
        )
        room.dispatches[dispatch.id] = dispatch
        self._workers.launch(room, dispatch, is_new=is_new)
        return dispatch

    def _list(self, request: proto.ListAgentDispatchRequest) -> Message:
        dispatches = self._room(request.room).dispatches
        if not request.dispatch_id:
            return proto.ListAgentDispatchResponse(agent_dispatches=dispatches.values())
        found = dispatches.get(request.dispatch_id)
        return proto.ListAgentDispatchResponse(agent_dispatches=[found] if found else [])

    def _delete(self, request: proto.DeleteAgentDispatchRequest) -> Message:
        room = self._room(request.room)
        dispatch = room.dispatches.pop(request.dispatch_id, None)
        if dispatch is None:
            raise from_rpc("not_found", "dispatch ID not found")
        for identity, dispatch_id in list(room.agents.items()):
            if dispatch_id == dispatch.id:
                self._rooms.leave(room, identity)
        return dispatch

    def _room(self, name: str) -> LiveRoom:
        room = self._rooms.get(name)
        if room is None:
            # Not `not_found`: the request goes to the room's own topic, where nobody listens.
            raise from_rpc("unavailable", "no response from servers")
        return room
