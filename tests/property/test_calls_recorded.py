"""Whole calls of each provider: shuffled, repeated, with holes, the final record is the same.

`tests/recorded/*.jsonl` holds one event per line. Twilio's answered, forwarded, rejected and hung
up ones were made by a node with the stand-ins around it; the others are the events that the
providers' documented webhooks become. A call that is put there needs a line in `STORIES`.
"""

from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.calls import plan
from router.events.call import CallRecord
from router.events.model import Event
from router.events.types import EventType as T
from tests.support.fake_events import fold

FOLDER = Path(__file__).parents[1] / "recorded"
RANKS = ["initiated", "ringing", "answered", "forwarded", "ended"]
SECOND = 1_000_000

# provider, disposition, agent, whether it could be heard, whether the call was answered
STORIES = {
    "livekit_trunk": ("livekit", "answered", "", True, True),
    "livekit_trunk_of_twilio": ("livekit", "answered", "", False, True),
    "telnyx_answered": ("telnyx", "answered", "anna", True, True),
    "telnyx_forwarded": ("telnyx", "forwarded", "anna", False, True),
    "twilio_answered": ("twilio", "answered", "anna", True, True),
    "twilio_answered_poll_only": ("twilio", "answered", "anna", True, True),
    "twilio_everything": ("twilio", "answered", "anna", True, True),
    "twilio_forwarded": ("twilio", "forwarded", "nobody", False, False),
    "twilio_hung_up_while_ringing": ("twilio", "canceled", "nobody", False, False),
    "twilio_rejected": ("twilio", "failed", "", False, False),
    "twilio_swept": ("twilio", "answered", "anna", True, True),
    "vocode_answered": ("vocode", "answered", "anna", True, True),
}

_names = st.sampled_from(sorted(STORIES))
_orders = st.randoms(use_true_random=False)


def recorded(name: str) -> list[Event]:
    lines = (FOLDER / f"{name}.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Event) for line in lines]


def test_every_recorded_call_has_its_story() -> None:
    assert {file.stem for file in FOLDER.glob("*.jsonl")} == set(STORIES)


@pytest.mark.parametrize("name", STORIES)
def test_the_record_tells_the_story(name: str) -> None:
    record = fold(recorded(name))
    answered = record.answered_at is not None
    told = (record.provider, record.disposition, record.agent, record.agent_ready, answered)
    assert told == STORIES[name]
    assert record.state == "ended"
    assert (record.direction, record.from_number) == ("inbound", "+12125550123")
    assert record.to_number.startswith("+1415555")
    assert record.duration is not None


@given(name=_names, order=_orders)
def test_order_and_repetition_do_not_matter(name: str, order: Random) -> None:
    events = recorded(name)
    delivered = events + order.choices(events, k=len(events))
    order.shuffle(delivered)
    assert fold(delivered) == fold(events)


@given(name=_names, order=_orders)
def test_the_state_only_goes_forward(name: str, order: Random) -> None:
    events = recorded(name)
    order.shuffle(events)
    records = [plan.fold(events[:count]) for count in range(len(events) + 1)]
    ranks = [-1 if record is None else RANKS.index(record.state) for record in records]
    assert ranks == sorted(ranks)


@given(name=_names, order=_orders)
def test_what_others_tell_too_is_not_missed(name: str, order: Random) -> None:
    events = recorded(name)
    kept = _with_holes(events, order)
    assert _essence(fold(kept)) == _essence(fold(events))
    _close(fold(kept), fold(events))


def _with_holes(events: list[Event], order: Random) -> list[Event]:
    """The events without some whose every piece of information is in another one."""
    kept = list(events)
    for event in order.sample(events, k=len(events)):
        others = [each for each in kept if each is not event]
        if order.random() < 0.8 and all(
            any(piece in _information(other) for other in others) for piece in _information(event)
        ):
            kept = others
    return kept


def _information(event: Event) -> set[object]:
    """What an event lets its reader know of the call as a whole."""
    data, kind = event.data, event.type
    pieces: set[object] = set()
    if kind in (T.CALL_INITIATED, T.CALL_RINGING, T.CALL_ANSWERED, T.CALL_ENDED):
        pieces |= {("party", data.from_number), ("party", data.to_number), data.direction}
    if kind.startswith(("call.", "leg.")):
        pieces |= {("id", data.provider_call_id), ("account", data.provider_account)}
    if data.decision is not None:
        pieces |= {("decision", data.decision.action, data.decision.agent)}
    if kind in (T.LEG_ENDED, T.CALL_FORWARDED, T.CALL_ENDED) and event.source != "switchboard":
        leg = (event.source, data.leg_id or data.stage or data.provider_call_id)
        told = (data.stage, data.disposition, data.sip_status, data.reason or data.status)
        pieces |= {(*leg, *each) for each in enumerate(told) if each[1]} | {leg}
    match kind:
        case T.CALL_INITIATED:
            pieces |= {("began by", event.source), ("route", data.decision is not None)}
        case T.CALL_RINGING | T.LEG_RINGING:
            pieces.add("rang")
        case T.CALL_ANSWERED | T.LEG_ANSWERED | T.CALL_BRIDGED:
            pieces.add("answered")
        case T.CALL_ENDED:
            pieces |= {("ended", data.disposition), ("measured", data.duration)}
            pieces |= {("end by", event.source)}
        case T.CALL_FORWARDED | T.AGENT_READY | T.AGENT_MISSING | T.SIP_JOINED | T.SIP_LEFT:
            pieces.add(kind)
        case _:
            pass
    return pieces - {"", None, ("party", ""), ("id", ""), ("account", "")}


def _essence(record: CallRecord) -> CallRecord:
    """All but the exact times."""
    known = {
        name: int(getattr(record, name) is not None)
        for name in ("ringing_at", "agent_ready_at", "answered_at", "ended_at")
    }
    legs = sorted(record.legs, key=lambda leg: (leg.provider, leg.leg_id))
    timeless = tuple(msgspec.structs.replace(leg, ended_at=0) for leg in legs)
    return msgspec.structs.replace(record, **known, initiated_at=0, duration=None, legs=timeless)


def _close(one: CallRecord, other: CallRecord) -> None:
    """Two who tell the same do not do so at the same moment."""
    for name in ("initiated_at", "ringing_at", "agent_ready_at", "answered_at", "ended_at"):
        first, second = getattr(one, name), getattr(other, name)
        assert first is None or abs(first - second) <= SECOND, name
    assert (one.duration is None) == (other.duration is None)
    assert one.duration is None or other.duration is None or abs(one.duration - other.duration) <= 1
