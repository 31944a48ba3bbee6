"""What parsers fall over, as the fuzzer's dictionary and among its seeds.

The fuzzer finds short things by itself. It does not find a thousand brackets, an integer that is
too long, or that `\\ud800` is half a character: these it is told.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from tests.providers.mutations import NASTY

MAX_INPUT: Final = 4096  # bytes of an input; the longest payload file has 3,510
_DEEP: Final = 3500  # brackets; Python's own limit is a thousand
_MAX_WORD: Final = 60  # libFuzzer takes 64
_OF_SEEDS: Final = re.compile(rb"[\w.-]{3,40}")

_KINDS: Final[Sequence[bytes]] = (
    # deep JSON
    *(b"[" * 50, b'{"a":' * 10, b'"data":[[[[', b'"payload":{"payload":'),
    # huge integers, and what is no number
    *(b"9" * 50, b"-1", b"-9223372036854775809", b"18446744073709551616", b"4294967296"),
    *(b"1e400", b"-1e-400", b"NaN", b"Infinity", b"-Infinity", b"null", b"true", b"0x1F", b"1_000"),
    # boundaries of forms, moved; what a form or a path says in another way
    *(b"&", b"=", b"&=", b"=&", b"&&", b"%26", b"%3D", b"%2B", b"+", b"%2541", b"%C0%A0", b"%00"),
    *(b"?", b"/../", b"//", b";", b"#", b"@", b"sip:", b"anonymous"),
    # control characters, and what is no character
    *(b"\x00", b"\x01", b"\x1b[2J", b"\x7f", b"\t", b"\r\n", b"\r\nX: y", b"\xc2\x85"),
    *(b"\\u0000", b"\\ud800", b"\\ud83d\\ude00", b"\xe2\x80\xae", b"\xef\xbb\xbf"),
    *(b"\xff", b"\xc0\x80", b"\xed\xa0\x80"),
    # digits that are none to us
    *(b"\xd9\xa1\xd9\xa2", b"\xc2\xb2", b"\xef\xbc\x8b"),
    # times
    *(b"9999-12-31T23:59:59.999999-23:59", b"0001-01-01T00:00:00+23:59", b"2026-W01-1", b"-0000"),
    # the same thing twice
    *(b'"id":1,"id":2', b'{"__proto__":1}', b"key=", b",algorithm=HMAC_SHA1"),
)


def nasty() -> Sequence[bytes]:
    """JSON that readers fall over, long enough for that and with room for what stands around it."""
    return [value[:_DEEP] for value in NASTY]


def dictionary(seeds: Iterable[bytes]) -> str:
    """The words of the seeds, and the kinds above, as libFuzzer reads them."""
    words = {word for seed in seeds for word in _OF_SEEDS.findall(seed)} | set(_KINDS)
    return "\n".join(f'"{_escaped(word[:_MAX_WORD])}"' for word in sorted(words))


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)
