"""Fields of Twilio's forms, checked; and what of a payload may be kept.

The schema is strict where the signature is not: names and values are signed without a delimiter
(`From=+1` and `Fro=m+1` sign alike), so every field that is used must look like what it is.
Unknown fields are kept: Twilio adds some without notice.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, Final, Literal

from router.errors import BadPayload
from router.events.codec import from_rfc3339
from router.events.phone import Party, is_e164, party
from router.events.text import read_odd_json
from router.providers.twilio.keys import Form

Fields = Mapping[str, str]

CALL_SID: Final = re.compile(r"CA[0-9a-f]{32}")
WORD: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
NUMBER: Final = re.compile(r"[0-9]{1,9}")
_SIP_URI: Final = re.compile(r"sips?:[^ <>\"]{1,255}")  # control characters: router.events.text
_IDENTITY: Final = re.compile(r"[\w:.@-][\w:.@+-]{0,254}", re.ASCII)  # 12345, client:bob
_CLAIMED: Final = re.compile(r"\+[0-9*#]{0,32}")  # +464: what a caller ID may be, right or wrong
_ANONYMOUS: Final = frozenset({"anonymous", "restricted", "unavailable", "unknown", "private", ""})
_USER_INFO: Final = re.compile(r"(?<=://)[^/\s@]{1,500}@")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

SECRETS: Final = frozenset({"CallToken", "StirPassportToken"})  # good for acting as the caller
# What is good for acting as somebody, spelled in any way: `call_token`, `X-Twilio-Signature`. Our
# TwiML is among it: it holds the password of LiveKit's SIP trunk.
_SECRET_NAMES: Final = frozenset(
    {"calltoken", "stirpassporttoken", "twiml", "responsebody", "xtwiliosignature"}
    | {"authorization", "authtoken", "password", "pin"}
)
_SIP_HEADERS: Final = ("SipHeader_", "DialSipHeader_")  # strangers choose their names
_CUSTOM_HEADER: Final = re.compile(r"SipHeader_(X-[\w-]{1,60}|User-to-User)", re.ASCII | re.I)
_KEPT_HEADERS: Final = 20  # of a call's custom headers; a stranger may send any number

# What is used and may be missing, with what it looks like where Twilio sends it: see `read`.
_SID: Final = r"[A-Z]{2}[0-9a-f]{32}"
_DIGITS_OR_NONE: Final = r"[0-9]{0,9}"
_OBJECT: Final = r"\s*\{.*"  # JSON as text
_DAY: Final = r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]|[0-9]{4}-).*"
_STATUS: Final = (
    "queued|initiated|ringing|in-progress|answered|completed|busy|no-answer|failed|canceled"
)
_SHAPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("AccountSid", "ParentAccountSid", "CallSid"), _SID),
    **dict.fromkeys(("DialCallSid", "ParentCallSid"), _SID),
    **dict.fromkeys(("CallStatus", "DialCallStatus"), _STATUS),
    **dict.fromkeys(("CallDuration", "DialCallDuration", "RecordingDuration"), _DIGITS_OR_NONE),
    **dict.fromkeys(("DialSipResponseCode", "SipResponseCode"), _DIGITS_OR_NONE),
    **dict.fromkeys(("ErrorCode", "TranscriptionErrorCode"), _DIGITS_OR_NONE),
    **dict.fromkeys(("SequenceId", "SequenceNumber"), _DIGITS_OR_NONE),
    **dict.fromkeys(("Payload", "TranscriptionData"), _OBJECT),
    **dict.fromkeys(("ErrorUrl", "RecordingUrl"), r"https?://.*"),
    **dict.fromkeys(("From", "To"), r"\+[0-9*#]*|(?:sips?|client|whatsapp|tel):.*"),
    **dict.fromkeys(("RecordingSid", "TranscriptionSid"), _SID),
    "AnsweredBy": r"(?:human|machine|fax|unknown)[a-z_]*",
    "Direction": r"(?:inbound|outbound|trunking)[a-z-]*",
    "Final": "true|false",
    "ForwardedFrom": r"\+?[0-9]+|sips?:.*",
    "StirVerstat": r"(?:No-)?TN-Validation.*",
    "RecordingStatus": "in-progress|completed|absent|failed",
    "Timestamp": _DAY,
    "Track": r"[a-z]+_tracks?",
    "TranscriptionEvent": r"transcription-[a-z]+",
}
_ASKING: Final = ("voice", "fallback", "disaster")
_FREE_TEXT: Final[Mapping[str, Sequence[str]]] = {  # looks like anything, so only where it is read
    "CallerName": _ASKING,
    "FailureReason": ("bundle",),
    "RejectionReason": ("bundle",),
    "TranscriptionError": ("transcription",),
}
# The rest of a longer name, as Twilio writes names.
_OWN_WORDS: Final = re.compile(r"[A-Z][a-z][A-Za-z]*[0-9]?")
_LONGEST: Final = max(map(len, (*_SHAPES, *_FREE_TEXT))) + 64  # of a name with a bit of its value
_BY_LETTER: Final = {
    letter: [
        (name, re.compile(shape, re.DOTALL))
        for name, shape in _SHAPES.items()
        if name.startswith(letter)
    ]
    for letter in {name[0] for name in _SHAPES}
}
_FOLDED: Final = frozenset({"data", "payload"})  # JSON as text
_DEPTH: Final = 24  # of JSON that is kept; what lies deeper is cut off


def read(form: Form, kind: str) -> dict[str, str]:
    """The form of a webhook of this kind as a mapping.

    Raises:
        BadPayload: a field has two values; or one that may be missing is, and another, name and
            value together, can be read as it: somebody moved a boundary in a request that Twilio
            signed, to be told less, or the same once more (`SequenceNumber=2` →
            `SequenceNumbe=r2`). `TrackingId=c-77` can't: no `Track` has the value `ingIdc-77`.
    """
    fields = dict(form)
    if len(fields) != len(form):
        fields = _merged(form)
    for name, value in form:
        if moved := _hidden(name, value, kind, fields):
            raise BadPayload(f"{moved} is malformed")
    return fields


def _hidden(name: str, value: str, kind: str, fields: Fields) -> str:
    """The missing field that a name with its value can be read as, "" for none."""
    text = name + value if len(name) <= _LONGEST else name
    for known, shape in _BY_LETTER.get(text[:1], ()):
        if known not in fields and text.startswith(known) and shape.fullmatch(text[len(known) :]):
            return known
    for known, kinds in _FREE_TEXT.items():
        if kind in kinds and known not in fields and text.startswith(known):
            # RejectionReasonCode is a field of its own.
            return "" if _OWN_WORDS.fullmatch(name[len(known) :]) else known
    return ""


def _merged(form: Form) -> dict[str, str]:
    """The fields of a form that repeats some: a caller's SIP headers may be (RFC 3261 §7.3.1)."""
    fields: dict[str, str] = {}
    for name, value in dict.fromkeys(form):
        if name in fields and not name.startswith(_SIP_HEADERS):
            raise BadPayload("a field is there more than once")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def matching(fields: Fields, name: str, pattern: re.Pattern[str]) -> str:
    """A field that must be there. Raises BadPayload, which names it."""
    value = fields.get(name, "")
    if pattern.fullmatch(value) is None:
        raise BadPayload(f"{name} is missing or malformed")
    return value


