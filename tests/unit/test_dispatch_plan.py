"""`consumers.dispatch.plan`: what an event asks for, and what the next step of a call is."""

from typing import Any

import pytest

from consumers.dispatch.plan import (
    Facts,
    Presence,
    Reaction,
    Step,
    job_metadata,
    next_step,
    own_event,
    presence,
    reaction,
    superfluous,
)
from router.events.model import Decision
from router.events.types import EventType as T
from router.providers.livekit.client import Participant
from router.storage.claims import Claim
from tests.support.fake_events import FROM, TO, event, initiated, new_call

CALL = new_call("plan")


def _who(kind: str, name: str = "", *, audio: bool = False) -> Participant:
    return Participant("PA_1", "x", kind, name, publishes_audio=audio, attributes={}, joined_at=0)


SILENT = Presence([_who("AGENT", "lk-anna")], [_who("SIP")])
SPEAKS = Presence([_who("AGENT", "lk-anna", audio=True)], [_who("SIP")])
NOBODY = Presence([], [])


@pytest.mark.parametrize(
    ("state", "known", "step"),
    [
        ("claimed", {}, Step.CREATE),
        ("claimed", {"certain": False}, Step.FIND),
        ("claimed", {"old": True}, Step.EXPIRE),
        ("claimed", {"old": True, "certain": False}, Step.FIND),
        ("claimed", {"old": True, "certain": False, "unreachable": True}, Step.EXPIRE),
        ("dispatching", {"attempt": 2}, Step.CREATE),
        ("dispatching", {"attempt": 2, "certain": False}, Step.FIND),
        ("dispatching", {"attempt": 2, "certain": False, "unreachable": True}, Step.FIND),
        ("dispatching", {"attempt": 2, "old": True}, Step.MISSING),
        ("dispatched", {"presence": NOBODY}, Step.WAIT),
        ("dispatched", {"presence": SILENT}, Step.WAIT),
        ("dispatched", {"presence": SPEAKS}, Step.READY),
        ("dispatched", {"presence": SPEAKS, "late": True}, Step.READY),
        ("dispatched", {"presence": SPEAKS, "old": True}, Step.READY),
        ("dispatched", {"presence": SPEAKS, "certain": False}, Step.TIDY),
        ("dispatched", {"presence": SILENT, "late": True}, Step.AGAIN),
        ("dispatched", {"presence": SILENT, "late": True, "old": True}, Step.MISSING),
        ("dispatched", {"presence": SILENT, "late": True, "attempt": 2}, Step.MISSING),
        ("dispatched", {"presence": None}, Step.WAIT),
        ("dispatched", {"presence": None, "late": True}, Step.WAIT),
        ("dispatched", {"presence": None, "late": True, "old": True}, Step.MISSING),
        ("dispatched", {"presence": None, "heard": True, "certain": False}, Step.READY),
        ("dispatched", {"presence": NOBODY, "heard": True}, Step.WAIT),  # it was another's audio
        ("dispatched", {"presence": SILENT, "heard": True}, Step.READY),
        ("dispatched", {"presence": SILENT, "heard": True, "certain": False}, Step.WAIT),
    ],
)
def test_next_step(state: Any, known: dict[str, Any], step: Step) -> None:
    usual = {
        "attempt": 1,
        "certain": True,
        "old": False,
        "late": False,
        "left": False,
        "unreachable": False,
        "heard": False,
        "presence": None,
    }
    assert next_step(Facts(state=state, **(usual | known))) is step


def test_reactions() -> None:
    assert reaction(initiated(CALL)) is Reaction.START
    rejected = Decision(action="reject", reason="unknown number", table_version=1)
    assert reaction(initiated(CALL, decision=rejected)) is Reaction.NONE
    assert reaction(event(CALL, T.CALL_INITIATED, 0)) is Reaction.NONE
    expected = {
        T.AGENT_READY: Reaction.HEAR,
        T.AGENT_JOINED: Reaction.CHECK_LATE,
        T.AGENT_LEFT: Reaction.CHECK_LOST,
        T.AGENT_MISSING: Reaction.WITHDRAW,
        T.SIP_JOINED: Reaction.TURN_AWAY,
        T.SIP_LEFT: Reaction.CHECK_EMPTY,
        T.CALL_ENDED: Reaction.CLOSE,
        T.CALL_FORWARDED: Reaction.CLOSE,
    }
    for kind in T:
        if kind is not T.CALL_INITIATED:
            assert reaction(event(CALL, kind, 1)) is expected.get(kind, Reaction.NONE)


