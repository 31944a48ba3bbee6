"""What Vocode's messages become; the payload files in tests/providers/vocode show each type."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import BadPayload
from router.events import codec
from router.events.ids import call_id
from router.events.model import Event
from router.events.types import EventType
from router.routing.decide import decide
from router.routing.table import Route, RouteTable, Target
from tests.providers.vocode.case import ACTION_SECRETS, NOW, SECRETS
from tests.unit.test_vocode_signature import PATH, configured, request

OURS, THEIRS = "14155550100", "12125550123"
MINUTE = 60_000_000  # µs


def parsed(message: Any, *, later: int = 0) -> Sequence[Event]:
    source = configured(action_secrets=())
    return source.parse(source.verify(request(message, received_at=NOW + later)))


def queried(**fields: str) -> Sequence[Event]:
    source = configured()
    target = f"{PATH}?{urlencode(fields)}"
    return source.parse(source.verify(request(b"", target, method="GET")))


def hosted(type_: str, **payload: Any) -> dict[str, Any]:
    return {"type": f"event_{type_}", "call_id": "c", "payload": payload}


def flat(type_: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"event_{type_}", "conversation_id": "c", **fields}


def ids(message: Any, *, later: int = 0) -> list[str]:
    return [event.id for event in parsed(message, later=later)]


def route_table(number: str) -> RouteTable:
    table = RouteTable()
    target = Target(agent="anna", livekit_agent_name="anna")
    table.put(Route(number=number, provider="vocode", rev=1, targets=(target,)))
    return table


@pytest.mark.parametrize("envelope", [hosted, flat])
@pytest.mark.parametrize("plus", ["", "+"])
def test_a_connected_call_asks_for_its_agent_and_is_answered(envelope: Any, plus: str) -> None:
    numbers = {"to_phone_number": plus + OURS, "from_phone_number": plus + THEIRS}
    initiated, answered = parsed(envelope("phone_call_connected", **numbers))
    assert (initiated.type, answered.type) == (EventType.CALL_INITIATED, EventType.CALL_ANSWERED)
    assert initiated.key == answered.key == call_id("vocode", "", "c")
    data = initiated.data
    assert (data.to_number, data.from_number) == (f"+{OURS}", f"+{THEIRS}")
    assert (data.stage, answered.data.stage) == ("route", "")
    assert (data.media, data.direction, data.provider_call_id) == ("provider", None, "c")


@pytest.mark.parametrize(
    ("number", "direction", "action"),
    [
        (OURS, "inbound", "dispatch"),
        (THEIRS, "outbound", "dispatch"),
        ("14155559999", None, "reject"),
    ],
)
def test_the_end_that_is_mapped_is_ours(number: str, direction: str | None, action: str) -> None:
    numbers = {"to_phone_number": OURS, "from_phone_number": THEIRS}
    initiated, answered = parsed(hosted("phone_call_connected", **numbers))
    table = route_table(f"+{number}")
    decided = decide(initiated, table).data
    assert decided.decision is not None
    assert (decided.decision.action, decided.direction) == (action, direction)
    assert decide(answered, table) == answered


@pytest.mark.parametrize(
    ("to_number", "from_number", "direction"),
    [(THEIRS, OURS, "outbound"), (OURS, THEIRS, "inbound"), (OURS, OURS, "inbound")],
)
def test_between_two_numbers_of_ours_the_one_at_vocode_has_the_call(
    to_number: str, from_number: str, direction: str
) -> None:
    """We call a number of ours at another carrier, to try it, or are called from one."""
    numbers = {"to_phone_number": to_number, "from_phone_number": from_number}
    table = route_table(f"+{OURS}")
    elsewhere = Target(agent="bob", livekit_agent_name="bob")
    table.put(Route(number=f"+{THEIRS}", provider="twilio", rev=1, targets=(elsewhere,)))
    data = decide(parsed(hosted("phone_call_connected", **numbers))[0], table).data
    assert data.decision is not None
    assert (data.decision.agent, data.direction) == ("anna", direction)


def test_a_call_without_numbers_brings_nobody_and_says_why() -> None:
    """As the first versions of the open-source library tell of it."""
    initiated, _ = parsed(flat("phone_call_connected"))
    data = decide(initiated, route_table(f"+{OURS}")).data
    assert data.decision is not None
    assert (data.decision.action, data.direction) == ("reject", None)
    assert data.decision.reason == "vocode named no number"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (f" {OURS}", f"+{OURS}"),  # of a query whose + was not escaped
        (int(OURS), f"+{OURS}"),
        ("anonymous", "anonymous"),
        ("sip:bob@example.com", "sip:bob@example.com"),
        ("00441234567890", "00441234567890"),
        ("1" * 16, "1" * 16),
        ("sip:a\0b@x", "sip:a\0b@x"),  # router.events.text sees to it
        ("", ""),
        (None, ""),
    ],
)
def test_who_calls_is_kept_as_it_was_sent(number: Any, expected: str) -> None:
    message = hosted("phone_call_connected", from_phone_number=number)
    assert parsed(message)[0].data.from_number == expected


@pytest.mark.parametrize("number", ["x" * 256, ["+14155550100"], {}, 1.5])
def test_a_malformed_number_is_named_without_its_value(number: Any) -> None:
    with pytest.raises(BadPayload, match="from_phone_number") as caught:
        parsed(hosted("phone_call_connected", from_phone_number=number))
    assert str(number) not in str(caught.value)


@pytest.mark.parametrize(
    ("minutes", "seconds"),
    [
        (1.5, 90.0),
        ("1.5", 90.0),
        (0, None),
        (None, None),
        (-1, None),
        ("soon", None),
        (10**40, None),
    ],
)
def test_an_ended_call_lasted_as_long_as_was_measured(minutes: Any, seconds: float | None) -> None:
    data = parsed(hosted("phone_call_ended", conversation_minutes=minutes))[0].data
    assert data.disposition == "answered"
    assert data.duration == (seconds if minutes != 10**40 else pytest.approx(60e40))


@pytest.mark.parametrize(
    ("status", "disposition"),
    [
        ("busy", "busy"),
        ("no-answer", "no_answer"),
        ("no_answer", "no_answer"),
        ("Timeout", "no_answer"),
        ("unanswered", "no_answer"),
        ("canceled", "canceled"),
        ("cancelled", "canceled"),
        ("rejected", "busy"),
        ("failed", "failed"),
        ("something new", "failed"),
        (None, "failed"),
        (["busy"], "failed"),
    ],
)
def test_a_call_that_did_not_connect_says_why(status: Any, disposition: str) -> None:
    event = parsed(hosted("phone_call_did_not_connect", telephony_status=status))[0]
    assert (event.type, event.data.disposition) == (EventType.CALL_ENDED, disposition)
    assert event.data.status == (status if isinstance(status, str) else "")


@pytest.mark.parametrize("type_", ["human_detection", "machine_detection"])
@pytest.mark.parametrize(
    ("result", "answered_by"),
    [("human", "human"), ("no_human", "machine"), ("a ghost", "unknown"), (None, "unknown")],
)
def test_who_answered(type_: str, result: str | None, answered_by: str) -> None:
    event = parsed(hosted(type_, result=result))[0]
    assert (event.type, event.data.answered_by) == (EventType.CALL_CLASSIFIED, answered_by)


def test_a_sentence_has_its_own_time_when_it_comes_late() -> None:
    at = NOW / 1_000_000 - 30
    assert parsed(flat("transcript", text="Hello", timestamp=at))[0].time == NOW - 30_000_000
    assert parsed(flat("transcript", text="Hello", timestamp=NOW / 1e6 - 1))[0].time == NOW
    for wrong in (0, -1, 12.5, 1_779_999_000_000, 1e300, "yesterday", None, True, 10**30):
        assert parsed(flat("transcript", text="Hello", timestamp=wrong))[0].time == NOW


def test_the_time_in_an_actions_payload_is_not_its_own() -> None:
    """It is the caller's: of an appointment, say."""
    action = {"call_id": "c", "payload": {"timestamp": 1_700_000_000}}
    assert parsed(action)[0].time == NOW


