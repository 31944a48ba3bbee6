"""The providers, found by their folders: one folder each, which exports `PROVIDER`."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache

from config.settings import Settings
from router import registry
from router.clock import Clock
from router.provider import Carrier, Provider, ProviderContext, SipTarget
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


def context_of(settings: Settings, credentials: SipCredentials, clock: Clock) -> ProviderContext:
    """What the providers of this process are made of."""
    livekit = settings.livekit
    target = SipTarget(
        livekit.sip_host, livekit.sip_transport, credentials.username, credentials.password
    )
    return ProviderContext(settings, target, clock)


@asynccontextmanager
async def open_carriers(context: ProviderContext) -> AsyncIterator[Mapping[str, Carrier]]:
    """The APIs of the configured providers that have one, by name; closed at exit."""
    async with AsyncExitStack() as stack:
        yield {
            provider.name: await stack.enter_async_context(provider.carrier(context))
            for provider in configured(context.settings)
            if provider.carrier is not None
        }
