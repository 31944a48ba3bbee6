"""Events of calls for tests, short to write."""

from collections.abc import Sequence
from typing import Any

from consumers.calls import plan
from router.events.call import CallRecord
from router.events.ids import call_id, event_id
from router.events.model import Decision, Event, EventData
from router.events.types import EventType
from tests.support.fake_time import START

FROM, TO = "+14155550100", "+14155550199"


def dispatch_decision(agent: str = "anna") -> Decision:
    """The number is mapped to `agent`."""
    return Decision(
        action="dispatch",
        reason=f"the number is mapped to {agent}",
        table_version=3,
        agent=agent,
        livekit_agent_name=f"lk-{agent}",
        metadata={"greeting": "hello"},
        fallback="+14155550111",
    )


def new_call(name: str) -> str:
    """The call_id of a Twilio call."""
    return call_id("twilio", "AC1", f"CA-{name}")


def initiated(call: str, at: float = 0.0, decision: Decision | None = None) -> Event:
    """`call.initiated`, `at` seconds after `START`."""
    return Event(
        id=event_id("twilio", "AC1", call, "initiated"),
        type=EventType.CALL_INITIATED,
        source="twilio",
        time=START + round(at * 1_000_000),
        key=call,
        data=EventData(
            call_id=call,
            provider_call_id=f"CA-{call}",
            provider_account="AC1",
            direction="inbound",
            from_number=FROM,
            to_number=TO,
            decision=decision or dispatch_decision(),
        ),
    )


def event(call: str, kind: EventType, at: float, source: str = "twilio", **data: Any) -> Event:
    """Another event of the call, `at` seconds after `START`."""
    return Event(
        id=event_id(source, call, kind.value, str(at)),
        type=kind,
        source=source,
        time=START + round(at * 1_000_000),
        key=call,
        data=EventData(call_id=call, **data),
    )


def fold(events: Sequence[Event]) -> CallRecord:
    """The record of a call that is one."""
    record = plan.fold(events)
    if record is None:
        raise AssertionError("somebody phones, so there is a record")
    return record