@pytest.mark.parametrize(
    "message",
    [
        hosted("phone_call_connected", to_phone_number=OURS),
        hosted("phone_call_ended", conversation_minutes=1),
        hosted("phone_call_did_not_connect", telephony_status="busy"),
        hosted("human_detection", result="human"),
        hosted("transcript", text="Hello", timestamp=1.0),
        hosted("message", text="Hello"),
        hosted("recording", recording_url="https://example.com/r.wav"),
        hosted("action", action_input={"b": 1, "a": 2}),
        flat("transcript_complete", transcript={"event_logs": []}),
        {"call_id": "c", "payload": {"length": "30m"}},
        {"type": "event_of_tomorrow"},
    ],
)
def test_a_redelivery_has_the_same_ids(message: dict[str, Any]) -> None:
    again = dict(reversed(message.items()))
    assert ids(message) == ids(again, later=10 * MINUTE)
    assert ids(message) == ids(json.dumps(message, indent=1).encode())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            flat("transcript", text="Hi", timestamp=1779999990.5),
            flat("transcript", text="Hi", timestamp=1779999991.5),
        ),
        (
            flat("transcript", text="Hi", sender="bot"),
            flat("transcript", text="Hi", sender="human"),
        ),
        (flat("transcript", text="Hi"), flat("message", text="Hi")),
        (flat("message", text="Hi"), flat("message", text="Hi") | {"conversation_id": "d"}),
        (flat("action", action_input={}), flat("action", action_input={}, action_output={})),
        (flat("phone_call_ended"), flat("phone_call_did_not_connect")),
        (flat("recording", recording_url="a"), flat("recording", recording_url="b")),
    ],
)
def test_what_is_not_the_same_has_other_ids(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert not set(ids(one)) & set(ids(other))


@pytest.mark.parametrize("type_", ["phone_call_connected", "phone_call_ended"])
def test_what_happens_once_is_one_event_whatever_else_is_told(type_: str) -> None:
    assert ids(hosted(type_)) == ids(hosted(type_, conversation_minutes=3, more="later"))


@pytest.mark.parametrize("type_", ["phone_call_connected", "phone_call_ended", "message", "action"])
@pytest.mark.parametrize("call", [None, ""])
def test_what_happened_to_a_call_names_it(type_: str, call: str | None) -> None:
    with pytest.raises(BadPayload, match="call_id"):
        parsed(hosted(type_) | {"call_id": call})


@pytest.mark.parametrize("name", ["call_id", "conversation_id"])
@pytest.mark.parametrize("call", ["a b", "é", "x" * 129, "a\x1fb", 7, ["c"], {"c": 1}, True])
def test_a_malformed_id_is_named_without_its_value(name: str, call: Any) -> None:
    with pytest.raises(BadPayload, match=name) as caught:
        parsed({"type": "event_message", name: call})
    assert str(call) not in str(caught.value)


def test_the_hosted_id_counts_before_the_other() -> None:
    both = flat("message", text="Hi") | {"call_id": "hosted"}
    assert parsed(both)[0].data.provider_call_id == "hosted"


@pytest.mark.parametrize(
    "type_", ["event_of_tomorrow", "", None, 5, "x" * 100, "\x1b[2J", "EVENT_MESSAGE"]
)
def test_a_type_that_is_not_known_is_kept_with_its_payload(type_: Any) -> None:
    message = {"type": type_, "call_id": "c", "new": {"fact": 1}}
    event = parsed(message)[0]
    assert (event.type, event.data.raw) == (EventType.PROVIDER_UNKNOWN, message)
    assert event.key == call_id("vocode", "", "c")
    assert event.data.reason.isprintable()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"type=event_message",
        b"[]",
        b'"event_message"',
        b"null",
        b'{"a":' * 50_000,
        b'{"a":' * 65 + b"1" + b"}" * 65,
    ],
)
def test_what_can_not_be_read_is_refused_and_not_an_error(body: bytes) -> None:
    with pytest.raises(BadPayload):
        parsed(body)


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b'{"a":NaN}', None),
        (b'{"a":1e999}', None),
        (b'{"a":"\\ud800"}', "?"),
        (b'{"a":"\xff"}', "\ufffd"),
        (b'{"a":' + b"9" * 5000 + b"}", "9" * 5000),
    ],
)
def test_what_is_odd_in_a_message_does_not_cost_the_rest(body: bytes, kept: object) -> None:
    event = parsed(body)[0]
    assert event.data.raw == {"a": kept}
    codec.encode(event)


