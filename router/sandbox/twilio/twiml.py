"""TwiML, read strictly: what Twilio would not understand is an error here, never ignored.

Source: twilio.com/docs/voice/twiml. Spoken and played content takes no time in the sandbox.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from xml.etree import ElementTree as ET

from router.sandbox.twilio.errors import (
    NESTING_INVALID,
    PARSE_FAILED,
    SCHEMA_INVALID,
    TOO_MANY_TARGETS,
    TwilioError,
)
from router.sandbox.twilio.sip_uri import SipUri, parse_sip_uri, phone_number

_MAX_BYTES: Final = 64 * 1024  # Twilio takes no larger document
_CALLBACK: Final = frozenset({"statusCallback", "statusCallbackEvent", "statusCallbackMethod"})
_NOUN: Final = _CALLBACK | {"url", "method", "machineDetection", "callReason"}
_ATTRIBUTES: Final[Mapping[str, frozenset[str]]] = {
    "Response": frozenset(),
    "Say": frozenset({"voice", "language", "loop"}),
    "Play": frozenset({"loop", "digits"}),
    "Pause": frozenset({"length"}),
    "Hangup": frozenset(),
    "Reject": frozenset({"reason"}),
    "Redirect": frozenset({"method"}),
    "Dial": frozenset({"action", "answerOnBridge", "callerId", "callReason", "hangupOnStar"})
    | {"method", "record", "recordingStatusCallback", "recordingStatusCallbackEvent"}
    | {"recordingStatusCallbackMethod", "recordingTrack", "referMethod", "referUrl", "ringTone"}
    | {"sequential", "timeLimit", "timeout", "trim"},
    "Sip": _NOUN | {"username", "password"},
    "Number": _NOUN | {"sendDigits", "byoc"},
}
_EVENTS: Final = frozenset({"initiated", "ringing", "answered", "completed"})
_CHOICES: Final[Mapping[str, frozenset[str]]] = {
    "answerOnBridge": frozenset({"true", "false"}),
    "hangupOnStar": frozenset({"true", "false"}),
    "sequential": frozenset({"true", "false"}),
    "method": frozenset({"GET", "POST"}),
    "referMethod": frozenset({"GET", "POST"}),
    "statusCallbackMethod": frozenset({"GET", "POST"}),
    "reason": frozenset({"rejected", "busy"}),
}
_DEFAULT_TIMEOUT: Final = 30  # seconds that a <Dial> rings
_MAX_TIMEOUT: Final = 600
_DEFAULT_TIME_LIMIT: Final = 4 * 3600

Event = Literal["initiated", "ringing", "answered", "completed"]


@dataclass(frozen=True, slots=True)
class Say:
    """Text for the caller; played media stands as its URL."""

    text: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Silence, in seconds."""

    seconds: int


@dataclass(frozen=True, slots=True)
class Hangup:
    """The end."""


@dataclass(frozen=True, slots=True)
class Reject:
    """The end without an answer."""

    reason: str


@dataclass(frozen=True, slots=True)
class Redirect:
    """Another document."""

    url: str
    method: str


@dataclass(frozen=True, slots=True)
class Target:
    """Who is dialled: a SIP URI or a number, and who wants to know how it goes."""

    text: str  # as written in the document
    uri: SipUri | None  # None: `text` is a number
    status_callback: str
    events: Sequence[str]
    method: str


@dataclass(frozen=True, slots=True)
class Dial:
    """One target, rung for `timeout` seconds, then talked to for `time_limit` at most."""

    target: Target
    timeout: int
    time_limit: int
    action: str
    method: str
    answer_on_bridge: bool
    caller_id: str
    refer_url: str  # asked when the target sends a REFER; "": it is refused
    refer_method: str


Verb = Say | Pause | Hangup | Reject | Redirect | Dial


