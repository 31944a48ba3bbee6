"""`switchboard call TO`: place a call as the carrier would, and show what happens to it.

Beside a sandbox its Twilio stand-in plays the whole call: webhook, SIP leg, callbacks. At an
instance with real accounts the signed webhooks are posted to it directly; there is no SIP leg then,
but the agent is really dispatched, so it proves everything up to the agent's voice.
"""

import asyncio
from collections.abc import Iterable
from typing import Annotated, Final

import typer

from config import Settings, load
from router.cli import marker
from router.cli.context import NO, UNREACHABLE, ConfigOption, e164, fail, reported, run, settings_of
from router.cli.dial import BoxDialler, Dialler, NotReachable, Step, WebhookDialler
from router.cli.render import console, describe
from router.cli.tail import read
from router.errors import LogUnavailable
from router.eventlog.base import Follower
from router.eventlog.tail import open_tail
from router.events.ids import call_id
from router.events.model import Event
from router.events.types import CALLS_TOPIC, EventType

_SETTLE: Final = 200_000  # µs that a line waits for earlier ones: they come on several ways
_LINGER: Final = 1.5  # seconds after the carrier is done: the room's end comes last
_QUEUE: Final = 10_000


def call(
    to: Annotated[str, typer.Argument(help="The number to call.")],
    from_: Annotated[str, typer.Option("--from", help="Who calls.")] = "+12125550123",
    hold: Annotated[float, typer.Option(help="Seconds to talk.", min=0.1, max=60)] = 2.0,
    config: ConfigOption = None,
) -> None:
    """Place a test call at the running instance and print its timeline."""
    with reported():
        box = marker.read(load(config).data_dir)
        settings = settings_of(config)
        dialler: Dialler
        if box is not None:
            dialler = BoxDialler(box, e164(to), e164(from_), hold)
        elif settings.providers.twilio.auth_tokens and settings.public_url:
            dialler = WebhookDialler(settings, e164(to), e164(from_), hold)
        else:
            raise fail(
                "nothing to call: start the sandbox with `make run`, or say in the settings where "
                "your instance is",
                UNREACHABLE,
            )
        try:
            heard = run(_Timeline(settings, dialler).show())
        except NotReachable as error:
            raise fail(str(error), UNREACHABLE) from error
        if not heard:
            raise fail(f"No agent was heard. Why?  switchboard explain {to}", NO)


class _Timeline:
    """Brings the carrier's steps and the log's events together, in the order of their times."""

    def __init__(self, settings: Settings, dialler: Dialler) -> None:
        self._settings = settings
        self._dialler = dialler
        self._lines: list[Step] = []  # not yet printed
        self._events: list[tuple[Event, int]] = []  # not yet known whether of this call
        self._newest = 0
        self._first = 0
        self.heard = False

    async def show(self) -> bool:
        """Print until the call is over; whether an agent was heard."""
        async with open_tail(self._settings, (CALLS_TOPIC,)) as follower:
            reading = asyncio.create_task(self._read(follower))
            printing = asyncio.create_task(self._print_settled())
            try:
                async for step in self._dialler.steps():
                    self._add([step])
                await asyncio.sleep(_LINGER)
            finally:
                reading.cancel()
                printing.cancel()
            self._flush(self._newest)
        return self.heard

    async def _read(self, follower: Follower) -> None:
        while True:
            try:
                records = await follower.fetch(limit=500, wait=0.1)
            except LogUnavailable:
                await asyncio.sleep(0.2)
                continue
            for record in records:
                event = read(record)
                if event is not None and len(self._events) < _QUEUE:
                    self._events.append((event, record.time))

    async def _print_settled(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            self._flush(self._newest - _SETTLE)

    def _flush(self, until: int) -> None:
        ours = self._call_id()
        if ours:
            mine = [pair for pair in self._events if pair[0].call_id == ours]
            self._events.clear()
            for event, appended_at in mine:
                self.heard |= event.type is EventType.AGENT_READY
                self._add(_steps(event, appended_at))
        self._lines.sort()
        while self._lines and self._lines[0].time <= until:
            self._print(self._lines.pop(0))

    def _add(self, steps: Iterable[Step]) -> None:
        for step in steps:
            self._lines.append(step)
            self._newest = max(self._newest, step.time)

    def _print(self, step: Step) -> None:
        self._first = self._first or step.time
        since = (step.time - self._first) / 1000
        console.print(f"[dim]{since:9.1f} ms[/dim]  {step.what:17} {step.words}")

    def _call_id(self) -> str:
        account = self._settings.providers.twilio.account_sid
        sid = self._dialler.call_sid
        return call_id("twilio", account, sid) if sid else ""


def _steps(event: Event, appended_at: int) -> list[Step]:
    """An event as lines; the first one also tells how long verifying and deciding took."""
    timing, decision = event.data.timing, event.data.decision
    if event.type is EventType.CALL_INITIATED and decision is not None:
        target = f" → agent {decision.agent}" if decision.agent else ""
        return [
            Step(event.time + timing.get("verified", 0), "verified", "signed by Twilio"),
            Step(
                event.time + timing.get("decided", 0),
                "decided",
                f"{decision.action}{target}: {decision.reason} "
                f"(table version {decision.table_version})",
            ),
            Step(appended_at, "appended", "the event is on disk"),
        ]
    if event.type is EventType.PROVIDER_UNKNOWN:
        return []  # kept on the log, but nothing that the call depends on
    return [Step(event.time, event.type.value, describe(event))]
