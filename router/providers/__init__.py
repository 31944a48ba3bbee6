"""The providers, found by their folders: one folder each, which exports `PROVIDER`."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import cache

from config.settings import Settings
from router import registry
from router.clock import Clock
from router.errors import ConfigError
from router.provider import (
    NO_CONNECTIONS,
    Carrier,
    ConnectionBook,
    Credentials,
    NumberInventory,
    Provider,
    ProviderContext,
    SipTarget,
)
from router.secrets import SipCredentials


@cache
def providers() -> Sequence[Provider]:
    """All that there are."""
    return [_load(name) for name in registry.names(__name__)]


def _load(name: str) -> Provider:
    return registry.load(__name__, name, "PROVIDER", Provider)


def configured(settings: Settings) -> Sequence[Provider]:
    """Those that the settings name an account of."""
    return [provider for provider in providers() if provider.is_configured(settings)]


@cache
def numbers_at() -> Sequence[str]:
    """The names of those that numbers can be mapped at."""
    return [provider.name for provider in providers() if provider.has_numbers]


@cache
def takes_numbers(name: str) -> bool:
    """Whether numbers can be mapped at a provider of this name. Imports that one alone."""
    return name in registry.names(__name__) and _load(name).has_numbers


@cache
def carriers() -> Sequence[str]:
    """The names of those that an account can have a connection at, and buy numbers through it."""
    return [provider.name for provider in providers() if provider.inventory is not None]


def served(settings: Settings) -> Sequence[Provider]:
    """Those whose webhooks are taken: the configured ones, and every carrier.

    Where the operator has no account at a carrier, tenants may have theirs.
    """
    named = configured(settings)
    return [each for each in providers() if each in named or each.name in carriers()]


def context_of(
    settings: Settings,
    credentials: SipCredentials,
    clock: Clock,
    connections: ConnectionBook = NO_CONNECTIONS,
) -> ProviderContext:
    """What the providers of this process are made of."""
    livekit = settings.livekit
    target = SipTarget(
        livekit.sip_host, livekit.sip_transport, credentials.username, credentials.password
    )
    return ProviderContext(settings, target, clock, connections)


@asynccontextmanager
async def open_carriers(context: ProviderContext) -> AsyncIterator[Mapping[str, Carrier]]:
    """The APIs of the providers that have one, by name; closed at exit."""
    async with AsyncExitStack() as stack:
        yield {
            provider.name: await stack.enter_async_context(provider.carrier(context))
            for provider in served(context.settings)
            if provider.carrier is not None
        }


def open_inventory(
    context: ProviderContext, name: str, credentials: Credentials | None
) -> AbstractAsyncContextManager[NumberInventory]:
    """The numbers of an account at a carrier: of these credentials, or (None) the operator's.

    Raises:
        ConfigError: there is no such carrier, or the settings name no account there.
    """
    provider = _load(name)
    if provider.inventory is None:
        raise ConfigError(f"numbers can't be bought at {name}")
    if credentials is None and not provider.is_configured(context.settings):
        raise ConfigError(
            f"the settings name no account at {name}: set providers.{name}, or make a connection "
            "with credentials of your own",
            key=f"providers.{name}",
        )
    return provider.inventory(context, credentials)