def test_presence_counts_our_agent_and_unnamed_ones_but_no_other() -> None:
    found = [
        _who("AGENT", "lk-anna"),
        _who("AGENT", "recorder", audio=True),
        _who("AGENT", ""),
        _who("SIP"),
        _who("STANDARD", audio=True),
    ]
    seen = presence(found, "lk-anna")
    assert (len(seen.agents), len(seen.callers)) == (2, 1)
    assert not seen.ready
    assert seen.doubled
    assert SPEAKS.ready
    assert not SPEAKS.doubled


def _claim() -> Claim:
    return Claim(
        call_id=CALL,
        state="claimed",
        fence=3,
        owner="p1",
        lease_until=0,
        due_at=None,
        attempt=0,
        agent="anna",
        livekit_agent_name="lk-anna",
        dispatch_id="",
        initiated=b"",
        created_at=0,
        updated_at=0,
    )


def test_the_job_finds_the_call_and_the_agents_own_metadata() -> None:
    assert job_metadata(_claim(), initiated(CALL), 2) == {
        "metadata": {"greeting": "hello"},
        "call": {
            "call_id": CALL,
            "provider": "twilio",
            "provider_call_id": f"CA-{CALL}",
            "from": FROM,
            "to": TO,
            "direction": "inbound",
        },
        "agent": {"name": "anna", "livekit_agent_name": "lk-anna"},
        "dispatch": {"attempt": 2, "fence": 3},
    }


def test_our_own_events_have_one_id_for_each_attempt() -> None:
    def tell(attempt: int, time: int) -> str:
        told = own_event(
            _claim(), initiated(CALL), T.AGENT_DISPATCHED, time=time, attempt=attempt, reason=""
        )
        assert (told.key, told.call_id, told.source, told.time) == (CALL, CALL, "switchboard", time)
        return told.id

    assert tell(1, 5) == tell(1, 9) != tell(2, 5)


def _agent(identity: str, joined_at: int, *, audio: bool = True, name: str = "anna") -> Participant:
    return Participant(
        f"PA_{identity}",
        identity,
        "AGENT",
        name,
        publishes_audio=audio,
        attributes={},
        joined_at=joined_at,
    )


FIRST, SECOND, MUTE = _agent("one", 1), _agent("two", 2), _agent("mute", 3, audio=False)
TOGETHER = _agent("twin", 1)
NAMELESS = _agent("nameless", 0, name="")


@pytest.mark.parametrize(
    ("agents", "own", "gone"),
    [
        ([SECOND, FIRST], {"two"}, [FIRST]),  # who was withdrawn came all the same
        ([SECOND, FIRST], {"one"}, [SECOND]),
        ([SECOND, FIRST], {"not here yet"}, [SECOND]),
        ([SECOND, FIRST], (), [SECOND]),
        ([FIRST, TOGETHER], (), [TOGETHER]),
        ([TOGETHER, FIRST], (), [TOGETHER]),  # or two processes would put out both
        ([FIRST, MUTE], {"mute"}, None),  # the other one may be on its way out
        ([FIRST, MUTE], (), [MUTE]),
        ([MUTE, MUTE], (), None),
        ([SECOND, FIRST], None, None),
        ([FIRST, NAMELESS], {"one"}, []),
        ([FIRST, NAMELESS], None, []),
        ([FIRST], {"another"}, []),
    ],
)
def test_who_is_too_many(
    agents: list[Participant], own: set[str] | None, gone: list[Participant] | None
) -> None:
    found = superfluous(agents, own)
    assert (None if found is None else list(found)) == gone