def test_a_number_that_no_log_can_hold_is_kept_as_text() -> None:
    event = parsed(b'{"a":[18446744073709551616,-9223372036854775809,9223372036854775807]}')[0]
    assert event.data.raw == {
        "a": ["18446744073709551616", "-9223372036854775809", 9223372036854775807]
    }
    codec.encode(event)


def test_nothing_secret_is_kept() -> None:
    config = {
        "url": f"https://calls.example.com/webhooks/vocode/{SECRETS[0]}?x",
        "signature_secret": ACTION_SECRETS[0],
        "twilio_auth_token": "a-token-of-somebody",
        "openaiApiKey": "a-key-of-somebody",
        "private_key": "a-key-of-somebody-at-vonage",
        "AWS_SECRET_ACCESS_KEY": "a-key-of-somebody",
        "privateKey": "a-key-of-somebody",
        "credentials": {"name": "a-name-of-somebody"},
        "completion_tokens": 12,
        "key": "what a keypad has",
        f"note-{SECRETS[1]}": [f"<{ACTION_SECRETS[1]}>"],
    }
    source = configured()
    body = hosted("action", action_input={"action_config": config})
    event = source.parse(source.verify(request(body)))[0]
    kept = event.data.raw["payload"]["action_input"]["action_config"]
    assert kept == {
        "url": "https://calls.example.com/webhooks/vocode/***?x",
        "completion_tokens": 12,
        "key": "what a keypad has",
        "note-***": ["<***>"],
    }
    said = source.parse(source.verify(request(flat("message", text=f"Say {SECRETS[0]}"))))[0]
    assert said.data.text == "Say ***"


