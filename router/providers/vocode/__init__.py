"""Vocode, and Fluents, which speaks its language: services that carry calls and tell of them."""

import re
from base64 import b64decode
from typing import Final

from config.settings import Settings, VocodeSettings
from router.errors import ConfigError
from router.provider import Provider, ProviderContext
from router.providers.vocode.source import VocodeSource

# Nothing in it ever needs an escape in a path (RFC 3986 §2.3), so there is one way to write it.
_SECRET: Final = re.compile(r"[A-Za-z0-9._~-]{22,256}")  # 22 of these hold 128 bits


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
    if not all(_SECRET.fullmatch(secret) for secret in secrets):
        raise ConfigError(
            "providers.vocode.secrets: each must be 22 to 256 letters, digits, '-', '.', '_' or "
            "'~', which stand in a URL as they are; make one: openssl rand -hex 32",
            key="providers.vocode.secrets",
        )
    return secrets


def _action_keys(vocode: VocodeSettings) -> list[bytes]:
    try:
        keys = [
            b64decode(secret.get_secret_value(), validate=True) for secret in vocode.action_secrets
        ]
    except ValueError:
        keys = [b""]
    if not all(keys):
        raise ConfigError(
            "providers.vocode.action_secrets: each must be base64, as Vocode shows it: "
            "config.signature_secret of GET /v1/actions?id=…",
            key="providers.vocode.action_secrets",
        )
    return keys


PROVIDER: Final = Provider(
    name="vocode", has_numbers=True, is_configured=_is_configured, source=_source
)
