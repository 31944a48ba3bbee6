"""Telephones that `<Number>` reaches in the sandbox."""

from dataclasses import dataclass
from typing import Final, Literal

from router.clock import Clock
from router.sandbox.sip import Leg
from router.sandbox.tasks import Tasks, happens_within

_BUSY: Final = 486
_UNAVAILABLE: Final = 503


@dataclass(frozen=True, slots=True, kw_only=True)
class Phone:
    """What a telephone does with a call; `rings` seconds before it answers."""

    behaviour: Literal["answers", "busy", "no-answer", "failed"] = "answers"
    rings: float = 0.0


def dial(phone: Phone, clock: Clock, tasks: Tasks) -> Leg:
    """Call the telephone; returns at once."""
    leg = Leg()
    tasks.spawn(_behave(phone, leg, clock))
    return leg


async def _behave(phone: Phone, leg: Leg, clock: Clock) -> None:
    match phone.behaviour:
        case "busy":
            leg.refuse(_BUSY)
        case "failed":
            leg.refuse(_UNAVAILABLE)
        case "no-answer":
            leg.ring()
        case "answers":
            leg.ring()
            if await happens_within(clock, phone.rings, leg.ended()):
                return
            leg.answer()
