"""`consumers.calls.plan.fold`: what a call's events together say."""

from typing import Any

import msgspec
import pytest

from consumers.calls import plan
from router.events.call import Leg
from router.events.ids import DEFAULT_ACCOUNT
from router.events.model import Decision, Event
from router.events.types import EventType as T
from tests.support.fake_events import FROM, TO, dispatch_decision, event, fold, initiated, new_call
from tests.support.fake_time import START

CALL = new_call("fold")


def _at(seconds: float) -> int:
    return START + round(seconds * 1_000_000)


def _ready(at: float) -> Event:
    return event(CALL, T.AGENT_READY, at, "livekit", agent="lk-anna")


def test_a_call_that_went_well() -> None:
    record = fold(
        [
            initiated(CALL),
            event(CALL, T.AGENT_DISPATCHED, 0.1, "switchboard"),
            event(CALL, T.CALL_RINGING, 0.2),
            event(CALL, T.SIP_JOINED, 0.4, "livekit"),
            event(CALL, T.AGENT_JOINED, 0.8, "livekit", agent="lk-anna"),
            _ready(1.0),
            event(CALL, T.CALL_ANSWERED, 1.2),
            event(CALL, T.SIP_LEFT, 61.0, "livekit"),
            event(CALL, T.CALL_ENDED, 61.5, disposition="answered", duration=60.0),
        ]
    )
    assert record.call_id == CALL
    assert (record.provider, record.provider_call_id, record.provider_account) == (
        "twilio",
        f"CA-{CALL}",
        "AC1",
    )
    assert (record.direction, record.from_number, record.to_number) == ("inbound", FROM, TO)
    assert (record.state, record.disposition) == ("ended", "answered")
    assert (record.agent, record.agent_ready) == ("anna", True)
    assert record.reason == "the number is mapped to anna"
    assert record.initiated_at == START
    assert record.ringing_at == _at(0.2)
    assert record.agent_ready_at == _at(1.0)
    assert record.answered_at == _at(1.2)
    assert record.ended_at == _at(61.5)
    assert record.duration == 60.0


ACME = "ac3e0000-0000-4000-8000-000000000001"


def test_whose_call_it_was_says_the_event_that_decided_it() -> None:
    decided = msgspec.structs.replace(
        initiated(CALL).data,
        account_id=ACME,
        connection_id="c1",
        decision=msgspec.structs.replace(dispatch_decision(), agent_id="a1"),
    )
    began = msgspec.structs.replace(initiated(CALL), data=decided)
    others = [
        event(CALL, T.CALL_ENDED, 9.0, "twilio", account_id="another", connection_id="c2"),
        event(CALL, T.AGENT_READY, 1.0, "livekit", account_id="of an agent"),
    ]
    for told in ([began, *others], [*others, began]):
        record = fold(told)
        assert (record.account_id, record.connection_id, record.agent_id) == (ACME, "c1", "a1")


def test_a_call_that_nobody_decided_is_theirs_who_told_of_it_else_the_default_accounts() -> None:
    assert fold([event(CALL, T.CALL_ENDED, 9.0)]).account_id == DEFAULT_ACCOUNT
    assert fold([event(CALL, T.CALL_ENDED, 9.0, account_id=ACME)]).account_id == ACME
    assert fold([initiated(CALL)]).account_id == DEFAULT_ACCOUNT
    operators = msgspec.structs.replace(initiated(CALL).data, account_id=ACME)
    began = msgspec.structs.replace(initiated(CALL), data=operators)
    other = event(CALL, T.CALL_ENDED, 9.0, account_id="another", connection_id="c2")
    assert fold([began, other]).connection_id == ""


@pytest.mark.parametrize(
    ("kinds", "state"),
    [
        ([], "initiated"),
        ([T.AGENT_DISPATCHED], "initiated"),
        ([T.LEG_RINGING], "ringing"),
        ([T.CALL_ANSWERED, T.CALL_RINGING], "answered"),
        ([T.CALL_ANSWERED, T.CALL_FORWARDED], "forwarded"),
        ([T.CALL_FORWARDED, T.CALL_ENDED, T.CALL_ANSWERED], "ended"),
    ],
)
def test_the_state_is_the_furthest_that_was_reached(kinds: list[T], state: str) -> None:
    events = [event(CALL, kind, 1.0 + at) for at, kind in enumerate(kinds)]
    assert fold([initiated(CALL), *events]).state == state


