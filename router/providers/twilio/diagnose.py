"""Why a signature was refused: the setting with which it would have been right.

Only what a right signature proves is said; a stranger without a key learns nothing and moves
nothing, whatever the headers of the request claim.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final
from urllib.parse import urlsplit

from router.errors import BadSignature
from router.provider import WebhookRequest
from router.providers.twilio import signature
from router.providers.twilio.keys import SETTINGS_HEADER, Form, Key, Keyring

_BODY_LIMIT: Final = 16_384  # bytes; a real form has two thousand
_FIELDS: Final = 200
_URLS: Final = 12  # with and without the default port: twice as many HMACs a key
_KEYS: Final = 2
_OTHERS: Final = 8
_HOST: Final = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
_PORT: Final = re.compile(r":[0-9]+$")
_PREFIX: Final = re.compile(r"(/[\w.~-]{1,64}){1,8}", re.ASCII)
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]{1,300}")


def diagnose(
    request: WebhookRequest, *, public_url: str, bases: Sequence[str], keyring: Keyring
) -> str:
    """A sentence about what would have let the request in, or "".

    It never holds a secret; a host or path that it repeats is one that Twilio signed. It takes some
    twenty HMACs, never a hundred, and no body over 16 KiB.
    """
    given = request.headers.get(signature.HEADER)
    if not given or not request.target.startswith("/") or len(request.body) > _BODY_LIMIT:
        return ""
    try:
        form = signature.read_form(request.headers, request.body, max_fields=_FIELDS)
    except BadSignature:
        return ""
    try:
        keys = keyring.choose(request.headers, form, request.body)
    except BadSignature:
        keys = ()
    keys = [key for key in keys if "" in key.connections]  # what tenants get wrong is theirs
    asked = _Asked(request, form, keys[:_KEYS], given, bases)
    return (
        asked.about_url(public_url)
        or asked.about_body()
        or asked.about_keys(keyring.others(keys)[:_OTHERS])
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """A refused request, and questions about it."""

    request: WebhookRequest
    form: Form
    keys: Sequence[Key]
    given: str
    bases: Sequence[str]

    def about_url(self, public_url: str) -> str:
        target = self.request.target
        urls = dict.fromkeys(_candidates(public_url, self.request.headers))
        for base in islice(urls, _URLS):
            if self._is_right(_forms(base), target, self.form):
                if base == public_url:
                    return ""  # it is the body's hash that is wrong
                return f"Twilio signed {_shown(base, target)}: {_mend(base)}"
        path, mark, query = target.partition("?")
        slashed = path.removesuffix("/") if path.endswith("/") else path + "/"
        if self._is_right(self.bases, slashed + mark + query, self.form):
            return (
                f"Twilio signed {_shown(public_url, slashed)}: give Twilio the URL "
                f"{_shown(public_url, path)}, or have the proxy leave it as it is"
            )
        return ""

    def about_body(self) -> str:
        body, target = self.request.body, self.request.target
        if not self.form:
            if "bodySHA256=" in target and self._is_right(self.bases, target, ()):
                return "the body was changed on the way: the signature is right, its hash is not"
            if self._is_right(self.bases, target, _form_of(body)):
                return "the Content-Type was changed on the way: Twilio signed the body as a form"
            return ""
        for change, what in _CHANGES:
            undone = [(_undo(change, name), _undo(change, value)) for name, value in self.form]
            if undone != self.form and self._is_right(self.bases, target, undone):
                return f"the form was encoded anew on the way: {what}"
        return ""

    def about_keys(self, others: Sequence[Key]) -> str:
        found = signature.matching(self.bases, self.request.target, self.form, others, self.given)
        if found is None:
            return ""
        key = found[1]
        if key.digest == "sha256":
            return (
                f"it is signed with a shared key that {SETTINGS_HEADER} does not name: "
                "does a proxy remove that header?"
            )
        return (
            f"it is signed with a token of the account {key.signer.account}, which is not the one "
            "that it names: check whose is whose in providers.twilio.auth_tokens and .accounts"
        )

    def _is_right(self, bases: Sequence[str], target: str, form: Form) -> bool:
        found = signature.matching(bases, target, form, self.keys, self.given)
        return found is not None


def _candidates(public_url: str, headers: Mapping[str, str]) -> Iterator[str]:
    """Base URLs that Twilio may have been given; the likelier first."""
    parts = urlsplit(public_url)
    user, at, host = parts.netloc.rpartition("@")
    bare = _PORT.sub("", host)
    forwarded = headers.get("X-Forwarded-Host", "").partition(",")[0].strip()
    ported = f"{bare}:{headers.get('X-Forwarded-Port', '')}"
    hosts = [host, forwarded, headers.get("Host", ""), host.lower(), bare, ported]
    scheme = headers.get("X-Forwarded-Proto", "").partition(",")[0].strip()
    schemes = [scheme, parts.scheme, "https", "http"]
    prefixes = [parts.path, "", headers.get("X-Forwarded-Prefix", "").rstrip("/")]
    for prefix in (found for found in prefixes if not found or _PREFIX.fullmatch(found)):
        for known in (found for found in hosts if _HOST.fullmatch(found)):
            for used in dict.fromkeys(name for name in schemes if name in ("http", "https")):
                yield f"{used}://{user}{at}{known}{prefix}"


def _forms(base: str) -> Sequence[str]:
    """The base, and where its port is the default one with it and without.

    An unusual port stays: without it the signature proves another URL, which is asked about too.
    """
    try:
        parts, forms = urlsplit(base), signature.public_bases(base)
        usual = parts.port in (None, signature.DEFAULT_PORTS[parts.scheme])
    except ValueError:  # a header claims a host that is none
        return ()
    return forms if usual else forms[:1]


def _mend(base: str) -> str:
    parts = urlsplit(base)
    if parts.scheme == "https" or parts.hostname in ("127.0.0.1", "localhost", "::1"):
        return f'set public_url = "{_shown(base)}"'
    return "give Twilio the URL with https (public_url must have it)"


def _shown(base: str, target: str = "") -> str:
    """The URL without the credentials that it may hold, nor its query."""
    parts = urlsplit(base)
    hidden = "***@" if "@" in parts.netloc else ""
    path = target.partition("?")[0]
    url = f"{parts.scheme}://{hidden}{parts.netloc.rpartition('@')[2]}{parts.path}{path}"
    return url if _PRINTABLE.fullmatch(url) else "another URL"


def _form_of(body: bytes) -> Form:
    try:
        return signature.pairs(body, max_fields=_FIELDS)
    except BadSignature:
        return ()


def _undo(change: Callable[[str], str], text: str) -> str:
    try:
        return change(text)
    except UnicodeError:
        return text


_CHANGES: Final[tuple[tuple[Callable[[str], str], str], ...]] = (
    (lambda text: text.replace(" ", "+"), "its plus signs became spaces"),
    (lambda text: text.encode("latin-1").decode(), "its UTF-8 was taken for Latin-1"),
    (lambda text: text.replace("\r\n", "\n"), "its line ends were changed"),
    (lambda text: text.replace("\n", "\r\n"), "its line ends were changed"),
)
