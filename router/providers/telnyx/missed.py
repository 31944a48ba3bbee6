"""What Telnyx could not deliver to us: events of the time when nobody answered its webhooks.

Two lists are read, both with the event as it would have been posted:
- GET /webhook_deliveries: every webhook whose attempts all failed.
- GET /call_events: the log of calls, of the last 24 hours only. Its `metadata` "includes raw event"
  (that is all its documentation says), and nothing else in it has the event's id. Where the event
  is not found there whole, it is left out: without its id it could not be told from one we have.

An event that reached us after all has the same id here, so it does no harm.
What neither list has: webhooks of TeXML applications, which are requests for a document and not
events, and events of the messaging and fax products.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import count
from typing import Any, Final

import msgspec

from router.clock import Clock
from router.errors import Ambiguous, BadPayload, EffectError, Permanent
from router.events.codec import to_rfc3339
from router.events.model import Event
from router.observability import log
from router.providers.telnyx.events import parse_event
from router.rest import Rest

logger = log.get(__name__)

_PAGE_SIZE: Final = 250
_MAX_PAGES: Final = 40  # of each list: 10,000 events, an outage of hours
_EVENT_KEYS: Final = frozenset({"id", "event_type", "payload"})

Item = Mapping[str, Any]


class _Meta(msgspec.Struct):
    total_pages: int = 1


class _Page(msgspec.Struct):
    data: list[dict[str, Any]]
    meta: _Meta = msgspec.field(default_factory=_Meta)


async def missed(
    rest: Rest, clock: Clock, since: int, *, rooms: bool = True
) -> AsyncIterator[Event]:
    """The events since a time (µs since epoch), each once, undecided, the oldest first.

    `rooms`: see `parse_event`.

    Telnyx promises no order, and an end that is read before its beginning would start an agent for
    a caller who is gone.

    Raises:
        EffectError: a list could not be read to its end; after what was found. Permanent only
            where asking again would bring nothing from the other list either.
    """
    found = _Found(rooms=rooms)
    failure: EffectError | None = None
    for path, query, data_in in _lists(to_rfc3339(since)):
        try:
            async for item in _listed(rest, path, query):
                found.take(data_in(item), clock.now())
        except EffectError as error:
            if failure is None or isinstance(failure, Permanent):
                failure = error
    for why, events in found.unreadable.items():
        logger.warning("telnyx.missed_unreadable", why=why, events=events)
    for event in sorted(found.events.values(), key=lambda event: event.time):
        yield event
    if failure is not None:
        raise failure


def _lists(start: str) -> Sequence[tuple[str, Mapping[str, str], Callable[[Item], object]]]:
    """The lists: path, filters, and where in an item the event is."""
    return (
        (
            "/webhook_deliveries",
            {"filter[status][eq]": "failed", "filter[started_at][gte]": start},
            lambda item: item.get("webhook"),
        ),
        (
            "/call_events",
            {
                "filter[type]": "webhook",
                "filter[failed]": "true",
                "filter[occurred_at][gte]": start,
            },
            lambda item: _whole(item.get("metadata")),
        ),
    )


async def _listed(rest: Rest, path: str, query: Mapping[str, str]) -> AsyncIterator[Item]:
    for number in count(1):
        paging = {"page[number]": str(number), "page[size]": str(_PAGE_SIZE)}
        page = _page(await rest.get(path, {**query, **paging}))
        for found in page.data:
            yield found
        if number >= page.meta.total_pages or not page.data:
            return
        if number == _MAX_PAGES:
            logger.warning("telnyx.missed_too_many", list=path, read=_MAX_PAGES * _PAGE_SIZE)
            return


def _page(found: Any) -> _Page:
    try:
        return msgspec.convert(found, _Page)
    except msgspec.ValidationError as error:
        raise Ambiguous("Telnyx answered a list that can't be read") from error


class _Found:
    """What the lists hold. What we refused when it was posted is in them too, perhaps by the day:
    it must not hide the events behind it, nor be a line in the log each.
    """

    def __init__(self, *, rooms: bool = True) -> None:
        self._rooms = rooms
        self.events: dict[str, Event] = {}  # by id
        self.unreadable: Counter[str] = Counter()  # why → how many

    def take(self, data: object, received_at: int) -> None:
        """Keep the events in the `data` of a webhook, if it is one."""
        if not isinstance(data, Mapping):
            return
        try:
            events = parse_event(data, received_at, rooms=self._rooms)
        except BadPayload as error:
            self.unreadable[str(error)] += 1
        else:
            self.events.update((event.id, event) for event in events)


def _whole(metadata: object) -> Item | None:
    """The event in the metadata of a call event."""
    if not isinstance(metadata, Mapping):
        return None
    inside = (value for value in metadata.values() if isinstance(value, Mapping))
    return next((each for each in (metadata, *inside) if each.keys() >= _EVENT_KEYS), None)
