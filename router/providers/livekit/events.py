"""LiveKit's webhooks as events. Room names are our call ids, so a room's events are a call's.

The poll of rooms (consumers/dispatch) makes the same events with the same ids through
`participant_event`: whichever of webhook and poll comes first counts.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from livekit.protocol import models, webhook

from router.events.ids import event_id
from router.events.model import Event, EventData
from router.events.types import EventType
from router.provider import happened_at
from router.providers.livekit.client import Participant, participant

PROVIDER: Final = "livekit"

_CALL_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_JOINED: Final = {"SIP": EventType.SIP_JOINED, "AGENT": EventType.AGENT_JOINED}
_LEFT: Final = {"SIP": EventType.SIP_LEFT, "AGENT": EventType.AGENT_LEFT}
_ROOMS: Final = {
    "room_started": EventType.ROOM_STARTED,
    "room_finished": EventType.ROOM_ENDED,
}
_AGENT_IDENTITY: Final = "agent-"  # of a worker's participant; track webhooks carry no kind


def is_call(room: str) -> bool:
    """Whether the room is one of ours: named by a call_id."""
    return _CALL_ID.fullmatch(room) is not None


def participant_event(
    kind: EventType, room: str, who: Participant, *, time: int, raw: Mapping[str, Any] | None = None
) -> Event:
    """What happened to a participant of a call's room; the id is the same on every path."""
    attributes = who.attributes
    return Event(
        id=event_id(PROVIDER, room, who.sid, kind.value),
        type=kind,
        source=PROVIDER,
        time=time,
        key=room,
        data=EventData(
            call_id=room,
            leg_id=who.sid,
            agent=who.agent_name,
            provider_call_id=attributes.get("sip.twilio.callSid", ""),
            raw=raw or {},
        ),
    )


def from_webhook(message: webhook.WebhookEvent, received_at: int) -> Event:
    """The event of a webhook; what is not about a call of ours becomes `provider.unknown`."""
    room = message.room.name
    time = happened_at(message.created_at * 1_000_000, received_at)
    raw = _raw(message)
    if is_call(room):
        if message.event in _ROOMS:
            return _room_event(_ROOMS[message.event], message, time, raw)
        kind = _participant_change(message)
        if kind is not None:
            who = participant(message.participant)
            return participant_event(kind, room, who, time=time, raw=raw)
    return Event(
        id=event_id(PROVIDER, message.id),
        type=EventType.PROVIDER_UNKNOWN,
        source=PROVIDER,
        time=time,
        key=room or message.id,
        data=EventData(
            call_id=room if is_call(room) else "", reason=f"LiveKit {message.event}", raw=raw
        ),
    )


def _participant_change(message: webhook.WebhookEvent) -> EventType | None:
    kind = models.ParticipantInfo.Kind.Name(message.participant.kind)
    match message.event:
        case "participant_joined":
            return _JOINED.get(kind)
        case "participant_left" | "participant_connection_aborted":
            return _LEFT.get(kind)
        case "track_published" if message.track.type == models.TrackType.AUDIO:
            is_agent = kind == "AGENT" or message.participant.identity.startswith(_AGENT_IDENTITY)
            return EventType.AGENT_READY if is_agent else None
        case _:
            return None


def _room_event(
    kind: EventType, message: webhook.WebhookEvent, time: int, raw: Mapping[str, Any]
) -> Event:
    room = message.room
    return Event(
        id=event_id(PROVIDER, room.name, room.sid, kind.value),
        type=kind,
        source=PROVIDER,
        time=time,
        key=room.name,
        data=EventData(call_id=room.name, leg_id=room.sid, raw=raw),
    )


def _raw(message: webhook.WebhookEvent) -> dict[str, Any]:
    raw: dict[str, Any] = MessageToDict(message)
    attributes = raw.get("participant", {}).get("attributes", {})
    for name in [name for name in attributes if "auth" in name.lower()]:
        del attributes[name]  # copied from SIP headers: Proxy-Authorization and the like
    raw.get("room", {}).pop("turnPassword", None)
    return raw
