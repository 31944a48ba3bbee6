"""How events, calls and decisions look on a terminal."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from router.events.call import CallRecord, Leg
from router.events.model import Decision, Event
from router.events.types import EventType

_WIDTH: Final = None if sys.stdout.isatty() else 160  # of a pipe: rows are not cut

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

console: Final = Console(highlight=False, soft_wrap=True, width=_WIDTH)
problems: Final = Console(stderr=True, highlight=False, soft_wrap=True)


def plain(text: str) -> str:
    """`text` as it is: neither markup nor terminal codes, which a caller's SIP name can hold."""
    return escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text))


def clock_time(micros: int | None) -> str:
    """`14:03:07.120` UTC, `-` for None."""
    if micros is None:
        return "-"
    return datetime.fromtimestamp(micros / 1_000_000, UTC).strftime("%H:%M:%S.%f")[:-3]


def date_time(micros: int | None) -> str:
    """`2026-03-01 14:03:07` UTC, `-` for None."""
    if micros is None:
        return "-"
    return datetime.fromtimestamp(micros / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def name_of(event: Event) -> str:
    """What happened, in a word; of what our vocabulary has no word for, who told it."""
    return event.source if event.type is EventType.PROVIDER_UNKNOWN else event.type.value


def describe(event: Event, decided: Decision | None = None) -> str:
    """What an event says beyond `name_of`, in a few words; `plain`.

    `decided`: where the event's call was sent, if that is known. The carrier calls it answered also
    when all that the caller heard was the apology.
    """
    data = event.data
    rejected = decided is not None and decided.action == "reject"
    words: list[str] = []
    match event.type:
        case EventType.CALL_INITIATED:
            words.append(f"{data.from_number or 'unknown'} → {data.to_number}")
        case EventType.AGENT_DISPATCHED | EventType.AGENT_JOINED | EventType.AGENT_READY:
            words.append(data.agent)
        case EventType.CALL_ENDED if rejected and data.disposition == "answered":
            words.append("turned away")
        case EventType.CALL_ENDED | EventType.LEG_ENDED if data.disposition:
            words.append(data.disposition)
        case EventType.PROVIDER_UNKNOWN:
            words.append(_word_of(event))
        case _:
            pass
    if data.decision is not None:
        decision = data.decision
        words.append(f"{decision.action}: {decision.reason} (table {decision.table_version})")
    elif data.reason and event.type is not EventType.PROVIDER_UNKNOWN:
        words.append(data.reason)
    if data.duration is not None and not (rejected and data.duration == 0):
        words.append(f"{data.duration:g} s")
    if data.sip_status:
        words.append(f"SIP {data.sip_status}")
    return plain(", ".join(word for word in words if word))


def _word_of(event: Event) -> str:
    """The provider's own word for what our vocabulary has none for: `track_published`."""
    raw = event.data.raw
    places = [place for place in (raw, raw.get("data")) if isinstance(place, Mapping)]
    found = [place.get(name) for place in places for name in ("event_type", "event", "type")]
    words = [word for word in found if isinstance(word, str) and word]
    return words[0] if words else event.data.reason or event.data.status


def timeline(events: Iterable[Event]) -> Table:
    """A call's events with the milliseconds since its first one."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, justify in (("time (UTC)", "left"), ("ms", "right"), ("event", "left"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    first: int | None = None
    decided: Decision | None = None
    for event in events:
        first = event.time if first is None else first
        decided = event.data.decision or decided
        since = f"+{(event.time - first) / 1000:.1f}"
        table.add_row(clock_time(event.time), since, name_of(event), describe(event, decided))
    return table


def leg_table(legs: Iterable[Leg]) -> Table:
    """How each leg of a call ended, a line each."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("leg", "dialled", "ended as", "SIP", "reason", "ended (UTC)"):
        table.add_column(name, no_wrap=True)
    for leg in legs:
        table.add_row(
            plain(f"{leg.provider} {leg.leg_id}"),
            leg.dialled or "-",
            leg.disposition or "-",
            str(leg.sip_status or "-"),
            plain(leg.reason or "-"),
            clock_time(leg.ended_at),
        )
    return table


def call_table(calls: Sequence[CallRecord]) -> Table:
    """A line a call."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("began (UTC)", "from", "to", "agent", "state", "ended as", "seconds", "call"):
        table.add_column(name, no_wrap=True)
    for call in calls:
        table.add_row(
            date_time(call.initiated_at),
            plain(call.from_number or "unknown"),
            plain(call.to_number),
            plain(call.agent or "-"),
            call.state,
            call.disposition or "-",
            f"{call.duration:.1f}" if call.duration is not None else "-",
            call.call_id[:13],
        )
    return table


def facts(pairs: Iterable[tuple[str, object]]) -> Table:
    """Name and value, a line each, `plain`; empty values are left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column()
    for name, value in pairs:
        if value not in (None, ""):
            table.add_row(name, plain(str(value)))
    return table
