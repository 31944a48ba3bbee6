"""A webhook's message: those of its fields that Switchboard goes by.

It is protobuf's JSON (protobuf.dev/programming-guides/json): a field is named in camelCase or as in
the .proto, null is its default, a 64-bit integer may be a text, an enum is a name or a number, and
what a reader has not heard of is no error. Protobuf's own reader reads all of a message, in Python,
which takes some ten times as long; tests/property/test_livekit_message.py compares the two.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from livekit.protocol import egress, models

from router.providers.livekit.client import Participant, is_audible, micros

_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Enum = str | int
_Names = Mapping[str | int, str]


def _names(kinds: Any) -> _Names:
    return {key: name for name, number in kinds.items() for key in (name, number)}


_KINDS: Final = _names(models.ParticipantInfo.Kind)
_REASONS: Final = _names(models.DisconnectReason)
_TRACKS: Final = _names(models.TrackType)
_EGRESS: Final = _names(egress.EgressStatus)


def _name(names: _Names, value: _Enum) -> str:
    """Its name; a number that has none as text; of a name unheard-of the default, as protobuf."""
    found = names.get(value)
    if found is not None:
        return found
    return str(value) if isinstance(value, int) else names[0]


class _Fields(msgspec.Struct, frozen=True, rename="camel"):
    """A message of LiveKit's; the names are those of its .proto files."""


class Room(_Fields, frozen=True):
    """livekit_models.proto, Room."""

    name: str = ""


class Track(_Fields, frozen=True):
    """livekit_models.proto, TrackInfo."""

    type: _Enum = 0
    muted: bool = False

    @property
    def is_audible(self) -> bool:
        """Whether it can be heard."""
        return is_audible(_name(_TRACKS, self.type), muted=self.muted)


class ParticipantInfo(_Fields, frozen=True):
    """livekit_models.proto, ParticipantInfo."""

    sid: str = ""
    identity: str = ""
    kind: _Enum = 0
    attributes: dict[str, str] = {}
    tracks: list[Track] = []
    joined_at: _Int64 = 0
    joined_at_ms: _Int64 = 0
    disconnect_reason: _Enum = 0

    @property
    def participant(self) -> Participant:
        """The same as LiveKit's API would have told."""
        return Participant(
            sid=self.sid,
            identity=self.identity,
            kind=_name(_KINDS, self.kind),
            agent_name=self.attributes.get("lk.agent_name", ""),
            publishes_audio=any(track.is_audible for track in self.tracks),
            attributes=self.attributes,
            joined_at=micros(self.joined_at_ms, self.joined_at),
            disconnect_reason=_name(_REASONS, self.disconnect_reason),
        )


class Job(_Fields, frozen=True):
    """livekit_agent.proto, Job."""

    room: Room = Room()


class IngressInfo(_Fields, frozen=True):
    """livekit_ingress.proto, IngressInfo."""

    room_name: str = ""


class FileInfo(_Fields, frozen=True):
    """livekit_egress.proto, FileInfo."""

    location: str = ""
    duration: _Int64 = 0  # ns


class Output(_Fields, frozen=True):
    """livekit_egress.proto, Output."""

    file: dict[str, Any] | None = None


class EgressRequest(_Fields, frozen=True):
    """livekit_egress.proto: what all kinds of requests say of where the egress goes."""

    file: dict[str, Any] | None = None
    file_outputs: list[dict[str, Any]] = []
    outputs: list[Output] = []  # of the request that replaced all others


class EgressInfo(_Fields, frozen=True):
    """livekit_egress.proto, EgressInfo."""

    egress_id: str = ""
    room_name: str = ""
    status: _Enum = 0
    error: str = ""
    error_code: int = 0
    egress: EgressRequest | None = None
    replay: EgressRequest | None = None
    room_composite: EgressRequest | None = None
    web: EgressRequest | None = None
    participant: EgressRequest | None = None
    track_composite: EgressRequest | None = None
    track: EgressRequest | None = None
    file: FileInfo | None = None
    file_results: list[FileInfo] = []

    @property
    def status_name(self) -> str:
        """EGRESS_STARTING and so on."""
        return _name(_EGRESS, self.status)

    @property
    def request(self) -> EgressRequest:
        """What was asked for: one of them is there."""
        return (
            self.egress
            or self.replay
            or self.room_composite
            or self.web
            or self.participant
            or self.track_composite
            or self.track
            or EgressRequest()
        )


class WebhookEvent(_Fields, frozen=True):
    """livekit_webhook.proto, WebhookEvent."""

    event: str = ""
    id: str = ""
    created_at: _Int64 = 0  # seconds since epoch
    room: Room = Room()
    participant: ParticipantInfo = ParticipantInfo()
    track: Track = Track()
    egress_info: EgressInfo = EgressInfo()
    ingress_info: IngressInfo = IngressInfo()
    job: Job = Job()


_JSON_NAMES: Final[Mapping[str, str]] = {
    spelling: field.encode_name
    for message in _Fields.__subclasses__()
    for field in msgspec.structs.fields(message)
    for spelling in (field.name, field.encode_name)
}
_MAP: Final = "attributes"  # what is in it has names of the participant's own


def read(payload: Mapping[str, Any]) -> WebhookEvent:
    """The message in a webhook's JSON.

    Raises:
        msgspec.ValidationError: a field is not of its type; says which, and not its value.
    """
    return msgspec.convert(_canonical(payload), WebhookEvent, strict=False)


def _canonical(value: Any) -> Any:
    """The fields that are read, each under its name in camelCase, and none that is null."""
    if isinstance(value, dict):
        return {
            _JSON_NAMES[name]: _texts(inner) if name == _MAP else _canonical(inner)
            for name, inner in value.items()
            if inner is not None and name in _JSON_NAMES
        }
    if isinstance(value, list):
        return [_canonical(inner) for inner in value if inner is not None]
    return value


def _texts(attributes: Any) -> Mapping[str, str]:
    """A participant's attributes, whoever set them: what is none must not cost the whole webhook.

    LiveKit's are texts. A number or a truth value is taken as it is written in JSON, null as if the
    attribute were not there; what holds others, or is no map at all, says nothing that is read.
    """
    if not isinstance(attributes, dict):
        return {}
    return {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in attributes.items()
        if isinstance(value, str | int | float)
    }
