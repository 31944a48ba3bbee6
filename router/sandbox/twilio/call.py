"""One inbound call: what it is now, and everything that happened to it.

`ringing → in-progress → completed`, or from `ringing` straight to `no-answer` or `busy` when nobody
took it. The caller's hang-up and a change through the REST API interrupt what the call is doing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from router.clock import Clock
from router.sandbox.call import Step
from router.sandbox.sip import Leg
from router.sandbox.tasks import Signal, happens_within

Status = Literal["ringing", "in-progress", "completed", "busy", "no-answer"]
_MAX_STEPS: Final = 2000


@dataclass(frozen=True, slots=True)
class Source:
    """Where the next document is: a URL to request with `params` added, or the document itself."""

    url: str
    method: str = "POST"
    params: Mapping[str, str] = field(default_factory=dict)
    document: bytes | None = None


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Leave what the call is doing; `source` None: the call is over."""

    source: Source | None


class Call:
    """A call and its transcript. Made by `TwilioStandIn.place_call`."""

    def __init__(
        self,
        sid: str,
        account_sid: str,
        to: str,
        from_: str,
        extra: Mapping[str, str],
        clock: Clock,
    ) -> None:
        self.sid, self.account_sid = sid, account_sid
        self.to, self.from_, self.extra = to, from_, dict(extra)
        self.status: Status = "ringing"
        self.is_ended = False
        self.started_at = clock.monotonic()
        self.start_time = clock.now()  # µs since the epoch
        self.end_time: int | None = None
        self.answered_at: float | None = None
        self.interrupt: Interrupt | None = None
        self.leg: Leg | None = None  # who is being dialled or talked to
        self.twiml: list[str] = []  # the documents that were followed
        self.bodies: list[str] = []  # every answer to a voice webhook, copies too
        self.changed = Signal()
        self._clock = clock
        self._ended_at: float | None = None
        self._steps: list[Step] = []

    @property
    def steps(self) -> Sequence[Step]:
        """The transcript, oldest first."""
        return list(self._steps)

    @property
    def duration(self) -> int:
        """Whole seconds from the answer until now or the end, 0 without an answer."""
        until = self._clock.monotonic() if self._ended_at is None else self._ended_at
        return 0 if self.answered_at is None else round(until - self.answered_at)

    def whats(self) -> Sequence[str]:
        """What happened, without the details."""
        return [step.what for step in self._steps]

    def step(self, what: str, **detail: str | int | float) -> None:
        """Add to the transcript, unless it is full."""
        if len(self._steps) < _MAX_STEPS:
            self._steps.append(Step(self._clock.monotonic(), what, detail))
        self.changed.fire()

    def answer(self) -> None:
        """The caller hears something other than ringing; nothing new when it did already."""
        if self.status == "ringing":
            self.status = "in-progress"
            self.answered_at = self._clock.monotonic()
            self.step("call.answered")

    def hangup(self) -> None:
        """The caller hangs up."""
        if not self.is_ended and self.interrupt != Interrupt(None):
            self.step("caller.hung_up")
            self.leave(None)

    def leave(self, source: Source | None) -> None:
        """Interrupt the call and go on with `source`, or end it. An end can't be taken back."""
        if self.interrupt is None or self.interrupt.source is not None:
            self.interrupt = Interrupt(source)
            if self.leg is not None:
                self.leg.hangup()
            self.changed.fire()

    async def pause(self, seconds: float) -> None:
        """Wait, unless the call is interrupted."""
        interrupted = self.changed.until(lambda: self.interrupt is not None)
        await happens_within(self._clock, seconds, interrupted)

    def end(self, status: Status) -> None:
        """It is over; everything was sent."""
        self.status, self.is_ended = status, True
        self._ended_at, self.end_time = self._clock.monotonic(), self._clock.now()
        self.step("call.ended", status=status)

    async def answered(self) -> bool:
        """Wait for the answer. False when the call ended without one."""
        await self.changed.until(lambda: self.answered_at is not None or self.is_ended)
        return self.answered_at is not None

    async def ended(self) -> Status:
        """Wait until the call is over and its callbacks were sent; returns the final status."""
        await self.changed.until(lambda: self.is_ended)
        return self.status
