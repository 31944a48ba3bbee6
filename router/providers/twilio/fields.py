"""Fields of Twilio's forms, checked; and what of a payload may be kept.

The schema is strict where the signature is not: names and values are signed without a delimiter
(`From=+1` and `Fro=m+1` sign alike), so every field that is used must look like what it is.
Unknown fields are kept: Twilio adds some without notice.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal

from router.errors import BadPayload
from router.events.codec import from_rfc3339
from router.events.phone import is_e164
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
# What is used and may be missing: see `read`.
_OPTIONAL: Final = (
    *("AccountSid", "AnsweredBy", "CallDuration", "CallStatus", "DialCallDuration", "DialCallSid"),
    *("DialCallStatus", "DialSipResponseCode", "Direction", "ErrorCode", "ErrorUrl"),
    *("FailureReason", "Final"),
    *("ParentAccountSid", "ParentCallSid", "Payload", "RecordingDuration", "RecordingUrl"),
    *("RejectionReason", "SequenceId", "SequenceNumber", "SipResponseCode", "Timestamp", "Track"),
    *("TranscriptionData", "TranscriptionError", "TranscriptionErrorCode"),
)
_SIP_HEADERS: Final = ("SipHeader_", "DialSipHeader_")  # strangers choose their names
_LONGEST: Final = max(map(len, _OPTIONAL))
_BEGINS_OPTIONAL: Final = re.compile("|".join(sorted(_OPTIONAL, key=len, reverse=True)))
# The rest of a longer name, as Twilio writes names; of the values only a weekday looks like it.
_OWN_WORDS: Final = re.compile(
    r"(?!(?:Mon?|Tue?|Wed?|Thu?|Fri?|Sat?|Sun?)$)[A-Z][a-z][A-Za-z]*[0-9]?"
)
_FOLDED: Final = frozenset({"data", "payload"})  # JSON as text
_DEPTH: Final = 24  # of JSON that is kept; what lies deeper is cut off


def read(form: Form) -> dict[str, str]:
    """The form as a mapping.

    Raises:
        BadPayload: a field has two values; or one that may be missing is, and the text of another
            begins with its name: somebody moved a boundary in a request that Twilio signed, to be
            told less, or the same once more (`SequenceNumber=2` → `SequenceNumbe=r2`).
    """
    fields = dict(form)
    if len(fields) != len(form):
        fields = _merged(form)
    for name, value in form:
        found = _BEGINS_OPTIONAL.match(name + value[:_LONGEST])
        if found is None or found[0] in fields:
            continue
        if not _OWN_WORDS.fullmatch(name[found.end() :]):  # TrackName may be a new field
            raise BadPayload(f"{found[0]} is malformed")
    return fields


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


def called(fields: Fields) -> str:
    """Who is called: a number, a SIP URI, a client or nobody known. Raises BadPayload."""
    value = fields.get("To")
    if value is None or not _is_party(value):
        raise BadPayload("To is missing or malformed")
    return value


def caller(fields: Fields) -> str:
    """Who calls, "" where it is nothing of the kind.

    Carriers pass on whatever the caller claims to be (twilio.com/docs/api/errors/13214), and
    nothing is decided by it: it must not cost anybody the call.

    Raises:
        BadPayload: there is no From.
    """
    value = fields.get("From")
    if value is None:
        raise BadPayload("From is missing")
    return value if _is_party(value) or _CLAIMED.fullmatch(value) else ""


def _is_party(value: str) -> bool:
    if is_e164(value) or value.lower() in _ANONYMOUS:
        return True
    return bool(_SIP_URI.fullmatch(value) or _IDENTITY.fullmatch(value))


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
