"""The providers, found by their folders: one folder each, which exports `PROVIDER`."""

from collections.abc import Sequence
from functools import cache

from config.settings import Settings
from router import registry
from router.provider import Provider


@cache
def providers() -> Sequence[Provider]:
    """All that there are."""
    package = "router.providers"
    return [registry.load(package, name, "PROVIDER", Provider) for name in registry.names(package)]


def configured(settings: Settings) -> Sequence[Provider]:
    """Those that the settings name an account of."""
    return [provider for provider in providers() if provider.is_configured(settings)]


@cache
def numbers_at() -> Sequence[str]:
    """The names of those that numbers can be mapped at."""
    return [provider.name for provider in providers() if provider.has_numbers]
