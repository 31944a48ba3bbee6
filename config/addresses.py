"""The types of settings that say where something is: hosts, URLs, the database. Pure.

As in `config.fields`, no message repeats the value: a URL may hold a password.
"""

import ipaddress
import re
from typing import Annotated, Final
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator

from config.fields import path_words

_LABEL: Final = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")
_PORT: Final = re.compile("[0-9]{1,5}", re.ASCII)


def _is_host(text: str) -> bool:
    """A name or an IPv4 address."""
    if text.rpartition(".")[2].isdecimal():
        return _is_ip(text, 4)
    return _NAME.fullmatch(text) is not None


def _is_ip(text: str, version: int) -> bool:
    try:
        return "%" not in text and ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _is_port(text: str) -> bool:
    return _PORT.fullmatch(text) is not None and 1 <= int(text) <= 65535


def _split_port(text: str) -> tuple[bool, str | None]:
    """Whether the host in `host`, `host:port`, `[v6]` or `[v6]:port` is one; the port, or None."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        is_host = bool(closed) and _is_ip(host, 6) and (not rest or rest.startswith(":"))
        return is_host, rest[1:] if rest else None
    host, colon, port = text.partition(":")
    return _is_host(host), port if colon else None


def _bind(value: str) -> str:
    if not (_is_host(value) or _is_ip(value, 6)):
        raise ValueError("must be an address or a name to listen on: 127.0.0.1, 0.0.0.0, ::")
    return value


def _optional_bind(value: str) -> str:
    return _bind(value) if value else value


# sip:<call_id, 36 characters>@<host>;transport=udp has 254 characters at most (Twilio's <Sip>).
_LONGEST_SIP_HOST: Final = 199


def _sip_host(value: str) -> str:
    is_host, port = _split_port(value)
    if value and not (is_host and (port is None or _is_port(port))):
        raise ValueError(
            "must be host or host:port only, without sip: and parameters: x.sip.livekit.cloud"
        )
    if len(value) > _LONGEST_SIP_HOST:
        raise ValueError(f"is too long: {_LONGEST_SIP_HOST} characters at most fit into a SIP URI")
    return value


def _broker(value: str) -> str:
    is_host, port = _split_port(value)
    if not (is_host and port is not None and _is_port(port)):
        raise ValueError("must be host:port, such as kafka-1:9092")
    return value


BindHost = Annotated[str, AfterValidator(_bind)]
OptionalBindHost = Annotated[str, AfterValidator(_optional_bind)]
SipHost = Annotated[str, AfterValidator(_sip_host)]
Broker = Annotated[str, AfterValidator(_broker)]

_USER_INFO: Final = re.compile(r"(?:[A-Za-z0-9._~!$*+,;=:-]|%[0-9A-Fa-f]{2})+")
_URL_PATH: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})+)*/?")
_VISIBLE: Final = re.compile("[!-~]+")  # urllib strips what else there is
_LONGEST_URL: Final = 512


def _url(*schemes: str, example: str, empty: bool = True, user: bool = False) -> AfterValidator:
    """The check that a text is the beginning of URLs; a slash at its end is cut off.

    Only what every reader reads alike, as it is: no quotes, spaces, dots as steps or escapes that
    are none. `user`: whether a user name and password may stand in it.
    """

    def check(value: str) -> str:
        if not value and empty:
            return value
        if "?" in value or "#" in value:  # an empty query is one
            raise ValueError("must not have a query or a fragment")
        try:
            parts = urlsplit(value)
        except ValueError:  # its words may repeat the value
            raise ValueError(f"must be an absolute URL such as {example}") from None
        before, at, where = parts.netloc.rpartition("@")
        is_host, port = _split_port(where)
        if is_host and port is not None and not _is_port(port):
            raise ValueError("Port out of range, or no number: 1 to 65535")
        known = parts.scheme in schemes and is_host
        if not (known and _VISIBLE.fullmatch(value) and _URL_PATH.fullmatch(parts.path)):
            raise ValueError(f"must be an absolute URL such as {example}")
        if at and not (user and _USER_INFO.fullmatch(before)):
            raise ValueError("must not have a user name or password in it")
        if len(value) > _LONGEST_URL:
            raise ValueError(f"is too long: {_LONGEST_URL} characters at most")
        return value.rstrip("/")

    return AfterValidator(check)


def _origin(value: str) -> str:
    """As browsers write it (RFC 6454 §6.2): it is compared letter by letter."""
    parts = urlsplit(value)
    is_host, port = _split_port(parts.netloc)
    default = {"http": "80", "https": "443"}.get(parts.scheme)
    known = is_host and (port is None or (_is_port(port) and port != default))
    if not (default and known and value == value.lower() == f"{parts.scheme}://{parts.netloc}"):
        raise ValueError(
            "must be an origin as browsers write it, lower case, without a path and without the "
            "scheme's own port: https://app.example.com"
        )
    return value


Origin = Annotated[str, AfterValidator(_origin)]
HttpUrl = Annotated[str, _url("http", "https", example="https://calls.example.com", user=True)]
ApiUrl = Annotated[str, _url("http", "https", example="https://api.example", empty=False)]
LiveKitUrl = Annotated[str, _url("ws", "wss", "http", "https", example="wss://x.livekit.cloud")]

# As SQLAlchemy reads it, which is not as urllib does: a password may hold a # or a /.
_DATABASE: Final = re.compile(
    r"(?P<scheme>[\w+]+)://(?:(?P<user>[^:/]*)(?::(?P<password>[^@]*))?@)?"
    r"(?P<where>[^/?]*)(?:/(?P<name>[^?]*))?(?:\?(?P<query>.*))?"
)
_DATABASE_WORDS: Final = (
    "must start with postgresql+psycopg:// (user:password@host/name), or with "
    "sqlite+aiosqlite:/// and a file; empty: SQLite in data_dir"
)
_POSTGRESQL: Final = ("postgresql", "postgresql+psycopg", "postgres")
_SQLITE: Final = ("sqlite", "sqlite+aiosqlite")
_WORD: Final = re.compile("[a-z0-9_!,-]{1,64}")
_SOCKETS: Final = re.compile(r"/[\w./-]{1,100}", re.ASCII)
_ANY: Final = re.compile("[!-~]{1,256}")
# postgresql.org/docs/current/libpq-connect.html: those that `router.storage.engine` does not set
_LIBPQ: Final = {
    **dict.fromkeys(("channel_binding", "gssencmode", "require_auth", "sslmode"), _WORD),
    **dict.fromkeys(("sslnegotiation", "target_session_attrs"), _WORD),
    "host": _SOCKETS,
    **dict.fromkeys(("passfile", "service", "sslcert", "sslcrl", "sslkey", "sslrootcert"), _ANY),
}


def _database(value: str) -> str:
    if not value:
        return value
    found = _DATABASE.fullmatch(value)
    if found is None or not value.isprintable() or len(value) > 2048:
        raise ValueError(_DATABASE_WORDS)
    if found["scheme"] in _SQLITE:
        words = path_words(found["name"] or "")
        if found["where"] or found["user"] or found["query"] or found["name"] in ("", ":memory:"):
            raise ValueError(_DATABASE_WORDS)
        if words is not None or found["name"] is None:
            raise ValueError(words or _DATABASE_WORDS)
        return value
    if found["scheme"] not in _POSTGRESQL:
        raise ValueError(_DATABASE_WORDS)
    _check_postgresql(found)
    return value


def _check_postgresql(found: re.Match[str]) -> None:
    if found["password"] is not None and not unquote(found["password"]).strip():
        raise ValueError("its password is empty or blank: write user:password@, or user@ alone")
    is_host, port = _split_port(found["where"])
    if found["where"] and not (is_host and (port is None or _is_port(port))):
        raise ValueError("its host or port is none: postgresql+psycopg://user:password@host/name")
    options = [each.partition("=") for each in (found["query"] or "").split("&") if each]
    if not all(name in _LIBPQ and _LIBPQ[name].fullmatch(text) for name, _, text in options):
        raise ValueError(
            f"after its ? there may be: {', '.join(_LIBPQ)}, each with =value (host: a folder)"
        )


DatabaseUrl = Annotated[str, AfterValidator(_database)]
