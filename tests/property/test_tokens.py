"""A token's form: every mistake of one character is seen without asking the database."""

import re
import string

from hypothesis import assume, given
from hypothesis import strategies as st

from router.control.tokens import PATTERN, _base62, _checksum, _new_secret, is_well_formed

DIGITS = st.sampled_from(string.digits + string.ascii_letters)
TOKENS = st.text(DIGITS, min_size=43, max_size=43).map(lambda body: f"sb_{body}{_checksum(body)}")


@given(TOKENS, st.integers(0, 51), DIGITS | st.characters())
def test_one_changed_character_is_refused(token: str, place: int, other: str) -> None:
    assert is_well_formed(token)
    assume(token[place] != other)
    assert not is_well_formed(token[:place] + other + token[place + 1 :])


@given(TOKENS, st.integers(0, 51), st.integers(0, 52), DIGITS | st.characters())
def test_one_lost_or_added_character_is_refused(
    token: str, lost: int, place: int, added: str
) -> None:
    assert not is_well_formed(token[:lost] + token[lost + 1 :])
    assert not is_well_formed(token[:place] + added + token[place:])


@given(TOKENS, st.integers(3, 50))
def test_two_characters_in_the_wrong_order_are_refused(token: str, place: int) -> None:
    one, two = token[place], token[place + 1]
    assume(one != two)
    assert not is_well_formed(token[:place] + two + one + token[place + 2 :])


@given(st.text() | st.from_regex(PATTERN, fullmatch=True))
def test_other_text_is_refused(text: str) -> None:
    assume(not (text.startswith("sb_") and _checksum(text[3:-6]) == text[-6:]))
    assert not is_well_formed(text)


def test_what_is_made_is_well_formed_and_never_the_same() -> None:
    made = {_new_secret() for _ in range(200)}
    assert len(made) == 200
    assert all(is_well_formed(token) and re.fullmatch(PATTERN, token) for token in made)


@given(st.integers(0, 2**256 - 1))
def test_base62_holds_all_256_bits(value: int) -> None:
    digits = _base62(value, 43)
    alphabet = string.digits + string.ascii_uppercase + string.ascii_lowercase
    back = 0
    for digit in digits:
        back = back * 62 + alphabet.index(digit)
    assert (len(digits), back) == (43, value)
