"""Twilio's form is read as the standard library would read it."""

from urllib.parse import parse_qsl, urlencode

from hypothesis import example, given
from hypothesis import strategies as st

from router.errors import BadSignature
from router.providers.twilio.signature import read_form

_HEADERS = {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8"}
_MAX_FIELDS = 20

_text = st.text(st.characters(codec="utf-8"))
_raw = st.text("ab=&+%;0fC3\u00e9\ufeff ", max_size=40).map(str.encode)
_encoded = st.lists(st.tuples(_text, _text)).map(lambda form: urlencode(form).encode())
_garbage = st.binary(max_size=40)


@given(body=_raw | _encoded | _garbage)
@example(body=b"a=1&&b&=c&d==e&%")
@example(body=b"From=%2B1212&Name=A+B%20C")
@example(body=b"a=%ff")
@example(body=b"&" * _MAX_FIELDS)
def test_a_form_has_the_pairs_that_the_standard_library_finds(body: bytes) -> None:
    try:
        expected = parse_qsl(
            body.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS
        )
    except ValueError:
        expected = None
    try:
        found = list(read_form(_HEADERS, body, max_fields=_MAX_FIELDS))
    except BadSignature:
        assert expected is None
    else:
        assert found == expected
