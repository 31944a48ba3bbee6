"""Call history, transcripts, recordings: from the call records and their events."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from router.api.fields import rfc3339
from router.api.operation import Answer, ApiRequest, Operation
from router.api.voiceai.answers import answer, pagination
from router.api.voiceai.models import (
    CallHistoryItem,
    CallHistoryQuery,
    CallType,
    ErrorResponse,
    OutboundCallRequest,
    PageQuery,
    PaginatedCallHistoryResponse,
    RecordingResponse,
    Transcript,
    TranscriptResponse,
    TranscriptSegment,
)
from router.control import agents, calls
from router.errors import Invalid, NotFound, NotSupported
from router.events.call import CallRecord
from router.events.model import Event
from router.events.types import EventType

_TAG: Final = "Agent Analytics"
_TYPES: Final[Mapping[str, CallType]] = {"inbound": "sip_inbound", "outbound": "sip_outbound"}
_CALLERS: Final = frozenset(
    ("inbound_track", "inbound", "caller", "customer", "user", "human")
)  # Twilio, Telnyx and Vocode's words for who is not the agent


async def history(request: ApiRequest) -> Answer:
    """Some of the account's calls."""
    query: CallHistoryQuery = request.query
    offset, limit, _ = pagination(PageQuery(page=query.page, limit=query.limit), 0)
    page = await calls.list_(
        request.control,
        request.actor,
        calls.CallQuery(
            since=_moment(query.start_date, "start_date"),
            until=_moment(query.end_date, "end_date"),
            agent_ids=tuple(query.agent_ids or ()),
            agent_name=query.agent_name or "",
            by_duration=query.sort_by == "duration",
            newest_first=query.sort_dir == "desc",
            offset=offset,
            limit=limit,
        ),
    )
    _, _, told = pagination(PageQuery(page=query.page, limit=query.limit), page.total)
    ids = [record.call_id for record in page.items]
    said = await calls.transcribed(request.control, request.actor, ids)
    labels = await _labels(request, {record.agent_id for record in page.items})
    items = [_item(record, record.call_id in said, labels) for record in page.items]
    return answer(PaginatedCallHistoryResponse(items=items, pagination=told))


async def transcript_link(request: ApiRequest) -> Answer:
    """Where the transcript is."""
    record = await _find(request)
    if not _said(await calls.events(request.control, request.actor, record.call_id)):
        raise NotFound("the call has no transcript", code="transcript_not_found")
    path = f"/api/v1/agent/call-history/{record.call_id}/transcript.json"
    return answer(TranscriptResponse(url=f"{_origin(request)}{path}"))


async def transcript(request: ApiRequest) -> Answer:
    """What was said in a call."""
    record = await _find(request)
    said = _said(await calls.events(request.control, request.actor, record.call_id))
    if not said:
        raise NotFound("the call has no transcript", code="transcript_not_found")
    return answer(Transcript(call_id=record.call_id, transcript=list(said)))


async def recording(request: ApiRequest) -> Answer:
    """Where the recording is."""
    record = await _find(request)
    return answer(_recording(await calls.events(request.control, request.actor, record.call_id)))


async def place(_request: ApiRequest) -> Answer:
    """Calls out are not placed yet."""
    raise NotSupported("calls out can't be placed through this API yet")


async def _find(request: ApiRequest) -> CallRecord:
    """By call_id, or by the number that the history calls `id`."""
    key = request.path["call_id"]
    if not (key.isascii() and key.isdigit() and len(key) <= 18):
        return await calls.get(request.control, request.actor, key)
    at = int(key)
    query = calls.CallQuery(since=at, until=at + 1, limit=2)
    page = await calls.list_(request.control, request.actor, query)
    found = [record for record in page.items if record.initiated_at == at]
    if len(found) != 1:  # of two calls in the same microsecond, nobody knows which is meant
        raise NotFound("the account has no such call: name it by its call_id", code="not_found")
    return found[0]


async def _labels(request: ApiRequest, agent_ids: Collection[str]) -> Mapping[str, str]:
    """What people call these agents; those that are gone are not in it."""
    found = {}
    for agent_id in agent_ids:
        with suppress(NotFound):
            agent = await agents.get(request.control, request.actor, agent_id)
            found[agent_id] = agent.label
    return found


