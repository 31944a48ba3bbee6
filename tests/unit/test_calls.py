"""`consumers.calls.plan.fold`: what a call's events together say."""

import pytest

from consumers.calls.plan import fold
from router.events.model import Decision, Event
from router.events.types import EventType as T
from tests.support.fake_events import FROM, TO, event, initiated, new_call
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
    assert (record.provider, record.provider_call_id, record.account) == (
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


def test_expired_is_lost_until_the_carrier_says_more() -> None:
    expired = event(CALL, T.CALL_EXPIRED, 90.0, "switchboard", reason="too late")
    record = fold([initiated(CALL), expired])
    assert (record.state, record.disposition, record.reason) == ("ended", "lost", "too late")
    assert (record.ended_at, record.duration) == (_at(90.0), None)


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
                CALL, T.CALL_RINGING, 0.5, provider_call_id="CA1", account="AC1", from_number=FROM
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
    assert fold([poll, webhook]) == fold([webhook, poll])
    assert fold([poll, webhook]).agent_ready_at == _at(1.0)


def test_a_call_without_events_has_no_record() -> None:
    with pytest.raises(ValueError, match="no record"):
        fold([])


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