def test_answered_by_the_call_then_the_leg_then_agent_and_caller_together() -> None:
    events = [initiated(CALL), _ready(1.0)]
    assert fold(events).answered_at is None
    events.append(event(CALL, T.SIP_JOINED, 1.5, "livekit"))
    assert fold(events).answered_at == _at(1.5)
    events.append(event(CALL, T.LEG_ANSWERED, 1.7))
    assert fold(events).answered_at == _at(1.7)
    events.append(event(CALL, T.CALL_ANSWERED, 1.8))
    assert fold(events).answered_at == _at(1.8)


def test_without_a_word_of_the_carrier_the_leaving_caller_ends_an_answered_call() -> None:
    left = event(CALL, T.SIP_LEFT, 11.0, "livekit")
    assert fold([initiated(CALL), left]).state == "initiated"
    record = fold([initiated(CALL), event(CALL, T.CALL_ANSWERED, 1.0), left])
    assert (record.state, record.disposition) == ("ended", "answered")
    assert (record.ended_at, record.duration) == (_at(11.0), 10.0)


def test_who_left_the_room_before_the_fallback_answered_is_still_on_the_line() -> None:
    events = [
        initiated(CALL),
        event(CALL, T.SIP_LEFT, 20.0, "livekit"),
        event(CALL, T.CALL_FORWARDED, 20.1),
        event(CALL, T.CALL_ANSWERED, 25.0),
    ]
    assert fold(events).state == "forwarded"


def test_a_later_answer_does_not_take_the_end_of_an_answered_call_back() -> None:
    heard = [initiated(CALL), _ready(1.0), event(CALL, T.SIP_JOINED, 1.5, "livekit")]
    over = [*heard, event(CALL, T.SIP_LEFT, 20.0, "livekit")]
    late = event(CALL, T.CALL_ANSWERED, 25.0)  # of the status callback, which took its time
    record = fold([*over, late])
    assert (record.state, record.answered_at, record.duration) == ("ended", _at(1.5), 18.5)


@pytest.mark.parametrize(
    ("kinds", "said", "disposition"),
    [
        ([], "busy", "busy"),
        ([], "canceled", "canceled"),
        ([], None, "no_answer"),
        ([T.CALL_ANSWERED], None, "answered"),
        ([T.CALL_ANSWERED], "failed", "failed"),
        ([T.CALL_FORWARDED], "answered", "forwarded"),
        ([T.CALL_FORWARDED], "canceled", "canceled"),
        ([T.CALL_EXPIRED], "no_answer", "no_answer"),
        ([T.CALL_EXPIRED], "answered", "answered"),
        ([T.CALL_EXPIRED], None, "lost"),
    ],
)
def test_how_it_ended(kinds: list[T], said: str | None, disposition: str) -> None:
    events = [event(CALL, kind, 1.0) for kind in kinds]
    end = event(CALL, T.CALL_ENDED, 9.0, disposition=said)
    assert fold([initiated(CALL), *events, end]).disposition == disposition


def test_an_expired_call_goes_on_until_somebody_says_that_it_is_over() -> None:
    expired = event(CALL, T.CALL_EXPIRED, 90.0, "switchboard", reason="too late")
    record = fold([initiated(CALL), expired])
    assert (record.state, record.disposition, record.reason) == ("initiated", None, "too late")
    talking = fold([initiated(CALL), event(CALL, T.CALL_FORWARDED, 20.0), expired])
    assert talking.state == "forwarded"


def test_a_missing_agent_is_the_reason() -> None:
    missing = event(CALL, T.AGENT_MISSING, 9.0, "switchboard", reason="no agent came")
    record = fold([initiated(CALL), missing])
    assert (record.state, record.agent_ready, record.reason) == (
        "initiated",
        False,
        "no agent came",
    )


