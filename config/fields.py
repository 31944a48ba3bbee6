"""The types of single settings: bounds, forms, and secrets that must be there. Pure.

A setting that passes here works later: what would end in a traceback, a busy loop or an open door
is refused at start, under its path. No message repeats the value: any field may hold a secret.
"""

import binascii
import json
import os
import re
import unicodedata
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

# --- numbers


def _number(value: object) -> object:
    """TOML's `true` is no 1: `port = true` is a mistake, not port 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - what pydantic reports
    return value


def within(least: float, most: float) -> Any:
    """Both bounds inclusive; neither infinite nor NaN."""
    return Field(ge=least, le=most, allow_inf_nan=False)


def count(least: int, most: int) -> Any:
    """Bounds of a whole number, both inclusive."""
    return Field(ge=least, le=most)


Seconds = Annotated[float, BeforeValidator(_number)]
"""A time; always with bounds: `Annotated[Seconds, within(0.01, 60)]`."""
Hours = Seconds
Count = Annotated[int, BeforeValidator(_number)]

# --- lists and tables


def _json(value: str) -> object:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON; lists and tables in the environment are JSON") from None


def _list(value: object) -> object:
    """Lists from the environment: JSON, or `a,b`, which is what everybody writes first."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return _json(value)
    # Empty parts stay, for the entries' own type to refuse: `old,` may have been two secrets.
    return [part.strip() for part in value.split(",")] if value else []


def _table(value: object) -> object:
    return _json(value) if isinstance(value, str) else value


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("names something twice")
    return values


ListOrCommas = (NoDecode, BeforeValidator(_list), Field(max_length=100), AfterValidator(_once))
"""Marks a tuple that the environment may hold as JSON or as `a,b`; at most 100, each once."""
Table = (NoDecode, BeforeValidator(_table), Field(max_length=10_000))
"""Marks a dict that the environment holds as JSON."""

# --- secrets

_LONGEST_SECRET: Final = 4096
_OTHER_KEYS: Final = ("-----BEGIN", "ssh-", "ecdsa-", "{", "[")


def _check_secret(text: str, least: int, *, of_server: bool) -> None:
    if not text.strip():
        raise ValueError("is empty or blank: anybody could use it")
    if text != text.strip() or not text.isprintable():
        raise ValueError(
            "has a space at an end, a line break or another invisible character: copy it again"
        )
    if not of_server and not text.isascii():  # none has, and HTTP's headers can't carry them
        raise ValueError("has a character that is not ASCII: copy it again")
    if not of_server and text.startswith(_OTHER_KEYS):  # JWT's libraries refuse such, later
        raise ValueError("is a key file's content, no secret: copy the secret itself")
    if not least <= len(text) <= _LONGEST_SECRET:
        raise ValueError(
            f"is too short: {least} characters at least, or it could be guessed"
            if len(text) < least
            else f"is too long: {_LONGEST_SECRET} characters at most"
        )


def _secret(least: int, *, optional: bool = False, of_server: bool = False) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        given = value.get_secret_value()
        # One that was read from a file ends with its line: the file's, not the secret's.
        text = given.removesuffix("\n").removesuffix("\r")
        if given or not optional:
            _check_secret(text, least, of_server=of_server)
        return SecretStr(text)

    return AfterValidator(check)


Secret = Annotated[SecretStr, _secret(16)]
"""A secret that must be there and that nobody guesses: it verifies, signs or opens an account."""
OptionalSecret = Annotated[SecretStr, _secret(16, optional=True)]
"""The same, or "" where there is none."""
LiveKitSecret = Annotated[SecretStr, _secret(32)]
"""As long as LiveKit's server asks for, and RFC 7518 §3.2 for HS256."""
OptionalLiveKitSecret = Annotated[SecretStr, _secret(32, optional=True)]
OptionalPassword = Annotated[SecretStr, _secret(6, optional=True, of_server=True)]
"""Of a server of the user's own, which sets its own rules; or ""."""


def read_key(text: str) -> bytes:
    """The 32 bytes of a `secret_key`: hex or base64. Raises ValueError."""
    for decode in (bytes.fromhex, lambda value: b64decode(value, validate=True)):
        try:
            key = decode(text)
        except ValueError:
            continue
        if len(key) == 32:
            return key
    raise ValueError("must be 32 bytes as hex or base64; make one: openssl rand -hex 32")


def _node_key(value: SecretStr) -> SecretStr:
    if value.get_secret_value():
        read_key(value.get_secret_value())
    return value


NodeKey = Annotated[OptionalSecret, AfterValidator(_node_key)]
FormerKey = Annotated[Secret, AfterValidator(_node_key)]

# Nothing in it ever needs an escape in a path (RFC 3986 §2.3), so there is one way to write it.
_PATH_SECRET: Final = re.compile(r"[A-Za-z0-9._~-]{22,256}")  # 22 of these hold 128 bits


def _path_secret(value: SecretStr) -> SecretStr:
    if not _PATH_SECRET.fullmatch(value.get_secret_value()):
        raise ValueError(
            "must be 22 to 256 letters, digits, '-', '.', '_' or '~', which stand in a URL as they "
            "are; make one: openssl rand -hex 32"
        )
    return value


def _base64_secret(value: SecretStr) -> SecretStr:
    try:
        b64decode(value.get_secret_value(), validate=True)
    except binascii.Error:
        raise ValueError(
            "must be base64, as Vocode shows it: config.signature_secret of GET /v1/actions?id=…"
        ) from None
    return value


