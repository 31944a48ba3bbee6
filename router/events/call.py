"""The record of a call (CDR): what all its events together say."""

from typing import Literal

import msgspec

from router.events.model import Direction, Disposition

CallState = Literal["initiated", "ringing", "answered", "forwarded", "ended"]


class CallRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One call. Times are µs since the epoch, None while unknown."""

    call_id: str
    provider: str
    provider_call_id: str
    account: str
    direction: Direction | None
    from_number: str
    to_number: str
    state: CallState
    disposition: Disposition | None  # how it ended, None before
    agent: str  # our name of the agent that the call was routed to
    agent_ready: bool  # its audio was in the room
    reason: str  # why it was routed so, or why it failed
    initiated_at: int
    ringing_at: int | None
    agent_ready_at: int | None
    answered_at: int | None
    ended_at: int | None
    duration: float | None  # seconds from answer to end
