"""Trunk mode: calls of rooms that no call_id names, from LiveKit's webhooks and from a look."""

from collections.abc import Mapping
from typing import Any, Final

import pytest
from google.protobuf.json_format import MessageToDict
from livekit.protocol.models import ParticipantInfo, TrackInfo, TrackType
from livekit.protocol.webhook import WebhookEvent

from consumers.calls.plan import fold
from router.events.ids import call_id
from router.events.model import Event
from router.events.types import EventType as T
from router.provider import CallRef
from router.providers.livekit.client import Participant, participant
from router.providers.livekit.events import from_webhook
from router.providers.livekit.message import read
from router.providers.livekit.rooms import seen
from router.providers.livekit.standing import standing

ROOM, NOW = "call_+12125550123_x", 1_780_000_000_000_000
CALLER, OURS = "+12125550123", "+14155550100"
NUMBERS: Final = {"sip.phoneNumber": CALLER, "sip.trunkPhoneNumber": OURS}
INBOUND: Final = {**NUMBERS, "sip.callID": "SCL_1", "sip.ruleID": "SDR_1"}
DIALLED: Final = {**NUMBERS, "sip.callID": "SCL_2"}
TWILIO: Final = {"sip.twilio.accountSid": "AC1", "sip.twilio.callSid": "CA1"}
TELNYX: Final = {"sip.telnyx.callSessionID": "session-1", "sip.telnyx.callLegID": "leg-1"}


def caller(
    attributes: Mapping[str, str] = INBOUND, *, sid: str = "PA_1", reason: str = "", **more: Any
) -> ParticipantInfo:
    return ParticipantInfo(
        sid=sid,
        identity="sip_x",
        kind=ParticipantInfo.Kind.SIP,
        attributes={"sip.callStatus": "ringing", **attributes},
        disconnect_reason=reason or "UNKNOWN_REASON",
        **more,
    )


def agent(*, speaks: bool = True) -> ParticipantInfo:
    return ParticipantInfo(
        sid="PA_agent",
        identity="agent-AJ_1",
        kind=ParticipantInfo.Kind.AGENT,
        attributes={"lk.agent_name": "anna"},
        tracks=[TrackInfo(type=TrackType.AUDIO)] if speaks else [],
    )


def told(event: str, who: ParticipantInfo, room: str = ROOM) -> list[Event]:
    message = WebhookEvent(event=event, id="EV_1", created_at=NOW // 1_000_000, participant=who)
    message.room.name, message.room.sid = room, "RM_1"
    return list(from_webhook(read(MessageToDict(message)), {}, NOW))


def looked(*present: ParticipantInfo) -> list[Event]:
    return list(seen(ROOM, [participant(who) for who in present], now=NOW))


def status(word: str) -> dict[str, str]:
    return {**INBOUND, "sip.callStatus": word}


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (TWILIO, call_id("twilio", "AC1", "CA1")),
        (TELNYX, call_id("telnyx", "", "session-1")),
        ({}, call_id("livekit", "", "SCL_1")),
        ({"sip.twilio.callSid": "CA1"}, call_id("livekit", "", "SCL_1")),
        ({"sip.callID": ""}, call_id("livekit", "", "PA_1")),
    ],
)
def test_the_call_is_the_carriers_where_it_is_named(
    attributes: dict[str, str], expected: str
) -> None:
    [began] = told("participant_joined", caller({**INBOUND, **attributes}))
    [ended] = told("participant_left", caller({**INBOUND, **attributes}))
    assert (began.type, began.key, began.call_id) == (T.CALL_INITIATED, expected, expected)
    assert (ended.type, ended.key, ended.call_id) == (T.CALL_ENDED, expected, expected)
    assert (began.data.room, began.data.leg_id, began.data.stage) == (ROOM, "PA_1", "")


def test_custom_headers_are_kept_where_the_trunk_includes_them() -> None:
    named = {"sip.h.x-ticket": "77", "sip.h.user-to-user": "a", "sip.h.proxy-authorization": "s"}
    many = {f"sip.h.x-{number:02}": "v" for number in range(50)}
    [began] = told("participant_joined", caller({**INBOUND, **named}))
    assert began.data.sip_headers == {"x-ticket": "77", "user-to-user": "a"}
    [began] = told("participant_joined", caller({**INBOUND, **many}))
    assert len(began.data.sip_headers) == 20


def test_a_call_that_came_in_is_from_the_far_end() -> None:
    [event] = told("participant_joined", caller())
    data = event.data
    assert (data.direction, data.from_number, data.to_number) == ("inbound", CALLER, OURS)


