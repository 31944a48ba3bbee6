"""Telnyx: Call Control's and TeXML's webhooks, events about numbers, and commands to calls."""

from contextlib import AbstractAsyncContextManager
from typing import Final

from config.settings import Settings
from router.provider import Credentials, NumberInventory, Provider, ProviderContext
from router.providers.telnyx.action import Actions
from router.providers.telnyx.api import open_carrier
from router.providers.telnyx.reply import answers_of
from router.providers.telnyx.source import TelnyxSource


def _is_configured(settings: Settings) -> bool:
    telnyx = settings.providers.telnyx
    return bool(telnyx.public_keys or telnyx.api_key.get_secret_value())


def _source(context: ProviderContext) -> TelnyxSource:
    return TelnyxSource(
        context.settings.providers.telnyx,
        actions=Actions(context.target.password),
        answers=answers_of(context),
        connections=context.connections,
    )


def _inventory(
    context: ProviderContext, credentials: Credentials | None
) -> AbstractAsyncContextManager[NumberInventory]:
    # Its SDK is imported by whoever buys numbers: that takes more than a second.
    from router.providers.telnyx.inventory import open_inventory

    return open_inventory(context, credentials)


PROVIDER: Final = Provider(
    name="telnyx",
    has_numbers=True,
    is_configured=_is_configured,
    source=_source,
    carrier=open_carrier,
    inventory=_inventory,
)
