"""Vocode, and Fluents, which speaks its language: services that carry calls and tell of them."""

from base64 import b64decode
from typing import Final

from config.settings import Settings, VocodeSettings
from router.errors import ConfigError
from router.provider import Provider, ProviderContext
from router.providers.vocode.source import VocodeSource


def _is_configured(settings: Settings) -> bool:
    vocode = settings.providers.vocode
    return bool(vocode.secrets or vocode.action_secrets)


def _source(context: ProviderContext) -> VocodeSource:
    vocode = context.settings.providers.vocode
    return VocodeSource(_secrets(vocode), _action_keys(vocode))


def _secrets(vocode: VocodeSettings) -> list[str]:
    secrets = [secret.get_secret_value() for secret in vocode.secrets]
    if vocode.action_secrets and not secrets:
        raise ConfigError(
            "providers.vocode.secrets: is missing; external actions, too, are posted to a URL with "
            "a secret in it",
            key="providers.vocode.secrets",
        )
    return secrets


def _action_keys(vocode: VocodeSettings) -> list[bytes]:
    return [b64decode(secret.get_secret_value(), validate=True) for secret in vocode.action_secrets]


PROVIDER: Final = Provider(
    name="vocode", has_numbers=True, is_configured=_is_configured, source=_source
)
