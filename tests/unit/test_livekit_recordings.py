"""Egress webhooks: recordings of calls, and what is none."""

import pytest
from google.protobuf.json_format import MessageToDict
from livekit.protocol import egress
from livekit.protocol.egress import EgressInfo, EgressStatus, FileInfo
from livekit.protocol.ingress import IngressInfo
from livekit.protocol.webhook import WebhookEvent

from router.events.ids import call_id
from router.events.model import Event
from router.events.types import EventType as T
from router.providers.livekit.events import from_webhook
from router.providers.livekit.message import read

ROOM, NOW = call_id("twilio", "AC1", "CA1"), 1_780_000_000_000_000
PLACE = "https://recordings.s3.amazonaws.com/one.ogg"
INTO_FILE = egress.RoomCompositeEgressRequest(
    room_name=ROOM,
    file_outputs=[
        egress.EncodedFileOutput(
            filepath="one.ogg",
            s3=egress.S3Upload(access_key="AKIA1", secret="hush", bucket="recordings"),
        )
    ],
)
INTO_STREAM = egress.RoomCompositeEgressRequest(
    room_name=ROOM, stream_outputs=[egress.StreamOutput(urls=["rtmp://live.example.com/hush"])]
)


def told(event: str, info: EgressInfo) -> Event:
    message = WebhookEvent(event=event, id="EV_1", created_at=NOW // 1_000_000, egress_info=info)
    return told_by(message)


def told_by(message: WebhookEvent) -> Event:
    payload = MessageToDict(message)
    [found] = from_webhook(read(payload), payload, NOW)
    return found


def info(status: str = "EGRESS_COMPLETE", room: str = ROOM) -> EgressInfo:
    return EgressInfo(
        egress_id="EG_1",
        room_name=room,
        status=status,
        room_composite=INTO_FILE,
        file_results=[FileInfo(filename="one.ogg", location=PLACE, duration=2_500_000_000)],
    )


@pytest.mark.parametrize(
    ("event", "status", "expected"),
    [
        ("egress_started", "EGRESS_STARTING", T.RECORDING_STARTED),
        ("egress_updated", "EGRESS_ACTIVE", T.PROVIDER_UNKNOWN),
        ("egress_ended", "EGRESS_COMPLETE", T.RECORDING_COMPLETED),
        ("egress_ended", "EGRESS_LIMIT_REACHED", T.RECORDING_COMPLETED),
        ("egress_ended", "EGRESS_FAILED", T.RECORDING_FAILED),
        ("egress_ended", "EGRESS_ABORTED", T.RECORDING_FAILED),
        ("egress_ended", "EGRESS_ACTIVE", T.PROVIDER_UNKNOWN),
    ],
)
def test_a_calls_recording(event: str, status: str, expected: T) -> None:
    found = told(event, info(status))
    assert (found.type, found.key, found.call_id) == (expected, ROOM, ROOM)


def test_where_the_recording_is_and_how_long() -> None:
    data = told("egress_ended", info()).data
    assert (data.recording_id, data.recording_url, data.duration) == ("EG_1", PLACE, 2.5)


def test_why_there_is_none() -> None:
    failed = EgressInfo(
        egress_id="EG_1",
        room_name=ROOM,
        status=EgressStatus.EGRESS_FAILED,
        room_composite=INTO_FILE,
        error="no space",
        error_code=507,
    )
    found = told("egress_ended", failed)
    assert (found.type, found.data.recording_url) == (T.RECORDING_FAILED, "")
    assert (found.data.error_code, found.data.reason) == ("507", "no space")


@pytest.mark.parametrize(
    "request_",
    [
        {"track": egress.TrackEgressRequest(file=egress.DirectFileOutput(filepath="x"))},
        {"web": egress.WebEgressRequest(file=egress.EncodedFileOutput(filepath="x"))},
        {
            "egress": egress.StartEgressRequest(
                outputs=[egress.Output(file=egress.FileOutput(filepath="x"))]
            )
        },
    ],
)
def test_every_request_for_a_file_is_a_recording(request_: dict[str, object]) -> None:
    started = EgressInfo(egress_id="EG_1", room_name=ROOM)
    for name, value in request_.items():
        getattr(started, name).CopyFrom(value)
    assert told("egress_started", started).type is T.RECORDING_STARTED


def test_a_stream_is_no_recording() -> None:
    stream = EgressInfo(egress_id="EG_1", room_name=ROOM, room_composite=INTO_STREAM)
    assert told("egress_started", stream).type is T.PROVIDER_UNKNOWN
    assert told("egress_ended", EgressInfo(egress_id="EG_1", room_name=ROOM)).type is (
        T.PROVIDER_UNKNOWN
    )


def test_a_recording_of_another_room_is_not_a_calls() -> None:
    found = told("egress_ended", info(room="standup"))
    assert (found.type, found.call_id, found.data.room) == (T.PROVIDER_UNKNOWN, "", "standup")


def test_keys_of_stores_and_streams_are_not_kept() -> None:
    for one in (info(), EgressInfo(room_name=ROOM, room_composite=INTO_STREAM)):
        assert "hush" not in str(told("egress_started", one))
    message = WebhookEvent(
        event="ingress_started",
        id="EV_1",
        ingress_info=IngressInfo(room_name=ROOM, stream_key="hush", url="rtmp://in/hush"),
    )
    found = told_by(message)
    assert (found.type, found.call_id) == (T.PROVIDER_UNKNOWN, ROOM)
    assert "hush" not in str(found)
