"""A call: the caller's leg, the legs that were dialled for it, and all that happened.

Legs of one call share the `call_session_id`; each has its own `call_control_id`, by which commands
name it. `parked → answered → bridged → hangup` is the caller's, `bridging → …` a dialled one's.
"""

import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from router.clock import Clock
from router.sandbox.call import Step
from router.sandbox.sip import Leg
from router.sandbox.tasks import Signal
from router.sandbox.telnyx.bodies import Header

State = Literal["parked", "bridging", "answered", "bridged", "hangup"]
CONNECTION_ID: Final = "2811212257810187875"  # of the application that is there from the start
_MAX_STEPS: Final = 2000


@dataclass(slots=True, kw_only=True)
class CallLeg:
    """One leg, as Telnyx has it. Times in µs since the epoch."""

    session_id: str
    direction: Literal["incoming", "outgoing"]
    to: str
    from_: str
    state: State
    started_at: int
    connection_id: str = CONNECTION_ID
    client_state: str | None = None
    custom_headers: Sequence[Header] = ()
    control_id: str = field(default_factory=lambda: "v3:" + secrets.token_urlsafe(40))
    leg_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    answered_at: int | None = None
    ended_at: int | None = None
    sip: Leg | None = None  # of a dialled one
    commands: dict[str, float] = field(default_factory=dict)  # command_id → monotonic seconds

    @property
    def is_alive(self) -> bool:
        """Whether it takes commands."""
        return self.state != "hangup"

    @property
    def duration(self) -> int:
        """Seconds from the answer to the end, a begun one whole; 0 where one of them was not."""
        if self.answered_at is None or self.ended_at is None:
            return 0
        return -((self.answered_at - self.ended_at) // 1_000_000)


class Call:
    """A call and its transcript. Made by `TelnyxStandIn.place_call`."""

    def __init__(
        self,
        to: str,
        from_: str,
        headers: Mapping[str, str],
        clock: Clock,
        *,
        is_texml: bool,
        connection_id: str = CONNECTION_ID,
    ) -> None:
        self.session_id = str(uuid.uuid4())
        self.is_texml = is_texml  # else Call Control
        self.to, self.from_ = to, from_
        self.caller = CallLeg(
            session_id=self.session_id,
            direction="incoming",
            to=to,
            from_=from_,
            state="parked",
            started_at=clock.now(),
            connection_id=connection_id,
            custom_headers=[Header(name, value) for name, value in headers.items()],
        )
        self.dialled: list[CallLeg] = []
        self.partner: CallLeg | None = None  # whom the caller is bridged to
        self.is_ended = False  # and all of its webhooks were sent, or tried
        self.said: list[str] = []  # what the caller heard
        self.changed = Signal()
        self.started_at = clock.monotonic()
        self._clock = clock
        self._steps: list[Step] = []

    @property
    def sid(self) -> str:
        """What its webhooks name it by: the control id of the caller's leg, TeXML's `CallSid`."""
        return self.caller.control_id

    @property
    def status(self) -> State:
        """The state of the caller's leg."""
        return self.caller.state

    @property
    def steps(self) -> Sequence[Step]:
        """The transcript, oldest first."""
        return list(self._steps)

    def whats(self) -> Sequence[str]:
        """What happened, without the details."""
        return [step.what for step in self._steps]

    def step(self, what: str, **detail: str | int | float) -> None:
        """Add to the transcript, unless it is full."""
        if len(self._steps) < _MAX_STEPS:
            self._steps.append(Step(self._clock.monotonic(), what, detail))
        self.changed.fire()

    def say(self, text: str) -> None:
        """The caller hears a text."""
        self.said.append(text)
        self.step("said", text=text)

    def end(self) -> None:
        """It is over."""
        self.is_ended = True
        self.step("call.ended")

    async def answered(self) -> bool:
        """Wait until the caller is talking to somebody. False when the call ended without."""
        await self.changed.until(
            lambda: self.caller.answered_at is not None or not self.caller.is_alive
        )
        return self.caller.answered_at is not None

    async def ended(self) -> None:
        """Wait until the call is over and each of its webhooks was tried."""
        await self.changed.until(lambda: self.is_ended)
