"""`switchboard tail`: events as they reach the log."""

import asyncio
from collections import OrderedDict
from typing import Annotated, Final

import msgspec
import typer

from config import Settings
from router.cli.context import ConfigOption, JsonOption, reported, run, settings_of
from router.cli.render import clock_time, console, describe, name_of, plain, problems
from router.errors import BadPayload, LogUnavailable
from router.eventlog.base import Record
from router.eventlog.tail import open_tail
from router.events import codec
from router.events.model import Decision, Event
from router.events.types import CALLS_TOPIC, NUMBERS_TOPIC

_CALLS: Final = 10_000  # whose decision is remembered, to tell their end by it


def tail(
    call: Annotated[str, typer.Option(help="Only this call (its id or the id's beginning).")] = "",
    back: Annotated[int, typer.Option(help="Begin this many events ago.", min=0)] = 0,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Follow the events; Ctrl-C ends it."""
    with reported():
        run(_tail(settings_of(config), call, back, json=json))


async def _tail(settings: Settings, call: str, back: int, *, json: bool) -> None:
    decided: OrderedDict[str, Decision] = OrderedDict()  # by call, of the newest ones
    async with open_tail(settings, (CALLS_TOPIC, NUMBERS_TOPIC), last=back) as follower:
        while True:
            try:
                records = await follower.fetch(limit=200, wait=0.5)
            except LogUnavailable as error:
                problems.print(f"[dim]{plain(str(error))}; trying again[/dim]")
                await asyncio.sleep(1.0)
                continue
            for record in records:
                event = read(record)
                if event is None:
                    continue
                if event.data.decision is not None:
                    decided[event.call_id] = event.data.decision
                    if len(decided) > _CALLS:
                        decided.popitem(last=False)
                if event.call_id.startswith(call):
                    _print(event, decided.get(event.call_id), json=json)


def read(record: Record) -> Event | None:
    """The event of a record; None for one that can't be read."""
    try:
        return codec.decode(record.key, record.headers, record.value)
    except BadPayload:
        return None


def _print(event: Event, decided: Decision | None, *, json: bool) -> None:
    if json:
        console.print(msgspec.json.encode(event).decode(), markup=False)
        return
    who = plain(event.call_id[:8] or event.key)
    console.print(
        f"[dim]{clock_time(event.time)}[/dim] {who:8} {name_of(event):18} "
        f"{describe(event, decided)}",
    )