def test_a_call_without_a_rule_was_placed_by_an_agent() -> None:
    [event] = told("participant_joined", caller({**NUMBERS, "sip.callStatus": "dialing"}))
    data = event.data
    assert (data.direction, data.from_number, data.to_number) == ("outbound", OURS, CALLER)


def test_hidden_numbers_are_empty() -> None:
    [event] = told("participant_joined", caller({"sip.callID": "SCL_1", "sip.ruleID": "SDR_1"}))
    assert (event.data.direction, event.data.from_number) == ("inbound", "")


def test_who_joins_answered_is_answered() -> None:
    began, answered = told("participant_joined", caller(status("active")))
    assert (began.type, answered.type) == (T.CALL_INITIATED, T.CALL_ANSWERED)
    assert began.id != answered.id


@pytest.mark.parametrize(
    ("word", "why", "disposition"),
    [
        ("hangup", "CLIENT_INITIATED", None),  # answered or not: LiveKit doesn't say
        ("active", "PARTICIPANT_REMOVED", "answered"),
        ("automation", "ROOM_DELETED", "answered"),
        ("dialing", "USER_UNAVAILABLE", "no_answer"),
        ("ringing", "USER_REJECTED", "busy"),
        ("ringing", "ROOM_DELETED", "canceled"),
        ("dialing", "SIP_TRUNK_FAILURE", "failed"),
        ("", "", "failed"),
    ],
)
def test_how_a_call_ended(word: str, why: str, disposition: str | None) -> None:
    [event] = told("participant_left", caller(status(word), reason=why))
    assert event.data.disposition == disposition
    assert event.data.status == word


def test_why_it_ended_is_said_where_nobody_just_hung_up() -> None:
    [event] = told("participant_left", caller(status("dialing"), reason="USER_UNAVAILABLE"))
    assert event.data.reason == "LiveKit: USER_UNAVAILABLE"
    [event] = told("participant_left", caller(status("hangup"), reason="CLIENT_INITIATED"))
    assert event.data.reason == ""


def test_a_participant_who_never_got_in_ended_a_call() -> None:
    [event] = told("participant_connection_aborted", caller(reason="JOIN_FAILURE"))
    assert (event.type, event.data.disposition) == (T.CALL_ENDED, "failed")


@pytest.mark.parametrize("event", ["participant_joined", "track_published", "participant_left"])
def test_an_agents_webhook_says_which_room_to_ask_about(event: str) -> None:
    [unknown] = told(event, agent())
    assert (unknown.type, unknown.call_id, unknown.key) == (T.PROVIDER_UNKNOWN, "", ROOM)
    assert (unknown.data.room, unknown.data.leg_id) == (ROOM, "PA_agent")
    [track] = told(event, ParticipantInfo(sid="PA_1", identity="sip_x"))
    assert (track.type, track.data.leg_id) == (T.PROVIDER_UNKNOWN, "")


def test_a_look_tells_whose_agent_it_is() -> None:
    caller_ = caller({**INBOUND, **TWILIO})
    events = looked(agent(), caller_)
    assert {event.call_id for event in events} == {call_id("twilio", "AC1", "CA1")}
    kinds = [event.type for event in events]
    assert kinds == [T.CALL_INITIATED, T.CALL_ANSWERED, T.AGENT_JOINED, T.AGENT_READY]
    assert [event.data.agent for event in events] == ["", "", "anna", "anna"]


def test_a_look_and_a_webhook_make_the_same_event() -> None:
    [webhook] = told("participant_joined", caller())
    assert looked(caller())[0].id == webhook.id
    _, answered = told("participant_joined", caller(status("active")))
    assert answered.id in [event.id for event in looked(caller(), agent())]


