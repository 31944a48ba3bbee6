"""What was sent and commanded, as Telnyx lists it: /webhook_deliveries and /call_events.

Filters and pages as in the OpenAPI; a filter that the sandbox has not is refused, never ignored.
Where a call event's `metadata` "includes raw event" is not documented: here under `raw_event`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from router.clock import Clock
from router.events.codec import from_rfc3339, to_rfc3339
from router.sandbox.telnyx.call import CallLeg
from router.sandbox.telnyx.delivery import Attempt, Delivery
from router.sandbox.telnyx.errors import INVALID, ApiError

_REMEMBERED: Final = 10_000
_DEFAULT_PAGE: Final = 20
_MAX_PAGE: Final = 250
_DAY: Final = 24 * 3600 * 1_000_000  # µs that call events are listed for, without their leg
_FAILED: Final = 75499  # error code of an attempt, from the documentation's example

Item = Mapping[str, Any]
Filter = Callable[[Item, str], bool]
"""Whether an item passes the filter of that value. Raises ValueError for one it can't read."""


def _at(key: str, is_right: Callable[[int, int], bool]) -> Filter:
    return lambda item, value: is_right(from_rfc3339(item[key]), from_rfc3339(value))


_DELIVERY_FILTERS: Final[Mapping[str, Filter]] = {
    "filter[status][eq]": lambda item, value: item["status"] == value,
    "filter[event_type]": lambda item, value: item["webhook"]["event_type"] in value.split(","),
    "filter[started_at][gte]": _at("started_at", lambda moment, bound: moment >= bound),
    "filter[started_at][lte]": _at("started_at", lambda moment, bound: moment <= bound),
}
_EVENT_FILTERS: Final[Mapping[str, Filter]] = {
    "filter[type]": lambda item, value: item["type"] == value,
    "filter[failed]": lambda item, value: (
        str(item["metadata"].get("failed", False)).lower() == value
    ),
    "filter[leg_id]": lambda item, value: item["call_leg_id"] == value,
    "filter[application_session_id]": lambda item, value: item["call_session_id"] == value,
    "filter[occurred_at][gte]": _at("event_timestamp", lambda moment, bound: moment >= bound),
}


class History:
    """Reads the deliveries that others write, and keeps the commands."""

    def __init__(self, deliveries: Sequence[Delivery], clock: Clock) -> None:
        self._deliveries = deliveries
        self._clock = clock
        self._commands: deque[Item] = deque(maxlen=_REMEMBERED)

    def command(self, leg: CallLeg, action: str, now: int) -> None:
        """A command was taken; `now` in µs since the epoch."""
        self._commands.append(
            {
                "record_type": "call_event",
                "type": "command",
                "name": action,
                "call_leg_id": leg.leg_id,
                "call_session_id": leg.session_id,
                "event_timestamp": to_rfc3339(now),
                "metadata": {},
            }
        )

    def deliveries(self, query: Mapping[str, str]) -> Item:
        """The answer to GET /webhook_deliveries: those that are no longer tried, newest first.

        Raises:
            ApiError: a parameter is unknown or unreadable.
        """
        over = [_delivery(each) for each in reversed(self._deliveries) if each.status]
        return page(over, query, _DELIVERY_FILTERS)

    def events(self, query: Mapping[str, str]) -> Item:
        """The answer to GET /call_events, oldest first.

        Raises:
            ApiError: a parameter is unknown or unreadable.
        """
        known = [*self._commands, *map(_webhook, self._deliveries)]
        if not {"filter[leg_id]", "filter[application_session_id]"} & query.keys():
            bound = self._clock.now() - _DAY
            known = [each for each in known if from_rfc3339(each["event_timestamp"]) >= bound]
        known.sort(key=lambda each: str(each["event_timestamp"]))
        return page(known, query, _EVENT_FILTERS)


def page(items: Iterable[Item], query: Mapping[str, str], filters: Mapping[str, Filter]) -> Item:
    """The items that pass the query's filters, the page of them that it asks for.

    Raises:
        ApiError: a parameter is unknown or unreadable.
    """
    paging = {"page[number]", "page[size]"}
    unknown = query.keys() - filters.keys() - paging
    if unknown:
        raise ApiError(INVALID, f"the sandbox has no parameter {sorted(unknown)[0]}")
    try:
        number = int(query.get("page[number]", "1"))
        size = int(query.get("page[size]", _DEFAULT_PAGE))
        asked = [(filters[name], value) for name, value in query.items() if name in filters]
        found = [item for item in items if all(passes(item, value) for passes, value in asked)]
    except ValueError as error:
        raise ApiError(INVALID, "a parameter can't be read") from error
    if number < 1 or not 1 <= size <= _MAX_PAGE:
        raise ApiError(INVALID, f"a page has 1 to {_MAX_PAGE} items; the first is number 1")
    return {
        "data": found[(number - 1) * size : number * size],
        "meta": {
            "total_pages": -(-len(found) // size),
            "total_results": len(found),
            "page_number": number,
            "page_size": size,
        },
    }


def _delivery(delivery: Delivery) -> Item:
    return {
        "id": delivery.id,
        "user_id": "0ccc7b54-4df3-4bca-a65a-3da1ecc777f0",
        "record_type": "webhook_delivery",
        "status": delivery.status,
        "webhook": delivery.event,
        "started_at": to_rfc3339(delivery.started_at),
        "finished_at": to_rfc3339(delivery.attempts[-1].finished_at),
        "attempts": [_attempt(each) for each in reversed(delivery.attempts)],
    }


def _attempt(attempt: Attempt) -> Item:
    shown: dict[str, Any] = {
        "status": "delivered" if attempt.ok else "failed",
        "started_at": to_rfc3339(attempt.started_at),
        "finished_at": to_rfc3339(attempt.finished_at),
        "http": {"request": {"url": attempt.url, "headers": [["Accept", "*/*"]]}},
    }
    if attempt.status:
        shown["http"]["response"] = {"status": attempt.status, "headers": [], "body": ""}
    if not attempt.ok:
        shown["errors"] = [_FAILED]
    return shown


def _webhook(delivery: Delivery) -> Item:
    event = delivery.event
    return {
        "record_type": "call_event",
        "type": "webhook",
        "name": event["event_type"],
        "call_leg_id": event["payload"]["call_leg_id"],
        "call_session_id": event["payload"]["call_session_id"],
        "event_timestamp": event["occurred_at"],
        "metadata": {"raw_event": event, "failed": delivery.status == "failed"},
    }
