"""Telnyx: Call Control's and TeXML's webhooks, events about numbers, and commands to calls."""

from typing import Final

from config.settings import Settings
from router.provider import Provider, ProviderContext, inventory_in
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


PROVIDER: Final = Provider(
    name="telnyx",
    has_numbers=True,
    is_configured=_is_configured,
    source=_source,
    carrier=open_carrier,
    inventory=inventory_in("router.providers.telnyx.inventory"),
)
