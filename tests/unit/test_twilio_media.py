"""Recordings, answering machines, transcripts: what Twilio's callbacks become."""

import json

import pytest

from router.errors import BadPayload
from router.events.ids import call_id
from router.events.model import Event
from router.events.types import EventType
from tests.support.twilio_requests import ACCOUNT, NOW, parsed, request

SID = "CA" + "0f" * 16
CALL = call_id("twilio", ACCOUNT, SID)
ABOUT = {"CallSid": SID, "AccountSid": ACCOUNT}
RECORDING = "RE" + "1a" * 16


def told(kind: str, **fields: str) -> Event:
    return parsed(request(kind, ABOUT | fields))[0]


def recording(status: str, **fields: str) -> Event:
    return told("recording", RecordingSid=RECORDING, RecordingStatus=status, **fields)


def transcription(event: str, sequence: str = "1", **fields: str) -> Event:
    about = {"TranscriptionSid": "GT" + "2b" * 16, "TranscriptionEvent": f"transcription-{event}"}
    return told("transcription", SequenceId=sequence, **about, **fields)


def test_a_recording_that_can_be_fetched() -> None:
    url = f"https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT}/Recordings/{RECORDING}"
    event = recording("completed", RecordingUrl=url, RecordingDuration="42", ErrorCode="0")
    assert (event.type, event.key) == (EventType.RECORDING_COMPLETED, CALL)
    data = event.data
    assert (data.recording_id, data.recording_url, data.duration) == (RECORDING, url, 42.0)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("in-progress", EventType.RECORDING_STARTED),
        ("absent", EventType.RECORDING_FAILED),
        ("failed", EventType.RECORDING_FAILED),
        ("paused", EventType.PROVIDER_UNKNOWN),
    ],
)
def test_what_else_becomes_of_recordings(status: str, expected: EventType) -> None:
    event = recording(status)
    assert (event.type, event.data.status) == (expected, status)
    assert event.id != recording("completed").id


@pytest.mark.parametrize(
    ("word", "who"),
    [
        ("human", "human"),
        ("machine_start", "machine"),
        ("machine_end_beep", "machine"),
        ("machine_end_other", "machine"),
        ("fax", "fax"),
        ("unknown", "unknown"),
        ("parrot", "unknown"),
    ],
)
def test_who_answered(word: str, who: str) -> None:
    event = told("amd", AnsweredBy=word, MachineDetectionDuration="4000")
    assert (event.type, event.key) == (EventType.CALL_CLASSIFIED, CALL)
    assert (event.data.answered_by, event.data.status) == (who, word)


def test_what_was_said() -> None:
    event = transcription(
        "content",
        "2",
        Track="inbound_track",
        Final="true",
        Timestamp="2026-05-28T19:00:00.454203Z",
        TranscriptionData=json.dumps({"transcript": "to be", "confidence": 0.97}),
    )
    assert (event.type, event.key) == (EventType.TRANSCRIPT_ADDED, CALL)
    assert (event.data.text, event.data.speaker) == ("to be", "inbound_track")
    assert event.time == 1_779_994_800_454_203
    assert event.id != transcription("content", "3", TranscriptionData="{}").id


@pytest.mark.parametrize(
    "data", ["", "{", "[]", "null", '{"transcript": 7}', "[" * 90_000, "9" * 5000, "NaN"]
)
def test_a_transcript_that_can_not_be_read_is_kept(data: str) -> None:
    event = transcription("content", TranscriptionData=data, Final="true")
    assert (event.type, event.data.text) == (EventType.PROVIDER_UNKNOWN, "")
    assert event.data.raw["TranscriptionData"] == data


def test_a_partial_result_is_not_said_twice() -> None:
    data = json.dumps({"transcript": "to"})
    event = transcription("content", TranscriptionData=data, Final="false", Stability="0.9")
    assert event.type is EventType.PROVIDER_UNKNOWN


def test_half_a_surrogate_pair_is_no_text() -> None:
    event = transcription("content", TranscriptionData='{"transcript": "a\\ud83d"}')
    assert event.data.text == "a?"


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("started", EventType.TRANSCRIPT_STARTED),
        ("stopped", EventType.TRANSCRIPT_ENDED),
        ("error", EventType.TRANSCRIPT_FAILED),
        ("hummed", EventType.PROVIDER_UNKNOWN),
    ],
)
def test_the_story_of_a_transcript(event: str, expected: EventType) -> None:
    assert transcription(event).type is expected


def test_why_a_transcript_broke() -> None:
    why = {"TranscriptionErrorCode": "32655", "TranscriptionError": "Provider Unavailable"}
    data = transcription("error", **why).data
    assert (data.error_code, data.reason) == ("32655", "Provider Unavailable")


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("recording", "RecordingSid", "RE1"),
        ("recording", "RecordingUrl", "javascript:alert(1)"),
        ("recording", "RecordingStatus", ""),
        ("amd", "AnsweredBy", "a b"),
        ("transcription", "TranscriptionSid", "TR" + "2b" * 16),
        ("transcription", "SequenceId", "-1"),
        ("transcription", "Track", "<b>"),
        ("amd", "CallSid", "CA"),
        ("amd", "ParentCallSid", "CA"),
    ],
)
def test_malformed_fields_are_named(kind: str, field: str, value: str) -> None:
    fields = ABOUT | {
        "RecordingSid": RECORDING,
        "RecordingStatus": "completed",
        "AnsweredBy": "human",
        "TranscriptionSid": "GT" + "2b" * 16,
        "TranscriptionEvent": "transcription-started",
        "SequenceId": "1",
    }
    with pytest.raises(BadPayload, match=field):
        parsed(request(kind, fields | {field: value}))


def test_a_callback_of_a_leg_belongs_to_its_call() -> None:
    event = told("amd", AnsweredBy="human", ParentCallSid="CA" + "ee" * 16)
    assert event.key == call_id("twilio", ACCOUNT, "CA" + "ee" * 16)
    assert (event.data.leg_id, event.time) == (SID, NOW)
