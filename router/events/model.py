"""The event: CloudEvents 1.0 attributes and our data. Pure values, no I/O.

Times are integer microseconds since the Unix epoch, UTC, everywhere inside; RFC 3339 only on the
wire (`router.events.codec`).
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from router.events.types import EventType

Direction = Literal["inbound", "outbound"]
Disposition = Literal["answered", "forwarded", "busy", "no_answer", "failed", "canceled", "lost"]


class Decision(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Where a call goes and why; the answer and the dispatch are functions of it alone."""

    action: Literal["dispatch", "forward", "reject"]
    reason: str  # for people: "number is mapped to agent anna"
    table_version: int  # the route table that decided
    agent: str = ""  # our name of the agent
    livekit_agent_name: str = ""
    metadata: Mapping[str, Any] = {}  # the agent's own, given to its job
    fallback: str = ""  # E.164 number for when no agent comes


class EventData(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What all providers' events have in common; absent facts are empty."""

    call_id: str = ""
    provider_call_id: str = ""
    account: str = ""  # the provider's account id
    direction: Direction | None = None
    from_number: str = ""  # as the carrier sent it: E.164, `anonymous`, or a SIP user
    to_number: str = ""
    leg_id: str = ""  # the provider's id of a child leg, a participant's sid
    stage: Literal["", "agent", "fallback"] = ""  # the dial whose end the carrier asks about
    agent: str = ""  # LiveKit agent_name
    disposition: Disposition | None = None
    sip_status: int = 0  # SIP response code where one is known
    duration: float | None = None  # seconds, as the provider measured
    reason: str = ""  # for people
    decision: Decision | None = None
    timing: Mapping[str, int] = {}  # step → µs since the webhook's first byte was read
    raw: Mapping[str, Any] = {}  # the provider's payload, without secrets


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened. `id` is stable across redeliveries; `key` orders it in its topic."""

    id: str
    type: EventType
    source: str  # the provider, or "switchboard"
    time: int  # µs since epoch, when it happened, as far as the source says
    key: str  # call_id or E.164 number
    data: EventData

    @property
    def call_id(self) -> str:
        """Our id of the call, empty for events that are not about one."""
        return self.data.call_id
