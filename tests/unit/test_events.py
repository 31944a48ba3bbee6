"""Ids, codec and phone numbers."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import BadPayload
from router.events import codec, ids, phone
from router.events.model import Decision, Event, EventData
from router.events.types import EventType

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(texts, texts, texts)
def test_ids_are_uuid5_as_the_standard_library_makes_them(a: str, b: str, c: str) -> None:
    calls = uuid.UUID(bytes=ids._CALLS)
    assert ids.call_id(a, b, c) == str(uuid.uuid5(calls, f"{a}\x1f{b}\x1f{c}"))


@given(
    st.builds(
        Event,
        id=texts,
        type=st.sampled_from(EventType),
        source=st.sampled_from(["twilio", "livekit", "switchboard"]),
        time=st.integers(0, 4_000_000_000_000_000),
        key=texts,
        data=st.builds(
            EventData,
            call_id=texts,
            from_number=texts,
            duration=st.none() | st.floats(0, 1e6),
            decision=st.none()
            | st.builds(
                Decision,
                action=st.sampled_from(["dispatch", "forward", "reject"]),
                reason=texts,
                table_version=st.integers(0, 2**40),
                metadata=st.dictionaries(texts, st.integers() | texts),
            ),
            raw=st.dictionaries(texts, texts),
        ),
    )
)
def test_events_survive_the_log(event: Event) -> None:
    headers, value = codec.encode(event)
    assert codec.decode(event.key, headers, value) == event


def test_headers_are_cloudevents_in_kafkas_binary_mode() -> None:
    event = Event(
        id="1",
        type=EventType.CALL_ENDED,
        source="twilio",
        time=1_700_000_000_123_456,
        key="k",
        data=EventData(),
    )
    headers, value = codec.encode(event)
    assert headers == {
        "ce_specversion": "1.0",
        "ce_id": "1",
        "ce_type": "call.ended",
        "ce_source": "/twilio",
        "ce_subject": "k",
        "ce_time": "2023-11-14T22:13:20.123456Z",
        "ce_dataschema": "switchboard/event/1",
        "content-type": "application/json",
    }
    assert value == b"{}"


@pytest.mark.parametrize(
    ("spoil", "value"),
    [
        ({"ce_id": None}, b"{}"),
        ({"ce_time": "yesterday"}, b"{}"),
        ({}, b"["),
        ({}, b"\xff"),
        ({}, b'{"duration": "x"}'),
        ({}, b'{"raw": ' + b'{"a":' * 5000),
    ],
)
def test_unreadable_records_are_bad_payloads(spoil: dict[str, str | None], value: bytes) -> None:
    event = Event(id="1", type=EventType.CALL_ENDED, source="x", time=0, key="", data=EventData())
    headers = {**codec.encode(event)[0], **spoil}
    given_headers = {name: text for name, text in headers.items() if text is not None}
    with pytest.raises(BadPayload):
        codec.decode("", given_headers, value)


def test_a_type_from_a_newer_version_passes_as_unknown() -> None:
    event = Event(id="1", type=EventType.CALL_ENDED, source="x", time=0, key="", data=EventData())
    headers, value = codec.encode(event)
    newer = codec.decode("", {**headers, "ce_type": "call.teleported"}, value)
    assert newer.type == EventType.PROVIDER_UNKNOWN


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("+14155550100", "+14155550100"),
        ("+1 (415) 555-0100", "+14155550100"),
        (" +44 20 7946 0018 ", "+442079460018"),
    ],
)
def test_numbers_as_people_write_them(written: str, meant: str) -> None:
    assert phone.normalise(written) == meant


@pytest.mark.parametrize("written", ["4155550100", "", "+", "+1", "+999999999999999999", "abc"])
def test_what_is_no_number_is_refused_without_repeating_it(written: str) -> None:
    with pytest.raises(ValueError, match="phone number") as caught:
        phone.normalise(written)
    assert not written.strip("+") or written not in str(caught.value)


@given(st.from_regex(r"\+[1-9][0-9]{6,14}", fullmatch=True))
def test_a_masked_number_is_not_the_number(number: str) -> None:
    assert phone.is_e164(number)
    assert number not in phone.mask(number)
