"""Ids, types and phone numbers."""

import re
import uuid
from contextlib import suppress

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.events import ids, phone
from router.events.types import NUMBERS_TOPIC, EventType, topic_of

_COUNTRIES = sorted(phonenumbers.COUNTRY_CODE_TO_REGION_CODE)
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
        ("tel:+1-415-555-0100", "+14155550100"),
        ("+1 415 555 0100\n", "+14155550100"),
        ("\uff0b1 \u0664\u0661\u0665 555 0100", "+14155550100"),  # digits of other scripts
        ("+1-800-FLOWERS", "+18003569377"),
        ("+39 06 1234567", "+39061234567"),  # the zero belongs to it
    ],
)
def test_numbers_as_people_write_them(written: str, meant: str) -> None:
    assert phone.normalise(written) == meant


@pytest.mark.parametrize(
    ("one", "other", "meant"),
    [
        ("+5215512345678", "+52 1 55 1234 5678", "+525512345678"),  # as dialled until 2019
        ("+54111523456789", "+54 11 15 2345 6789", "+5491123456789"),  # 15 within, 9 from abroad
        ("+5491123456789", "+54 9 11 2345-6789", "+5491123456789"),
        ("+4402079460018", "+44 (0)20 7946 0018", "+442079460018"),
        ("+74951234567", "+7 8 (495) 123-45-67", "+74951234567"),
        ("+390612345678", "+39 06 1234 5678", "+390612345678"),
        ("+4155550100", "+41 5555 0100", ""),  # a country code was forgotten
        ("+99912345678", "+999 1234 5678", ""),  # no country has it
        ("+14155550", "+1 415 5550", ""),
        ("+49301234567", "+49 30 1234567", "+49301234567"),
    ],
)
def test_a_number_has_one_answer_however_it_is_written(one: str, other: str, meant: str) -> None:
    def answer(written: str) -> str:
        try:
            return phone.normalise(written)
        except ValueError:
            return ""

    assert answer(one) == answer(other) == meant


@given(st.sampled_from(_COUNTRIES), st.from_regex(r"[0-9]{4,12}", fullmatch=True))
def test_the_short_way_is_the_librarys(country: int, national: str) -> None:
    """What is taken compact stays as it is, and libphonenumber agrees; spaces change nothing."""
    compact = f"+{country}{national}"
    spaced = f"+{country} {national[:3]} {national[3:]}"
    with suppress(ValueError):
        found = phone.normalise(compact)
        assert phone.normalise(found) == found
        assert phone.normalise(spaced) == found
        parsed = phonenumbers.parse(found)
        assert phonenumbers.is_possible_number(parsed)
        assert phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164) == found


@pytest.mark.parametrize(
    "written",
    [
        *("4155550100", "", "+", "+1", "+999999999999999999", "abc", "911", "+\u00b2\u00b2"),
        *("anonymous", "+anonymous", "sip:+14155550100@example.com", "client:bob"),
        *("+49 110", "+49110", "+49 123456789012345"),  # local only; longer than E.164
        *("+1 (415) 555-0100 ext. 5", "+1 415 555 0100 x5", "tel:+14155550100;ext=5"),
    ],
)
def test_what_is_no_number_is_refused_without_repeating_it(written: str) -> None:
    with pytest.raises(ValueError, match="phone number") as caught:
        phone.normalise(written)
    assert not written.strip("+") or written not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("4155550100", "not a phone number; write it with + and the country code"),
        (" +", "not a phone number"),
        ("+14155550100;ext=5", "not a phone number alone: it has an extension"),
        ("+49 110", "not a possible phone number: wrong count of digits"),
    ],
)
def test_a_refused_number_is_told_why(written: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(why)}") as caught:
        phone.normalise(written)
    assert ("write it with +" in str(caught.value)) == ("write it with +" in why)


@given(st.from_regex(r"\+[1-9][0-9]{6,14}", fullmatch=True))
def test_a_masked_number_is_not_the_number(number: str) -> None:
    assert phone.is_e164(number)
    shown = phone.mask(number).replace("***", "")
    assert len(number) - len(shown) >= 3
    assert number.startswith(shown[:5])
    assert number.endswith(shown[5:])


@pytest.mark.parametrize(
    ("number", "masked"),
    [
        ("+14155550100", "+1415***0100"),
        ("+4721234567", "+4721***"),
        ("+14155550", "+1415***"),
        ("+1415555", "***"),
        ("", "***"),
    ],
)
def test_of_a_shorter_number_less_is_shown(number: str, masked: str) -> None:
    assert phone.mask(number) == masked


@given(st.text("+0123456789 ()-x;=#,\u0665ABCtel:", max_size=25))
def test_what_is_taken_is_a_number_that_routes_know(written: str) -> None:
    with suppress(ValueError):
        assert phone.is_e164(phone.normalise(written))
