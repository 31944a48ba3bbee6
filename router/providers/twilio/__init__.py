"""Twilio: calls that ask for TwiML, status callbacks, and what else it tells."""

from typing import Final

from config.settings import Settings
from router.provider import Provider, ProviderContext, inventory_in
from router.providers.twilio.api import open_carrier
from router.providers.twilio.reply import answers_of
from router.providers.twilio.source import TwilioSource


def _is_configured(settings: Settings) -> bool:
    return bool(settings.providers.twilio.account_sid)


def _source(context: ProviderContext) -> TwilioSource:
    settings = context.settings
    return TwilioSource(
        settings.providers.twilio,
        public_url=settings.public_url,
        answers=answers_of(context),
        connections=context.connections,
    )


PROVIDER: Final = Provider(
    name="twilio",
    has_numbers=True,
    is_configured=_is_configured,
    source=_source,
    carrier=open_carrier,
    inventory=inventory_in("router.providers.twilio.inventory"),
)
