"""What Twilio's forms become, and what their strict schema refuses."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import BadPayload
from router.events.ids import call_id
from router.events.model import Event
from router.events.types import EventType
from router.routing.decide import decide
from router.routing.table import RouteTable
from tests.support.twilio_requests import ACCOUNT, NOW, form, request, source

SID = form()["CallSid"]
CALL = call_id("twilio", ACCOUNT, SID)


EXTRA = ["Sid", "Payload", "Timestamp", "ParentAccountSid", "RecordingSid", "TranscriptionData"]
NASTY = st.sampled_from(["[" * 5000, "9" * 5000, '{"a":NaN}', '"\\ud800"', "\0", "completed", SID])


def parsed(kind: str, query: str = "", **fields: str) -> Event:
    twilio = source()
    return twilio.parse(twilio.verify(request(kind, form(**fields), query=query)))[0]


def test_an_incoming_call() -> None:
    event = parsed("voice")
    assert (event.type, event.key, event.source) == (EventType.CALL_INITIATED, CALL, "twilio")
    assert event.time == NOW
    data = event.data
    assert (data.from_number, data.to_number) == ("+12125550123", "+14155550100")
    assert (data.provider_call_id, data.provider_account, data.direction) == (
        SID,
        ACCOUNT,
        "inbound",
    )


def test_secrets_are_not_kept() -> None:
    assert b"a-secret-call-token" not in msgspec.json.encode(parsed("voice"))
    assert parsed("voice").data.raw["CallerCity"] == ""


def test_the_same_request_gives_the_same_event() -> None:
    assert parsed("voice") == parsed("voice")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("ringing", EventType.CALL_RINGING),
        ("in-progress", EventType.CALL_ANSWERED),
        ("completed", EventType.CALL_ENDED),
        ("no-answer", EventType.CALL_ENDED),
        ("initiated", EventType.CALL_INITIATED),
        ("queued", EventType.PROVIDER_UNKNOWN),
        ("something-new", EventType.PROVIDER_UNKNOWN),
    ],
)
def test_status_callbacks(status: str, expected: EventType) -> None:
    event = parsed("status", CallStatus=status, SequenceNumber="1")
    assert (event.type, event.key) == (expected, CALL)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("queued", EventType.PROVIDER_UNKNOWN),
        ("initiated", EventType.LEG_INITIATED),
        ("ringing", EventType.LEG_RINGING),
        ("in-progress", EventType.LEG_ANSWERED),  # of the subscription to `answered`
        ("busy", EventType.LEG_ENDED),
    ],
)
def test_status_callbacks_of_a_leg(status: str, expected: EventType) -> None:
    event = parsed("status", CallSid="CA" + "bb" * 16, ParentCallSid=SID, CallStatus=status)
    assert (event.type, event.key, event.data.status) == (expected, CALL, status)


def test_a_callback_is_never_asked_for_a_decision() -> None:
    """It would be one more agent, or a caller that is hung up on."""
    for status in ("initiated", "ringing", "in-progress", "completed"):
        assert parsed("status", CallStatus=status).data.stage == ""


@pytest.mark.parametrize("direction", ["inbound", "trunking-originating"])
def test_a_call_that_could_not_reach_livekit_over_the_trunk_is_routed(direction: str) -> None:
    event = parsed("disaster", Direction=direction)
    assert (event.type, event.key) == (EventType.CALL_INITIATED, CALL)
    assert (event.data.stage, event.data.direction) == ("route", "inbound")
    assert event.data.disposition == "failed"
    assert event.id != parsed("voice").id


def test_a_childs_callback_belongs_to_its_parents_call() -> None:
    child = "CA" + "bb" * 16
    event = parsed("status", CallSid=child, ParentCallSid=SID, CallStatus="completed")
    assert (event.type, event.key) == (EventType.LEG_ENDED, CALL)
    assert (event.data.leg_id, event.data.provider_call_id) == (child, SID)
    assert event.data.stage == ""


def test_a_late_callback_tells_when_it_happened() -> None:
    late = parsed("status", CallStatus="completed", Timestamp="Thu, 28 May 2026 20:00:00 +0000")
    assert late.time == 1_779_998_400_000_000
    bad = parsed("status", CallStatus="completed", Timestamp="yesterday")
    assert bad.time == NOW
    utc = parsed("status", CallStatus="completed", Timestamp="Thu, 28 May 2026 20:00:00 -0000")
    assert utc.time == late.time


def test_the_end_of_a_dial() -> None:
    event = parsed(
        "dial",
        "?stage=agent",
        DialCallStatus="failed",
        DialCallSid="CA" + "cc" * 16,
        DialSipResponseCode="486",
    )
    assert (event.type, event.data.stage) == (EventType.LEG_ENDED, "agent")
    assert (event.data.disposition, event.data.sip_status) == ("failed", 486)


@pytest.mark.parametrize("query", ["", "?stage=", "?stage=agentx", "?stag=agent"])
def test_a_dial_of_no_known_stage(query: str) -> None:
    with pytest.raises(BadPayload, match="stage"):
        parsed("dial", query, DialCallStatus="completed")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("CallSid", ""),
        ("CallSid", "CA" + "0F" * 16),
        ("CallSid", "CA" + "0f" * 15),
        ("CallSid", "CA" + "0f" * 16 + "\n"),
        ("CallSid", "CA" + "٠f" * 16),
        ("AccountSid", "AC" + "b2" * 16),
        ("AccountSid", "x"),
        ("ParentCallSid", "CAx"),
    ],
)
def test_malformed_fields_are_named_without_their_value(field: str, value: str) -> None:
    with pytest.raises(BadPayload, match=field) as caught:
        parsed("voice", **{field: value})
    assert not value or value not in str(caught.value)


@pytest.mark.parametrize(
    "caller",
    [
        *("anonymous", "Restricted", "", "sip:bob@example.com", "12345", "client:bob"),
        *("+", "+464", "+0012125550123", "+12125550123456789", "+*67"),
    ],
)
def test_callers_that_are_not_numbers_are_callers(caller: str) -> None:
    assert parsed("voice", From=caller).data.from_number == caller


@pytest.mark.parametrize("kind", ["voice", "fallback", "disaster", "status"])
@pytest.mark.parametrize(
    "caller", ["<script>", "Bob Smith", "+1 212", "sip:bob smith@x", "é", "\0"]
)
def test_a_caller_who_claims_to_be_nobody_is_not_turned_away(kind: str, caller: str) -> None:
    event = parsed(kind, From=caller)
    assert (event.data.from_number, event.data.to_number) == ("", "+14155550100")
    assert event.data.raw["From"] == caller


def test_without_any_caller_it_is_no_call() -> None:
    fields = form()
    del fields["From"]
    twilio = source()
    with pytest.raises(BadPayload, match="From"):
        twilio.parse(twilio.verify(request("voice", fields)))


@given(
    st.sampled_from([endpoint.kind for endpoint in source().endpoints]),
    st.dictionaries(st.sampled_from([*form(), *EXTRA]), st.text(max_size=40) | NASTY),
)
def test_no_signed_form_is_more_than_a_bad_payload(kind: str, fields: dict[str, str]) -> None:
    twilio = source()
    try:
        signed = request(kind, form(**fields), query="?stage=agent")
    except UnicodeEncodeError:
        return
    verified = twilio.verify(signed)
    try:
        event = twilio.parse(verified)[0]
    except BadPayload:
        return
    twilio.reply(kind, event)


@pytest.mark.parametrize("name", ["TrackName", "TrackSid", "TimestampHint"])
def test_a_new_field_of_twilios_is_no_moved_boundary(name: str) -> None:
    assert parsed("voice", **{name: "x"}).data.raw[name] == "x"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("TrackingId", "c-77"), ("Timestamps", "1"), ("PayloadId", "7"), ("Finally", "yes")),
        *(
            ("CallStatusNote", "x"),
            ("CallerNameHint", "x"),
            ("ErrorCodes", "none"),
            ("FailureReasonText", "no"),
        ),
        *(("ParentCallSidHint", "CA1"), ("Tomorrow", "1"), ("Fromage", "brie"), ("", "x")),
    ],
)
def test_a_parameter_of_an_app_that_begins_like_a_field_costs_no_call(
    name: str, value: str
) -> None:
    """The Voice SDK sends what the app gives it beside Twilio's own fields."""
    event = parsed("voice", **{name: value})
    assert (event.data.stage, event.data.raw[name]) == ("route", value)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("status", "SequenceNumbe", "r2"),
        ("status", "SequenceNumber2", ""),
        ("status", "CallDuratio", "n0"),
        ("status", "TimestampFri, ", "27 Nov 2026 10:00:00 +0000"),
        ("voice", "ParentCallSidCA", "bb" * 16),
        ("transcription", "Fina", "lfalse"),
    ],
)
def test_what_may_be_a_moved_boundary_is_refused(kind: str, name: str, value: str) -> None:
    with pytest.raises(BadPayload, match="is malformed"):
        parsed(kind, **{name: value})


