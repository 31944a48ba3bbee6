"""The log records of a change of the mapping: what happened, and what holds now."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from router.events.codec import encode
from router.events.ids import event_id
from router.events.model import Event, EventData
from router.events.types import NUMBERS_TOPIC, ROUTES_TOPIC, EventType
from router.routing.table import FIRST_EPOCH, Route, Version

ROUTE_SCHEMA: Final = "switchboard/route/1"
REV: Final = "rev"
EPOCH: Final = "epoch"
"""Headers of a route record: the change's version, which a tombstone has no value to carry in.
The first epoch is left out."""

_DIGITS: Final = 18  # so that it fits into 64 bits
_encoder = msgspec.json.Encoder()


def route_record(
    number: str, route: Route | None, *, version: Version, time: int
) -> tuple[dict[str, str], bytes | None]:
    """Headers and value for `telephony.routes`; no route is a tombstone.

    The id holds `time` (µs): a table that is published anew gets new ids, so a log that remembers
    the old ones takes it.
    """
    headers, _ = encode(number_event(number, route, version=version, time=time))
    return _as_route(headers, number, route, version, time)


def change_records(
    number: str, route: Route | None, *, account_id: str, version: Version, time: int
) -> Iterator[tuple[str, dict[str, str], bytes | None]]:
    """Topic, headers and value of what a change of the mapping says: what holds, what happened.

    `account_id`: whose number it is, or was.
    """
    event = number_event(number, route, account_id=account_id, version=version, time=time)
    headers, value = encode(event)
    yield ROUTES_TOPIC, *_as_route(dict(headers), number, route, version, time)
    yield NUMBERS_TOPIC, headers, value


def version_of(headers: Mapping[str, str]) -> Version | None:
    """The version in a route record's headers; None when they hold none that can be read."""
    epoch, rev = headers.get(EPOCH), headers.get(REV, "")
    version = Version(FIRST_EPOCH if epoch is None else _natural(epoch), _natural(rev))
    return version if min(version) > 0 else None


def _natural(text: str) -> int:
    """A number of up to 18 ASCII digits; 0 for all else."""
    return int(text) if len(text) <= _DIGITS and text.isascii() and text.isdigit() else 0


def _as_route(
    headers: dict[str, str], number: str, route: Route | None, version: Version, time: int
) -> tuple[dict[str, str], bytes | None]:
    headers["ce_id"] = event_id("route", number, *_stamp(version), str(time))
    headers["ce_dataschema"] = ROUTE_SCHEMA
    headers[REV] = str(version.rev)
    if version.epoch != FIRST_EPOCH:
        headers[EPOCH] = str(version.epoch)
    return headers, None if route is None else _encoder.encode(route)


def _stamp(version: Version) -> Sequence[str]:
    epoch, rev = version
    return (str(rev),) if epoch == FIRST_EPOCH else (str(rev), str(epoch))


def number_event(
    number: str, route: Route | None, *, account_id: str = "", version: Version, time: int
) -> Event:
    """The event for `telephony.numbers`: mapped when the number leads to an agent."""
    target = route.targets[0] if route is not None and route.targets else None
    if target is not None:
        kind, reason = EventType.NUMBER_MAPPED, f"mapped to agent {target.agent}"
    elif route is not None:
        kind, reason = EventType.NUMBER_UNMAPPED, "no agent takes its calls"
    else:
        kind, reason = EventType.NUMBER_UNMAPPED, "removed from the mapping"
    return Event(
        id=event_id(kind.value, number, *_stamp(version), str(time)),
        type=kind,
        source="switchboard",
        time=time,
        key=number,
        data=EventData(
            number=number,
            to_number=number,
            account_id=account_id,
            connection_id=route.connection_id if route is not None else "",
            agent=target.livekit_agent_name if target is not None else "",
            agent_id=target.agent_id if target is not None else "",
            reason=reason,
        ),
    )
