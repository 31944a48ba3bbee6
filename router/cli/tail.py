"""`switchboard tail`: events as they reach the log."""

import asyncio
from typing import Annotated

import msgspec
import typer

from config import Settings
from router.cli.context import ConfigOption, JsonOption, reported, run, settings_of
from router.cli.render import clock_time, console, describe, plain, problems
from router.errors import BadPayload, LogUnavailable
from router.eventlog.base import Record
from router.eventlog.tail import open_tail
from router.events import codec
from router.events.model import Event
from router.events.types import CALLS_TOPIC, NUMBERS_TOPIC


def tail(
    call: Annotated[str, typer.Option(help="Only this call (its id or the id's beginning).")] = "",
    back: Annotated[int, typer.Option(help="Begin this many events ago.", min=0)] = 0,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Follow the events; Ctrl-C ends it."""
    with reported():
        try:
            run(_tail(settings_of(config), call, back, json=json))
        except KeyboardInterrupt:
            return


async def _tail(settings: Settings, call: str, back: int, *, json: bool) -> None:
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
                if event is not None and event.call_id.startswith(call):
                    _print(event, json=json)


def read(record: Record) -> Event | None:
    """The event of a record; None for one that can't be read."""
    try:
        return codec.decode(record.key, record.headers, record.value)
    except BadPayload:
        return None


def _print(event: Event, *, json: bool) -> None:
    if json:
        console.print(msgspec.json.encode(event).decode(), markup=False)
        return
    who = plain(event.call_id[:8] or event.key)
    console.print(
        f"[dim]{clock_time(event.time)}[/dim] {who:8} {event.type.value:18} {describe(event)}",
    )