def optional(fields: Fields, name: str, pattern: re.Pattern[str]) -> str:
    """A field that may be missing or empty. Raises BadPayload, which names it."""
    return matching(fields, name, pattern) if fields.get(name) else ""


def called(fields: Fields) -> Party:
    """Who is called; without an address where it is nothing of the kind, which gets the apology.

    Raises:
        BadPayload: there is no To.
    """
    value = fields.get("To")
    if value is None:
        raise BadPayload("To is missing")
    return _known(value)


def caller(fields: Fields) -> Party:
    """Who calls; without an address where it is nothing of the kind.

    Carriers pass on whatever the caller claims to be (twilio.com/docs/api/errors/13214), and
    nothing is decided by it: it must not cost anybody the call.

    Raises:
        BadPayload: there is no From.
    """
    value = fields.get("From")
    if value is None:
        raise BadPayload("From is missing")
    return _known(value)


def _known(value: str) -> Party:
    found = party(value)
    address = found.address
    if is_e164(address) or address.lower() in _ANONYMOUS:
        return found
    patterns = (_SIP_URI, _IDENTITY, _CLAIMED)
    if any(pattern.fullmatch(address) is not None for pattern in patterns):
        return found
    return found._replace(address="")


def sip_headers(fields: Fields) -> dict[str, str]:
    """The custom headers of the INVITE that a call over SIP came with, by their names."""
    found = (
        (header[1], value)
        for name, value in fields.items()
        if (header := _CUSTOM_HEADER.fullmatch(name)) is not None
    )
    return dict(islice(found, _KEPT_HEADERS))


