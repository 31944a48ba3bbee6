"""Calls of every provider, made up by a seed and told through the provider's own parser.

The record is held against what really happened, and against itself.
"""

from random import Random

import msgspec
from hypothesis import assume, given, note
from hypothesis import strategies as st

from consumers.calls import plan
from router.events.call import CallRecord
from router.events.ids import event_id
from router.events.model import Event
from router.events.types import EventType as T
from tests.support.call_histories import SECOND, Truth, history, moment
from tests.support.fake_events import fold

RANKS = ["initiated", "ringing", "answered", "forwarded", "ended"]

_seeds = st.integers(0, 2**32)
_orders = st.randoms(use_true_random=False)


@given(seed=_seeds)
def test_the_record_says_what_happened(seed: int) -> None:
    events, truth = history(seed)
    note(f"{truth}")
    record = fold(events)
    assert (record.state, record.provider) == ("ended", truth.provider)
    assert record.direction == ("outbound" if truth.outbound else "inbound")
    _assert_ended_so(record, truth)


@given(seed=_seeds)
def test_the_record_agrees_with_itself(seed: int) -> None:
    record = fold(history(seed)[0])
    assert record.ended_at is not None
    assert record.initiated_at <= record.ended_at
    assert record.answered_at is None or record.answered_at <= record.ended_at
    assert record.duration is None or record.duration >= 0
    assert record.agent_ready == (record.agent_ready_at is not None)


@given(seed=_seeds, order=_orders)
def test_whatever_arrives_first_the_state_goes_forward_to_one_record(
    seed: int, order: Random
) -> None:
    events, _ = history(seed)
    delivered = events + order.choices(events, k=len(events))
    order.shuffle(delivered)
    records = [plan.fold(delivered[:count]) for count in range(len(delivered) + 1)]
    ranks = [-1 if record is None else RANKS.index(record.state) for record in records]
    assert ranks == sorted(ranks)
    assert records[-1] == fold(events)


@given(seed=_seeds)
def test_an_end_that_was_asked_for_is_as_good_as_one_that_was_told(seed: int) -> None:
    events, truth = history(seed)
    note(f"{truth}")
    ends = [event for event in events if event.type is T.CALL_ENDED and not event.data.stage]
    kept = [event for event in events if event not in ends]
    assume(fold(kept).state != "ended")  # others are not asked about
    _assert_ended_so(fold([*kept, _swept(ends[-1], truth)]), truth)


def _swept(end: Event, truth: Truth) -> Event:
    """What the sweeper tells of the same end."""
    return msgspec.structs.replace(
        end, id=event_id("swept", end.key), source="switchboard", time=moment(truth)
    )


def _assert_ended_so(record: CallRecord, truth: Truth) -> None:
    assert record.disposition in truth.dispositions
    if truth.answered is not None:
        assert (record.answered_at is not None) == truth.answered
    assert record.ended_at is not None
    if truth.is_timed:
        assert abs(record.ended_at - moment(truth)) <= 3 * SECOND
