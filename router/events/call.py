"""The record of a call (CDR): what all its events together say."""

from typing import Literal

import msgspec

from router.events.model import Direction, Disposition, Stage

CallState = Literal["initiated", "ringing", "answered", "forwarded", "ended"]


class Leg(msgspec.Struct, frozen=True, kw_only=True):
    """How one leg of a call ended: the caller's own, the dial to LiveKit, one to the fallback."""

    leg_id: str  # the provider's
    provider: str  # who tells of it
    dialled: Stage = ""  # whom it was dialled to, where its end says so: agent, fallback
    disposition: Disposition | None = None
    sip_status: int = 0  # SIP response code, 0 where none is known
    reason: str = ""  # the provider's own words
    ended_at: int  # µs since the epoch


class CallRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One call. Times are µs since the epoch, None while unknown."""

    call_id: str
    provider: str
    provider_call_id: str
    provider_account: str  # the provider's own id of the account: an AccountSid
    account_id: str  # ours, whose call it is
    connection_id: str  # of the account at the provider; "": the operator's own, in settings
    direction: Direction | None
    from_number: str
    to_number: str
    state: CallState
    disposition: Disposition | None  # how it ended, None before
    agent: str  # our name of the agent that the call was routed to
    agent_id: str  # our id of it
    agent_ready: bool  # its audio was in the room
    reason: str  # why it was routed so, or why it failed
    initiated_at: int
    ringing_at: int | None
    agent_ready_at: int | None
    answered_at: int | None
    ended_at: int | None
    duration: float | None  # seconds from answer to end
    legs: tuple[Leg, ...] = ()  # those that are over, by the time of their ends
