"""LiveKit: the rooms where callers meet agents, and the calls of trunk mode."""

from typing import Final

from config.settings import Settings
from router.provider import Provider, ProviderContext
from router.providers.livekit.source import LiveKitSource
from router.providers.livekit.standing import open_carrier


def _is_configured(settings: Settings) -> bool:
    return bool(settings.livekit.api_key)


def _source(context: ProviderContext) -> LiveKitSource:
    livekit = context.settings.livekit
    keys = {key: secret.get_secret_value() for key, secret in livekit.webhook_keys.items()}
    if livekit.api_key:
        keys.setdefault(livekit.api_key, livekit.api_secret.get_secret_value())
    return LiveKitSource(keys)


PROVIDER: Final = Provider(
    name="livekit",
    has_numbers=False,
    is_configured=_is_configured,
    source=_source,
    carrier=open_carrier,
)
