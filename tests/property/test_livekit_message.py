"""LiveKit's messages are read from their JSON as protobuf's own library reads them."""

import json
from typing import Any

import msgspec
from google.protobuf.json_format import MessageToJson, ParseDict
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from livekit.protocol.egress import EgressInfo, EgressStatus
from livekit.protocol.models import TrackType
from livekit.protocol.webhook import WebhookEvent

from router.providers.livekit import client, message
from tests.support.protojson import objects

_STRUCTS = [kind for kind in vars(message).values() if isinstance(kind, type(msgspec.Struct))]
_READ = frozenset(field.name for kind in _STRUCTS for field in msgspec.structs.fields(kind))
_webhooks = objects(WebhookEvent.DESCRIPTOR, _READ)
_patient = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def parsed(payload: dict[str, Any]) -> WebhookEvent:
    return ParseDict(payload, WebhookEvent(), ignore_unknown_fields=True)


@given(payload=_webhooks)
@_patient
def test_what_protobuf_reads_is_read_as_the_same(payload: dict[str, Any]) -> None:
    same(message.read(payload), parsed(payload))


@given(payload=_webhooks, proto_names=st.booleans(), numbers=st.booleans())
@_patient
def test_what_protobuf_writes_is_read_as_it_was(
    payload: dict[str, Any], proto_names: bool, numbers: bool
) -> None:
    theirs = parsed(payload)
    text = MessageToJson(
        theirs, preserving_proto_field_name=proto_names, use_integers_for_enums=numbers
    )
    same(message.read(json.loads(text)), theirs)


@given(payload=_webhooks)
@_patient
def test_what_is_made_of_it_is_the_same(payload: dict[str, Any]) -> None:
    ours, theirs = message.read(payload), parsed(payload)
    assert ours.participant.participant == client.participant(theirs.participant)
    audible = theirs.track.type == TrackType.AUDIO and not theirs.track.muted
    assert ours.track.is_audible == audible
    info = theirs.egress_info
    if info.status in EgressStatus.values():
        assert ours.egress_info.status_name == EgressStatus.Name(info.status)
    asked = info.WhichOneof("request")
    if asked is not None:
        same(ours.egress_info.request, getattr(info, asked))


def test_every_kind_of_egress_is_read() -> None:
    ours = {field.name for field in msgspec.structs.fields(message.EgressInfo)}
    assert {field.name for field in EgressInfo.DESCRIPTOR.oneofs_by_name["request"].fields} <= ours


def same(ours: msgspec.Struct, theirs: Message) -> None:
    """Every field that we read: its value, and where that counts whether it is there."""
    fields = theirs.DESCRIPTOR.fields_by_name
    for field in msgspec.structs.fields(ours):
        value = getattr(ours, field.name)
        if field.name not in fields:
            assert not value  # of another kind of request
            continue
        if field.default is None:
            assert (value is not None) == theirs.HasField(field.name)
        same_value(value, getattr(theirs, field.name), fields[field.name])


def same_value(ours: Any, theirs: Any, field: Any) -> None:
    match ours:
        case msgspec.Struct():
            same(ours, theirs)
        case list():
            assert len(ours) == len(theirs)
            for one, other in zip(ours, theirs, strict=True):
                same_value(one, other, field)
        case dict() if field.is_repeated:
            assert field.name != "attributes" or ours == theirs
        case str() if field.enum_type is not None:
            known = field.enum_type.values_by_name.get(ours)
            assert theirs == (known.number if known else 0)
        case None | dict():
            pass  # whether it is there is all that we ask
        case _:
            assert ours == theirs
