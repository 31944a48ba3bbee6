"""Which keys a request may be signed with, and which accounts each of them speaks for.

The accounts that a body names are not to be trusted yet: they only choose among the keys that are
configured, and those of tenants' connections. Whether the event's account is one that the key
speaks for is asked again when the signature is right (`Signer.account_of`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from typing import Final, NamedTuple

from config.settings import TwilioSettings
from router.errors import BadSignature, ForeignAccount
from router.provider import NO_CONNECTIONS, ConnectionBook
from router.secrets import verifying_key

SETTINGS_HEADER: Final = "X-Twilio-Webhooks-Signature-Settings"
_SETTINGS: Final = re.compile(r"key=([\w.-]{1,128}), ?algorithm=HMAC_SHA256", re.ASCII)
_TWILIO: Final = "twilio"
_CONNECTION: Final = re.compile(r"[?&]connection=([0-9a-f-]{36})(?:&|$)")
ACCOUNT_SID: Final = re.compile(r"AC[0-9a-f]{32}")
_SIDS: Final = re.compile(rb"AC[0-9a-f]{32}")
_NAMING: Final = frozenset({"AccountSid", "ParentAccountSid"})
_NAMED_LIMIT: Final = 4  # accounts whose keys are tried for one request
_NAMED_WITHIN: Final = 65_536  # bytes of JSON in which accounts are looked for
_NAMELESS_LIMIT: Final = 4096  # bytes; no stranger has a long form checked with every key
_TENANTS_LIMIT: Final = 16  # keys of connections that are tried for one request

Form = Sequence[tuple[str, str]]


class Signer(NamedTuple):
    """Whoever's key signed a request."""

    account: str  # whose event it is where none is named
    accounts: frozenset[str]  # those that the key speaks for
    known: frozenset[str]  # all that are configured

    def account_of(self, named: str, *, parent: str = "") -> str:
        """The account of an event that names one, or none.

        `parent` speaks for its subaccounts as long as they have no keys of their own here.

        Raises:
            ForeignAccount: the key does not speak for that account.
        """
        if not named:
            return self.account
        adopted = parent in self.accounts and named not in self.known
        if named in self.accounts or (adopted and ACCOUNT_SID.fullmatch(named)):
            return named
        raise ForeignAccount("AccountSid is not an account of the key that signed this")


@dataclass(frozen=True, slots=True)
class Key:
    """A secret, and what it is used with."""

    secret: bytes = field(repr=False)
    digest: str  # sha1, sha256
    signer: Signer
    connections: frozenset[str] = frozenset({""})  # whose it is; "": the operator's


def auth_tokens(settings: TwilioSettings) -> Mapping[str, Sequence[str]]:
    """The Auth Tokens of each configured account, as many as it has; the main account's first."""
    tokens = {settings.account_sid: settings.auth_tokens}
    for account, more in settings.accounts.items():
        tokens[account] = (*tokens.get(account, ()), *more)
    return {account: [each.get_secret_value() for each in own] for account, own in tokens.items()}


