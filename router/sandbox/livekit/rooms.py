"""Rooms and who is in them; every change is told to the webhooks.

A room starts when somebody asks for it. It finishes when it is deleted, or when nobody joined for
`empty_timeout` (5 min), or when the last one left `departure_timeout` (20 s) ago. An agent counts
as somebody: one that stays behind keeps the room open for ever.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from livekit.protocol.agent_dispatch import AgentDispatch, RoomAgentDispatch
from livekit.protocol.models import (
    DisconnectReason,
    ParticipantInfo,
    Room,
    TrackInfo,
    TrackSource,
    TrackType,
)
from livekit.protocol.room import RoomConfiguration
from livekit.protocol.webhook import WebhookEvent

from router.clock import Clock
from router.sandbox.livekit import ids
from router.sandbox.livekit.errors import TwirpError, from_rpc
from router.sandbox.tasks import Signal, Tasks, happens_within

MAX_ROOMS: Final = 10_000
_MAX_PARTICIPANTS: Final = 1000
_MAX_NAME: Final = 256
_EMPTY_TIMEOUT: Final = 300
_DEPARTURE_TIMEOUT: Final = 20


@dataclass(slots=True, eq=False)
class LiveRoom:
    """A room that is open, until `is_closed`."""

    info: Room
    participants: dict[str, ParticipantInfo] = field(default_factory=dict)  # by identity
    dispatches: dict[str, AgentDispatch] = field(default_factory=dict)
    agents: dict[str, str] = field(default_factory=dict)  # identity → dispatch id
    changed: Signal = field(default_factory=Signal)
    is_closed: bool = False

    @property
    def name(self) -> str:
        """The room's name."""
        return self.info.name

    def has(self, identity: str, sid: str) -> bool:
        """Whether this very participant is still there."""
        participant = self.participants.get(identity)
        return participant is not None and participant.sid == sid


class Rooms:
    """All open rooms by name. `on_started` is called with each new one and the agents it wants."""

    def __init__(self, emit: Callable[[WebhookEvent], None], clock: Clock, tasks: Tasks) -> None:
        self.on_started: Callable[[LiveRoom, Sequence[RoomAgentDispatch]], None] | None = None
        self._emit, self._clock, self._tasks = emit, clock, tasks
        self._rooms: dict[str, LiveRoom] = {}

    def __iter__(self) -> Iterator[LiveRoom]:
        return iter(list(self._rooms.values()))

    def get(self, name: str) -> LiveRoom | None:
        """The open room of that name."""
        return self._rooms.get(name)

    def open(self, name: str, config: RoomConfiguration | None = None) -> LiveRoom:
        """The room of that name, started if absent; `config` counts only for a new one.

        Raises:
            TwirpError: the name is too long, or the sandbox is full.
        """
        if name in self._rooms:
            return self._rooms[name]
        if len(name) > _MAX_NAME:
            message = f"room name length exceeds limits: max length {_MAX_NAME}"
            raise from_rpc("invalid_argument", message)
        if len(self._rooms) >= MAX_ROOMS:
            raise TwirpError("resource_exhausted", f"the sandbox holds {MAX_ROOMS} rooms")
        config = config or RoomConfiguration()
        now = self._clock.now()
        info = Room(
            sid=ids.new_id(ids.ROOM),
            name=name,
            empty_timeout=config.empty_timeout or _EMPTY_TIMEOUT,
            departure_timeout=config.departure_timeout or _DEPARTURE_TIMEOUT,
            max_participants=config.max_participants,
            metadata=config.metadata,
            creation_time=now // 1_000_000,
            creation_time_ms=now // 1000,
        )
        room = self._rooms[name] = LiveRoom(info)
        self._tell("room_started", room)
        self._tasks.spawn(self._reap(room))
        if self.on_started is not None:
            self.on_started(room, config.agents)
        return room

    def close(self, room: LiveRoom) -> None:
        """End the room for everybody in it."""
        for identity in list(room.participants):
            self.leave(room, identity, DisconnectReason.ROOM_DELETED)
        if not room.is_closed:
            room.is_closed = True
            del self._rooms[room.name]
            self._tell("room_finished", room)
            room.changed.fire()

    def join(self, room: LiveRoom, participant: ParticipantInfo) -> None:
        """Let somebody in; who had the same identity is put out, as LiveKit does.

        Raises:
            TwirpError: the room is full.
        """
        if len(room.participants) >= _MAX_PARTICIPANTS:
            raise TwirpError("resource_exhausted", f"a room holds {_MAX_PARTICIPANTS} participants")
        self.leave(room, participant.identity, DisconnectReason.DUPLICATE_IDENTITY)
        participant.sid = ids.new_id(ids.PARTICIPANT)
        participant.state = ParticipantInfo.State.ACTIVE
        participant.joined_at = self._clock.now() // 1_000_000
        participant.joined_at_ms = self._clock.now() // 1000
        room.participants[participant.identity] = participant
        self._count(room)
        self._tell("participant_joined", room, participant)
        room.changed.fire()

    def publish_audio(self, room: LiveRoom, participant: ParticipantInfo) -> None:
        """The participant's microphone is there for the others."""
        track = TrackInfo(
            sid=ids.new_id(ids.TRACK),
            type=TrackType.AUDIO,
            source=TrackSource.MICROPHONE,
            mime_type="audio/opus",
        )
        participant.tracks.append(track)
        participant.is_publisher = True
        self._count(room)
        self._tell("track_published", room, participant, track)
        room.changed.fire()

    def leave(
        self,
        room: LiveRoom,
        identity: str,
        reason: DisconnectReason = DisconnectReason.CLIENT_INITIATED,
    ) -> None:
        """Put somebody out; nothing happens when nobody of that identity is there."""
        participant = room.participants.pop(identity, None)
        if participant is None:
            return
        room.agents.pop(identity, None)
        for track in participant.tracks:
            self._tell("track_unpublished", room, participant, track)
        participant.state = ParticipantInfo.State.DISCONNECTED
        participant.disconnect_reason = reason
        del participant.tracks[:]
        self._count(room)
        self._tell("participant_left", room, participant)
        room.changed.fire()

    async def _reap(self, room: LiveRoom) -> None:
        """Close the room when it was empty for long enough."""
        patience = room.info.empty_timeout
        while not room.is_closed:
            inhabited = room.changed.until(lambda: bool(room.participants) or room.is_closed)
            if not await happens_within(self._clock, patience, inhabited):
                self.close(room)
                return
            await room.changed.until(lambda: not room.participants or room.is_closed)
            patience = room.info.departure_timeout

    def _count(self, room: LiveRoom) -> None:
        # As the real server counts (1.13.5): agents are no participants.
        inside = room.participants.values()
        room.info.num_participants = sum(p.kind != ParticipantInfo.Kind.AGENT for p in inside)
        room.info.num_publishers = sum(p.is_publisher for p in room.participants.values())

    def _tell(
        self,
        event: str,
        room: LiveRoom,
        participant: ParticipantInfo | None = None,
        track: TrackInfo | None = None,
    ) -> None:
        # A message copies what it is built from, so later changes do not reach the event.
        self._emit(WebhookEvent(event=event, room=room.info, participant=participant, track=track))
