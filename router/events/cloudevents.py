"""CloudEvents 1.0 of other producers: the JSON event format and the HTTP protocol binding.

Read and written as the specification says (formats/json-format.md and
bindings/http-protocol-binding.md of cloudevents/spec 1.0.2; § below are the binding's). An event is
its attributes as text and its data as bytes, whichever mode it came in.
"""

import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar
from urllib.parse import quote, unquote_to_bytes

import msgspec

from router.errors import BadPayload

Mode = Literal["binary", "structured", "batch"]
_Members = dict[str, msgspec.Raw]
_T = TypeVar("_T")

_PREFIX: Final = "application/cloudevents"
_MODES: Final[Mapping[str, Mode]] = {
    "application/cloudevents+json": "structured",
    "application/cloudevents-batch+json": "batch",
}
_REQUIRED: Final = ("specversion", "id", "source", "type")
_KNOWN: Final = frozenset({*_REQUIRED, "datacontenttype", "dataschema", "subject", "time"})
_NAME: Final = re.compile(r"[a-z0-9]+")
# What no attribute may hold (spec.md, Type System): control characters, halves of surrogate pairs
# (a header may have any bytes), and code points that never are characters.
_ENDS: Final = (0xFFFE, 0xFFFF)
_LAST_OF_PLANES: Final = "".join(chr(plane << 16 | end) for plane in range(17) for end in _ENDS)
_NO_TEXT: Final = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_LAST_OF_PLANES}]")
_RULES: Final = {
    "specversion": re.compile(r"1\.0"),
    "time": re.compile(  # RFC 3339 §5.6
        r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)", re.ASCII
    ),
    "datacontenttype": re.compile(r"[^\s/;]+/[^\s/;]+\s*(;.*)?"),  # RFC 2046, as far as we care
}
_NON_EMPTY: Final = re.compile(r".+")
_ANYTHING: Final = re.compile(r".*")
_IS_JSON: Final = re.compile(r"[^/;]+/([^/;]+\+)?json\s*(;.*)?", re.IGNORECASE)
_ESCAPED: Final = re.compile(r"\\(.)")
# §3.1.3.2: all others, the space among them, are percent-encoded.
_PLAIN: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')

_event = msgspec.json.Decoder(_Members)
_batch = msgspec.json.Decoder(list[_Members])
_text = msgspec.json.Decoder(str)
_scalar = msgspec.json.Decoder(str | int | bool)


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """An event. Its attributes are in their canonical text form, `datacontenttype` among them."""

    attributes: Mapping[str, str] = field(repr=False)
    data: bytes | None = field(default=None, repr=False)


def mode(content_type: str) -> Mode:
    """How a message with this content type carries its event.

    Raises:
        BadPayload: in an event format other than JSON.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if not media_type.startswith(_PREFIX):
        return "binary"
    known = _MODES.get(media_type)
    if known is None:
        raise BadPayload("content-type names a format of CloudEvents other than JSON")
    return known


def from_http(headers: Mapping[str, str], body: bytes) -> Sequence[CloudEvent]:
    """The events in a request of any of the three modes; only a batch holds none or many.

    Raises:
        BadPayload: it breaks a rule of CloudEvents; names the attribute, never its value.
    """
    content_type, fields = "", []
    for header, value in headers.items():
        name = header.lower()
        if name == "content-type":
            content_type = value
        elif name.startswith("ce-"):
            fields.append((name.removeprefix("ce-"), value))
    match mode(content_type):
        case "batch":
            return [_from_members(members) for members in _decoded(_batch, body, "the batch")]
        case "structured":
            return [from_json(body)]
        case "binary":
            attributes = {name: _unescaped(name, value) for name, value in fields}
            if len(attributes) != len(fields):
                raise BadPayload("a header of the CloudEvent is there more than once")
            attributes.pop("datacontenttype", None)  # §3.1.1: the content type says it
            if content_type:
                attributes["datacontenttype"] = content_type
            return [_checked(attributes, body or None)]


def to_http(event: CloudEvent) -> tuple[dict[str, str], bytes]:
    """Headers and body of the request that carries the event in binary mode."""
    headers = {f"ce-{name}": quote(text, safe=_PLAIN) for name, text in event.attributes.items()}
    if headers.pop("ce-datacontenttype", None) is not None:
        headers["content-type"] = event.attributes["datacontenttype"]
    return headers, event.data or b""


def from_json(text: bytes) -> CloudEvent:
    """The event that is written in the JSON format. Raises BadPayload, as `from_http`."""
    return _from_members(_decoded(_event, text, "the CloudEvent"))


def _from_members(members: _Members) -> CloudEvent:
    present = {name: bytes(raw) for name, raw in members.items() if bytes(raw) != b"null"}
    data, base64 = present.pop("data", None), present.pop("data_base64", None)
    attributes = {name: _attribute(name, value) for name, value in present.items()}
    if base64 is not None:
        if data is not None:
            raise BadPayload("the CloudEvent has both data and data_base64")
        data = _unbase64(_decoded(_text, base64, "data_base64"))
    elif data is not None and data.startswith(b'"'):
        content_type = attributes.get("datacontenttype", "application/json")
        if _IS_JSON.fullmatch(content_type) is None:  # then the string is not JSON, but the data
            data = _decoded(_text, data, "data").encode()
    return _checked(attributes, data)


def _attribute(name: str, value: bytes) -> str:
    if name in _KNOWN:
        return _decoded(_text, value, name)
    found = _decoded(_scalar, value, "an extension of the CloudEvent")
    return str(found).lower() if isinstance(found, bool) else str(found)


def _checked(attributes: Mapping[str, str], data: bytes | None) -> CloudEvent:
    for name in _REQUIRED:
        if name not in attributes:
            raise BadPayload(f"the CloudEvent lacks {name}")
    for name, text in attributes.items():
        if _NAME.fullmatch(name) is None:
            raise BadPayload("an attribute of the CloudEvent has a name of other than a-z and 0-9")
        rule = _RULES.get(name, _NON_EMPTY if name in _KNOWN else _ANYTHING)
        if _NO_TEXT.search(text) or not rule.fullmatch(text):
            raise BadPayload(f"{_told(name)} of the CloudEvent is malformed")
    return CloudEvent(attributes, data)


def _unescaped(name: str, value: str) -> str:
    """§3.1.3.2: a quoted string as in RFC 7230 §3.2.6, then one round of percent-decoding."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = _ESCAPED.sub(r"\1", value[1:-1])
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeError as error:
        raise BadPayload(f"{_told(name)} of the CloudEvent is not UTF-8") from error


def _told(name: str) -> str:
    return name if name in _KNOWN else "an extension"


def _unbase64(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise BadPayload("data_base64 is not base64") from error


def _decoded(decoder: msgspec.json.Decoder[_T], text: bytes, what: str) -> _T:
    try:
        return decoder.decode(text)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise BadPayload(f"{what} is malformed JSON, or of another type") from error
