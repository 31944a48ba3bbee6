"""Telnyx: Call Control's and TeXML's webhooks, events about numbers, and commands to calls."""

from typing import Final

from config.settings import Settings
from router.provider import Provider, ProviderContext
from router.providers.telnyx.action import Actions
from router.providers.telnyx.api import open_carrier
from router.providers.telnyx.reply import Answers
from router.providers.telnyx.source import TelnyxSource


def _is_configured(settings: Settings) -> bool:
    telnyx = settings.providers.telnyx
    return bool(telnyx.public_keys or telnyx.api_key.get_secret_value())


def _source(context: ProviderContext) -> TelnyxSource:
    telnyx = context.settings.providers.telnyx
    actions = Actions(context.target.password)
    answers = Answers(
        public_url=context.settings.public_url,
        target=context.target,
        actions=actions,
        dial_timeout=telnyx.dial_timeout,
        apology=telnyx.apology,
        language=telnyx.voice_language,
    )
    return TelnyxSource(telnyx, actions=actions, answers=answers)


PROVIDER: Final = Provider(
    name="telnyx",
    has_numbers=True,
    is_configured=_is_configured,
    source=_source,
    carrier=open_carrier,
)
