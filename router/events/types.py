"""The closed vocabulary of events, one sentence each.

What no row covers becomes `provider.unknown` with its payload kept: a provider that adds an event
must never turn into an error of ours.
"""

from enum import StrEnum
from typing import Final, Self


class EventType(StrEnum):
    """Every `type` an event can have, `noun.past`, and its `meaning` in a sentence."""

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Self:
        """A member; its value is the text alone."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    CALL_INITIATED = "call.initiated", "a call came in (or was placed); carries the decision"
    CALL_RINGING = "call.ringing", "the called side is being alerted"
    CALL_ANSWERED = "call.answered", "caller and agent can talk; billing starts"
    CALL_BRIDGED = "call.bridged", "two legs were connected to each other"
    CALL_HELD = "call.held", "a party was put on hold"
    CALL_RESUMED = "call.resumed", "a party was taken off hold"
    CALL_CLASSIFIED = "call.classified", "who answered: `answered_by` human, machine, fax, unknown"
    CALL_FORWARDED = "call.forwarded", "no agent took it: sent on to the fallback number"
    CALL_ENDED = "call.ended", "the call is over; `disposition` says how"
    CALL_EXPIRED = "call.expired", "read from the log after the ring window: nothing was started"
    CALL_SUMMARISED = "call.summarised", "the provider's account of a past call: quality, cost"
    LEG_INITIATED = "leg.initiated", "a child leg (the dial to LiveKit) was begun"
    LEG_RINGING = "leg.ringing", "a child leg is being alerted"
    LEG_ANSWERED = "leg.answered", "a child leg was answered"
    LEG_ENDED = "leg.ended", "a child leg is over; the call may go on"
    TRANSFER_STARTED = "transfer.started", "a party was asked to call elsewhere (SIP REFER)"
    TRANSFER_COMPLETED = "transfer.completed", "the party that was asked to call elsewhere did"
    TRANSFER_FAILED = "transfer.failed", "the party that was asked to call elsewhere could not"
    DTMF_RECEIVED = "dtmf.received", "keys were pressed: `digits`"
    MEDIA_STARTED = "media.started", "playback, speech, a stream or a fork of the audio began"
    MEDIA_ENDED = "media.ended", "playback, speech, a stream or a fork of the audio ended"
    MEDIA_FAILED = "media.failed", "playback, speech, a stream or a fork could not begin, or broke"
    RECORDING_STARTED = "recording.started", "the call is being recorded"
    RECORDING_COMPLETED = "recording.completed", "the recording can be fetched: `recording_url`"
    RECORDING_FAILED = "recording.failed", "there is no recording"
    TRANSCRIPT_STARTED = "transcript.started", "speech is being written down"
    TRANSCRIPT_ADDED = "transcript.added", "somebody said something: `speaker`, `text`"
    TRANSCRIPT_ENDED = "transcript.ended", "speech is no longer written down"
    TRANSCRIPT_FAILED = "transcript.failed", "the transcript broke off"
    MESSAGE_SPOKEN = "message.spoken", "the provider's own agent said `text`"
    ACTION_PERFORMED = "action.performed", "the provider's own agent did something"
    QUEUE_JOINED = "queue.joined", "the call waits in a queue of the carrier"
    QUEUE_LEFT = "queue.left", "the call waits in a queue of the carrier no longer"
    CONFERENCE_CHANGED = "conference.changed", "a conference began, ended, or lost or won a member"
    SIP_JOINED = "sip.joined", "the caller's SIP leg is in the LiveKit room"
    SIP_LEFT = "sip.left", "the caller's SIP leg left the LiveKit room"
    AGENT_DISPATCHED = "agent.dispatched", "LiveKit accepted the dispatch: not yet an agent"
    AGENT_JOINED = "agent.joined", "the agent is in the room"
    AGENT_READY = "agent.ready", "the agent's audio is published: the caller can hear it"
    AGENT_LEFT = "agent.left", "the agent left the room"
    AGENT_MISSING = "agent.missing", "no agent by the deadline, nor after the re-dispatch"
    ROOM_STARTED = "room.started", "LiveKit made the room"
    ROOM_ENDED = "room.ended", "LiveKit closed the room"
    NUMBER_MAPPED = "number.mapped", "a number was linked to an agent, or its route changed"
    NUMBER_UNMAPPED = "number.unmapped", "a number leads nowhere any more"
    NUMBER_MISMATCHED = "number.mismatched", "a call came by another carrier than the mapping names"
    NUMBER_CHANGED = "number.changed", "the carrier changed something about a number: `status`"
    ORDER_CHANGED = "order.changed", "an order of numbers is under way: `status`"
    ORDER_COMPLETED = "order.completed", "the ordered number is ours"
    ORDER_FAILED = "order.failed", "the ordered number is not ours"
    PORT_CHANGED = "port.changed", "a number is on its way to this carrier: `status`"
    PORT_COMPLETED = "port.completed", "the number arrived at this carrier"
    PORT_FAILED = "port.failed", "the number will not come to this carrier"
    PORTOUT_CHANGED = "portout.changed", "a number is on its way to another carrier: `status`"
    PORTOUT_COMPLETED = "portout.completed", "the number left for another carrier"
    BUNDLE_CHANGED = "bundle.changed", "papers that a regulator wants were judged: `status`"
    PROVIDER_ALERTED = "provider.alerted", "the provider logged a failure, perhaps of ours"
    PROVIDER_UNKNOWN = "provider.unknown", "verified, but not in this vocabulary: see `raw`"


CALLS_TOPIC: Final = "telephony.calls"
NUMBERS_TOPIC: Final = "telephony.numbers"
ROUTES_TOPIC: Final = "telephony.routes"
CONNECTIONS_TOPIC: Final = "telephony.connections"
HEALTH_TOPIC: Final = "telephony.health"
DEAD_SUFFIX: Final = ".dead"

_ABOUT_NUMBERS: Final = frozenset(
    kind
    for kind in EventType
    if kind.partition(".")[0] in ("number", "order", "port", "portout", "bundle")
)


def topic_of(kind: EventType) -> str:
    """Where events of a type go: numbers' to `telephony.numbers`, all others with the calls."""
    return NUMBERS_TOPIC if kind in _ABOUT_NUMBERS else CALLS_TOPIC


def dead_topic(topic: str) -> str:
    """Where records of `topic` go that no handler could take."""
    return topic + DEAD_SUFFIX
