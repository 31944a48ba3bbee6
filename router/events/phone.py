"""Phone numbers: E.164 with `+`, and their masked form for logs.

The answer path uses `is_e164` (a regular expression); people's input goes through `normalise`
(libphonenumber), which also accepts spaces and brackets and says what is wrong.
"""

import re
from typing import Final

import phonenumbers

_E164: Final = re.compile(r"\+[1-9][0-9]{6,14}")  # ITU-T E.164 §6: at most 15 digits


def is_e164(text: str) -> bool:
    """Whether `text` is `+` and 7 to 15 digits, nothing else."""
    return _E164.fullmatch(text) is not None


def normalise(text: str) -> str:
    """The E.164 form of what a person wrote: `+1 (415) 555-0100` → `+14155550100`.

    Raises:
        ValueError: not a possible number; the message says why without repeating the number.
    """
    if is_e164(text):
        return text
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException as error:
        hint = "" if text.strip().startswith("+") else "; write it with + and the country code"
        raise ValueError(f"not a phone number{hint}") from error
    if not phonenumbers.is_possible_number(number):
        raise ValueError("not a possible phone number: wrong count of digits for its country")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def mask(number: str) -> str:
    """For logs and screens of strangers: `+14155550100` → `+1415***0100`; short ones vanish."""
    if len(number) < 9:
        return "***"
    return f"{number[:5]}***{number[-4:]}"