class Keyring:
    """The keys of all configured accounts, and of connections. Raises ConfigError: one is empty."""

    def __init__(
        self, settings: TwilioSettings, connections: ConnectionBook = NO_CONNECTIONS
    ) -> None:
        self._connections = connections
        main = settings.account_sid
        tokens = auth_tokens(settings)
        known = frozenset(tokens)
        self._main = main
        self._tokens: Mapping[str, Sequence[Key]] = {
            account: [
                Key(
                    verifying_key(token, "providers.twilio.auth_tokens"),
                    "sha1",
                    Signer(account, known if account == main else frozenset({account}), known),
                )
                for token in own
            ]
            for account, own in tokens.items()
        }
        self._shared = {
            name: Key(
                verifying_key(secret.get_secret_value(), "providers.twilio.shared_keys"),
                "sha256",
                Signer(main, known, known),
            )
            for name, secret in settings.shared_keys.items()
        }
        self._single = len(tokens) == 1

    def choose(
        self, headers: Mapping[str, str], form: Form, body: bytes, target: str = ""
    ) -> Sequence[Key]:
        """The keys that may have signed a request.

        Twilio's header names a shared key; then no other key will do, nor another algorithm. Else
        they are the Auth Tokens of the account that a form names, of every account where it is
        short and names none; JSON is signed by the account that configured the webhook, which may
        be the parent of the one that it is about.

        Raises:
            BadSignature: the header is malformed or names no key that is configured, or the
                account has shared keys only.
        """
        settings = headers.get(SETTINGS_HEADER)
        if settings is not None:
            return (self._shared_key(settings),)
        keys = self._tokens[self._main] if self._single else self._named(form, body)
        tenants = self.of_connections(form, body, target)
        if not (keys or tenants):
            raise BadSignature(
                "the account has no Auth Token here, so only signatures of shared keys are taken: "
                "see providers.twilio.auth_tokens and .accounts, or make a connection for it"
            )
        return [*keys, *tenants]

    def of_connections(self, form: Form, body: bytes, target: str) -> Sequence[Key]:
        """The Auth Tokens that tenants' connections have for the accounts that a request names.

        One that names none (a bundle's, a port's) is checked with those of all, where they are few;
        its URL may name the connection instead, as `?connection=<id>`. Each token is tried once: it
        speaks for its account, and for every connection that has both.
        """
        if form:
            named = [value for name, value in form if name in _NAMING]
        else:
            found = set(_SIDS.findall(body, 0, _NAMED_WITHIN))
            named = sorted(sid.decode() for sid in found)
        asked = _CONNECTION.search(target)
        if asked is not None:
            owner = self._connections.get(asked[1])
            named = [owner.provider_account] if owner and owner.provider == _TWILIO else []
        accounts = islice(dict.fromkeys(named), _NAMED_LIMIT)
        held = [self._connections.of_account(_TWILIO, account) for account in accounts]
        if not (named or asked) and len(body) <= _NAMELESS_LIMIT:
            every = self._connections.all(_TWILIO, limit=_TENANTS_LIMIT)
            held = [every] if len(every) < _TENANTS_LIMIT else []
        if not any(held):
            return ()
        # The first of each account before the second of any: nobody crowds out another's.
        turns = (each for turn in zip_longest(*held) for each in turn if each is not None)
        owners: dict[tuple[str, str], list[str]] = {}
        for each in turns:
            place = (each.provider_account, each.secrets.get("auth_token", ""))
            owners.setdefault(place, []).append(each.connection_id)
        return [
            Key(
                token.encode(),
                "sha1",
                Signer(account, frozenset({account}), frozenset({account})),
                frozenset(ids),
            )
            for (account, token), ids in islice(owners.items(), _TENANTS_LIMIT)
            if token
        ]

    def others(self, keys: Sequence[Key]) -> Sequence[Key]:
        """All keys but these: for finding out what is wrong with the settings."""
        every = [*(key for own in self._tokens.values() for key in own), *self._shared.values()]
        return [key for key in every if key not in keys]

    def _shared_key(self, settings: str) -> Key:
        found = _SETTINGS.fullmatch(settings)
        if found is None:
            raise BadSignature(f"{SETTINGS_HEADER} is malformed or asks for another algorithm")
        key = self._shared.get(found[1])
        if key is None:
            raise BadSignature(
                f"{SETTINGS_HEADER} names a key that is not in providers.twilio.shared_keys"
            )
        return key

    def _named(self, form: Form, body: bytes) -> Sequence[Key]:
        if form:
            named = [value for name, value in form if name in _NAMING]
            if not named and len(body) <= _NAMELESS_LIMIT:  # a bundle may name none
                return [key for own in self._tokens.values() for key in own]
            accounts = [account for account in named if account in self._tokens] or [self._main]
        else:
            found = {sid.decode() for sid in set(_SIDS.findall(body, 0, _NAMED_WITHIN))}
            accounts = [self._main, *sorted(found & self._tokens.keys())]
        chosen = islice(dict.fromkeys(accounts), _NAMED_LIMIT)
        return [key for account in chosen for key in self._tokens[account]]
