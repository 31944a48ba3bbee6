"""All settings as one typed model. `defaults.toml` is the reference: every key, its default, why.

Order, later wins: `defaults.toml` < the file (`--config`, `SWITCHBOARD_CONFIG`) < the environment
(`SWITCHBOARD_LIVEKIT__API_KEY`; lists and tables as JSON). Unknown keys are refused.
"""

import json
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0)]
Role = Literal["ingress", "dispatch", "calls", "relay"]
ALL_ROLES: tuple[Role, ...] = ("ingress", "dispatch", "calls", "relay")


def _list(value: object) -> object:
    """Lists from the environment: JSON, or `a,b`, which is what everybody writes first."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.split(",") if part.strip()]


ListOrCommas = (NoDecode, BeforeValidator(_list))
"""Marks a tuple that the environment may hold as JSON or as `a,b`."""


def _url(*schemes: str, example: str) -> AfterValidator:
    """The check that a text is empty or the beginning of URLs; a slash at its end is cut off."""

    def check(value: str) -> str:
        parts = urlsplit(value)
        known = parts.scheme in schemes and parts.hostname and parts.port != 0
        if value and (not known or not value.isprintable() or " " in value):
            raise ValueError(f"must be an absolute URL such as {example}")
        if parts.query or parts.fragment:
            raise ValueError("must not have a query or a fragment")
        return value.rstrip("/")

    return AfterValidator(check)


HttpUrl = Annotated[str, _url("http", "https", example="https://calls.example.com")]
ApiUrl = Annotated[str, Field(min_length=1), _url("http", "https", example="https://api.example")]
LiveKitUrl = Annotated[str, _url("ws", "wss", "http", "https", example="wss://x.livekit.cloud")]


class Section(BaseModel):
    """A table of the settings: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HttpSettings(Section):
    """The listener and its limits (aiohttp has no body deadline of its own)."""

    host: str
    port: Annotated[int, Field(ge=0, le=65535)]
    behind_proxy: bool
    max_in_flight: Annotated[int, Field(ge=1)]
    max_bodies: Annotated[int, Field(ge=1)]
    max_connections: Annotated[int, Field(ge=1)]
    max_body_bytes: Annotated[int, Field(ge=1024)]
    body_timeout: Seconds
    header_timeout: Seconds
    request_timeout: Seconds
    shutdown_grace: Seconds


class DatabaseSettings(Section):
    """Where agents, numbers, claims and call records live."""

    url: str  # empty: SQLite in the data folder
    migrate_at_start: bool
    pool_size: Annotated[int, Field(ge=1)]


class JournalSettings(Section):
    """The embedded log in the data folder."""

    retention_hours: Annotated[float, Field(gt=0)]
    queue_limit: Annotated[int, Field(ge=1)]
    batch_limit: Annotated[int, Field(ge=1)]
    min_free_bytes: Annotated[int, Field(ge=0)]


class KafkaSettings(Section):
    """The brokers; empty `bootstrap_servers` means the journal alone."""

    bootstrap_servers: Annotated[tuple[str, ...], *ListOrCommas]
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
    sasl_username: str
    sasl_password: SecretStr
    ssl_cafile: str
    partitions: Annotated[int, Field(ge=1)]
    replication_factor: Annotated[int, Field(ge=1)]
    ack_deadline: Seconds
    stall_after: Seconds
    session_timeout: Seconds
    rebalance_timeout: Seconds
    takeover_after: Seconds


class LiveKitSettings(Section):
    """The LiveKit project that the agents register with."""

    url: LiveKitUrl
    api_key: str
    api_secret: SecretStr
    sip_host: str
    sip_transport: Literal["udp", "tcp", "tls"]
    webhook_keys: dict[str, SecretStr]
    timeout: Seconds
    poll_interval: Seconds


class DispatchSettings(Section):
    """How long an agent may take, and when a call is too old for one."""

    deadline: Seconds
    ring_window: Seconds
    concurrency: Annotated[int, Field(ge=1)]
    lease: Seconds


class CallsSettings(Section):
    """What is done about events that never came."""

    sweep_after: Seconds
    max_duration: Seconds
    catch_up_hours: Annotated[float, Field(ge=0, le=720)]


class TwilioSettings(Section):
    """The Twilio accounts whose webhooks are taken."""

    account_sid: str
    auth_tokens: Annotated[tuple[SecretStr, ...], *ListOrCommas]
    accounts: dict[str, tuple[SecretStr, ...]]
    shared_keys: dict[str, SecretStr]
    api_url: ApiUrl
    dial_timeout: Annotated[int, Field(ge=5, le=600)]
    apology: str
    voice_language: str


class TelnyxSettings(Section):
    """The Telnyx account whose webhooks are taken, and that is sent commands."""

    api_key: SecretStr
    public_keys: Annotated[tuple[str, ...], *ListOrCommas]
    api_url: ApiUrl
    dial_timeout: Annotated[int, Field(ge=5, le=600)]
    apology: str
    voice_language: str


class VocodeSettings(Section):
    """The Vocode (or Fluents) account whose webhooks are taken."""

    secrets: Annotated[tuple[SecretStr, ...], *ListOrCommas]
    action_secrets: Annotated[tuple[SecretStr, ...], *ListOrCommas]


class ProvidersSettings(Section):
    """One table per provider."""

    twilio: TwilioSettings
    telnyx: TelnyxSettings
    vocode: VocodeSettings


class LogSettings(Section):
    """What is printed."""

    format: Literal["auto", "console", "json"]
    level: Literal["debug", "info", "warning", "error"]


class Settings(BaseSettings):
    """Everything. Made by `config.load`."""

    model_config = SettingsConfigDict(
        env_prefix="SWITCHBOARD_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    public_url: HttpUrl
    data_dir: Path
    secret_key: SecretStr
    durability: Literal["auto", "replicated", "local"]
    roles: Annotated[tuple[Role, ...], *ListOrCommas]
    http: HttpSettings
    database: DatabaseSettings
    journal: JournalSettings
    kafka: KafkaSettings
    livekit: LiveKitSettings
    dispatch: DispatchSettings
    calls: CallsSettings
    providers: ProvidersSettings
    log: LogSettings

    @property
    def has_kafka(self) -> bool:
        """Whether events go through Kafka."""
        return bool(self.kafka.bootstrap_servers)

    @property
    def replicated(self) -> bool:
        """Whether a webhook is answered only when Kafka has its event (or the deadline passed)."""
        return self.has_kafka and self.durability != "local"

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL, with the default filled in."""
        return self.database.url or f"sqlite+aiosqlite:///{self.data_dir / 'switchboard.db'}"
