"""Events about numbers: orders, ports, port-outs and what carriers think of a number.

Their key is the number, so each number of an order gets an event of its own. In most events of a
port Telnyx names no numbers; then the key is the order.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from router.events.ids import event_id
from router.events.model import Event, EventData
from router.events.phone import is_e164
from router.events.types import EventType
from router.providers.telnyx.envelope import PROVIDER, Notice, Payload, items, part, text
from router.providers.telnyx.kinds import Family

_ORDER_ID: Final = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_LISTS: Final = ("phone_numbers", "numbers")


def number_events(notice: Notice, family: Family) -> Sequence[Event]:
    """One event for each number that is named, else one for the order."""
    overall = _status(notice.payload) or notice.name.rpartition(".")[2]
    named = {number: (status, raw) for number, status, raw in _numbers(notice)}
    if not named:
        identity = event_id(PROVIDER, notice.id)
        return [_event(notice, family, identity, overall, notice.raw)]
    return [
        _event(
            notice, family, event_id(PROVIDER, notice.id, number), status or overall, raw, number
        )
        for number, (status, raw) in named.items()
    ]


def _event(
    notice: Notice, family: Family, identity: str, status: str, raw: Payload, number: str = ""
) -> Event:
    order = _order_id(notice.payload)
    return Event(
        id=identity,
        type=_type(family, status),
        source=PROVIDER,
        time=notice.time,
        key=number or order or identity,
        data=EventData(
            number=number,
            order_id=order,
            status=status,
            reason=text(notice.payload, "rejection_reason", "flag_reason", "removal_reason"),
            raw=raw,
        ),
    )


def _type(family: Family, status: str) -> EventType:
    if status in family.successes:
        return family.completed
    return family.failed if status in family.failures else family.changed


def _status(payload: Payload) -> str:
    """Text, or of ports `{"value", "details"}`."""
    own = text(payload, "status", "order_status")
    return own or text(part(payload, "status"), "value")


def _order_id(payload: Payload) -> str:
    """The order's; the `id` of a comment is the comment's own."""
    found = text(payload, "order_id", "porting_order_id", "portout_id", "id")
    found = found or text(part(payload, "from"), "id")  # of a port that was split
    return found if _ORDER_ID.fullmatch(found) else ""


def _numbers(notice: Notice) -> Iterator[tuple[str, str, Payload]]:
    """Each number in E.164, its own status ("" where it has none), and what was said of it.

    An order can have a thousand numbers: each event keeps the payload with its own number alone.
    """
    payload, kept = notice.payload, part(notice.raw, "payload")
    for name in _LISTS:
        for item in items(payload, name):
            known: Mapping[str, Any] = item if isinstance(item, Mapping) else {"value": item}
            number = text(known, "phone_number", "value")
            if is_e164(number):
                raw = {**notice.raw, "payload": {**kept, name: [item]}}
                yield number, text(known, "status"), raw
    single = text(payload, "phone_number")
    if is_e164(single):
        yield single, "", notice.raw