def test_without_the_first_event_the_others_tell_what_they_know() -> None:
    record = fold(
        [
            event(CALL, T.SIP_JOINED, 0.2, "livekit", provider_call_id="from a header"),
            event(
                CALL,
                T.CALL_RINGING,
                0.5,
                provider_call_id="CA1",
                provider_account="AC1",
                from_number=FROM,
            ),
        ]
    )
    assert (record.provider, record.provider_call_id, record.from_number) == ("twilio", "CA1", FROM)
    assert (record.agent, record.reason, record.to_number) == ("", "", "")
    assert record.initiated_at == _at(0.2)


def test_the_same_event_with_two_times_counts_from_the_earlier() -> None:
    poll = _ready(1.5)
    webhook = Event(
        id=poll.id, type=poll.type, source="livekit", time=_at(1.0), key=CALL, data=poll.data
    )
    call = initiated(CALL)
    assert fold([call, poll, webhook]) == fold([webhook, poll, call])
    assert fold([call, poll, webhook]).agent_ready_at == _at(1.0)


def test_a_room_in_which_nobody_phones_is_no_call() -> None:
    events = [
        event(CALL, kind, 1.0, "livekit", agent="lk-anna")
        for kind in (T.ROOM_STARTED, T.AGENT_JOINED, T.AGENT_READY, T.AGENT_LEFT, T.ROOM_ENDED)
    ]
    events.append(event(CALL, T.PROVIDER_UNKNOWN, 2.0, "livekit"))
    assert plan.fold(events) is None
    assert plan.fold([]) is None
    assert plan.fold([*events, event(CALL, T.SIP_JOINED, 0.5, "livekit")]) is not None


def test_a_call_that_only_heard_the_apology_failed() -> None:
    call = new_call("apology")
    rejected = Decision(action="reject", reason="number is not mapped", table_version=3)
    record = fold(
        [
            initiated(call, decision=rejected),
            event(call, T.CALL_ENDED, 4.0, disposition="answered", duration=4.0),
        ]
    )
    assert (record.state, record.disposition) == ("ended", "failed")
    assert record.reason == "number is not mapped"


@pytest.mark.parametrize("source", ["livekit", "a-new-provider"])
def test_who_began_the_call_carries_it_whoever_that_is(source: str) -> None:
    record = fold(
        [
            event(CALL, T.CALL_INITIATED, 0.0, source, provider_call_id="SCL_1", from_number=FROM),
            event(CALL, T.CALL_ANSWERED, 1.0, source),
            event(CALL, T.CALL_ENDED, 9.0, source),
            event(
                CALL, T.CALL_ENDED, 9.4, "twilio", disposition="answered", provider_account="AC1"
            ),
            event(CALL, T.CALL_SUMMARISED, 900.0, "twilio", provider_call_id="CA1", duration=7.0),
        ]
    )
    assert (record.provider, record.provider_call_id, record.provider_account) == (
        source,
        "SCL_1",
        "AC1",
    )
    assert (record.disposition, record.ended_at, record.duration) == ("answered", _at(9.0), 8.0)


def test_a_leg_tells_which_call_it_belongs_to_but_not_who_called_whom() -> None:
    leg = event(
        CALL,
        T.LEG_ANSWERED,
        1.0,
        provider_call_id="CA1",
        provider_account="AC1",
        direction="outbound",
        to_number="sip:a-room@livekit",
    )
    record = fold([leg])
    assert (record.provider_call_id, record.provider_account) == ("CA1", "AC1")
    assert (record.direction, record.to_number, record.from_number) == (None, "", "")
    assert record.state == "answered"


def test_the_end_of_a_leg_is_not_the_end_of_the_call() -> None:
    leg = event(CALL, T.LEG_ENDED, 20.0, disposition="failed", leg_id="CA2")
    assert fold([initiated(CALL), leg]).state == "initiated"


def test_the_word_about_the_call_counts_before_the_word_about_a_dial() -> None:
    dial = event(CALL, T.CALL_ENDED, 9.1, disposition="no_answer", stage="agent", duration=3.0)
    call = event(CALL, T.CALL_ENDED, 9.0, disposition="canceled", duration=4.0)
    for events in ([dial, call], [call, dial]):
        record = fold([initiated(CALL), *events])
        assert (record.disposition, record.duration) == ("canceled", 4.0)
        assert record.ended_at == _at(9.0)


