"""Events to and from log records: CloudEvents 1.0, Kafka protocol binding, binary mode.

Attributes are `ce_*` headers, the value is the JSON data. `ce_dataschema` names the version of the
data; readers take every version that was ever written (additive only, so no upcaster yet).
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from router.errors import BadPayload
from router.events.model import Event, EventData
from router.events.types import EventType

SCHEMA: Final = "switchboard/event/1"
CONTENT_TYPE: Final = "application/json"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(EventData)


def to_rfc3339(micros: int) -> str:
    """`1_700_000_000_000_000` → `2023-11-14T22:13:20.000000Z`."""
    moment = _EPOCH + timedelta(microseconds=micros)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def from_rfc3339(text: str) -> int:
    """Microseconds since the epoch. Raises ValueError."""
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)


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
    try:
        return Event(
            id=headers["ce_id"],
            type=_type(headers["ce_type"]),
            source=headers["ce_source"].removeprefix("/"),
            time=from_rfc3339(headers["ce_time"]),
            key=key,
            data=_decoder.decode(value or b"{}"),
        )
    except KeyError as error:
        raise BadPayload(f"record lacks the header {error.args[0]}") from error
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise BadPayload(f"record is unreadable: {type(error).__name__}") from error


def _type(text: str) -> EventType:
    # A type that a newer version wrote must pass through an older reader.
    try:
        return EventType(text)
    except ValueError:
        return EventType.PROVIDER_UNKNOWN
