"""Calls that were, and what was used of the plan. Calls without an agent are not among them."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from uuid import NAMESPACE_OID, uuid5

from pydantic import BaseModel

from router.api.operation import Answer, ApiRequest, Operation
from router.api.vocode import agents as wire_agents
from router.api.vocode.schemas import (
    NOT_SET,
    ById,
    Error,
    OneOf,
    PageQuery,
    Schema,
    Uuid,
    as_page,
    page_of,
    phone_number,
)
from router.control import calls
from router.control.calls import CallQuery
from router.errors import NotFound, NotSupported
from router.events.call import CallRecord
from router.events.model import Event
from router.events.types import EventType

_SECOND: Final = 1_000_000  # µs

_OUTCOMES: Final[Mapping[str, str]] = {
    "answered": "human_disconnected",
    "forwarded": "transfer_disconnected",
    "busy": "human_unanswered",
    "no_answer": "human_unanswered",
    "failed": "call_did_not_connect",
    "canceled": "human_disconnected",
    "lost": "bot_disconnected",
}
_FAILED: Final = ("failed", "lost")


class CallsQuery(PageQuery):
    """Which part of the list, and its order."""

    sort_column: Literal["created_at", "start_time"] | None = None  # type: ignore[assignment]


class CreateCallRequest(Schema):
    """A call out."""

    from_number: str
    to_number: str
    agent: Annotated[Any, OneOf(wire_agents.CreateCallAgentParams, reference=True)]
    on_no_human_answer: Literal["continue", "hangup"] = NOT_SET
    run_do_not_call_detection: bool | None = None
    hipaa_compliant: bool = NOT_SET
    context: dict[str, str] | None = None
    telephony_params: dict[str, str] | None = None


class TwilioTelephonyMetadata(Schema):
    """What Twilio calls it."""

    type: Literal["telephony_metadata_twilio"]
    call_sid: str


class _Call(Schema):
    id: Uuid
    user_id: Uuid
    status: Literal["not_started", "in_progress", "error", "ended"]
    error_message: str = NOT_SET
    recording_available: bool
    transcript: str = NOT_SET
    human_detection_result: Literal["human", "no_human"] = NOT_SET
    telephony_id: str
    stage: Literal["created", "picked_up", "transfer_started", "transfer_successful"]
    stage_outcome: str = NOT_SET
    telephony_metadata: TwilioTelephonyMetadata = NOT_SET
    to_number: str
    from_number: str
    telephony_provider: str
    agent_phone_number: str


class Call(_Call):
    """A call."""

    start_time: str
    end_time: str = NOT_SET
    agent: wire_agents.AgentAnswer  # type: ignore[valid-type]


class NormalizedCall(_Call):
    """A call in a list; its times are seconds since the epoch."""

    start_time: float
    end_time: float = NOT_SET
    agent: Uuid


class Usage(BaseModel):
    """What was used in this calendar month (UTC)."""

    user_id: Uuid
    plan_type: Literal["plan_free", "plan_developer", "plan_enterprise", "plan_unlimited"]
    monthly_usage_minutes: int
    monthly_usage_limit_minutes: int = NOT_SET


def _plain(request: ApiRequest, record: CallRecord) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "id": record.call_id,
        "user_id": request.actor.account_id,
        "status": _status(record),
        "recording_available": False,
        "telephony_id": record.provider_call_id,
        "stage": _stage(record),
        "to_number": record.to_number,
        "from_number": record.from_number,
        "telephony_provider": record.provider,
        "agent_phone_number": (
            record.from_number if record.direction == "outbound" else record.to_number
        ),
    }
    if answer["status"] == "error" and record.reason:
        answer["error_message"] = record.reason
    if record.disposition is not None:
        answer["stage_outcome"] = _OUTCOMES[record.disposition]
    if record.provider == "twilio":
        answer["telephony_metadata"] = {
            "type": "telephony_metadata_twilio",
            "call_sid": record.provider_call_id,
        }
    return answer


def _status(record: CallRecord) -> str:
    match record.state:
        case "initiated" | "ringing":
            return "not_started"
        case "ended":
            return "error" if record.disposition in _FAILED else "ended"
        case _:
            return "in_progress"


def _stage(record: CallRecord) -> str:
    if record.state == "forwarded":
        return "transfer_started"
    if record.disposition == "forwarded":
        return "transfer_successful"
    return "created" if record.answered_at is None else "picked_up"


def normalised(request: ApiRequest, record: CallRecord) -> dict[str, Any]:
    """A call as lists have it."""
    answer = _plain(request, record)
    answer["agent"] = _agent_id(request, record)
    answer["start_time"] = record.initiated_at / _SECOND
    if record.ended_at is not None:
        answer["end_time"] = record.ended_at / _SECOND
    return answer


async def expanded(request: ApiRequest, record: CallRecord) -> dict[str, Any]:
    """A call as answers have it."""
    answer = _plain(request, record)
    agent_id = _agent_id(request, record)
    answer["agent"] = await wire_agents.expanded_by_id(request, agent_id, record.agent)
    answer["start_time"] = _time(record.initiated_at)
    if record.ended_at is not None:
        answer["end_time"] = _time(record.ended_at)
    happened = await calls.events(request.control, request.actor, record.call_id)
    answer["recording_available"] = _recording(happened) is not None
    said = [
        f"{each.data.speaker.upper() or 'UNKNOWN'}: {each.data.text}"
        for each in happened
        if each.data.text and each.data.speaker
    ]
    if said:
        answer["transcript"] = "\n".join(said)
    for each in happened:
        if each.data.answered_by in ("human", "machine", "fax"):
            human = each.data.answered_by == "human"
            answer["human_detection_result"] = "human" if human else "no_human"
    return answer


def _agent_id(request: ApiRequest, record: CallRecord) -> str:
    """Calls of before agents had ids have their agent's name alone."""
    return record.agent_id or str(
        uuid5(NAMESPACE_OID, f"{request.actor.account_id}/{record.agent}")
    )