def _swept(at: float, **data: object) -> Event:
    return event(CALL, T.CALL_ENDED, at, "switchboard", reason="asked", **data)


def test_what_the_carrier_tells_counts_more_than_what_it_answered_and_that_more_than_lost() -> None:
    told = [initiated(CALL), event(CALL, T.CALL_ANSWERED, 1.0)]
    lost = fold([*told, _swept(1.0, disposition="lost")])
    assert (lost.state, lost.disposition, lost.duration) == ("ended", "lost", None)
    assert lost.reason == "asked"
    asked = fold([*told, _swept(30.0, disposition="answered", duration=29.0)])
    assert (asked.disposition, asked.ended_at, asked.duration) == ("answered", _at(30.0), 29.0)
    late = event(CALL, T.CALL_ENDED, 30.4, disposition="answered", duration=29.4)
    for said in (_swept(1.0, disposition="lost"), _swept(30.0, disposition="answered")):
        record = fold([*told, said, late])
        assert (record.disposition, record.ended_at, record.duration) == (
            "answered",
            _at(30.4),
            29.4,
        )


def test_who_left_the_room_is_not_lost() -> None:
    told = [initiated(CALL), event(CALL, T.CALL_ANSWERED, 1.0), _swept(1.0, disposition="lost")]
    record = fold([*told, event(CALL, T.SIP_LEFT, 9.0, "livekit")])
    assert (record.disposition, record.ended_at, record.duration) == ("answered", _at(9.0), 8.0)


def test_a_missing_agent_is_a_better_reason_than_that_somebody_was_asked() -> None:
    missing = event(CALL, T.AGENT_MISSING, 9.0, "switchboard", reason="no agent came")
    record = fold([initiated(CALL), missing, _swept(30.0, disposition="no_answer")])
    assert (record.disposition, record.reason) == ("no_answer", "no agent came")


def _late_agent(*ends: Event) -> list[Event]:
    """The agent could be heard a moment after the caller had gone."""
    joined = event(CALL, T.SIP_JOINED, 0.4, "livekit")
    left = event(CALL, T.SIP_LEFT, 8.0, "livekit")
    return [initiated(CALL), joined, left, _ready(8.2), *ends]


@pytest.mark.parametrize("disposition", [None, "no_answer", "canceled", "busy"])
def test_an_agent_who_came_when_the_caller_had_gone_has_answered_nothing(
    disposition: str | None,
) -> None:
    end = event(CALL, T.CALL_ENDED, 8.1, disposition=disposition)
    record = fold(_late_agent(end))
    assert (record.answered_at, record.duration) == (None, None)
    assert (record.disposition, record.agent_ready) == (disposition or "no_answer", True)


def test_what_the_carrier_says_of_the_answer_counts_more_than_who_was_in_the_room() -> None:
    ringing = event(CALL, T.CALL_ENDED, 40.0, disposition="busy")  # the fallback's
    assert fold(_late_agent(ringing)).answered_at is None
    told = event(CALL, T.CALL_ANSWERED, 7.0)
    assert fold(_late_agent(told, ringing)).answered_at == _at(7.0)


def test_until_its_end_is_told_a_late_agent_has_answered() -> None:
    assert fold(_late_agent()).state == "answered"  # or else the state would go back
    assert fold(_late_agent()).answered_at == _at(8.2)


def test_a_call_goes_on_after_a_dial_that_failed_until_the_caller_has_heard_the_apology() -> None:
    dial = event(CALL, T.CALL_ENDED, 20.0, disposition="no_answer", stage="agent")
    assert fold([initiated(CALL), dial]).ended_at == _at(20.0)
    apology = event(CALL, T.CALL_ANSWERED, 20.2)
    over = event(CALL, T.CALL_ENDED, 24.5, disposition="answered", duration=4.0)
    record = fold([initiated(CALL), dial, apology, over])
    assert (record.answered_at, record.ended_at) == (_at(20.2), _at(24.5))
    assert (record.disposition, record.duration) == ("no_answer", 4.0)


