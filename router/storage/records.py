"""The log records of a change of the mapping: what happened, and what holds now."""

from typing import Final

import msgspec

from router.events.codec import encode
from router.events.ids import event_id
from router.events.model import Event, EventData
from router.events.types import EventType
from router.routing.table import Route

ROUTE_SCHEMA: Final = "switchboard/route/1"
REV: Final = "rev"
"""Header of a route record: the rev of the change, which a tombstone has no value to carry in."""

_encoder = msgspec.json.Encoder()


def route_record(
    number: str, route: Route | None, *, rev: int, time: int
) -> tuple[dict[str, str], bytes | None]:
    """Headers and value for `telephony.routes`; no route is a tombstone.

    The id holds `time` (µs): a table that is published anew gets new ids, so a log that remembers
    the old ones takes it.
    """
    headers, _ = encode(number_event(number, route, rev=rev, time=time))
    headers["ce_id"] = event_id("route", number, str(rev), str(time))
    headers["ce_dataschema"] = ROUTE_SCHEMA
    headers[REV] = str(rev)
    return headers, None if route is None else _encoder.encode(route)


def number_event(number: str, route: Route | None, *, rev: int, time: int) -> Event:
    """The event for `telephony.numbers`: mapped when the number leads to an agent."""
    target = route.targets[0] if route is not None and route.targets else None
    if target is not None:
        kind, reason = EventType.NUMBER_MAPPED, f"mapped to agent {target.agent}"
    elif route is not None:
        kind, reason = EventType.NUMBER_UNMAPPED, "no agent takes its calls"
    else:
        kind, reason = EventType.NUMBER_UNMAPPED, "removed from the mapping"
    return Event(
        id=event_id(kind.value, number, str(rev), str(time)),
        type=kind,
        source="switchboard",
        time=time,
        key=number,
        data=EventData(
            number=number,
            to_number=number,
            agent=target.livekit_agent_name if target is not None else "",
            reason=reason,
        ),
    )
