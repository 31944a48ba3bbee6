"""`router.provider.NumberInventory` in memory: a carrier with its habits and its failures.

As the real ones: a number belongs to one of the carrier's accounts at most, a purchase bears the
tag of the first who made it, and one that is asked for again with its tag is the same purchase.
"""

import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace

from router.errors import ConfigError
from router.provider import AvailableNumber, Credentials, NotAvailable, NumberQuery, OwnedNumber

OPERATOR = "the operator's"


@dataclass
class Held:
    """A number that somebody has at the carrier."""

    account: str
    tag: str = ""
    ours: bool = False
    active: bool = True
    id: int = field(default_factory=itertools.count(1).__next__, compare=False)


def nothing_happens(_step: str) -> None:
    """The fate of a good day."""


@dataclass
class FakeCarrier:
    """All of its accounts and numbers. `fate` is called around each step and may raise.

    Steps are `buy`, `find`, `release`, `configure` and `search`, before they take effect, and
    `bought`, `released`, `configured` when they have.
    """

    offers: list[str] = field(default_factory=list)
    fate: Callable[[str], None] = nothing_happens
    delivers_at_once: bool = True  # else what is bought is not active, until somebody says so
    has_operator: bool = True
    held: dict[str, Held] = field(default_factory=dict)
    bought: list[str] = field(default_factory=list)  # each purchase, paid once
    released: list[str] = field(default_factory=list)

    def open(
        self, provider: str, credentials: Credentials | None
    ) -> AbstractAsyncContextManager["FakeInventory"]:
        """See `router.control.context.OpenInventory`."""
        return self._open(provider, credentials)

    @asynccontextmanager
    async def _open(
        self, provider: str, credentials: Credentials | None
    ) -> AsyncIterator["FakeInventory"]:
        if credentials is None and not self.has_operator:
            raise ConfigError(f"there is no account at {provider}")
        account = OPERATOR if credentials is None else credentials.provider_account
        yield FakeInventory(self, provider, account)


@dataclass
class FakeInventory:
    """One account's."""

    carrier: FakeCarrier
    provider: str
    account: str

    async def search(self, query: NumberQuery) -> Sequence[AvailableNumber]:
        self.carrier.fate("search")
        offers = [each for each in self.carrier.offers if each not in self.carrier.held]
        prefix = f"+1{query.area_code}"
        found = [each for each in offers if each.startswith(prefix)]
        return [AvailableNumber(each, self.provider) for each in found[: query.limit]]

    async def buy(self, number: str, *, tag: str) -> OwnedNumber:
        self.carrier.fate("buy")
        held = self.carrier.held.get(number)
        if held is not None and (held.account, held.tag) != (self.account, tag):
            raise NotAvailable("somebody else has it")
        if held is None:
            if number not in self.carrier.offers:
                raise NotAvailable("it is not sold")
            active = self.carrier.delivers_at_once
            held = Held(self.account, tag, ours=True, active=active)
            self.carrier.held[number] = held
            self.carrier.bought.append(number)
        self.carrier.fate("bought")
        return self._owned(number, held)

    async def find(self, number: str, *, tag: str = "") -> OwnedNumber | None:
        self.carrier.fate("find")
        held = self.carrier.held.get(number)
        if held is None or held.account != self.account or tag not in ("", held.tag):
            return None
        return self._owned(number, held)

    async def owned(self, *, limit: int = 1000) -> Sequence[OwnedNumber]:
        held = self.carrier.held.items()
        mine = [self._owned(number, each) for number, each in held if each.account == self.account]
        return mine[:limit]

    async def configure(self, owned: OwnedNumber) -> OwnedNumber:
        self.carrier.fate("configure")
        held = replace(self.carrier.held[owned.number], ours=True)
        self.carrier.held[owned.number] = held
        self.carrier.fate("configured")
        return self._owned(owned.number, held)

    async def release(self, owned: OwnedNumber) -> None:
        self.carrier.fate("release")
        if self.carrier.held.pop(owned.number, None) is not None:
            self.carrier.released.append(owned.number)
        self.carrier.fate("released")

    def _owned(self, number: str, held: Held) -> OwnedNumber:
        return OwnedNumber(number, f"PN{held.id}", held.tag, ours=held.ours, active=held.active)