def test_a_query_has_the_fields_of_either_shape() -> None:
    numbers = {"to_phone_number": OURS, "from_phone_number": THEIRS}
    enveloped = queried(type="event_phone_call_connected", call_id="c", payload=json.dumps(numbers))
    plain = queried(type="event_phone_call_connected", conversation_id="c", **numbers)
    assert [event.id for event in enveloped] == [event.id for event in plain]
    for event in (*enveloped, *plain):
        assert (event.data.to_number, event.data.from_number) == (f"+{OURS}", f"+{THEIRS}")


def test_bytes_of_a_query_that_are_no_utf8_do_not_cost_the_rest() -> None:
    source = configured()
    [event] = source.parse(source.verify(request(b"", f"{PATH}?call_id=c&a=%ff", method="GET")))
    assert event.data.raw == {"call_id": "c", "a": "\ufffd"}


def test_a_payload_in_a_query_that_is_no_json_is_a_text() -> None:
    event = queried(type="event_transcript", call_id="c", payload="{Hello")[0]
    assert event.data.raw["payload"] == "{Hello"


@pytest.mark.parametrize(
    "query",
    ["type=a&type=b", "&".join(f"a{n}=" for n in range(65)), "text=\udce9", "text=é"],
)
def test_a_query_that_can_not_be_read_is_refused(query: str) -> None:
    source = configured()
    with pytest.raises(BadPayload, match=r"query|field"):
        source.parse(source.verify(request(b"", f"{PATH}?{query}", method="GET")))


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["text", "sender", "timestamp", "result", "to_phone_number", "x"]),
            inner,
        )
    ),
    max_leaves=8,
)
TYPES = [
    "event_message",
    "event_action",
    "event_phone_call_connected",
    "event_phone_call_ended",
    "event_phone_call_did_not_connect",
    "event_transcript",
    "event_transcript_complete",
    "event_recording",
    "event_human_detection",
    "event_machine_detection",
    "event_error",
    "event_of_tomorrow",
]


@given(
    message=st.fixed_dictionaries(
        {"type": st.sampled_from(TYPES) | JSON},
        optional={
            "call_id": st.just("c") | JSON,
            "conversation_id": st.just("c") | JSON,
            "payload": JSON,
            "conversation_minutes": JSON,
            "telephony_status": JSON,
            "timestamp": JSON,
        },
    )
)
def test_whatever_is_sent_becomes_events_that_the_log_can_hold(message: dict[str, Any]) -> None:
    with suppress(BadPayload):
        for event in parsed(message):
            headers, value = codec.encode(event)
            assert codec.decode(event.key, headers, value) == event


@given(seconds=st.floats() | st.integers())
def test_any_timestamp_is_a_time_that_the_log_can_hold(seconds: float) -> None:
    source = configured()
    target = (
        f"{PATH}?{urlencode({'type': 'event_transcript', 'call_id': 'c', 'timestamp': seconds})}"
    )
    event = source.parse(source.verify(request(b"", target, method="GET")))[0]
    assert 0 <= event.time <= NOW
    msgspec.json.encode(codec.encode(event)[0])