def parse(document: bytes) -> Sequence[Verb]:
    """The verbs of a document.

    Raises:
        TwilioError: 12100 for what is no XML, 12200 for what is no TwiML, 13xxx for a bad dial.
    """
    if len(document) > _MAX_BYTES or b"<!DOCTYPE" in document:
        raise TwilioError(PARSE_FAILED, "the document is too large or declares a DOCTYPE")
    try:
        root = ET.fromstring(document)  # noqa: S314 - without a DOCTYPE there are no entities
    except ET.ParseError as error:
        raise TwilioError(PARSE_FAILED, f"not XML: {error}") from error
    if root.tag != "Response":
        raise TwilioError(SCHEMA_INVALID, f"the root is <{root.tag}>, not <Response>")
    _check(root)
    return [_verb(element) for element in root]


def _check(element: ET.Element) -> None:
    known = _ATTRIBUTES.get(element.tag)
    if known is None:
        raise TwilioError(SCHEMA_INVALID, f"<{element.tag}> is no verb that is known here")
    for name, value in element.attrib.items():
        if name not in known:
            raise TwilioError(SCHEMA_INVALID, f"<{element.tag}> has no attribute {name}")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise TwilioError(SCHEMA_INVALID, f"{name} must be one of {sorted(_CHOICES[name])}")


def _verb(element: ET.Element) -> Verb:
    _check(element)
    if element.tag == "Dial":
        return _dial(element)
    if len(element):
        raise TwilioError(SCHEMA_INVALID, f"<{element.tag}> holds no elements")
    text = (element.text or "").strip()
    match element.tag:
        case "Say" | "Play":
            return Say(text)
        case "Pause":
            return Pause(_number(element, "length", default=1, least=1, most=180))
        case "Hangup":
            return Hangup()
        case "Reject":
            return Reject(element.get("reason", "rejected"))
        case "Redirect":
            return Redirect(text, element.get("method", "POST"))
        case _:
            raise TwilioError(SCHEMA_INVALID, f"<{element.tag}> stands where a verb must be")


def _dial(element: ET.Element) -> Dial:
    if len(element) > 1:
        raise TwilioError(TOO_MANY_TARGETS, "the sandbox dials one target at a time")
    return Dial(
        target=_noun(element[0]) if len(element) else _target(element, is_sip=False),
        timeout=_number(element, "timeout", default=_DEFAULT_TIMEOUT, least=1, most=_MAX_TIMEOUT),
        time_limit=_number(
            element, "timeLimit", default=_DEFAULT_TIME_LIMIT, least=1, most=24 * 3600
        ),
        action=element.get("action", ""),
        method=element.get("method", "POST"),
        answer_on_bridge=element.get("answerOnBridge") == "true",
        caller_id=element.get("callerId", ""),
        refer_url=element.get("referUrl", ""),
        refer_method=element.get("referMethod", "POST"),
    )


def _noun(element: ET.Element) -> Target:
    _check(element)
    if element.tag not in ("Sip", "Number"):
        raise TwilioError(NESTING_INVALID, f"<Dial> does not hold <{element.tag}> here")
    events = element.get("statusCallbackEvent", "completed").split()
    if not _EVENTS.issuperset(events):
        raise TwilioError(SCHEMA_INVALID, f"statusCallbackEvent knows {sorted(_EVENTS)}")
    return _target(element, is_sip=element.tag == "Sip", events=events)


def _target(element: ET.Element, *, is_sip: bool, events: Sequence[str] = ()) -> Target:
    text = (element.text or "").strip()
    user, password = element.get("username", ""), element.get("password", "")
    return Target(
        text=text if is_sip else phone_number(text),
        uri=parse_sip_uri(text, user, password) if is_sip else None,
        status_callback=element.get("statusCallback", ""),
        events=events,
        method=element.get("statusCallbackMethod", "POST"),
    )


def _number(element: ET.Element, name: str, *, default: int, least: int, most: int) -> int:
    text = element.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise TwilioError(SCHEMA_INVALID, f"{name} must be a number from {least} to {most}")
    return int(text)
