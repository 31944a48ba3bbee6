"""LiveKit's webhooks as events.

A room that is named by a call_id is a call that a carrier's webhook announced: whatever happens in
it is about that call. A SIP participant in any other room is a call of its own
(`router.providers.livekit.rooms`).

The poll of rooms (consumers/dispatch) makes events of participants too, with the same ids:
whichever of webhook and poll comes first counts. All other events have their id from the webhook's,
which a redelivery repeats.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from router.events.ids import event_id
from router.events.model import Event, EventData
from router.events.types import EventType
from router.provider import happened_at
from router.providers.livekit import recordings, rooms
from router.providers.livekit.client import Participant
from router.providers.livekit.message import WebhookEvent
from router.providers.livekit.rooms import PROVIDER

_CALL_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_CAME: Final = "participant_joined"
_WENT: Final = ("participant_left", "participant_connection_aborted")
_PARTICIPANTS: Final[Mapping[tuple[str, str], EventType]] = {
    ("participant_joined", "SIP"): EventType.SIP_JOINED,
    ("participant_joined", "AGENT"): EventType.AGENT_JOINED,
    ("participant_left", "SIP"): EventType.SIP_LEFT,
    ("participant_left", "AGENT"): EventType.AGENT_LEFT,
    ("participant_connection_aborted", "SIP"): EventType.SIP_LEFT,
    ("participant_connection_aborted", "AGENT"): EventType.AGENT_LEFT,
}
_ROOMS: Final = {
    "room_started": EventType.ROOM_STARTED,
    "room_finished": EventType.ROOM_ENDED,
}
_LEGS: Final = {
    EventType.SIP_JOINED: EventType.LEG_INITIATED,
    EventType.SIP_LEFT: EventType.LEG_ENDED,
}
_AGENT_IDENTITY: Final = "agent-"  # of a worker's participant; track webhooks carry no kind
_SECRETS: Final = frozenset(  # of rooms, egress and ingress, whether LiveKit hides them or not
    (
        *("turnpassword", "streamkey", "accesskey", "secret", "sessiontoken", "credentials"),
        *("accountkey", "password", "signingkey", "assumerolearn", "assumeroleexternalid"),
        *("url", "urls", "websocketurl"),  # a stream's holds its key
    )
)
_DEPTH: Final = 50  # LiveKit's own messages nest less than ten deep


def is_call(room: str) -> bool:
    """Whether the room is one of ours: named by a call_id."""
    return _CALL_ID.fullmatch(room) is not None


def participant_event(
    kind: EventType, room: str, who: Participant, *, time: int, raw: Mapping[str, Any] | None = None
) -> Event:
    """What happened to a participant of a call's room; the id is the same on every path.

    An agent may dial somebody in, to transfer the caller: that is a leg, its end not the caller's.
    The status is the SIP leg's; of an agent that left it is LiveKit's word for why.
    """
    if who.is_dialled:
        kind = _LEGS.get(kind, kind)
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
            provider_call_id=rooms.carriers_id(who),
            status=_status(kind, who),
            raw=raw or {},
        ),
    )


def _status(kind: EventType, who: Participant) -> str:
    if kind is EventType.AGENT_LEFT:
        return who.disconnect_reason
    return who.attributes.get("sip.callStatus", "")


def from_webhook(
    message: WebhookEvent, payload: Mapping[str, Any], received_at: int
) -> Sequence[Event]:
    """The events of a webhook; what is not about a phone call becomes `provider.unknown`.

    `payload` is the message as it came: it may hold what this version does not know.

    Raises:
        ValueError: the payload is nested deeper than LiveKit's ever are.
    """
    room = _room_of(message)
    time = happened_at(message.created_at * 1_000_000, received_at)
    raw = _without_secrets(payload)
    if is_call(room):
        return [_about_call(message, room, time, raw)]
    who = message.participant.participant
    if who.kind == "SIP" and message.event == _CAME:
        return rooms.joined(room, who, time=time, raw=raw)
    if who.kind == "SIP" and message.event in _WENT:
        return rooms.left(room, who, time=time, raw=raw)
    leg_id = who.sid if _is_agent(who) else ""
    data = EventData(room=room, leg_id=leg_id, agent=who.agent_name, raw=raw)
    return [_unknown(message, time, room or message.id, data)]


def _about_call(message: WebhookEvent, room: str, time: int, raw: Mapping[str, Any]) -> Event:
    who = message.participant.participant
    kind = _participant_change(message, who)
    if kind is not None:
        return participant_event(kind, room, who, time=time, raw=raw)
    data = EventData(call_id=room, raw=raw)
    kind = _ROOMS.get(message.event)
    if kind is None:
        kind = recordings.kind_of(message.event, message.egress_info)
        if kind is None:
            return _unknown(message, time, room, data)
        data = recordings.facts_of(message.egress_info, data)
    return _event(kind, message, time, room, data)


def _participant_change(message: WebhookEvent, who: Participant) -> EventType | None:
    if message.event == "track_published":
        return EventType.AGENT_READY if message.track.is_audible and _is_agent(who) else None
    return _PARTICIPANTS.get((message.event, who.kind))


def _is_agent(who: Participant) -> bool:
    return who.kind == "AGENT" or who.identity.startswith(_AGENT_IDENTITY)


def _room_of(message: WebhookEvent) -> str:
    """The name of the room that it is about; only some kinds of events have a `room`."""
    return (
        message.room.name
        or message.egress_info.room_name
        or message.ingress_info.room_name
        or message.job.room.name
    )


def _unknown(message: WebhookEvent, time: int, key: str, data: EventData) -> Event:
    reason = f"LiveKit {message.event}"
    return _event(
        EventType.PROVIDER_UNKNOWN, message, time, key, msgspec.structs.replace(data, reason=reason)
    )


def _event(kind: EventType, message: WebhookEvent, time: int, key: str, data: EventData) -> Event:
    return Event(
        id=event_id(PROVIDER, message.id), type=kind, source=PROVIDER, time=time, key=key, data=data
    )


def _without_secrets(value: Any, depth: int = 0) -> Any:
    """A payload without what opens something: keys, passwords, URLs with keys, SIP credentials."""
    if depth > _DEPTH:
        raise ValueError("nested too deep")
    if isinstance(value, dict):
        return {
            name: inner if isinstance(inner, str) else _without_secrets(inner, depth + 1)
            for name, inner in value.items()
            if not _is_secret(name)
        }
    if isinstance(value, list):
        return [_without_secrets(inner, depth + 1) for inner in value]
    return value


@lru_cache(256)  # a message has some sixty names, nearly always the same
def _is_secret(name: str) -> bool:
    name = name.replace("_", "").lower()
    return name in _SECRETS or "auth" in name  # Proxy-Authorization and the like among sip.h.*
