"""Phone numbers: E.164 with `+`, and their masked form for logs.

The answer path uses `is_e164` and `party` (regular expressions); people's input goes through
`normalise` (libphonenumber), which also accepts spaces and brackets and says what is wrong. However
a number is written, compact or with spaces, it has one answer: one E.164 form, or one refusal.
"""

import re
from functools import cache
from typing import Final, Literal, NamedTuple

import phonenumbers

_E164: Final = re.compile(r"\+[1-9][0-9]{6,14}")  # ITU-T E.164 §6: at most 15 digits
_IN_TEXT: Final = re.compile(r"(?:\+|%2[Bb])[1-9][0-9]{6,14}")  # also as a URL has it
# Mexico dialled mobiles with a 1 after the country code until August 2019; old contacts still do.
_OLD_MEXICAN: Final = re.compile(r"\+521([0-9]{10})")
# A number without its +: lost to a form's space, or left out by the carrier.
_BARE: Final = re.compile(r"[1-9][0-9]{6,14}", re.ASCII)
_ADDRESS: Final = re.compile(
    r"(sips?|tel|whatsapp|client):(.*)", re.ASCII | re.IGNORECASE | re.DOTALL
)

Channel = Literal["", "pstn", "sip", "whatsapp", "client"]
"""How a party is reached; "" where the provider names nobody."""


class Party(NamedTuple):
    """One end of a call: its number as E.164, else what the provider calls it, and its channel."""

    address: str
    channel: Channel


def is_e164(text: str) -> bool:
    """Whether `text` is `+` and 7 to 15 digits, nothing else."""
    return _E164.fullmatch(text) is not None


def party(text: str) -> Party:
    """An end of a call in any form in which a provider names it, by the shape alone.

    `14155550100`, ` 14155550100` (a + that was decoded as a space), `sip:+14155550100@example.com`,
    `whatsapp:+14155550100` and `tel:+14155550100` are all `+14155550100`. What has no number in it
    stays as it is.
    """
    text = text.strip()
    if is_e164(text):
        return Party(_today(text), "pstn")
    found = _ADDRESS.fullmatch(text)
    scheme, rest = (found[1].lower(), found[2]) if found is not None else ("", text)
    number = _number(re.split("[@;?]", rest, maxsplit=1)[0].strip())
    match scheme:
        case "sip" | "sips":
            return Party(number or text, "sip")
        case "whatsapp":
            return Party(number or text, "whatsapp")
        case "client":
            return Party(text, "client")
        case _:
            return Party(number or text, "pstn" if text else "")


def country_of(number: str) -> str:
    """The country whose number it is (ISO 3166-1, two letters), "" where it tells none.

    Numbers of no country (+800, +883) have none, and so has what is no E.164 number.
    """
    if not is_e164(number):
        return ""
    try:
        region = phonenumbers.region_code_for_number(phonenumbers.parse(number, None))
    except phonenumbers.NumberParseException:
        return ""
    return region if region is not None and region.isalpha() else ""


def channel_of(caller: Party, called: Party) -> Channel:
    """How a call came: by whichever end is not the telephone network's."""
    return caller.channel if caller.channel not in ("", "pstn") else called.channel


def _number(text: str) -> str:
    """The E.164 number that a text is but for its +, "" where it is none."""
    text = text.replace("%2B", "+").replace("%2b", "+")  # RFC 3261 §25.1: a user may be escaped
    if is_e164(text):
        return _today(text)
    return _today(f"+{text}") if _BARE.fullmatch(text) else ""


def _today(number: str) -> str:
    """A number as `normalise` writes it, where a carrier may still write it the old way."""
    old = _OLD_MEXICAN.fullmatch(number)
    return f"+52{old[1]}" if old is not None else number


def normalise(text: str) -> str:
    """The E.164 form of what a person wrote: `+1 (415) 555-0100` → `+14155550100`.

    A trunk prefix (`+44 (0)20…`) and a mobile prefix of national dialling (`+54 11 15…`,
    `+52 1 55…`) are taken out or put in its international place. Applied to its own result it
    changes nothing.

    Raises:
        ValueError: not a possible number; the message says why without repeating the number.
    """
    if is_e164(text) and _is_plain(text):
        return text
    found = _parsed(text)
    if not is_e164(found) or (not _is_plain(found) and _parsed(found) != found):
        raise ValueError("not a possible phone number: wrong count of digits for its country")
    return found


def _parsed(text: str) -> str:
    """What libphonenumber makes of it; "" where that is no number that can be dialled from abroad.

    Raises:
        ValueError: it is no number at all.
    """
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException as error:
        plus = text.strip().startswith(("+", "\uff0b"))
        hint = "" if plus else "; write it with + and the country code"
        raise ValueError(f"not a phone number{hint}") from error
    if number.extension:
        raise ValueError("not a phone number alone: it has an extension, which can't be dialled")
    found = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    old = _OLD_MEXICAN.fullmatch(found)
    if old is not None:
        return _parsed(f"+52{old[1]}")
    possible = phonenumbers.is_possible_number_with_reason(number)
    # It also knows numbers that exist within one country or town only (+49 110).
    return found if possible == phonenumbers.ValidationResult.IS_POSSIBLE else ""


def _is_plain(number: str) -> bool:
    """Whether libphonenumber surely takes this E.164 number and changes nothing of it.

    Its own rules for the common case (a possible length, no trunk prefix) at a tenth of the time: a
    mapping file has a hundred thousand numbers.
    """
    for end in (2, 3, 4):  # no country code is the beginning of another one
        rules = _national_rules(number[1:end])
        if rules is not None:
            lengths, prefix = rules
            national = number[end:]
            return len(national) in lengths and (prefix is None or prefix.match(national) is None)
    return False


@cache
def _national_rules(country: str) -> tuple[frozenset[int], re.Pattern[str] | None] | None:
    """How long a country's numbers can be, and what national dialling puts before them."""
    code = int(country)
    if code not in phonenumbers.COUNTRY_CODE_TO_REGION_CODE:
        return None
    region = phonenumbers.region_code_for_country_code(code)
    known = phonenumbers.PhoneMetadata.metadata_for_region_or_calling_code(code, region)
    if known is None or known.general_desc is None:
        return frozenset(), None
    prefix = known.national_prefix_for_parsing
    return frozenset(known.general_desc.possible_length), re.compile(prefix) if prefix else None


def mask(number: str) -> str:
    """For logs and screens of strangers: `+14155550100` → `+1415***0100`.

    At least three digits are hidden: a shorter number loses its end, `+4721234567` → `+4721***`,
    and a short one vanishes.
    """
    if len(number) < 9:
        return "***"
    end = number[-4:] if len(number) >= 12 else ""
    return f"{number[:5]}***{end}"


def mask_in(text: str) -> str:
    """`text` with every phone number in it masked."""
    return _IN_TEXT.sub(lambda found: mask(found[0]), text)
