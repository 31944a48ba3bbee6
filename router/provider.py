"""What a provider folder supplies: a webhook source, which is pure, and what its API can do.

`router/providers/<name>/__init__.py` exports one `PROVIDER`; that is all it takes to be found.
docs/ADDING_A_PROVIDER.md shows how.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final, Literal, NamedTuple, Protocol

from config.settings import Settings
from router.clock import Clock
from router.errors import Permanent
from router.events.model import Disposition, Event
from router.routing.scope import OPERATOR, Proof

_CLOCK_SLACK = 2_000_000  # µs


class Endpoint(NamedTuple):
    """One of a provider's webhooks: `METHOD /webhooks/<provider><path>`."""

    kind: str  # its name: in metrics, in logs and in `WebhookRequest.kind`
    path: str  # "" or "/voice"; parts in braces match anything without a slash
    methods: tuple[str, ...] = ("POST",)
    storeless: bool = False  # answered without touching the log
    max_body: int = 64 * 1024
    """Bytes of the body at most (http.max_body_bytes may say less): far more than the provider ever
    sends here, and so little that a stranger's request costs no more than a real one."""


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """A webhook as it arrived. `target` and `body` are the very bytes that a signature covers."""

    kind: str  # the endpoint's
    target: str = field(repr=False)  # path and query as received; Vocode's holds a secret
    headers: Mapping[str, str] = field(repr=False)  # case-insensitive
    body: bytes = field(repr=False)
    received_at: int  # µs since epoch
    method: str = "POST"


class Reply(NamedTuple):
    """What the provider gets."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain"


@dataclass(frozen=True, slots=True)
class Verified:
    """A request whose sender is proven, with what verifying it has already read."""

    request: WebhookRequest
    content: Any = field(repr=False)  # the provider's own: a form, a parsed message
    proof: Proof | None = None
    """Of a carrier's: whose key signed. None: the provider has no connections, only the operator
    could have sent it."""


class WebhookSource(Protocol):
    """One provider's webhooks. Everything is a function of its arguments and the settings."""

    @property
    def name(self) -> str:
        """The provider's, also the part of the path after /webhooks/."""

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """The webhooks that it takes."""

    @property
    def has_tenants(self) -> bool:
        """Whether the keys of tenants' connections are among those that it verifies with."""

    def check_head(self, request: WebhookRequest) -> None:
        """Raise BadSignature where `verify` will refuse the request whatever its body is.

        Asked while the body is still on its way, when `request.body` is empty: what proves the
        sender must be there and have the right shape, and be right where it covers no body. Such a
        request is refused unread.
        """

    def verify(self, request: WebhookRequest) -> Verified:
        """Raise BadSignature unless the provider sent exactly this.

        Looks at the head first, and decodes nothing of the body before.
        """

    def parse(self, verified: Verified) -> Sequence[Event]:
        """The events in a request; the first one decides the reply. Raises BadPayload."""

    def reply(self, kind: str, event: Event) -> Reply:
        """The answer that follows from the (stored) event: equal events, equal bytes."""

    def diagnose(self, request: WebhookRequest) -> str:
        """Of a request that `verify` refused: the setting that would have let it in, or "".

        Only what is proven counts: that with another public URL, say, the signature is right.
        """


@dataclass(frozen=True, slots=True)
class SipTarget:
    """Where LiveKit's SIP bridge is, and the credentials of our trunk there."""

    host: str  # host or host:port
    transport: str  # udp, tcp or tls
    username: str = field(repr=False)
    password: str = field(repr=False)

    def uri(self, call_id: str) -> str:
        """The SIP URI that leads into the room of a call."""
        return f"sip:{call_id}@{self.host};transport={self.transport}"


class CallRef(NamedTuple):
    """A call as its provider knows it."""

    call_id: str
    provider_call_id: str
    provider_account: str = ""
    control_id: str = ""
    room: str = ""  # LiveKit's, "" where it is the call_id
    connection_id: str = ""  # "": the operator's own credentials


class Standing(NamedTuple):
    """What a provider says of one of its calls, when asked."""

    over: bool
    disposition: Disposition | None = None
    ended_at: int = 0  # µs since epoch, 0 where it isn't said
    duration: float | None = None  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """What a provider's API can do; None where it can't. I/O: each may raise an EffectError."""

    standing: Callable[[CallRef], Awaitable[Standing | None]] | None = None
    """Ask about a call; None: the provider knows no such call."""

    carry_out: Callable[[Event], Awaitable[None]] | None = None
    """Do what the event's decision says, at a carrier that takes commands and not a document.

    To be repeated with the same event when its outcome is unknown: the carrier acts once.
    """

    redirect: Callable[[Event, str], Awaitable[None]] | None = None
    """Take an answered caller whose agent was lost: the `call.initiated`, the fallback's number.

    The number is E.164; "": there is none, and the caller hears the apology, then the call ends.
    Nothing happens where the call is over. Permanent: this carrier, or this call, can't be told.
    """

    missed: Callable[[int], AsyncIterator[Event]] | None = None
    """The events since a time (µs since epoch) that could not be delivered to us."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Of an account at a provider: what its connection keeps sealed."""

    provider: str
    connection_id: str
    provider_account: str = ""  # an AccountSid
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Twilio: `auth_token`; Telnyx: `api_key`, `public_key`."""


class ConnectionBook(Protocol):
    """The connections of all accounts at carriers, as this process knows them; it asks nobody."""

    def get(self, connection_id: str) -> Credentials | None:
        """By id; None: there is none, or what it keeps can't be opened here."""

    def of_account(self, provider: str, provider_account: str) -> Sequence[Credentials]:
        """Those with a provider account: of each account that has it the oldest, then the rest."""

    def all(self, provider: str, *, limit: int | None = None) -> Sequence[Credentials]:
        """Those at a provider, the oldest first; with `limit`, so many of them in any order."""

    def holders(self, provider: str, secrets: Mapping[str, str]) -> Sequence[str]:
        """The ids of those that have just these secrets."""

    def proof(self, signers: Collection[str]) -> Proof:
        """What a signature proves that is right with the key of all these connections.

        "" among them is the operator's, whose events are as they are.
        """