@pytest.mark.parametrize(
    ("to", "channel"),
    [
        ("+14155550100", "pstn"),
        ("14155550100", "pstn"),
        (" 14155550100", "pstn"),
        ("tel:+14155550100", "pstn"),
        ("sip:+14155550100@acme.sip.twilio.com", "sip"),
        ("sips:14155550100@acme.sip.twilio.com;user=phone", "sip"),
        ("sip:%2B14155550100@acme.sip.twilio.com", "sip"),
        ("whatsapp:+14155550100", "whatsapp"),
    ],
)
@pytest.mark.parametrize("kind", ["voice", "fallback", "dial", "status"])
def test_a_number_of_ours_is_known_in_every_form(kind: str, to: str, channel: str) -> None:
    query = "?stage=agent" if kind == "dial" else ""
    data = parsed(kind, query, To=to, CallStatus="in-progress", DialCallStatus="no-answer").data
    assert (data.to_number, data.channel, data.raw["To"]) == ("+14155550100", channel, to)


@pytest.mark.parametrize("to", ["+1415555 0100", "<script>", "sip:a b@c", "\x00", "é", ""])
def test_who_calls_nobody_we_know_hears_the_apology(to: str) -> None:
    twilio = source()
    event = decide(parsed("voice", To=to), RouteTable())
    assert event.data.to_number == ""
    assert b"<Say" in twilio.reply("voice", event).body