def _recording(happened: Sequence[Event]) -> str | None:
    """Where the last recording can be fetched."""
    urls = [
        each.data.recording_url
        for each in happened
        if each.type == EventType.RECORDING_COMPLETED
        and each.data.recording_url.startswith(("https://", "http://"))
    ]
    return urls[-1] if urls else None


def _time(micros: int) -> str:
    return datetime.fromtimestamp(micros / _SECOND, UTC).isoformat()


# --- operations


async def _get(request: ApiRequest) -> Answer:
    return Answer(body=await expanded(request, await _call(request)))


async def _call(request: ApiRequest) -> CallRecord:
    record = await calls.get(request.control, request.actor, request.query.id)
    if not record.agent:
        raise NotFound("there is no such call of an agent")
    return record


async def _list(request: ApiRequest) -> Answer:
    query = CallQuery(with_agent=True, **request.query.window)
    page = await calls.list_(request.control, request.actor, query)
    items = [normalised(request, each) for each in page.items]
    return Answer(body=as_page(request.query, page, items))


async def _get_recording(request: ApiRequest) -> Answer:
    record = await _call(request)
    url = _recording(await calls.events(request.control, request.actor, record.call_id))
    if url is None:
        raise NotFound("this call has no recording")
    return Answer(status=307, headers={"Location": url})


async def _usage(request: ApiRequest) -> Answer:
    used = await calls.usage(request.control, request.actor)
    limit = used.minutes_limit
    answer: dict[str, Any] = {
        "user_id": request.actor.account_id,
        "plan_type": "plan_unlimited" if limit is None else "plan_developer",
        "monthly_usage_minutes": math.ceil(used.minutes),
    }
    return Answer(body=answer if limit is None else answer | {"monthly_usage_limit_minutes": limit})


async def _create(request: ApiRequest) -> Answer:
    for name in ("from_number", "to_number"):
        phone_number(request.sent[name], ("body", name))
    raise NotSupported("calls can't be made here yet: Switchboard takes those that come in")


async def _end(_request: ApiRequest) -> Answer:
    raise NotSupported("calls can't be ended here yet: the agent ends them, or the caller")


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/v1/calls",
        id="get_call",
        summary="Get one call",
        tag="calls",
        handle=_get,
        scope="calls:read",
        query=ById,
        answers={200: Call},
    ),
    Operation(
        method="GET",
        path="/v1/calls/list",
        id="list_calls",
        summary="List calls",
        tag="calls",
        handle=_list,
        scope="calls:read",
        query=CallsQuery,
        answers={200: page_of("CallPage", NormalizedCall)},
        description="Those that an agent was meant for.",
    ),
    Operation(
        method="GET",
        path="/v1/calls/recording",
        id="get_recording",
        summary="Get the recording of a call",
        tag="calls",
        handle=_get_recording,
        scope="calls:read",
        query=ById,
        answers={307: None},
        description="Leads to the recording at the carrier, which may ask for credentials.",
    ),
    Operation(
        method="POST",
        path="/v1/calls/create",
        id="create_call",
        summary="Make a call (not yet)",
        tag="calls",
        handle=_create,
        scope="calls:write",
        body=CreateCallRequest,
        answers={501: Error},
    ),
    Operation(
        method="POST",
        path="/v1/calls/end",
        id="end_call",
        summary="End a call (not yet)",
        tag="calls",
        handle=_end,
        scope="calls:write",
        query=ById,
        answers={501: Error},
    ),
    Operation(
        method="GET",
        path="/v1/usage",
        id="get_usage",
        summary="Get what was used this month",
        tag="usage",
        handle=_usage,
        scope="calls:read",
        answers={200: Usage},
    ),
)
