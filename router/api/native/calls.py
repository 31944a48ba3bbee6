"""Calls: what became of them."""

from datetime import datetime
from typing import Any, Final

import msgspec
from pydantic import Field

from router.api.native.shapes import BASE, Listing, Paging, Shape, Time, listing, shaped, when
from router.api.operation import Answer, ApiRequest, Operation
from router.control import calls
from router.control.calls import CallQuery
from router.events.call import CallRecord, CallState
from router.events.model import Direction, Disposition, Event
from router.storage.sql import MICROS

_TAG: Final = "Calls"


class LegShape(Shape):
    """How one leg of a call ended: the caller's, the dial to the agent, one to the fallback."""

    leg_id: str
    provider: str
    dialled: str = Field(description="Whom it was dialled to: agent, fallback; empty: unknown")
    disposition: Disposition | None
    sip_status: int = Field(description="0: none is known")
    reason: str
    ended_at: datetime


class CallShape(Shape):
    """The record of a call. Times are null while they are not known."""

    call_id: str
    provider: str
    provider_call_id: str
    direction: Direction | None
    from_number: str
    to_number: str
    state: CallState
    disposition: Disposition | None = Field(description="How it ended; null before")
    agent: str = Field(description="The name of the agent that it was for; empty: none")
    agent_ready: bool = Field(description="Whether the agent could be heard")
    reason: str = Field(description="Why it went there, or why it failed")
    initiated_at: datetime
    ringing_at: datetime | None
    agent_ready_at: datetime | None
    answered_at: datetime | None
    ended_at: datetime | None
    duration: float | None = Field(description="Seconds from answer to end")
    legs: list[LegShape]


class EventShape(Shape):
    """One thing that happened to a call."""

    id: str
    type: str = Field(description="See /asyncapi.json")
    source: str
    time: datetime
    data: dict[str, Any]


class Events(Shape):
    """All of a call, in their order."""

    items: list[EventShape]


class CallsAsked(Paging):
    """Which calls."""

    since: Time | None = Field(None, description="That began then or later")
    until: Time | None = Field(None, description="That began before")
    agent_id: str | None = None
    with_agent: bool = Field(False, description="Only those that an agent was meant for")


def _shape(call: CallRecord) -> dict[str, Any]:
    return shaped(CallShape, call, legs=[shaped(LegShape, each) for each in call.legs])


def _event(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "type": event.type.value,
        "source": event.source,
        "time": when(event.time),
        "data": msgspec.to_builtins(event.data),
    }


def _micros(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * MICROS)


async def _list(request: ApiRequest) -> Answer:
    asked: CallsAsked = request.query
    query = CallQuery(
        since=_micros(asked.since),
        until=_micros(asked.until),
        agent_ids=(asked.agent_id,) if asked.agent_id else (),
        with_agent=asked.with_agent,
        offset=asked.offset,
        limit=asked.limit,
    )
    return Answer(
        body=listing(await calls.list_(request.control, request.actor, query), asked, _shape)
    )


async def _get(request: ApiRequest) -> Answer:
    call = await calls.get(request.control, request.actor, request.path["call_id"])
    return Answer(body=_shape(call))


async def _events(request: ApiRequest) -> Answer:
    found = await calls.events(request.control, request.actor, request.path["call_id"])
    return Answer(body={"items": [_event(each) for each in found]})


OPERATIONS: Final = [
    Operation(
        method="GET",
        path=f"{BASE}/calls",
        id="list_calls",
        summary="List calls, newest first; also those that no agent was meant for",
        tag=_TAG,
        handle=_list,
        scope="calls:read",
        query=CallsAsked,
        answers={200: Listing[CallShape]},
    ),
    Operation(
        method="GET",
        path=f"{BASE}/calls/{{call_id}}",
        id="get_call",
        summary="One call",
        tag=_TAG,
        handle=_get,
        scope="calls:read",
        answers={200: CallShape},
    ),
    Operation(
        method="GET",
        path=f"{BASE}/calls/{{call_id}}/events",
        id="list_call_events",
        summary="What happened to a call",
        tag=_TAG,
        handle=_events,
        scope="calls:read",
        answers={200: Events},
    ),
]
