"""Telnyx's accounts, each with its API key, its signing key, and what it holds."""

import hmac
import secrets
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from router.clock import Clock
from router.provider import NumberType
from router.sandbox.call import NotInService
from router.sandbox.telnyx import delivery
from router.sandbox.telnyx.delivery import Delivery
from router.sandbox.telnyx.history import History
from router.sandbox.telnyx.webhook import WebhookSender

_MOST: Final = 1000  # accounts
_REMEMBERED: Final = 10_000  # deliveries of one account


def new_id() -> str:
    """As Telnyx numbers applications and phone numbers."""
    return str(secrets.randbelow(9 * 10**18) + 10**18)


@dataclass(slots=True, kw_only=True)
class CallControl:
    """A Call Control application, as far as the sandbox has it."""

    name: str
    webhook_event_url: str
    created_at: int  # µs since the epoch
    id: str = field(default_factory=new_id)
    webhook_event_failover_url: str | None = None
    webhook_api_version: Literal["1", "2"] = "1"  # the API's default
    webhook_timeout_secs: int | None = None
    first_command_timeout: bool = False
    first_command_timeout_secs: int = 30
    active: bool = True

    def delivery(self, retries: Sequence[float]) -> delivery.Application:
        """How it is told. Raises NotInService: in no way that the sandbox has."""
        if not self.active or self.webhook_api_version != "2":
            raise NotInService(
                "the number is not in service: its application at Telnyx is inactive, or its "
                "webhook_api_version is not 2"
            )
        return delivery.Application(
            url=self.webhook_event_url,
            failover_url=self.webhook_event_failover_url or "",
            retries=retries,
        )


@dataclass(slots=True, kw_only=True)
class PhoneNumber:
    """A number that an account holds."""

    number: str  # E.164
    country: str
    type: NumberType
    created_at: int  # µs since the epoch
    id: str = field(default_factory=new_id)
    connection_id: str = ""
    customer_reference: str | None = None
    tags: list[str] = field(default_factory=list)
    deletion_lock_enabled: bool = False


@dataclass(slots=True, kw_only=True)
class Order:
    """An order of numbers; it is done some time after it was placed."""

    numbers: Sequence[PhoneNumber]
    connection_id: str
    customer_reference: str | None
    created_at: int  # µs since the epoch, so is the next one
    updated_at: int
    ready_at: float  # monotonic seconds
    status: Literal["pending", "success", "failure"] = "pending"
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


class Account:
    """An account; its key signs the webhooks of its applications."""

    def __init__(self, api_key: str, seed: bytes, clock: Clock) -> None:
        self.api_key = api_key
        self.sender = WebhookSender(seed, clock)
        self.deliveries: deque[Delivery] = deque(maxlen=_REMEMBERED)
        self.history = History(self.deliveries, clock)
        self.applications: dict[str, CallControl] = {}  # by id
        self.numbers: dict[str, PhoneNumber] = {}  # by id
        self.orders: dict[str, Order] = {}  # by id
        self.searched: set[str] = set()  # what a search returned: nothing else can be ordered

    def authenticates(self, authorization: str) -> bool:
        """Whether a request's header proves that the account makes it."""
        scheme, _, key = authorization.partition(" ")
        return scheme == "Bearer" and hmac.compare_digest(key.encode(), self.api_key.encode())

    def holds(self, number: str) -> PhoneNumber | None:
        """The number, if the account has it."""
        return next((each for each in self.numbers.values() if each.number == number), None)

    def application_of(self, held: PhoneNumber) -> CallControl:
        """Where its calls go. Raises NotInService: nowhere."""
        application = self.applications.get(held.connection_id)
        if application is None:
            raise NotInService("the number is not in service: it has no connection at Telnyx")
        return application


class Accounts:
    """All accounts; the main one is the operator's."""

    def __init__(self, main: Account, clock: Clock) -> None:
        self.main = main
        self._clock = clock
        self._accounts = [main]

    def __iter__(self) -> Iterator[Account]:
        return iter(list(self._accounts))

    def add(self, api_key: str = "", seed: bytes = b"") -> Account:
        """Another account; its keys are made where none are given.

        Raises:
            ValueError: there is one of that key, or there are too many.
        """
        key = api_key or "KEY" + secrets.token_hex(16)
        if len(self) >= _MOST or any(each.api_key == key for each in self):
            raise ValueError("there is such an account already, or there are too many")
        account = Account(key, seed or secrets.token_bytes(32), self._clock)
        self._accounts.append(account)
        return account

    def __len__(self) -> int:
        return len(self._accounts)

    def of(self, authorization: str) -> Account | None:
        """Whose key this is."""
        return next((each for each in self if each.authenticates(authorization)), None)

    def holder(self, number: str) -> tuple[Account, PhoneNumber] | None:
        """Who has a number."""
        for account in self:
            held = account.holds(number)
            if held is not None:
                return account, held
        return None

    async def aclose(self) -> None:
        """Close the connections of all."""
        for account in self:
            await account.sender.aclose()
