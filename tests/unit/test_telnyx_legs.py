"""Whose leg ended, and what comes after it: a mistake here ends calls that go on."""

import itertools
from base64 import b64encode
from typing import Any

import pytest

from consumers.calls.plan import fold
from consumers.dispatch.plan import is_command
from router.events.ids import call_id
from router.events.model import Event
from router.events.types import EventType
from router.provider import SipTarget
from router.providers.telnyx.api import leg_state
from router.routing.decide import decide
from router.routing.table import Route, RouteTable, Target
from tests.support.telnyx_requests import CALLED, CALLER, CONTROL_ID, event, parsed

FALLBACK = "+14155550199"
LEG, LEG_CONTROL_ID = "88c15b1e-8f0b-11f0-9d0f-02420a1f0b69", "v3:the-leg-that-we-made"
AGENT_URI = SipTarget("sip.example.com", "tcp", "u", "p").uri(call_id("telnyx", "", CONTROL_ID))


def routes(fallback: str = FALLBACK) -> RouteTable:
    table = RouteTable()
    target = Target(agent="anna", livekit_agent_name="anna")
    table.put(Route(number=CALLED, provider="telnyx", rev=7, targets=(target,), fallback=fallback))
    return table


def incoming(table: RouteTable) -> Event:
    return decide(
        parsed(event("call.initiated", event_id="1", direction="incoming", state="parked")), table
    )


def of_leg(kind: str, stage: str = "agent", **more: Any) -> bytes:
    """A webhook of the leg that our transfer made, as Telnyx sends it."""
    leg = {
        "call_control_id": LEG_CONTROL_ID,
        "call_leg_id": LEG,
        "client_state": leg_state(incoming(routes()), stage),
        "from": CALLER,
        "to": AGENT_URI if stage == "agent" else FALLBACK,
    }
    return event(kind, **{"event_id": f"{kind} of {stage}"} | leg | more)


def ended(cause: str, source: str = "callee", sip: str = "unspecified", **more: Any) -> bytes:
    how = {"hangup_cause": cause, "hangup_source": source, "sip_hangup_cause": sip}
    return of_leg("call.hangup", **how | more)


@pytest.mark.parametrize(
    ("kind", "becomes"),
    [
        ("call.initiated", EventType.LEG_INITIATED),
        ("call.answered", EventType.LEG_ANSWERED),
        ("call.hangup", EventType.LEG_ENDED),
        ("call.bridged", EventType.CALL_BRIDGED),
    ],
)
def test_events_of_our_leg_are_about_the_callers_call(kind: str, becomes: EventType) -> None:
    found = parsed(of_leg(kind, direction="outgoing", state="bridging"))
    assert (found.type, found.call_id) == (becomes, call_id("telnyx", "", CONTROL_ID))
    data = found.data
    assert (data.direction, data.from_number, data.to_number) == ("inbound", CALLER, CALLED)
    assert (data.control_id, data.leg_id) == (CONTROL_ID, LEG)


@pytest.mark.parametrize(
    ("cause", "source", "sip", "disposition", "stage"),
    [
        ("timeout", "unknown", "487", "no_answer", "agent"),
        ("timeout", "caller", "unspecified", "no_answer", "agent"),
        ("no_answer", "callee", "480", "no_answer", "agent"),
        ("user_busy", "callee", "486", "busy", "agent"),
        ("call_rejected", "callee", "603", "failed", "agent"),
        ("not_found", "callee", "404", "failed", "agent"),
        ("unspecified", "unknown", "unspecified", "failed", "agent"),
        ("unspecified", "unknown", "503", "failed", "agent"),
        ("unspecified", "unknown", "302", "failed", "agent"),
        ("a_new_cause", "callee", "unspecified", "failed", "agent"),
        ("normal_clearing", "callee", "503", "failed", "agent"),  # never answered
        ("normal_clearing", "caller", "503", "failed", ""),  # nobody is there any more
        ("normal_clearing", "callee", "200", "answered", ""),
        ("normal_clearing", "caller", "unspecified", "answered", ""),
        ("time_limit", "unknown", "unspecified", "answered", ""),
        ("unspecified", "unknown", "200", "answered", ""),  # a dialogue was there to end
        ("originator_cancel", "caller", "487", "canceled", ""),
        ("normal_clearing", "caller", "487", "canceled", ""),
    ],
)
def test_a_dial_that_failed_asks_for_more_while_the_caller_is_there(
    cause: str, source: str, sip: str, disposition: str, stage: str
) -> None:
    found = parsed(ended(cause, source, sip))
    assert found.type is EventType.LEG_ENDED
    assert (found.data.disposition, found.data.stage) == (disposition, stage)
    assert found.data.status == cause


def test_after_the_agent_comes_the_fallback_on_the_callers_leg() -> None:
    after = decide(parsed(ended("timeout")), routes())
    assert after.type is EventType.CALL_FORWARDED
    assert after.data.decision is not None
    assert (after.data.decision.action, after.data.decision.fallback) == ("forward", FALLBACK)
    assert after.data.control_id == CONTROL_ID  # what the next command goes to


