"""Telnyx's event types and ours.

Those of the SDK (telnyx/types/*_webhook_event.py) that are about calls or numbers. All others, and
those that Telnyx adds, become `provider.unknown`: fax, messages, 10DLC campaigns, meetings.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from router.events.types import EventType

CALLS: Final[Mapping[str, EventType]] = {
    # Of the caller's own leg; a leg that a transfer made has its own types: see LEGS.
    "call.initiated": EventType.CALL_INITIATED,
    "call.answered": EventType.CALL_ANSWERED,
    "call.hangup": EventType.CALL_ENDED,
    "call.bridged": EventType.CALL_BRIDGED,
    "call.hold": EventType.CALL_HELD,
    "call.unhold": EventType.CALL_RESUMED,
    "call.machine.detection.ended": EventType.CALL_CLASSIFIED,
    "call.machine.greeting.ended": EventType.CALL_CLASSIFIED,
    "call.machine.premium.detection.ended": EventType.CALL_CLASSIFIED,
    "call.machine.premium.greeting.ended": EventType.CALL_CLASSIFIED,
    "call.machine.premium.call_screening.detected": EventType.CALL_CLASSIFIED,
    "call.deepfake_detection.result": EventType.CALL_CLASSIFIED,
    "call.deepfake_detection.error": EventType.CALL_CLASSIFIED,
    "call.dtmf.received": EventType.DTMF_RECEIVED,
    "call.gather.ended": EventType.DTMF_RECEIVED,
    "call.playback.started": EventType.MEDIA_STARTED,
    "call.playback.ended": EventType.MEDIA_ENDED,
    "call.speak.started": EventType.MEDIA_STARTED,
    "call.speak.ended": EventType.MEDIA_ENDED,
    "call.fork.started": EventType.MEDIA_STARTED,
    "call.fork.stopped": EventType.MEDIA_ENDED,
    "streaming.started": EventType.MEDIA_STARTED,
    "streaming.stopped": EventType.MEDIA_ENDED,
    "streaming.failed": EventType.MEDIA_FAILED,
    "siprec.started": EventType.MEDIA_STARTED,
    "siprec.stopped": EventType.MEDIA_ENDED,
    "siprec.failed": EventType.MEDIA_FAILED,
    "call.recording.saved": EventType.RECORDING_COMPLETED,
    "call.recording.error": EventType.RECORDING_FAILED,
    "call.recording.transcription.saved": EventType.TRANSCRIPT_ADDED,
    "call.transcription": EventType.TRANSCRIPT_ADDED,
    "call.refer.started": EventType.TRANSFER_STARTED,
    "call.refer.completed": EventType.TRANSFER_COMPLETED,
    "call.refer.failed": EventType.TRANSFER_FAILED,
    "call.enqueued": EventType.QUEUE_JOINED,
    "call.dequeued": EventType.QUEUE_LEFT,
    "conference.created": EventType.CONFERENCE_CHANGED,
    "conference.ended": EventType.CONFERENCE_CHANGED,
    "conference.floor.changed": EventType.CONFERENCE_CHANGED,
    "conference.participant.joined": EventType.CONFERENCE_CHANGED,
    "conference.participant.left": EventType.CONFERENCE_CHANGED,
    "conference.playback.started": EventType.MEDIA_STARTED,
    "conference.playback.ended": EventType.MEDIA_ENDED,
    "conference.speak.started": EventType.MEDIA_STARTED,
    "conference.speak.ended": EventType.MEDIA_ENDED,
    "conference.participant.playback.started": EventType.MEDIA_STARTED,
    "conference.participant.playback.ended": EventType.MEDIA_ENDED,
    "conference.participant.speak.started": EventType.MEDIA_STARTED,
    "conference.participant.speak.ended": EventType.MEDIA_ENDED,
    "conference.recording.saved": EventType.RECORDING_COMPLETED,
    "call.cost": EventType.CALL_SUMMARISED,
    "call.analyzed": EventType.CALL_SUMMARISED,
    "call.conversation.ended": EventType.CALL_SUMMARISED,
    "call.conversation_insights.generated": EventType.CALL_SUMMARISED,
    "call.conversation.created": EventType.ACTION_PERFORMED,
    "call.conversation.start_failed": EventType.ACTION_PERFORMED,
    "call.ai_gather.partial_results": EventType.ACTION_PERFORMED,
    "call.ai_gather.ended": EventType.ACTION_PERFORMED,
    "call.ai_gather.message_history_updated": EventType.TRANSCRIPT_ADDED,
    "call.payment.progress": EventType.ACTION_PERFORMED,
    "call.payment.completed": EventType.ACTION_PERFORMED,
}

LEGS: Final[Mapping[EventType, EventType]] = {
    EventType.CALL_INITIATED: EventType.LEG_INITIATED,
    EventType.CALL_ANSWERED: EventType.LEG_ANSWERED,
    EventType.CALL_ENDED: EventType.LEG_ENDED,
}
"""What becomes of a type where the event is of a leg that a transfer of ours made."""

FAILED_MEDIA: Final = frozenset({"failed", "file_not_found", "unknown"})
"""Ends of a playback that was not heard."""


class Family(NamedTuple):
    """What an order, a port or a port-out can come to; every other status is a change."""

    changed: EventType
    completed: EventType
    failed: EventType
    successes: frozenset[str]
    failures: frozenset[str]


_ORDER: Final = Family(
    EventType.ORDER_CHANGED,
    EventType.ORDER_COMPLETED,
    EventType.ORDER_FAILED,
    successes=frozenset({"success", "successful"}),
    failures=frozenset(
        {
            "failure",
            "failed",
            "failed_activation",
            "failed_carrier_rejected",
            "failed_ineligible_carrier",
            "failed_number_already_hosted",
            "failed_number_not_found",
            "failed_ownership_verification",
            "failed_timeout",
            "carrier_rejected",
            "ineligible_carrier",
            "deleted",
        }
    ),
)
_PORT: Final = Family(
    EventType.PORT_CHANGED,
    EventType.PORT_COMPLETED,
    EventType.PORT_FAILED,
    successes=frozenset({"ported"}),
    failures=frozenset({"cancelled", "deleted"}),
)
_PORTOUT: Final = Family(
    EventType.PORTOUT_CHANGED,
    EventType.PORTOUT_COMPLETED,
    EventType.PORTOUT_CHANGED,  # the number stays, as it was
    successes=frozenset({"ported"}),
    failures=frozenset(),
)
_REPUTATION: Final = Family(
    EventType.NUMBER_CHANGED,
    EventType.NUMBER_CHANGED,
    EventType.NUMBER_CHANGED,
    successes=frozenset(),
    failures=frozenset(),
)

NUMBERS: Final[Mapping[str, Family]] = {
    "number_order.complete": _ORDER,
    "messaging_hosted_numbers_orders.created": _ORDER,
    "messaging_hosted_numbers_orders.updated": _ORDER,
    "messaging_hosted_numbers_orders.deleted": _ORDER,
    "messaging_hosted_numbers_orders.internal_transfer_detected": _ORDER,
    "messaging_hosted_numbers_orders.internal_transfer_approval_requested": _ORDER,
    "messaging_hosted_numbers_orders.internal_transfer_approved": _ORDER,
    "messaging_hosted_numbers_orders.internal_transfer_rejected": _ORDER,
    "messaging_hosted_numbers_orders.internal_transfer_auto_approved": _ORDER,
    "porting_order.status_changed": _PORT,
    "porting_order.deleted": _PORT,
    "porting_order.split": _PORT,
    "porting_order.new_comment": _PORT,
    "porting_order.messaging_changed": _PORT,
    "porting_order.loa_updated": _PORT,
    "porting_order.sharing_token_expired": _PORT,
    "portout.status_changed": _PORTOUT,
    "portout.foc_date_changed": _PORTOUT,
    "portout.new_comment": _PORTOUT,
    "number_reputation.number.flagged": _REPUTATION,
    "number_reputation.number.removed": _REPUTATION,
}