def test_times_in_whole_seconds_do_not_end_a_call_before_it_began_or_was_answered() -> None:
    begun, answered = initiated(CALL, 5.4), event(CALL, T.CALL_ANSWERED, 5.6)
    end = event(CALL, T.CALL_ENDED, 5.0, disposition="answered")
    record = fold([begun, answered, end])
    assert (record.initiated_at, record.answered_at, record.ended_at) == (_at(5.4),) * 3
    assert record.duration == 0.0


def test_who_is_put_through_in_the_middle_of_a_call_is_on_the_line_until_the_call_ends() -> None:
    """The agent was lost: the room is left and the agent's dial over, and the call goes on."""
    so_far = [
        initiated(CALL),
        event(CALL, T.SIP_JOINED, 0.4, "livekit"),
        _ready(1.0),
        event(CALL, T.LEG_ANSWERED, 1.2),
        event(CALL, T.AGENT_MISSING, 40.0, "switchboard"),
        event(CALL, T.CALL_FORWARDED, 40.1, "switchboard"),
        event(CALL, T.CALL_ENDED, 40.2, stage="agent", disposition="answered"),
        event(CALL, T.SIP_LEFT, 40.3, "livekit"),
    ]
    record = fold(so_far)
    assert (record.state, record.disposition, record.ended_at) == ("forwarded", None, None)
    assert record.answered_at == _at(1.2)
    record = fold([*so_far, event(CALL, T.CALL_ENDED, 90.0, disposition="answered", duration=89.0)])
    assert (record.state, record.disposition) == ("ended", "forwarded")
    assert (record.ended_at, record.duration) == (_at(90.0), 89.0)


def _end(kind: T, at: float, **data: Any) -> Event:
    return event(CALL, kind, at, **{"provider_call_id": "CA1", **data})


AGENTS_DIAL = {"leg_id": "CA2", "stage": "agent", "disposition": "no_answer"}


def test_each_legs_end_is_in_the_record() -> None:
    told = [
        initiated(CALL),
        # what followed from the end of the dial, and the leg's own callback
        _end(T.CALL_FORWARDED, 20.0, **AGENTS_DIAL, status="no-answer"),
        _end(T.LEG_ENDED, 20.5, leg_id="CA2", disposition="failed", sip_status=480),
        # an agent dialled somebody in
        event(CALL, T.LEG_ENDED, 30.0, "livekit", leg_id="PA_1", reason="LiveKit: MIGRATION"),
        _end(T.CALL_ENDED, 40.0, leg_id="CA3", stage="fallback", disposition="forwarded"),
        _end(T.CALL_ENDED, 41.0, disposition="answered", status="completed", sip_status=200),
        event(CALL, T.CALL_ENDED, 42.0, "switchboard", disposition="lost"),
    ]
    legs = {leg.leg_id: leg for leg in fold(told).legs}
    assert list(legs) == ["CA2", "PA_1", "CA3", "CA1"]
    assert legs["CA2"] == Leg(
        leg_id="CA2",
        provider="twilio",
        dialled="agent",
        disposition="no_answer",
        sip_status=480,
        reason="no-answer",
        ended_at=START + 20_000_000,
    )
    assert (legs["PA_1"].provider, legs["PA_1"].reason) == ("livekit", "LiveKit: MIGRATION")
    assert (legs["CA3"].dialled, legs["CA3"].disposition) == ("fallback", "answered")
    callers = legs["CA1"]
    assert (callers.dialled, callers.sip_status, callers.reason) == ("", 200, "completed")
    for order in (told[::-1], told[3:] + told[:3] + told):
        assert fold(order).legs == fold(told).legs


def test_a_record_has_a_hundred_legs_at_most() -> None:
    ends = [_end(T.LEG_ENDED, 1.0 + n, leg_id=f"CA{n}") for n in range(150)]
    found = fold([initiated(CALL), *ends[::-1]]).legs
    assert [leg.leg_id for leg in found] == [f"CA{n}" for n in range(100)]


def test_a_dial_whose_leg_nobody_names_has_ended_all_the_same() -> None:
    dial = _end(T.CALL_ENDED, 9.0, stage="agent", disposition="busy", sip_status=486)
    [leg] = fold([initiated(CALL), dial]).legs
    assert (leg.leg_id, leg.dialled, leg.sip_status) == ("agent", "agent", 486)
