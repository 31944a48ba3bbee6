"""Phone numbers: E.164 with `+`, and their masked form for logs.

The answer path uses `is_e164` and `party` (regular expressions); people's input goes through
`normalise` (libphonenumber), which also accepts spaces and brackets and says what is wrong.
"""

import re
from typing import Final, Literal, NamedTuple

import phonenumbers

_E164: Final = re.compile(r"\+[1-9][0-9]{6,14}")  # ITU-T E.164 §6: at most 15 digits
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
        return Party(text, "pstn")
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


def channel_of(caller: Party, called: Party) -> Channel:
    """How a call came: by whichever end is not the telephone network's."""
    return caller.channel if caller.channel not in ("", "pstn") else called.channel


def _number(text: str) -> str:
    """The E.164 number that a text is but for its +, "" where it is none."""
    text = text.replace("%2B", "+").replace("%2b", "+")  # RFC 3261 §25.1: a user may be escaped
    if is_e164(text):
        return text
    return f"+{text}" if _BARE.fullmatch(text) else ""


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
