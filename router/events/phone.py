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
    if number.extension:
        raise ValueError("not a phone number alone: it has an extension, which can't be dialled")
    found = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    # The library also knows numbers that are local (+49 110), or longer than E.164 allows.
    if not phonenumbers.is_possible_number(number) or not is_e164(found):
        raise ValueError("not a possible phone number: wrong count of digits for its country")
    return found


def mask(number: str) -> str:
    """For logs and screens of strangers: `+14155550100` → `+1415***0100`.

    At least three digits are hidden: a shorter number loses its end, `+4721234567` → `+4721***`,
    and a short one vanishes.
    """
    if len(number) < 9:
        return "***"
    end = number[-4:] if len(number) >= 12 else ""
    return f"{number[:5]}***{end}"
