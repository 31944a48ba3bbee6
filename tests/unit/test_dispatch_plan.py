"""`consumers.dispatch.plan`: what an event asks for, and what the next step of a call is."""

from typing import Any

import msgspec
import pytest

from consumers.dispatch.job import job_metadata
from consumers.dispatch.plan import (
    Facts,
    Presence,
    Reaction,
    Step,
    is_carried,
    next_step,
    own_event,
    presence,
    reaction,
    superfluous,
)
from router.events.ids import event_id
from router.events.model import Decision, Event, EventData
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
            "country": "US",
        },
        "agent": {"name": "anna", "livekit_agent_name": "lk-anna"},
        "dispatch": {"attempt": 2, "fence": 3},
    }


def test_the_job_of_a_call_that_says_less() -> None:
    event = initiated(CALL)
    data = msgspec.structs.replace(event.data, direction=None, decision=None)
    found = job_metadata(_claim(), msgspec.structs.replace(event, data=data), 1)
    assert found["metadata"] == {}
    assert found["call"]["direction"] == "inbound"
    data = msgspec.structs.replace(event.data, direction="outbound")
    found = job_metadata(_claim(), msgspec.structs.replace(event, data=data), 1)
    assert found["call"]["direction"] == "outbound"


def _call_facts(**said: Any) -> dict[str, Any]:
    began = initiated(CALL)
    data = msgspec.structs.replace(began.data, **said)
    found = job_metadata(_claim(), msgspec.structs.replace(began, data=data), 1)
    call: dict[str, Any] = found["call"]
    return call


def test_the_job_finds_what_the_carrier_said_of_the_caller() -> None:
    said = {
        "channel": "sip",
        "attestation": "B",
        "forwarded_from": "+4930123456",
        "caller_name": "ADA LOVELACE",
        "sip_headers": {"X-Ticket": "77", "X-Language": "de-CH"},
    }
    call = _call_facts(**said)
    assert {name: call[name] for name in said} == said
    assert (call["country"], call["language"]) == ("US", "de-CH")


@pytest.mark.parametrize(
    ("number", "country"),
    [
        ("+14165550100", "CA"),
        ("+4930123456", "DE"),
        ("+77011234567", "KZ"),
        ("+80012345678", None),  # of no country
        ("+999123456789", None),
        ("anonymous", None),
        ("sip:bob@example.com", None),
        ("", None),
    ],
)
def test_the_callers_country_is_that_of_the_number(number: str, country: str | None) -> None:
    assert _call_facts(from_number=number).get("country") == country


@pytest.mark.parametrize(
    ("headers", "language"),
    [
        ({"Accept-Language": "da, en-GB;q=0.8, en;q=0.7"}, "da"),
        ({"accept-language": "en;q=0.1, pt-BR ; q=0.9"}, "pt-BR"),
        ({"X-Language": "fr", "Accept-Language": "de"}, "fr"),
        ({"X-Language": "<script>", "Accept-Language": "de"}, "de"),
        ({"Accept-Language": "*"}, None),
        ({"X-Ticket": "de"}, None),
    ],
)
def test_a_language_is_one_that_a_header_named(
    headers: dict[str, str], language: str | None
) -> None:
    assert _call_facts(sip_headers=headers).get("language") == language


def test_a_header_that_does_not_fit_is_left_out_whole() -> None:
    headers = {"X-Small": "1", "X-Large": "\U0001f600" * 2_500, "X-After": '"' * 100}
    call = _call_facts(sip_headers=headers)
    assert call["sip_headers"] == {"X-Small": "1", "X-After": '"' * 100}
    assert "sip_headers" not in _call_facts(sip_headers={"X-Large": "y" * 9_000})


@pytest.mark.parametrize(
    ("kept", "carried"),
    [
        (initiated(CALL), False),
        (event(CALL, T.CALL_INITIATED, 0, "vocode", media="provider"), True),
        (b"", False),
        (b'{"of": "a newer version"}', False),
    ],
)
def test_who_carries_the_callers_audio(kept: Event | bytes, carried: bool) -> None:
    raw = kept if isinstance(kept, bytes) else msgspec.json.encode(kept)
    assert is_carried(msgspec.structs.replace(_claim(), initiated=raw)) is carried


def test_what_we_tell_of_a_call_names_it_as_its_provider_does() -> None:
    told = own_event(_claim(), initiated(CALL), T.AGENT_MISSING, time=7, reason="nobody came")
    assert told == Event(
        id=event_id("switchboard", CALL, "agent.missing", "0"),
        type=T.AGENT_MISSING,
        source="switchboard",
        time=7,
        key=CALL,
        data=EventData(
            call_id=CALL,
            provider_call_id=f"CA-{CALL}",
            provider_account="AC1",
            agent="lk-anna",
            reason="nobody came",
        ),
    )


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