PathSecret = Annotated[Secret, AfterValidator(_path_secret)]
Base64Secret = Annotated[Secret, AfterValidator(_base64_secret)]

_P: Final = 2**255 - 19  # of the field that Ed25519 is over (RFC 8032 §5.1)
_D: Final = -121665 * pow(121666, -1, _P) % _P
_Y8: Final = 2707385501144840649318225287225658788936804267575313519463743609750303021
_WEAK: Final = frozenset({0, 1, _P - 1, _Y8, _P - _Y8})  # y of the points of order 1, 2, 4 and 8


def read_public_key(text: str) -> bytes:
    """The 32 bytes of an Ed25519 key. Raises ValueError.

    A point of a small order is as good as an empty key: anybody can make a signature that fits it.
    """
    try:
        raw = b64decode(text, validate=True)
    except ValueError:
        raw = b""
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    squared = (y * y - 1) * (_D * y * y + 1) % _P  # x² times a square: a square on the curve only
    is_point = y < _P and pow(squared, (_P - 1) // 2, _P) <= 1
    if len(raw) != 32 or b64encode(raw).decode() != text or not is_point or y in _WEAK:
        raise ValueError(
            "is not an Ed25519 public key, the base64 of 32 bytes; copy it from Mission Control, "
            "Keys & Credentials, Public Key"
        )
    return raw


def _public_key(value: str) -> str:
    read_public_key(value)
    return value


Ed25519Key = Annotated[str, AfterValidator(_public_key)]

# --- names and texts


def _form(pattern: str, words: str) -> AfterValidator:
    matches = re.compile(pattern, re.ASCII).fullmatch

    def check(value: str) -> str:
        if not matches(value):
            raise ValueError(words)
        return value

    return AfterValidator(check)


_ACCOUNT_SID: Final = "AC[0-9a-f]{32}"
_ACCOUNT_WORDS: Final = "must be an Account SID, AC and 32 digits of 0-9a-f, from Twilio's console"
AccountSid = Annotated[str, _form(_ACCOUNT_SID, _ACCOUNT_WORDS)]
OptionalAccountSid = Annotated[str, _form(f"({_ACCOUNT_SID})?", _ACCOUNT_WORDS)]
SharedKeyId = Annotated[
    str, _form(r"[\w.-]{1,128}", "must be a key's id: 1 to 128 letters, digits, '_', '.' or '-'")
]
_KEY_WORDS: Final = "must be an API key's name: up to 128 visible ASCII characters, without spaces"
ApiKeyId = Annotated[str, _form(r"[!-~]{1,128}", _KEY_WORDS)]
OptionalApiKeyId = Annotated[str, _form(r"[!-~]{0,128}", _KEY_WORDS)]
# language ["-" script] ["-" region] *("-" variant) of RFC 5646 §2.1
Language = Annotated[
    str,
    _form(
        r"[A-Za-z]{2,3}(-[A-Za-z]{4})?(-([A-Za-z]{2}|[0-9]{3}))?"
        r"(-([A-Za-z0-9]{5,8}|[0-9][A-Za-z0-9]{3})){0,3}",
        "must be a language tag (BCP 47) such as en-US, de-DE or es-419",
    ),
]


def _user_name(value: str) -> str:
    if value and (value != value.strip() or not value.isprintable() or len(value) > 256):
        raise ValueError("must be at most 256 printable characters, without spaces at its ends")
    return value


UserName = Annotated[str, AfterValidator(_user_name)]

_LONGEST_SPOKEN: Final = 1000  # characters; Twilio's <Say> takes 4096, a caller no minute of it


def _spoken(value: str) -> str:
    if not value.strip() or len(value) > _LONGEST_SPOKEN:
        raise ValueError(f"must be a text of 1 to {_LONGEST_SPOKEN} characters: callers hear it")
    # Of the invisible ones only the joiners of some scripts (Cf): XML 1.0 has no control
    # characters, surrogates or non-characters, and nobody speaks a line break.
    if any(unicodedata.category(each) in ("Cc", "Cs", "Co", "Cn", "Zl", "Zp") for each in value):
        raise ValueError("must be one line without control characters")
    return value


SpokenText = Annotated[str, AfterValidator(_spoken)]

# --- files


def _is_path(text: str) -> bool:
    # SQLite's URL would take a ? for its query; the environment may hold bytes that are no text.
    return text.isprintable() and "?" not in text and not text.startswith("~")


def path_words(path: str) -> str | None:
    """What is wrong with a path, None for nothing."""
    if not _is_path(path):
        return "must be a path of printable characters without '?'; '~' is written out"
    if len(os.fsencode(path)) > 1024 or any(
        len(os.fsencode(part)) > 200 for part in path.split("/")
    ):
        return "is too long: 1024 bytes at most, 200 between two slashes"
    return None


def _folder(value: object) -> object:
    if isinstance(value, str | Path):
        if not str(value).strip() or value == "":
            raise ValueError("is empty: it must be a folder")
        if (words := path_words(str(value))) is not None:
            raise ValueError(words)
    return value


def _file(value: str) -> str:
    if (words := path_words(value)) is not None:
        raise ValueError(words)
    return value


Folder = Annotated[Path, BeforeValidator(_folder)]
FilePath = Annotated[str, AfterValidator(_file)]
