"""Events to and from log records: CloudEvents 1.0, Kafka protocol binding.

Written in binary mode: attributes are `ce_*` headers, the value is the JSON data, and
`ce_dataschema` names the version of the data (docs/EVENTS.md). Read in both modes, as other
producers may choose, and in every version: older data is made into today's by
`router.events.upcast`, of newer data the fields count that are known here.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

import msgspec

from router.errors import BadPayload
from router.events import cloudevents
from router.events.model import Event, EventData
from router.events.types import EventType
from router.events.upcast import STEPS, upcast

SCHEMA: Final = "switchboard/event/3"
_LAST_STORED: Final = "switchboard/event/2"  # see `stored_data`
CONTENT_TYPE: Final = "application/json"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_TYPES: Final[Mapping[str, EventType]] = {kind.value: kind for kind in EventType}

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(EventData)
_event_decoder = msgspec.json.Decoder(Event)
_json_decoder = msgspec.json.Decoder(dict[str, Any])


def to_rfc3339(micros: int) -> str:
    """`1_700_000_000_000_000` → `2023-11-14T22:13:20.000000Z`."""
    seconds, rest = divmod(micros, 1_000_000)
    return f"{_second(seconds)}.{rest:06d}Z"


@lru_cache(64)  # events come by the second
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]


def from_rfc3339(text: str) -> int:
    """Microseconds since the epoch. Raises ValueError, also for a time without an offset."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without an offset")
    return (moment - _EPOCH) // _MICROSECOND


def encode(event: Event) -> tuple[dict[str, str], bytes]:
    """Headers and value of the record that carries `event`."""
    headers = {
        "ce_specversion": "1.0",
        "ce_id": event.id,
        "ce_type": event.type.value,
        "ce_source": "/" + event.source,
        "ce_subject": event.key,
        "ce_time": to_rfc3339(event.time),
        "ce_dataschema": SCHEMA,
        "content-type": CONTENT_TYPE,
    }
    return headers, _encoder.encode(event.data)


def stamp(event: Event, timing: Mapping[str, int]) -> Event:
    """The event with how long its steps took, µs each since its webhook was read."""
    return msgspec.structs.replace(event, data=msgspec.structs.replace(event.data, timing=timing))


def decode(key: str, headers: Mapping[str, str], value: bytes | None) -> Event:
    """The event of a record.

    Raises:
        BadPayload: a header or the JSON is unusable; the message names which.
    """
    content_type = headers.get("content-type", CONTENT_TYPE)
    if content_type != CONTENT_TYPE and cloudevents.mode(content_type) != "binary":
        headers, value = _in_binary_mode(value)
    try:
        kind = headers["ce_type"]
        schema = headers.get("ce_dataschema", SCHEMA)
        return Event(
            id=headers["ce_id"],
            # A type that a newer version wrote must pass through an older reader.
            type=_TYPES.get(kind, EventType.PROVIDER_UNKNOWN),
            source=headers["ce_source"].removeprefix("/"),
            time=from_rfc3339(headers["ce_time"]),
            key=key,
            data=(
                _older(schema, kind, value or b"{}")
                if schema in STEPS
                else _decoder.decode(value or b"{}")
            ),
        )
    except KeyError as error:
        raise BadPayload(f"record lacks the header {error.args[0]}") from error
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise BadPayload(f"record is unreadable: {type(error).__name__}") from error


def stored_data(value: bytes) -> EventData:
    """Data as a row of the database keeps it, whichever version wrote it: a row does not say.

    Raises:
        ValueError: it is none.
    """
    data = _decoder.decode(value)
    if b'"account":' not in value:  # no version since 3 writes it, but a payload may
        return data
    fields = _json_decoder.decode(value)
    return _older(_LAST_STORED, "", value) if "account" in fields else data


def stored_event(value: bytes) -> Event:
    """An event as a row of the database keeps it, whichever version wrote it. Raises ValueError."""
    event = _event_decoder.decode(value)
    if b'"account":' not in value:
        return event
    return msgspec.structs.replace(event, data=stored_data(bytes(_part_decoder.decode(value).data)))


class _Part(msgspec.Struct):
    data: msgspec.Raw


_part_decoder = msgspec.json.Decoder(_Part)


def _in_binary_mode(value: bytes | None) -> tuple[dict[str, str], bytes | None]:
    event = cloudevents.from_json(value or b"")
    return {f"ce_{name}": text for name, text in event.attributes.items()}, event.data


def _older(schema: str, kind: str, value: bytes) -> EventData:
    return msgspec.convert(upcast(schema, kind, _json_decoder.decode(value)), EventData)