def test_the_caller_is_known_in_every_form() -> None:
    assert parsed("voice", From=" 12125550123").data.from_number == "+12125550123"
    whatsapp = parsed("voice", From="whatsapp:+12125550123").data
    assert (whatsapp.from_number, whatsapp.channel) == ("+12125550123", "whatsapp")
    assert parsed("voice", From="client:alice").data.channel == "client"


def test_what_a_call_says_of_its_caller_is_kept() -> None:
    data = parsed(
        "voice",
        CallerName="JANE DOE",
        ForwardedFrom="14155550177",
        StirVerstat="TN-Validation-Passed-B-Diverted",
        **{"SipHeader_X-Ticket": "77", "SipHeader_Via": "secret", "SipHeader_User-to-User": "a"},
    ).data
    assert (data.caller_name, data.forwarded_from) == ("JANE DOE", "+14155550177")
    assert (data.attestation, data.sip_headers) == ("B", {"X-Ticket": "77", "User-to-User": "a"})


@pytest.mark.parametrize("verstat", ["TN-Validation-Failed-A", "No-TN-Validation", "A", "", "x-A"])
def test_a_number_that_was_not_verified_has_no_attestation(verstat: str) -> None:
    assert parsed("voice", StirVerstat=verstat).data.attestation == ""


@pytest.mark.parametrize("kind", ["voice", "fallback", "disaster"])
@pytest.mark.parametrize("status", ["completed", "busy", "failed", "no-answer", "canceled"])
def test_a_call_that_is_over_is_not_one_more_call(kind: str, status: str) -> None:
    """A status callback that is sent to the voice URL: an agent would come to an empty room."""
    event = parsed(kind, CallStatus=status, SequenceNumber="0")
    assert (event.type, event.data.stage) == (EventType.CALL_ENDED, "")
    assert event.id == parsed("status", CallStatus=status, SequenceNumber="0").id
    assert b"<Hangup" in source().reply(kind, event).body


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        *(("status", "CallSid"), ("status", "CallStatus"), ("recording", "CallSid")),
        *(("amd", "CallSid"), ("transcription", "CallSid")),
    ],
)
def test_what_is_signed_but_tells_of_no_call_is_kept(kind: str, missing: str) -> None:
    fields = form(ConferenceSid="CF" + "1" * 32, RecordingSid="RE" + "2" * 32, AnsweredBy="human")
    del fields[missing]
    twilio = source()
    event = twilio.parse(twilio.verify(request(kind, fields)))[0]
    assert event.type is EventType.PROVIDER_UNKNOWN
    assert event.data.raw["ConferenceSid"] == fields["ConferenceSid"]
    assert event.call_id == (CALL if missing != "CallSid" else "")
    assert twilio.reply(kind, event).status == 204
