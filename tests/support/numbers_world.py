"""Carriers' stand-ins with our clients of their inventories: one world for the suite of both."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from config import load
from router.provider import (
    Credentials,
    NumberInventory,
    NumberQuery,
    Provider,
    ProviderContext,
    SipTarget,
)
from router.providers import providers
from router.sandbox.telnyx import TelnyxStandIn
from router.sandbox.twilio import TwilioStandIn
from tests.support import sandbox_telnyx, sandbox_twilio
from tests.support.sandbox_clock import START
from tests.support.sandbox_twilio import Switch

PUBLIC_URL = "https://switchboard.example"
TARGET = SipTarget("sip.example", "tls", "switchboard", "Correct-horse-1")
CARRIERS = ("twilio", "telnyx")


class HastyClock:
    """`router.clock.Clock` whose every pause is over at once; `pauses` are how long they were."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return sum(self.pauses)

    def now(self) -> int:
        return START + round(self.monotonic() * 1_000_000)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)


StandIn = TwilioStandIn | TelnyxStandIn


@dataclass
class World:
    """A carrier, and how Switchboard speaks to it."""

    carrier: str
    standin: StandIn
    clock: HastyClock

    def open(
        self,
        credentials: Credentials | None = None,
        *,
        public_url: str = PUBLIC_URL,
        api_url: str = "",
        **settings: Any,
    ) -> AbstractAsyncContextManager[NumberInventory]:
        """The operator's inventory, or a connection's."""
        keys: dict[str, Any] = {"api_url": api_url or self.standin.url}
        if self.carrier == "twilio":
            keys |= {
                "account_sid": sandbox_twilio.ACCOUNT,
                "auth_tokens": [sandbox_twilio.TOKEN],
            }
        else:
            keys |= {"api_key": sandbox_telnyx.API_KEY}
        own = load(
            overrides={
                "public_url": public_url,
                "providers": {self.carrier: keys | settings},
            }
        )
        provider = provider_of(self.carrier)
        assert provider.inventory is not None
        return provider.inventory(ProviderContext(own, TARGET, self.clock), credentials)

    def tenant(self, connection_id: str = "11111111-1111-4111-8111-111111111111") -> Credentials:
        """A connection with an account of its own at the carrier."""
        if isinstance(self.standin, TwilioStandIn):
            sid, token = self.standin.accounts.add()
            return Credentials("twilio", connection_id, sid, {"auth_token": token})
        account = self.standin.accounts.add()
        secrets = {"api_key": account.api_key, "public_key": account.sender.public_key}
        return Credentials("telnyx", connection_id, "", secrets)

    def bought(self) -> list[str]:
        """The numbers that all accounts hold at the carrier, each purchase once."""
        if isinstance(self.standin, TelnyxStandIn):
            for each in self.standin.accounts:
                self.standin.numbers.settle(each)
        return [
            held.number for account in self.standin.accounts for held in account.numbers.values()
        ]

    def purchases(self) -> int:
        """How many requests to buy there were."""
        return self.standin.faults.requests.count("buy")


def provider_of(name: str) -> Provider:
    return next(each for each in providers() if each.name == name)


@asynccontextmanager
async def opened(carrier: str) -> AsyncIterator[World]:
    clock = HastyClock()
    standin: StandIn
    if carrier == "twilio":
        standin = TwilioStandIn(
            account_sid=sandbox_twilio.ACCOUNT,
            auth_token=sandbox_twilio.TOKEN,
            webhook_base=PUBLIC_URL,
            dial_sip=Switch().dial,
            clock=clock,
        )
    else:
        standin = TelnyxStandIn(
            api_key=sandbox_telnyx.API_KEY,
            seed=sandbox_telnyx.SEED,
            webhook_base=PUBLIC_URL,
            dial_sip=Switch().dial,
            clock=clock,
        )
    async with standin:
        yield World(carrier, standin, clock)


async def first(inventory: NumberInventory, **query: Any) -> str:
    """A number that can be bought."""
    return (await inventory.search(NumberQuery(**query)))[0].number
