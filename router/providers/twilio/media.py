"""What is heard in Twilio's calls, as events: recordings, answering machines, transcripts.

Builders as in `router.providers.twilio.events`. These callbacks name the call and nobody's number.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from router.errors import BadPayload
from router.events.ids import event_id
from router.events.model import Event
from router.events.types import EventType
from router.provider import happened_at
from router.providers.twilio.events import PROVIDER, about_call
from router.providers.twilio.fields import (
    NUMBER,
    WORD,
    Fields,
    answerer,
    matching,
    moment,
    optional,
    read_json,
    seconds,
)

_RECORDING_SID: Final = re.compile(r"RE[0-9a-f]{32}")
_TRANSCRIPTION_SID: Final = re.compile(r"GT[0-9a-f]{32}")
_URL: Final = re.compile(r"https?://[^\s<>\"]{1,2000}")

# twilio.com/docs/voice/api/recording#recordingstatuscallback
_RECORDINGS: Final[Mapping[str, EventType]] = {
    "in-progress": EventType.RECORDING_STARTED,
    "completed": EventType.RECORDING_COMPLETED,
    "absent": EventType.RECORDING_FAILED,
    "failed": EventType.RECORDING_FAILED,
}
# twilio.com/docs/voice/twiml/transcription#statuscallbackurl
_TRANSCRIPTS: Final[Mapping[str, EventType]] = {
    "transcription-started": EventType.TRANSCRIPT_STARTED,
    "transcription-content": EventType.TRANSCRIPT_ADDED,
    "transcription-stopped": EventType.TRANSCRIPT_ENDED,
    "transcription-error": EventType.TRANSCRIPT_FAILED,
}


def recording_status(fields: Fields, account: str, received_at: int) -> Event:
    """The recording status callback: it began, it can be fetched, or there is none."""
    status = matching(fields, "RecordingStatus", WORD)
    sid = matching(fields, "RecordingSid", _RECORDING_SID)
    code = optional(fields, "ErrorCode", NUMBER)
    data = msgspec.structs.replace(
        about_call(fields, account),
        status=status,
        recording_id=sid,
        recording_url=optional(fields, "RecordingUrl", _URL),
        duration=seconds(fields.get("RecordingDuration")),
        error_code=code if code != "0" else "",
    )
    return Event(
        id=event_id(PROVIDER, account, sid, "recording", status),
        type=_RECORDINGS.get(status, EventType.PROVIDER_UNKNOWN),
        source=PROVIDER,
        time=received_at,
        key=data.call_id,
        data=data,
    )


def machine_detected(fields: Fields, account: str, received_at: int) -> Event:
    """The asynchronous answering machine detection: who or what answered."""
    word = matching(fields, "AnsweredBy", WORD)
    data = msgspec.structs.replace(
        about_call(fields, account), status=word, answered_by=answerer(word)
    )
    return Event(
        id=event_id(PROVIDER, account, fields["CallSid"], "amd", word),
        type=EventType.CALL_CLASSIFIED,
        source=PROVIDER,
        time=received_at,
        key=data.call_id,
        data=data,
    )


def transcription(fields: Fields, account: str, received_at: int) -> Event:
    """Real-time transcription: it began, somebody said something, it ended or broke.

    Partial results are no event of their own: the final text of the same words follows. They are
    kept as `provider.unknown`.
    """
    word = matching(fields, "TranscriptionEvent", WORD)
    sid = matching(fields, "TranscriptionSid", _TRANSCRIPTION_SID)
    sequence = matching(fields, "SequenceId", NUMBER)
    kind = _TRANSCRIPTS.get(word, EventType.PROVIDER_UNKNOWN)
    text = None
    if kind is EventType.TRANSCRIPT_ADDED:
        text = _transcript(fields) if fields.get("Final") != "false" else None
        kind = kind if text is not None else EventType.PROVIDER_UNKNOWN
    data = msgspec.structs.replace(
        about_call(fields, account),
        status=word,
        text=text or "",
        speaker=optional(fields, "Track", WORD),
        error_code=optional(fields, "TranscriptionErrorCode", NUMBER),
        reason=fields.get("TranscriptionError", ""),
    )
    return Event(
        id=event_id(PROVIDER, account, sid, word, sequence),
        type=kind,
        source=PROVIDER,
        time=happened_at(moment(fields.get("Timestamp")), received_at),
        key=data.call_id,
        data=data,
    )


def _transcript(fields: Fields) -> str | None:
    """What was said; None where Twilio's JSON can't be read."""
    try:
        found: Any = read_json(fields.get("TranscriptionData", ""))
    except BadPayload:
        return None
    text = found.get("transcript") if isinstance(found, dict) else None
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else None