def test_who_is_seen_talking_was_not_answered_when_they_joined() -> None:
    for word in ("active", "ringing"):
        came = caller(status(word), joined_at_ms=NOW // 1000 - 7_000)
        began, answered = looked(came, agent())[:2]
        assert (began.type, began.time) == (T.CALL_INITIATED, NOW - 7_000_000)
        assert (answered.type, answered.time) == (T.CALL_ANSWERED, NOW)


def test_a_call_that_was_placed_is_the_same_one_before_and_after_the_carrier_named_it() -> None:
    """Twilio's and Telnyx's ids come with the answer to LiveKit's INVITE, after the joining."""
    [began] = told("participant_joined", caller(DIALLED))
    [answered] = looked(caller({**DIALLED, **TWILIO, "sip.callStatus": "active"}))[1:]
    [ended] = told("participant_left", caller({**DIALLED, **TWILIO}))
    assert {event.call_id for event in (began, answered, ended)} == {
        call_id("livekit", "", "SCL_2")
    }
    assert [e.data.provider_call_id for e in (began, ended)] == ["SCL_2", "CA1"]


def test_nobody_is_answered_before_the_agent_can_be_heard() -> None:
    kinds = [event.type for event in looked(caller(), agent(speaks=False))]
    assert kinds == [T.CALL_INITIATED, T.AGENT_JOINED]


def test_a_call_that_an_agent_placed_is_answered_when_it_says_so() -> None:
    ringing = {**NUMBERS, "sip.callID": "SCL_2", "sip.callStatus": "ringing"}
    assert T.CALL_ANSWERED not in [event.type for event in looked(caller(ringing), agent())]
    active = {**ringing, "sip.callStatus": "active"}
    assert T.CALL_ANSWERED in [event.type for event in looked(caller(active), agent())]


def test_an_agent_belongs_to_the_call_that_was_there_first() -> None:
    second = {**NUMBERS, "sip.callID": "SCL_2", "sip.callStatus": "dialing"}
    events = looked(caller(second, sid="PA_2", joined_at_ms=2), caller(joined_at_ms=1), agent())
    [ready] = [event for event in events if event.type is T.AGENT_READY]
    assert ready.call_id == call_id("livekit", "", "SCL_1")
    assert len({event.call_id for event in events}) == 2


def test_a_room_without_phones_tells_nothing() -> None:
    assert looked(agent(), ParticipantInfo(sid="PA_3", identity="web")) == []


class _There:
    """`router.providers.livekit.standing.Participants`: these are in the room."""

    def __init__(self, room: str, *present: ParticipantInfo) -> None:
        self._room, self._present = room, [participant(who) for who in present]

    async def participants(self, room: str) -> list[Participant]:
        return self._present if room == self._room else []


class TestStanding:
    REF = CallRef(call_id("livekit", "", "SCL_1"), "SCL_1", room=ROOM)

    async def test_a_call_whose_caller_is_in_the_room_goes_on(self) -> None:
        assert not (await standing(_There(ROOM, agent(), caller()), self.REF)).over

    async def test_a_call_is_over_when_only_its_agent_is_left(self) -> None:
        assert (await standing(_There(ROOM, agent()), self.REF)).over

    async def test_a_call_is_over_when_only_another_call_is_left_in_the_room(self) -> None:
        assert (await standing(_There(ROOM, caller({"sip.callID": "SCL_2"})), self.REF)).over

    async def test_a_room_that_is_gone_is_a_call_that_is_over(self) -> None:
        assert (await standing(_There("another", caller()), self.REF)).over

    async def test_without_a_room_the_call_names_it(self) -> None:
        call = call_id("twilio", "AC1", "CA1")
        assert not (await standing(_There(call, caller()), CallRef(call, "CA1"))).over


@pytest.mark.parametrize(
    ("attributes", "kinds"),
    [(INBOUND, [T.SIP_JOINED, T.SIP_LEFT]), (DIALLED, [T.LEG_INITIATED, T.LEG_ENDED])],
    ids=["came in", "was dialled"],
)
def test_whom_an_agent_dials_into_a_calls_room_is_a_leg_and_not_the_caller(
    attributes: Mapping[str, str], kinds: list[T]
) -> None:
    room = call_id("twilio", "AC1", "CA1")
    who = caller(attributes)
    found = [*told("participant_joined", who, room), *told("participant_left", who, room)]
    assert [event.type for event in found] == kinds
    assert {event.call_id for event in found} == {room}


def test_a_caller_who_joins_anew_is_still_in_the_call() -> None:
    """The old participant's end comes behind the new one's beginning, and is not the call's."""
    active = {**INBOUND, "sip.callStatus": "active"}
    first, second = caller(active, sid="PA_1"), caller(active, sid="PA_2")
    gone = caller(active, sid="PA_1", reason="DUPLICATE_IDENTITY")
    events = [
        *told("participant_joined", first),
        *told("participant_joined", second),
        *told("participant_left", gone),
    ]
    record = fold(events)
    assert record is not None
    assert (record.state, len({event.call_id for event in events})) == ("answered", 1)
    record = fold([*events, *told("participant_left", second)])
    assert record is not None
    assert record.state == "ended"