@pytest.mark.parametrize(("stage", "fallback"), [("agent", ""), ("fallback", FALLBACK)])
def test_after_the_last_dial_the_caller_is_told(stage: str, fallback: str) -> None:
    after = decide(parsed(ended("user_busy", stage=stage)), routes(fallback))
    assert (after.type, after.data.disposition) == (EventType.CALL_ENDED, "busy")
    assert after.data.decision is not None
    assert (after.data.decision.action, after.data.control_id) == ("reject", CONTROL_ID)


@pytest.mark.parametrize(
    "client_state",
    [
        None,
        "",
        "not base64",
        "e30=",
        b64encode(b"\xff").decode(),
        b64encode(b"[" * 50_000).decode(),
        b64encode(b'{"switchboard":"supervisor"}').decode(),
        b64encode(b'{"switchboard":"agent","control_id":7}').decode(),
        7,
    ],
)
def test_a_leg_without_our_mark_is_the_callers(client_state: object) -> None:
    body = event("call.hangup", client_state=client_state, hangup_cause="normal_clearing")
    found = parsed(body)
    assert (found.type, found.data.disposition) == (EventType.CALL_ENDED, "answered")
    assert (found.data.stage, found.data.control_id) == ("", CONTROL_ID)


def test_a_leg_to_the_calls_own_room_never_ends_the_call() -> None:
    """Whatever became of its mark. But without it nothing can be commanded, so nothing is asked."""
    found = parsed(ended("timeout", client_state=None))
    assert (found.type, found.data.stage) == (EventType.LEG_ENDED, "")
    assert not found.data.control_id


@pytest.mark.parametrize(
    ("cause", "sip", "disposition"),
    [
        ("normal_clearing", "200", "answered"),
        ("time_limit", "unspecified", "answered"),
        ("originator_cancel", "unspecified", "canceled"),
        ("normal_clearing", "487", "canceled"),
        ("call_rejected", "603", "failed"),
        ("unspecified", "unspecified", None),  # the other events know better
    ],
)
def test_the_end_of_the_callers_leg_ends_the_call(
    cause: str, sip: str, disposition: str | None
) -> None:
    found = parsed(event("call.hangup", hangup_cause=cause, sip_hangup_cause=sip))
    assert found.type is EventType.CALL_ENDED
    assert found.data.disposition == disposition


def test_how_long_was_talked_is_left_to_the_other_events() -> None:
    times: dict[str, Any] = {
        "start_time": "2026-05-28T20:26:00Z",
        "end_time": "2026-05-28T20:26:31.5Z",
    }
    found = parsed(event("call.hangup", hangup_cause="normal_clearing", **times))
    assert found.data.duration is None


def hung_up(cause: str = "normal_clearing") -> bytes:
    return event("call.hangup", event_id="last", hangup_cause=cause, sip_hangup_cause="200")


def test_a_talk_with_the_fallback_is_a_forwarded_call_though_no_agent_was_tried() -> None:
    table = RouteTable()
    table.put(Route(number=CALLED, provider="telnyx", rev=7, targets=(), fallback=FALLBACK))
    talk = [of_leg("call.answered", "fallback"), event("call.answered", event_id="2")]
    end = [ended("normal_clearing", sip="200", stage="fallback"), hung_up()]
    story = [incoming(table), *(decide(parsed(body), table) for body in (*talk, *end))]
    assert not any(is_command(told) for told in story[1:])  # nobody waits for one any more
    for told in itertools.permutations(story):
        record = fold(told)
        assert record is not None
        assert (record.state, record.disposition, record.agent) == ("ended", "forwarded", "")


STORIES = {
    "answered": (
        [of_leg("call.answered"), event("call.answered"), ended("normal_clearing"), hung_up()],
        FALLBACK,
    ),
    "forwarded": (
        [ended("timeout"), of_leg("call.answered", "fallback"), event("call.answered"), hung_up()],
        FALLBACK,
    ),
    "no_answer": ([of_leg("call.initiated"), ended("timeout"), hung_up()], ""),
    "canceled": ([ended("originator_cancel", "caller"), hung_up("originator_cancel")], FALLBACK),
}


@pytest.mark.parametrize("disposition", STORIES)
def test_a_calls_story_ends_as_it_did_in_whatever_order_it_is_told(disposition: str) -> None:
    bodies, fallback = STORIES[disposition]
    table = routes(fallback)
    story = [incoming(table), *(decide(parsed(body), table) for body in bodies)]
    assert len({event.id for event in story}) == len(story)
    records = {repr(fold(told)) for told in itertools.permutations(story)}
    assert len(records) == 1
    record = fold(story)
    assert record is not None
    assert (record.state, record.disposition) == ("ended", disposition)
    assert (record.from_number, record.to_number, record.agent) == (CALLER, CALLED, "anna")
