"""`switchboard call TO`: place a call as the carrier would, and show what happens to it.

Beside a sandbox the stand-in of the number's carrier plays the whole call: webhook, SIP leg,
callbacks. At an instance with real accounts Twilio's signed webhooks are posted to it directly;
there is no SIP leg then, but the agent is really dispatched, so it proves everything up to the
agent's voice. Others' webhooks can't be made here.
"""

import asyncio
from typing import Annotated, Final

import typer

from config import Settings
from router.cli.context import (
    NO,
    UNREACHABLE,
    ConfigOption,
    Target,
    e164,
    fail,
    reported,
    run,
    target_of,
)
from router.cli.data import opened
from router.cli.dial import Dialler, SandboxDialler, Step, WebhookDialler, carrier_of
from router.cli.instance import StandIns
from router.cli.render import console, describe, plain
from router.cli.tail import read
from router.errors import LogUnavailable, StorageError, SwitchboardError
from router.eventlog.base import Follower
from router.eventlog.tail import open_tail
from router.events.model import Decision, Event
from router.events.types import CALLS_TOPIC, EventType
from router.storage.mapping import find_route

_SETTLE: Final = 200_000  # µs that a line waits for earlier ones: they come on several ways
_LINGER: Final = 1.5  # seconds after the carrier is done: the room's end comes last
_QUEUE: Final = 10_000
_ALONE: Final = {
    "telnyx": "Telnyx signs with a key that only Telnyx has",
    "vocode": "Vocode tells of calls that it carries itself",
}
"""Why a provider's webhooks can't be posted by anybody else."""


def call(
    to: Annotated[str, typer.Argument(help="The number to call.")],
    from_: Annotated[str, typer.Option("--from", help="Who calls.")] = "+12125550123",
    hold: Annotated[float, typer.Option(help="Seconds to talk.", min=0.1, max=60)] = 2.0,
    config: ConfigOption = None,
) -> None:
    """Place a test call at the running instance and print its timeline."""
    with reported():
        target = target_of(config)
        dialler = _dialler(target, e164(to), e164(from_), hold)
        timeline = _Timeline(target.settings, dialler)
        if not run(timeline.show()):
            call_id = timeline.call_id
            shown = f", switchboard calls show {call_id[:13]}" if call_id else ""
            raise fail(f"No agent was heard. Why?  switchboard explain {to}{shown}", NO)


def _dialler(target: Target, to: str, from_: str, hold: float) -> Dialler:
    settings, stand_ins = target.settings, target.stand_ins
    provider = run(_provider_of(settings, stand_ins, to))
    if stand_ins is not None and provider in stand_ins.carriers:
        return SandboxDialler(stand_ins, provider, to, from_, hold)
    if provider != "twilio":
        why = _ALONE.get(provider, "nobody else can tell of them")
        raise fail(
            f"{to} is at {provider.title()}, whose calls can't be placed from here: {why}. "
            "Ring the number, and watch the call: switchboard tail",
            NO,
        )
    if settings.providers.twilio.auth_tokens and settings.public_url:
        return WebhookDialler(settings, to, from_, hold)
    raise fail(
        "nothing to call: no sandbox runs here, and the settings name no instance; start "
        "one with `switchboard up --sandbox`, or set public_url and providers.twilio",
        UNREACHABLE,
    )


async def _provider_of(settings: Settings, stand_ins: StandIns | None, number: str) -> str:
    """Where a number is called: at the sandbox's carrier that has it, else where it is mapped.

    Twilio for those that are nowhere.
    """
    try:
        async with opened(settings) as database:
            route = await find_route(database, number)
    except StorageError:  # the call will show whether an instance runs at all
        route = None
    provider = route.provider if route is not None else ""
    if stand_ins is not None:
        provider = await carrier_of(stand_ins, number, provider)
    return provider or "twilio"


