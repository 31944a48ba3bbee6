"""What Vocode sends, in one form, whichever of its three it was sent in.

- hosted, and Fluents: `{"type", "call_id", "payload": {…}}` (docs.vocode.dev/machine-detection);
- the open-source library: `{"type", "conversation_id", …}`, the facts beside them
  (vocode-core, streaming/models/events.py);
- GET: the same fields in the query, `payload` as JSON.

An external action is `{"call_id", "payload"}` without a type; the open-source library leaves the
`call_id` out as well (streaming/action/external_actions_requester.py).
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl

from router.errors import BadPayload
from router.events.text import read_json
from router.provider import WebhookRequest

_ID: Final = re.compile(r"[!-~]{1,128}")
_IDS: Final = ("call_id", "conversation_id")
_MAX_FIELDS: Final = 64
_MAX_DEPTH: Final = 64
_MAX_INT: Final = 2**63 - 1  # the log's JSON has no larger ones
# An action is told with its whole configuration, signature_secret and all; that of Vonage, over
# which Vocode carries calls, has an api_secret and a private_key.
_SECRET_NAME: Final = re.compile(
    r"(?i:(?:.*[_-])?(?:secret|token|password|authorization|credentials"
    r"|(?:api|access|private|secret)[_-]?key))"
    r"|.*(?:Secret|Token|Password|Credentials|(?:Api|Access|Private|Secret)Key)"
)
_REMOVED: Final = "***"


@dataclass(frozen=True, slots=True)
class Message:
    """A webhook, read. Neither `fields` nor `raw` holds a secret any more."""

    type: str  # "" where it has none
    provider_call_id: str  # "" where it names no call
    fields: Mapping[str, Any] = field(repr=False)  # the payload's, and those beside it
    raw: Mapping[str, Any] = field(repr=False)  # the whole of it

    @property
    def is_action(self) -> bool:
        """Whether it is an external action, which Vocode signs and waits to have answered."""
        return not self.type and "payload" in self.raw


def read(request: WebhookRequest, secrets: Sequence[str]) -> Message:
    """The message in a request; `secrets` are removed wherever they stand in it.

    Raises:
        BadPayload: it is neither a JSON object nor a query, or its id is malformed.
    """
    found = _query(request.target) if request.method == "GET" else _json(request.body)
    raw: dict[str, Any] = _clean(found, secrets)
    type_, payload = raw.get("type"), raw.get("payload")
    return Message(
        type=type_ if isinstance(type_, str) else "",
        provider_call_id=_call_id(raw),
        fields={**raw, **payload} if isinstance(payload, dict) else raw,
        raw=raw,
    )


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = read_json(body)
    except (ValueError, RecursionError) as error:
        raise BadPayload("the body is not JSON") from error
    if not isinstance(found, dict):
        raise BadPayload("the body is not a JSON object")
    return found


def _query(target: str) -> dict[str, Any]:
    text = target.partition("?")[2]
    if not text.isascii():
        raise BadPayload("the query is not ASCII")
    try:
        pairs = parse_qsl(
            text, keep_blank_values=True, errors="replace", max_num_fields=_MAX_FIELDS
        )
    except ValueError as error:
        raise BadPayload("the query has too many fields") from error
    found: dict[str, Any] = dict(pairs)
    if len(found) != len(pairs):
        raise BadPayload("a field is in the query more than once")
    if "payload" in found:
        with suppress(ValueError, RecursionError):  # else a plain text, kept as one
            found["payload"] = read_json(found["payload"].encode())
    return found


def _call_id(raw: Mapping[str, Any]) -> str:
    for name in _IDS:
        value = raw.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, str) or _ID.fullmatch(value) is None:
            raise BadPayload(f"{name} is malformed")
        return value
    return ""


def _clean(value: Any, secrets: Sequence[str], depth: int = 0) -> Any:
    """`value` as the log can keep it: without secrets, not too deep, with numbers that fit.

    The configuration of an external action names our URL, and with it the secret in its path.
    """
    if depth > _MAX_DEPTH:
        raise BadPayload("the payload is nested too deeply")
    match value:
        case str():
            for secret in secrets:
                value = value.replace(secret, _REMOVED)
            return value
        case int() if abs(value) > _MAX_INT:
            return str(value)
        case list():
            return [_clean(each, secrets, depth + 1) for each in value]
        case dict():
            return {
                _clean(name, secrets): _clean(each, secrets, depth + 1)
                for name, each in value.items()
                if not _is_secret(name)
            }
        case _:
            return value


@lru_cache(256)  # a message has a few names, nearly always the same
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.fullmatch(name) is not None
