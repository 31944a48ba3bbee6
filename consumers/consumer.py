"""What a consumer is: a handler of events that answers with a value, and its own background work.

A handler is called again for an event that it has seen (at least once, `router.eventlog.base`), so
its effects must be fenced. Its answer says what happens to the event next:

| answer    | then                                                                                |
|-----------|-------------------------------------------------------------------------------------|
| `Done`    | the event may be committed                                                          |
| `RetryIn` | handled again after the pause, however often; later events of its key wait          |
| `GiveUp`  | to the dead topic, with the reason                                                  |

`Transient`, `Ambiguous`, `StorageUnavailable` and `LogUnavailable` may be raised instead of
answering `RetryIn`, the runner then picks the pause (`consumers.attempts`); `Permanent` gives up.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from config.settings import Role
from router.events.model import Event
from router.resources import Resources


@dataclass(frozen=True, slots=True)
class Done:
    """Handled, or nothing to do."""


@dataclass(frozen=True, slots=True)
class RetryIn:
    """Not now. `reason` is a constant text, without facts of the call."""

    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It will never work. `reason` is a constant text, without facts of the call."""

    reason: str


Outcome = Done | RetryIn | GiveUp


class Consumer(Protocol):
    """Acts on the events of its topics."""

    async def handle(self, event: Event) -> Outcome:
        """Act on one event. Events of one key come one after the other, others meanwhile."""

    def foresee(self, event: Event) -> None:
        """An event was read that is to be handled in its turn: others of its key may be before."""
        del event

    def is_urgent(self, event: Event) -> bool:
        """Whether somebody waits for it: such events go first, the newest of them at once."""
        del event
        return False

    async def run(self) -> None:
        """The consumer's own background work, if any; started once, ended by cancelling it."""


@dataclass(frozen=True, slots=True)
class ConsumerSpec:
    """What a consumer's folder exports as `CONSUMER`."""

    name: str
    role: Role
    topics: Sequence[str]
    takeover: (
        bool  # whether it also acts on events that Kafka did not take (`kafka.takeover_after`)
    )
    retry_for: float  # seconds that an event is tried for whose handler has a fault; then: dead
    open: Callable[[Resources], AbstractAsyncContextManager[Consumer]]

    @property
    def group(self) -> str:
        """Its group in the log."""
        return f"switchboard.{self.name}"
