"""Twilio: calls that ask for TwiML, status callbacks, and what else it tells."""

from typing import Final

from config.settings import Settings
from router.errors import ConfigError
from router.provider import Provider, ProviderContext
from router.providers.twilio.api import open_carrier
from router.providers.twilio.reply import Answers
from router.providers.twilio.source import TwilioSource


def _is_configured(settings: Settings) -> bool:
    return bool(settings.providers.twilio.account_sid)


def _source(context: ProviderContext) -> TwilioSource:
    settings, twilio = context.settings, context.settings.providers.twilio
    try:
        answers = Answers(
            public_url=settings.public_url,
            target=context.target,
            dial_timeout=twilio.dial_timeout,
            apology=twilio.apology,
            language=twilio.voice_language,
        )
    except ValueError as error:
        raise ConfigError(str(error), key="livekit.sip_host") from error
    return TwilioSource(twilio, public_url=settings.public_url, answers=answers)


PROVIDER: Final = Provider(
    name="twilio",
    has_numbers=True,
    is_configured=_is_configured,
    source=_source,
    carrier=open_carrier,
)