def _item(record: CallRecord, is_written: bool, labels: Mapping[str, str]) -> CallHistoryItem:
    return CallHistoryItem(
        id=record.initiated_at,
        call_id=record.call_id,
        agent_id=record.agent_id or None,
        agent_name=labels.get(record.agent_id) or record.agent or None,
        call_timestamp=rfc3339(record.initiated_at),
        call_duration_seconds=record.duration or 0.0,
        credits_used=0.0,
        has_transcript=is_written,
        call_type=_TYPES.get(record.direction or ""),
        from_number=record.from_number or None,
        to_number=record.to_number or None,
    )


def _said(events: Sequence[Event]) -> Sequence[TranscriptSegment]:
    """What was said. The agent's own messages count where nobody wrote the call down."""
    for kind in (EventType.TRANSCRIPT_ADDED, EventType.MESSAGE_SPOKEN):
        found = [
            TranscriptSegment(
                role="user" if event.data.speaker.lower() in _CALLERS else "assistant",
                text=event.data.text,
                timestamp=rfc3339(event.time),
            )
            for event in events
            if event.type is kind and event.data.text and event.data.status != "interim"
        ]
        if found:
            return found
    return ()


def _recording(events: Sequence[Event]) -> RecordingResponse:
    """The last recording that can be fetched; else what is known of it."""
    urls = [
        event.data.recording_url
        for event in events
        if event.type is EventType.RECORDING_COMPLETED and event.data.recording_url
    ]
    if urls:
        return RecordingResponse(status="ready", url=urls[-1])
    kinds = {event.type for event in events}
    begun = EventType.RECORDING_STARTED in kinds and EventType.RECORDING_FAILED not in kinds
    return RecordingResponse(status="processing" if begun else "not_recorded")


def _origin(request: ApiRequest) -> str:
    """Where this API is: beside the webhooks, else where the client has just found it."""
    settings, host = request.control.settings, request.headers.get("Host", "")
    if settings.api.port in (0, settings.http.port) or not host:
        return str(settings.public_url).rstrip("/")
    told = request.headers.get("X-Forwarded-Proto", "") if settings.http.behind_proxy else ""
    return f"{'https' if told.lower() == 'https' else 'http'}://{host}"


def _moment(text: str | None, name: str) -> int | None:
    if not text:
        return None
    try:
        # A + in a query that was not escaped is a space.
        moment = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1_000_000)
    except (ValueError, OverflowError):
        why = "must be a time in ISO 8601, such as 2026-01-31T23:59:59+00:00"
        raise Invalid((("query", name), why), kinds=["datetime_parsing"]) from None


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/api/v1/agent/call-history",
        id="get_call_history",
        summary="Call History",
        description="Retrieve detailed call logs.",
        tag=_TAG,
        handle=history,
        scope="calls:read",
        query=CallHistoryQuery,
        answers={200: PaginatedCallHistoryResponse},
    ),
    Operation(
        method="GET",
        path="/api/v1/agent/call-history/{call_id}/transcript",
        id="get_call_transcript_url",
        summary="Call Transcript",
        description="Where the transcript of a call is: reading it takes the same token.",
        tag=_TAG,
        handle=transcript_link,
        scope="calls:read",
        answers={200: TranscriptResponse},
    ),
    Operation(
        method="GET",
        path="/api/v1/agent/call-history/{call_id}/transcript.json",
        id="get_call_transcript",
        summary="What Was Said",
        tag=_TAG,
        handle=transcript,
        scope="calls:read",
        answers={200: Transcript},
    ),
    Operation(
        method="GET",
        path="/api/v1/agent/call-history/{call_id}/recording",
        id="get_call_recording_url",
        summary="Call Recording",
        description="Where the recording of a call is.",
        tag=_TAG,
        handle=recording,
        scope="calls:read",
        answers={200: RecordingResponse},
    ),
    Operation(
        method="POST",
        path="/api/v1/calls/outbound",
        id="create_outbound_call",
        summary="Create Outbound Call",
        description="Not done yet: 501.",
        tag="Agent Connection",
        handle=place,
        scope="calls:write",
        body=OutboundCallRequest,
        answers={501: ErrorResponse},
    ),
)
