"""The event: CloudEvents 1.0 attributes and our data. Pure values, no I/O.

Times are integer microseconds since the Unix epoch, UTC, everywhere inside; RFC 3339 only on the
wire (`router.events.codec`).
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from router.events.phone import Channel
from router.events.types import EventType

Direction = Literal["inbound", "outbound"]
Stage = Literal["", "route", "agent", "fallback"]
"""What the carrier asks: where a call goes; what comes after the agent's, the fallback's dial."""
Disposition = Literal["answered", "forwarded", "busy", "no_answer", "failed", "canceled", "lost"]


class Decision(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Where a call goes and why; the answer and the dispatch are functions of it alone."""

    action: Literal["dispatch", "forward", "reject"]
    reason: str  # for people: "number is mapped to agent anna"
    table_version: int  # the route table that decided
    agent: str = ""  # our name of the agent
    agent_id: str = ""  # our id of it
    livekit_agent_name: str = ""
    metadata: Mapping[str, Any] = {}  # the agent's own, given to its job
    fallback: str = ""  # E.164 number for when no agent comes


class EventData(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What all providers' events have in common; absent facts are empty."""

    call_id: str = ""
    provider_call_id: str = ""
    provider_account: str = ""  # the provider's own id of the account
    account_id: str = ""  # ours, whose call or number it is; of a call, "": as its decision says
    connection_id: str = ""  # of the account at the provider; "": the operator's own, in settings
    direction: Direction | None = None
    from_number: str = ""  # E.164 wherever the carrier names a number, else as it was sent
    to_number: str = ""
    channel: Channel = ""  # how the caller came, of events that name both ends
    caller_name: str = ""  # as the carrier looked it up; the caller may have chosen it
    forwarded_from: str = ""  # the number that was called first, where the call was forwarded
    attestation: Literal["", "A", "B", "C"] = ""  # STIR/SHAKEN level (ATIS-1000074 §5.2.3)
    sip_headers: Mapping[str, str] = {}  # X- and User-to-User headers; a caller chooses them freely
    control_id: str = ""  # what commands name the call by, at a carrier that takes commands
    leg_id: str = ""  # the provider's id of a child leg, a participant's sid
    room: str = ""  # the LiveKit room, where it is not named by the call_id
    stage: Stage = ""
    media: Literal["sip", "provider"] = "sip"  # who brings the caller's audio into the room
    agent: str = ""  # LiveKit agent_name
    agent_id: str = ""  # our id of the agent
    status: str = ""  # the provider's own word for the state
    disposition: Disposition | None = None
    answered_by: Literal["", "human", "machine", "fax", "unknown"] = ""
    sip_status: int = 0  # SIP response code where one is known
    duration: float | None = None  # seconds, as the provider measured
    text: str = ""  # what was said
    speaker: str = ""  # who said it, in the provider's word
    digits: str = ""  # keys that were pressed
    recording_id: str = ""
    recording_url: str = ""
    number: str = ""  # E.164, of events about a number; of a transfer: where it is to go
    order_id: str = ""  # the order, port or bundle that a number event is about
    error_code: str = ""  # the provider's
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
