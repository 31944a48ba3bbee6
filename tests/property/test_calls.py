"""The record of a call is a function of the set of its events, and never contradicts itself."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from consumers.calls import plan
from router.events.call import CallRecord
from router.events.model import Event
from router.events.types import EventType
from tests.support.fake_events import event, fold, initiated, new_call

CALL = new_call("property")
RANKS = ["initiated", "ringing", "answered", "forwarded", "ended"]

_events = st.lists(
    st.builds(
        lambda kind, at, source, disposition, duration: event(
            CALL, kind, at, source, disposition=disposition, duration=duration, reason=kind.value
        ),
        st.sampled_from(EventType),
        st.integers(0, 5).map(float),  # few values: many events at the same time
        st.sampled_from(["twilio", "livekit", "switchboard"]),
        st.sampled_from([None, "answered", "forwarded", "busy", "no_answer", "failed", "lost"]),
        st.none() | st.floats(0, 100),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda e: e.id,
)


def _rank(record: CallRecord | None) -> int:
    return -1 if record is None else RANKS.index(record.state)


@given(events=_events, first=st.booleans(), order=st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(
    events: list[Event], first: bool, order: Random
) -> None:
    known = [initiated(CALL), *events] if first else events
    delivered = known + order.choices(known, k=len(known))
    order.shuffle(delivered)
    assert plan.fold(delivered) == plan.fold(known)


@given(events=_events)
def test_a_record_agrees_with_itself(events: list[Event]) -> None:
    record = fold([initiated(CALL), *events])
    assert (record.state == "ended") == (record.ended_at is not None)
    assert (record.disposition is not None) == (record.state == "ended")
    assert record.agent_ready == (record.agent_ready_at is not None)
    assert record.duration is None or record.duration >= 0
    if record.ended_at is not None:
        assert record.initiated_at <= record.ended_at
        assert record.answered_at is None or record.answered_at <= record.ended_at
    assert (record.agent, record.provider) == ("anna", "twilio")


@given(events=_events, more=_events, first=st.booleans())
def test_more_events_never_take_the_call_back(
    events: list[Event], more: list[Event], first: bool
) -> None:
    before = [initiated(CALL), *events] if first else events
    rank = _rank(plan.fold(before))
    if any(each.type is EventType.CALL_FORWARDED for each in more):
        # Who left the room for the fallback has not left the call: that is known from now on.
        rank = min(rank, RANKS.index("forwarded"))
    assert _rank(plan.fold([*before, *more])) >= rank


@given(events=_events)
def test_events_that_tell_nothing_change_nothing(events: list[Event]) -> None:
    telling = [each for each in events if each.type in plan.TELLING]
    assert plan.fold(telling) == plan.fold(events)


@given(events=_events)
def test_there_is_a_record_as_soon_as_somebody_phones_and_not_before(events: list[Event]) -> None:
    phones = any(each.type.startswith(("call.", "leg.", "sip.")) for each in events)
    assert (plan.fold(events) is not None) == phones