class _Timeline:
    """Brings the carrier's steps and the log's events together, in the order of their times.

    The carrier tells its steps by a clock of its own. It is set by what can't be otherwise: the
    webhook is sent before it arrives, and answered after its event was appended.
    """

    def __init__(self, settings: Settings, dialler: Dialler) -> None:
        self._settings = settings
        self._dialler = dialler
        self._carrier: list[Step] = []  # by the carrier's clock, not yet among the lines
        self._shift: int | None = None  # µs from the carrier's clock to ours, once it is known
        self._lines: list[Step] = []  # not yet printed
        self._events: list[tuple[Event, int]] = []  # not yet known whether of this call
        self._arrival: tuple[int, int] | None = None  # of the call's event, and its append
        self._first: int | None = None
        self._decided: Decision | None = None
        self.call_id = ""  # ours, as its first event tells it
        self.heard = False

    async def show(self) -> bool:
        """Print until the call is over; whether an agent was heard."""
        async with open_tail(self._settings, (CALLS_TOPIC,)) as follower:
            await self._read_once(follower)  # its place in the log is before the call
            tasks = [asyncio.create_task(self._read(follower)), asyncio.create_task(self._tick())]
            try:
                async for step in self._dialler.steps():
                    self._carrier.append(step)
                await asyncio.sleep(_LINGER)
            finally:
                for task in tasks:
                    task.cancel()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, SwitchboardError):  # the log failed, and with it the timeline
                raise end
        self._sort_in(at_end=True)
        self._print_until(None)
        return self.heard

    async def _read(self, follower: Follower) -> None:
        while True:
            if not await self._read_once(follower):
                await asyncio.sleep(0.2)

    async def _read_once(self, follower: Follower) -> bool:
        """Take what there is; whether the log could be read."""
        try:
            records = await follower.fetch(limit=500, wait=0.1)
        except LogUnavailable:
            return False
        for record in records:
            event = read(record)
            if event is not None and len(self._events) < _QUEUE:
                self._events.append((event, record.time))
        return True

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            self._sort_in()
            if self._shift is not None and self._lines:
                self._print_until(self._lines[-1].time - _SETTLE)

    def _sort_in(self, *, at_end: bool = False) -> None:
        placed = self._dialler.provider_call_id
        if placed and not self.call_id:
            self.call_id = next(
                (
                    event.call_id
                    for event, _ in self._events
                    if event.type is EventType.CALL_INITIATED
                    and event.data.provider_call_id == placed
                ),
                "",
            )
        ours = self.call_id
        for event, appended_at in self._events if ours else ():
            if event.call_id == ours:
                self.heard |= event.type is EventType.AGENT_READY
                if event.type is EventType.CALL_INITIATED:
                    self._arrival = (event.time, appended_at)
                self._decided = event.data.decision or self._decided
                self._lines += _steps(event, appended_at, self._decided)
        if ours:
            self._events.clear()
        if self._shift is None:
            self._shift = 0 if at_end else self._clock_shift()
        if self._shift is not None:
            self._lines += [step._replace(time=step.time + self._shift) for step in self._carrier]
            self._carrier.clear()
        self._lines.sort(key=lambda step: step.time)

    def _clock_shift(self) -> int | None:
        sent = next((step for step in self._carrier if step.what == "webhook"), None)
        answered = next((step for step in self._carrier if step.what == "answered"), None)
        if sent is None or answered is None or self._arrival is None:
            return None
        arrived_at, appended_at = self._arrival
        least, most = appended_at - answered.time + 1, arrived_at - sent.time - 1
        return min(max(0, least), most)

    def _print_until(self, time: int | None) -> None:
        while self._lines and (time is None or self._lines[0].time <= time):
            step = self._lines.pop(0)
            if self._first is None:
                self._first = step.time
            since = (step.time - self._first) / 1000
            console.print(f"[dim]{since:9.1f} ms[/dim]  {step.what:17} {step.words}")


def _steps(event: Event, appended_at: int, decided: Decision | None) -> list[Step]:
    """An event as lines; the first one also tells how long verifying and deciding took."""
    timing, decision = event.data.timing, event.data.decision
    if event.type is EventType.CALL_INITIATED and decision is not None:
        carrier = event.source.title()
        target = f" → agent {plain(decision.agent)}" if decision.agent else ""
        return [
            Step(event.time + timing.get("verified", 0), "verified", f"signed by {carrier}"),
            Step(
                event.time + timing.get("decided", 0),
                "decided",
                f"{decision.action}{target}: {plain(decision.reason)} "
                f"(table version {decision.table_version})",
            ),
            Step(appended_at, "appended", "the event is on disk"),
        ]
    if event.type is EventType.PROVIDER_UNKNOWN:
        return []  # kept on the log, but nothing that the call depends on
    return [Step(event.time, event.type.value, describe(event, decided))]