def attestation(fields: Fields) -> Literal["", "A", "B", "C"]:
    """How sure the caller's provider is of the caller's number, where Twilio verified it.

    `TN-Validation-Passed-A`, also with `-Diverted` (twilio.com/docs/voice/trusted-calling-with-
    shakenstir). A failed validation says nothing of the caller.
    """
    match fields.get("StirVerstat", "").removesuffix("-Diverted").rpartition("-"):
        case ("TN-Validation-Passed", _, "A" | "B" | "C" as level):
            return level
        case _:
            return ""


def seconds(text: str | None) -> float | None:
    """A duration, None where there is none."""
    return float(text) if text and NUMBER.fullmatch(text) else None


def answerer(word: str) -> Literal["", "human", "machine", "fax", "unknown"]:
    """Twilio's AnsweredBy, "" where it is absent; `machine_end_beep` and the like are machines."""
    family = word.partition("_")[0]
    match family:
        case "" | "human" | "machine" | "fax":
            return family
        case _:
            return "unknown"


def moment(text: str | None) -> int:
    """A time in µs since the epoch, 0 where there is none.

    Twilio writes RFC 2822 in status callbacks, RFC 3339 (or ISO 8601) in everything newer.
    """
    if not text:
        return 0
    try:
        found = _from_rfc2822(text) if text[:1].isalpha() else from_rfc3339(text)
    except (ValueError, TypeError, IndexError, OverflowError):  # TypeError: it names no zone
        return 0
    return max(0, found)


def _from_rfc2822(text: str) -> int:
    found = parsedate_to_datetime(text)
    aware = found if found.tzinfo else found.replace(tzinfo=UTC)  # RFC 5322 §3.3: -0000 is UTC
    return (aware - _EPOCH) // timedelta(microseconds=1)


def kept(fields: Fields) -> dict[str, str]:
    """The form as it is kept with the event."""
    return {name: value for name, value in fields.items() if name not in SECRETS}


def read_json(text: str) -> Any:
    """A JSON document.

    Not by msgspec: one lone surrogate or a number out of range in any part of it must not cost the
    rest.

    Raises:
        BadPayload: it is not JSON, or nested too deeply to be read.
    """
    try:
        return read_odd_json(text)
    except (ValueError, RecursionError) as error:
        raise BadPayload("the JSON is malformed or nested too deeply") from error


def scrubbed(value: Any, depth: int = _DEPTH) -> Any:
    """JSON as it is kept with an event: without secrets, and not too deep.

    Also in JSON that is itself text in JSON (`data`, `payload`); what of it is no JSON can't be
    searched for secrets, and is left out.
    """
    match value:
        case str():
            return _without_password(value)
        case dict() if depth:
            return {
                _without_password(name): scrubbed(_unfolded(name, inner), depth - 1)
                for name, inner in value.items()
                if not _is_secret(name) and not (name == "body" and "status_code" in value)
            }
        case list() if depth:
            return [scrubbed(inner, depth - 1) for inner in value]
        case dict() | list():
            return None
        case _:
            return value


def table(value: object) -> Mapping[str, Any]:
    """A JSON object, empty where it is something else."""
    return value if isinstance(value, dict) else {}


def _unfolded(name: str, value: Any) -> Any:
    if name.lower() not in _FOLDED or not isinstance(value, str):
        return value
    try:
        return read_json(value)
    except BadPayload:
        return None


def _is_secret(name: str) -> bool:
    return name.lower().replace("_", "").replace("-", "") in _SECRET_NAMES


def _without_password(text: str) -> str:
    # A URL may hold the password of our own webhooks.
    return _USER_INFO.sub("***@", text)