class NoConnections:
    """A book of none: of a process that has no tenants, and of tests."""

    def get(self, connection_id: str) -> Credentials | None:  # noqa: ARG002
        """See `ConnectionBook`."""
        return None

    def of_account(self, provider: str, provider_account: str) -> Sequence[Credentials]:  # noqa: ARG002
        """See `ConnectionBook`."""
        return ()

    def all(self, provider: str, *, limit: int | None = None) -> Sequence[Credentials]:  # noqa: ARG002
        """See `ConnectionBook`."""
        return ()

    def holders(self, provider: str, secrets: Mapping[str, str]) -> Sequence[str]:  # noqa: ARG002
        """See `ConnectionBook`."""
        return ()

    def proof(self, signers: Collection[str]) -> Proof:  # noqa: ARG002
        """See `ConnectionBook`."""
        return OPERATOR


NO_CONNECTIONS: Final[ConnectionBook] = NoConnections()

NumberType = Literal["local", "toll_free", "mobile", "national"]


class NumberQuery(NamedTuple):
    """What kind of number is looked for."""

    country: str = "US"  # ISO 3166-1 alpha-2
    area_code: str = ""  # digits
    contains: str = ""  # digits, `*` for any one
    type: NumberType = "local"
    limit: int = 20

    def matches(self, number: str) -> bool:
        """Whether `contains` is in an E.164 number: not every carrier's own filter can tell."""
        pattern = "".join("[0-9]" if each == "*" else re.escape(each) for each in self.contains)
        return re.search(pattern, number) is not None


class AvailableNumber(NamedTuple):
    """A number that a carrier offers."""

    number: str  # E.164
    provider: str
    country: str = ""
    region: str = ""
    locality: str = ""
    type: NumberType = "local"


class OwnedNumber(NamedTuple):
    """A number of an account at its carrier."""

    number: str  # E.164
    provider_number_id: str  # the carrier's own id
    tag: str = ""  # `friendly_name`, `customer_reference`: whoever bought it wrote it there
    ours: bool = False  # its webhooks are those of this installation
    active: bool = True  # False: the carrier is still at it


class NumberInventory(Protocol):
    """One account's numbers at a carrier. Every method may raise an EffectError.

    Transient: it did not happen. Ambiguous: it may have; ask `find` before anything is repeated.
    Permanent: it never will; `code` is the carrier's.
    """

    async def search(self, query: NumberQuery) -> Sequence[AvailableNumber]:
        """Up to `query.limit` numbers for voice that can be bought now."""

    async def buy(self, number: str, *, tag: str) -> OwnedNumber:
        """Buy one number, its webhooks set to this installation, `tag` written with the purchase.

        Never repeats a request whose outcome is not known. NotAvailable: somebody else has it.
        """

    async def find(self, number: str, *, tag: str = "") -> OwnedNumber | None:
        """The number if this account holds it; with `tag`, only if that purchase bears it."""

    async def owned(self, *, limit: int = 1000) -> Sequence[OwnedNumber]:
        """The numbers that the account holds."""

    async def configure(self, owned: OwnedNumber) -> OwnedNumber:
        """Set its webhooks (voice, fallback, status; Telnyx's application) to this installation."""

    async def release(self, owned: OwnedNumber) -> None:
        """Give it back; one that the account does not hold any more is no error."""


class NotAvailable(Permanent):
    """The carrier does not sell that number, or not any more."""


class ProviderContext(NamedTuple):
    """What a provider is made of."""

    settings: Settings
    target: SipTarget
    clock: Clock
    connections: ConnectionBook = NO_CONNECTIONS


OpenInventory = Callable[
    [ProviderContext, Credentials | None], AbstractAsyncContextManager[NumberInventory]
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """What a provider's folder exports as `PROVIDER`."""

    name: str
    has_numbers: bool  # whether numbers can be mapped there
    is_configured: Callable[[Settings], bool]
    source: Callable[[ProviderContext], WebhookSource]  # raises ConfigError
    carrier: Callable[[ProviderContext], AbstractAsyncContextManager[Carrier]] | None = None
    inventory: OpenInventory | None = None
    """Its numbers, with a connection's credentials or (None) the operator's of the settings."""


def inventory_in(module: str) -> OpenInventory:
    """The `open_inventory` of a module that is imported when somebody first buys or looks.

    A carrier's SDK takes a second to import. No command waits for it that does not need it, nor
    do the calls of a process that does: it is imported in a thread.
    """

    @asynccontextmanager
    async def opened(
        context: ProviderContext, credentials: Credentials | None
    ) -> AsyncIterator[NumberInventory]:
        imported = await asyncio.to_thread(import_module, module)
        async with imported.open_inventory(context, credentials) as inventory:
            yield inventory

    return opened


def happened_at(claimed: int, received_at: int) -> int:
    """When it happened: our clock, unless the provider says that it was a while ago.

    Providers' times have a resolution of a second, which would put a call's events out of order;
    but a delayed or repeated webhook tells of the past, and then theirs is the better one.
    """
    return claimed if claimed and received_at - claimed > _CLOCK_SLACK else received_at
