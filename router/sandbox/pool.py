"""The numbers that the carriers' stand-ins sell: the same ones at every start, and valid ones.

Most are of ranges that their countries keep for films and examples, so none is anybody's. A carrier
sells half of each range: what one has sold the other never offers.
"""

from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple

import phonenumbers

from router.provider import NumberType

Carrier = Literal["twilio", "telnyx"]


class Offer(NamedTuple):
    """A number for sale."""

    number: str  # E.164
    country: str
    type: NumberType
    area_code: str = ""
    region: str = ""
    locality: str = ""


class _Range(NamedTuple):
    type: NumberType
    area_code: str  # "": numbers of this kind have none
    prefix: str  # between country code and the last three digits
    region: str = ""
    locality: str = ""


_NANP: Final = frozenset({"US", "CA"})
_PLACES: Final[Mapping[str, tuple[str, str, str]]] = {  # where nothing else is asked for: in turn
    "415": ("US", "CA", "San Francisco"),
    "212": ("US", "NY", "New York"),
    "312": ("US", "IL", "Chicago"),
    "206": ("US", "WA", "Seattle"),
    "305": ("US", "FL", "Miami"),
    "512": ("US", "TX", "Austin"),
    "416": ("CA", "ON", "Toronto"),
    "604": ("CA", "BC", "Vancouver"),
}
_ELSEWHERE: Final[Mapping[str, tuple[_Range, ...]]] = {
    "GB": (
        _Range("local", "20", "2079460", "", "London"),
        _Range("local", "117", "1174960", "", "Bristol"),
        _Range("mobile", "", "7400123"),
        _Range("toll_free", "808", "8081570"),
        _Range("national", "306", "3069990"),
    ),
    "DE": (_Range("local", "30", "3023125", "", "Berlin"), _Range("mobile", "152", "15228817")),
    "FR": (_Range("local", "1", "199000", "", "Paris"),),
    "AU": (_Range("local", "2", "255501", "NSW", "Sydney"), _Range("mobile", "", "491570")),
}
_TOLL_FREE: Final = ("800", "833", "844", "855", "866", "877", "888")
_LINES: Final[Mapping[Carrier, range]] = {"twilio": range(103, 550), "telnyx": range(550, 1000)}


class Pool:
    """What a carrier sells. `taken` are those that somebody has."""

    def __init__(self, carrier: Carrier) -> None:
        self._lines = _LINES[carrier]
        self.taken: set[str] = set()

    def covers(self, country: str) -> bool:
        """Whether anything is sold there."""
        return country in _NANP or country in _ELSEWHERE

    def sells(self, country: str, type_: NumberType) -> bool:
        """Whether there are such numbers at all."""
        if country in _NANP:
            return type_ in ("local", "toll_free")
        return any(each.type == type_ for each in _ELSEWHERE.get(country, ()))

    def offers(self, country: str, type_: NumberType, area_code: str = "") -> Iterator[Offer]:
        """Those that can be bought, in their order; without an area code some of each."""
        ranges = list(_ranges(country, type_, area_code))
        for line in self._lines:
            for each in ranges:
                offer = _offer(country, each, line)
                if offer is not None and offer.number not in self.taken:
                    yield offer

    def offer(self, number: str) -> Offer | None:
        """The number, if it is for sale."""
        try:
            parsed = phonenumbers.parse(number)
        except phonenumbers.NumberParseException:
            return None
        country = phonenumbers.region_code_for_number(parsed) or "US"  # toll free is nobody's
        national = phonenumbers.national_significant_number(parsed)
        if number in self.taken or int(national[-3:]) not in self._lines:
            return None
        ranges = (
            each
            for type_ in _TYPES
            for each in _ranges(country, type_, national[:3] if country in _NANP else "")
        )
        prefix = national[:-3]
        found = next((each for each in ranges if each.prefix == prefix), None)
        return _offer(country, found, int(national[-3:])) if found is not None else None


_TYPES: Final[tuple[NumberType, ...]] = ("local", "toll_free", "mobile", "national")


def _ranges(country: str, type_: NumberType, area_code: str) -> Iterator[_Range]:
    if country not in _NANP:
        for each in _ELSEWHERE.get(country, ()):
            if each.type == type_ and area_code in ("", each.area_code):
                yield each
    elif type_ == "toll_free":
        for code in _TOLL_FREE:
            if area_code in ("", code):
                yield _Range(type_, code, f"{code}5550")
    elif type_ == "local":
        known = [code for code, place in _PLACES.items() if place[0] == country]
        for code in [area_code] if area_code else known:
            if code in _TOLL_FREE:
                continue
            _, region, locality = _PLACES.get(code, ("", "", ""))
            yield _Range(type_, code, f"{code}5550", region, locality)


def _offer(country: str, each: _Range, line: int) -> Offer | None:
    code = phonenumbers.country_code_for_region(country)
    number = f"+{code}{each.prefix}{line:03d}"
    parsed = phonenumbers.parse(number)
    of_country = each.type == "toll_free" or phonenumbers.region_code_for_number(parsed) == country
    if not (of_country and phonenumbers.is_valid_number(parsed)):
        return None  # an area code that the country has not
    return Offer(number, country, each.type, each.area_code, each.region, each.locality)
