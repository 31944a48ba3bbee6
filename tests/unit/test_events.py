"""Ids, types and phone numbers."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.events import ids, phone
from router.events.types import NUMBERS_TOPIC, EventType, topic_of

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(texts, texts, texts)
def test_ids_are_uuid5_as_the_standard_library_makes_them(a: str, b: str, c: str) -> None:
    calls = uuid.UUID(bytes=ids._CALLS)
    assert ids.call_id(a, b, c) == str(uuid.uuid5(calls, f"{a}\x1f{b}\x1f{c}"))


@pytest.mark.parametrize("kind", EventType)
def test_a_type_is_its_name_and_has_a_meaning(kind: EventType) -> None:
    assert EventType(kind.value) is kind
    assert kind.value == kind.name.lower().replace("_", ".", 1)
    assert kind.meaning, f"say in router/events/types.py what {kind.value} means"


def test_events_of_numbers_have_a_topic_of_their_own() -> None:
    nouns = {kind.value.partition(".")[0] for kind in EventType if topic_of(kind) == NUMBERS_TOPIC}
    assert nouns == {"number", "order", "port", "portout", "bundle"}


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
