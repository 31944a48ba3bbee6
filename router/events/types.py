"""The closed vocabulary of events, one sentence each.

What no row covers becomes `provider.unknown` with its payload kept: a provider that adds an event
must never turn into an error of ours.
"""

from enum import StrEnum


class EventType(StrEnum):
    """Every `type` an event can have: `noun.past`."""

    CALL_INITIATED = "call.initiated"  # a call came in (or was placed); carries the decision
    CALL_RINGING = "call.ringing"  # the called side is being alerted
    CALL_ANSWERED = "call.answered"  # caller and agent can talk; billing starts
    CALL_FORWARDED = "call.forwarded"  # no agent took it: sent on to the fallback number
    CALL_ENDED = "call.ended"  # over; `disposition` says how
    CALL_EXPIRED = "call.expired"  # read from the log after the ring window: nothing was started
    LEG_RINGING = "leg.ringing"  # a child leg (the dial to LiveKit) is being alerted
    LEG_ANSWERED = "leg.answered"  # a child leg was answered
    LEG_ENDED = "leg.ended"  # a child leg is over; the call may go on
    SIP_JOINED = "sip.joined"  # the caller's SIP leg is in the LiveKit room
    SIP_LEFT = "sip.left"  # the caller's SIP leg left the LiveKit room
    AGENT_DISPATCHED = "agent.dispatched"  # LiveKit accepted the dispatch: not yet an agent
    AGENT_JOINED = "agent.joined"  # the agent is in the room
    AGENT_READY = "agent.ready"  # its audio is published: the caller can hear it
    AGENT_LEFT = "agent.left"  # the agent left the room
    AGENT_MISSING = "agent.missing"  # no agent by the deadline, nor after the re-dispatch
    ROOM_STARTED = "room.started"  # LiveKit made the room
    ROOM_ENDED = "room.ended"  # LiveKit closed the room
    NUMBER_MAPPED = "number.mapped"  # a number was linked to an agent, or its route changed
    NUMBER_UNMAPPED = "number.unmapped"  # a number leads nowhere any more
    PROVIDER_UNKNOWN = "provider.unknown"  # verified, but not in this vocabulary


CALLS_TOPIC = "telephony.calls"
NUMBERS_TOPIC = "telephony.numbers"
ROUTES_TOPIC = "telephony.routes"
DEAD_SUFFIX = ".dead"


def dead_topic(topic: str) -> str:
    """Where records of `topic` go that no handler could take."""
    return topic + DEAD_SUFFIX
