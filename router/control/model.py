"""What the control plane speaks of: accounts, tokens, connections, agents, numbers. Pure values.

Times are µs since the epoch, ids UUIDs as text, numbers E.164 with `+`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from router.errors import Invalid
from router.routing.spec import AgentStatus

T = TypeVar("T")

Scope = Literal[
    "numbers:read", "numbers:write", "agents:read", "agents:write", "calls:read", "calls:write",
    "webhooks:read", "webhooks:write", "admin",
]  # fmt: skip
"""`…:write` implies `…:read`; `admin` implies all, and reaches every account."""

DocumentKind = Literal["prompt", "action", "voice", "webhook", "vector_database"]
NumberState = Literal["active", "deleting", "corrupted", "released"]
"""`released` is an answer's alone: such a number is gone."""
NumberMode = Literal["webhook", "trunk"]
Origin = Literal["file", "voiceai", "vocode", "resemble", "native"]

Json = Mapping[str, Any]
Change = Callable[[Json], Json]
"""From a document as it is to what it shall be. It is called in the transaction that writes, with
the row locked (again where that is repeated): so of two partial updates at once none is lost. Pure;
what it raises changes nothing.
"""

COMMAND_LINE: Final = "command line"
LABEL_LIMIT: Final = 200  # characters of what a person calls a thing

_UUID: Final = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def uuid_of(text: str) -> str | None:
    """An id as the tables have it; None: no row can have it, nor may a database be asked for it."""
    return text.lower() if _UUID.fullmatch(text) else None


def can_be_asked_for(text: str) -> bool:
    """Whether a database takes it as a value; what it does not take, no row has."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def checked_label(where: tuple[str | int, ...], text: str, limit: int = LABEL_LIMIT) -> str:
    """One line of text from outside, its ends trimmed; a database must be able to keep it.

    Raises:
        Invalid: it is too long, or has a character that can't be seen (NUL, a line's end, half of
            a surrogate pair).
    """
    text = text.strip()
    if len(text) > limit:
        raise Invalid((where, f"has {len(text)} characters, and {limit} are the most"))
    if not text.isprintable():
        raise Invalid((where, "has a character that can't be seen, such as a line break"))
    return text


def checked_json(where: tuple[str | int, ...], document: Mapping[str, Any]) -> str:
    """A document as its column has it. Invalid: JSON in UTF-8 can't have it, or it is too deep."""
    try:
        return msgspec.json.encode(document).decode()
    except UnicodeEncodeError:
        raise Invalid((where, "has half of a surrogate pair in a text")) from None
    except RecursionError:
        raise Invalid((where, "is nested too deeply")) from None


def changed(change: Json | Change, before: Json) -> Json:
    """What a document becomes: the whole of it is given, or what makes it from the present one."""
    return change(before) if callable(change) else change


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, proven: every function of `router.control` takes one, and acts in its account."""

    account_id: str
    name: str = COMMAND_LINE  # a token's id, or COMMAND_LINE
    scopes: frozenset[Scope] = frozenset({"admin"})
    request_id: str = ""
    request_key: str = ""  # the same whenever the same request is repeated; "": nobody can tell


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much an account may have; None: no limit."""

    numbers: int | None = None
    calls: int | None = None  # at once
    minutes: int | None = None  # in a calendar month, UTC
    shared_carriers: bool = (
        True  # buys through the operator's accounts where it has none of its own
    )


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant."""

    id: str
    name: str  # unique
    plan: Plan
    worker: str = ""  # livekit_agent_name of its agents that name none; "": each agent's own name
    created_at: int
    updated_at: int


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A bearer token, without the token: that is shown once, when it is made."""

    id: str
    account_id: str
    label: str
    hint: str  # its last four characters
    scopes: tuple[Scope, ...]
    expires_at: int | None
    last_used_at: int | None
    revoked_at: int | None
    created_at: int


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """An account's credentials at a provider, without the secrets."""

    id: str
    account_id: str
    provider: str  # twilio, telnyx; openai and others are kept for their documents' sake
    label: str
    provider_account: str  # an AccountSid, "" where the provider has no such thing
    details: Mapping[str, Any] = {}  # Vocode's steering_pool, account_supports_any_caller_id; …
    masked: Mapping[str, str] = {}  # each credential as answers show it: `…` and its last four
    is_default: bool = False
    created_at: int
    updated_at: int


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """What answers."""

    id: str
    account_id: str
    name: str  # unique in its account
    label: str  # for people; may repeat
    livekit_agent_name: str
    metadata: Mapping[str, Any] = {}  # given to its jobs
    status: AgentStatus
    origin: Origin = "native"
    config: Mapping[str, Any] = {}  # the dialect's own document; its secrets are masked
    created_at: int
    updated_at: int


class Number(msgspec.Struct, frozen=True, kw_only=True):
    """A phone number that an account holds."""

    id: str
    short_id: int
    account_id: str
    number: str
    provider: str
    connection_id: str | None  # None: the operator's own account at that provider
    agent_id: str | None
    agent_name: str | None
    agent_label: str | None = None  # what people call it
    fallback: str
    state: NumberState
    mode: NumberMode
    label: str
    details: Mapping[str, Any] = {}  # what a dialect keeps with it
    bought: bool
    created_at: int
    updated_at: int


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt, an action, a voice, a webhook or a vector database."""

    id: str
    account_id: str
    kind: DocumentKind
    body: Mapping[str, Any]  # its secrets are masked
    created_at: int
    updated_at: int


class AuditRow(msgspec.Struct, frozen=True, kw_only=True):
    """A change: who made it, and what was before and after, without secrets."""

    id: int
    account_id: str
    actor: str
    action: str  # noun.past: number.bought
    object_id: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    request_id: str
    created_at: int


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some of a list, in its order, and how many there are in all."""

    items: Sequence[T]
    total: int
