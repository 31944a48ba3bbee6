"""The record of a call is a function of the set of its events, and never contradicts itself."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from consumers.calls.plan import fold
from router.events.model import Event
from router.events.types import EventType
from tests.support.fake_events import event, initiated, new_call

CALL = new_call("property")

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


@given(events=_events, first=st.booleans(), order=st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(
    events: list[Event], first: bool, order: Random
) -> None:
    known = [initiated(CALL), *events] if first else events
    delivered = known + order.choices(known, k=len(known))
    order.shuffle(delivered)
    assert fold(delivered) == fold(known)


@given(events=_events)
def test_a_record_agrees_with_itself(events: list[Event]) -> None:
    record = fold([initiated(CALL), *events])
    assert (record.state == "ended") == (record.ended_at is not None)
    assert (record.disposition is not None) == (record.state == "ended")
    assert record.agent_ready == (record.agent_ready_at is not None)
    assert record.duration is None or record.duration >= 0
    assert (record.agent, record.provider) == ("anna", "twilio")


@given(events=_events, more=_events)
def test_more_events_never_take_the_call_back(events: list[Event], more: list[Event]) -> None:
    ranks = ["initiated", "ringing", "answered", "forwarded", "ended"]
    before = fold([initiated(CALL), *events]).state
    after = fold([initiated(CALL), *events, *more]).state
    # Except where the caller only seemed to have left before the answer was known in full.
    if before != "ended" or any(e.type is EventType.CALL_ENDED for e in events):
        assert ranks.index(after) >= ranks.index(before)
