"""All settings as one typed model. `defaults.toml` is the reference: every key, its default, why.

Order, later wins: `defaults.toml` < the file (`--config`, `SWITCHBOARD_CONFIG`) < the environment
(`SWITCHBOARD_LIVEKIT__API_KEY`; lists and tables as JSON). Unknown keys are refused. The forms and
bounds of single values are in `config.fields` and `config.addresses`.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict
from pydantic_settings import BaseSettings, SettingsConfigDict

from config.addresses import (
    ApiUrl,
    BindHost,
    Broker,
    DatabaseUrl,
    HttpUrl,
    LiveKitUrl,
    OptionalBindHost,
    Origin,
    SipHost,
)
from config.fields import (
    AccountSid,
    ApiKeyId,
    Base64Secret,
    Count,
    Ed25519Key,
    FilePath,
    Folder,
    FormerKey,
    Hours,
    Language,
    ListOrCommas,
    LiveKitSecret,
    NodeKey,
    OptionalAccountSid,
    OptionalApiKeyId,
    OptionalLiveKitSecret,
    OptionalPassword,
    OptionalSecret,
    PathSecret,
    Seconds,
    Secret,
    SharedKeyId,
    SpokenText,
    Table,
    UserName,
    count,
    within,
)

Role = Literal["ingress", "dispatch", "calls", "relay", "api"]
ALL_ROLES: tuple[Role, ...] = ("ingress", "dispatch", "calls", "relay", "api")


class Section(BaseModel):
    """A table of the settings: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HttpSettings(Section):
    """The listener and its limits (aiohttp has no body deadline of its own)."""

    host: BindHost
    port: Annotated[Count, count(0, 65535)]
    behind_proxy: bool
    max_in_flight: Annotated[Count, count(1, 100_000)]
    max_bodies: Annotated[Count, count(1, 100_000)]
    max_connections: Annotated[Count, count(1, 1_000_000)]
    max_body_bytes: Annotated[Count, count(1024, 16 << 20)]
    body_timeout: Annotated[Seconds, within(0.01, 60)]
    header_timeout: Annotated[Seconds, within(0.01, 600)]
    request_timeout: Annotated[Seconds, within(0.01, 60)]
    shutdown_grace: Annotated[Seconds, within(0.01, 600)]


class ApiSettings(Section):
    """The control API: where it listens, and what one client may ask of it."""

    host: OptionalBindHost
    port: Annotated[Count, count(0, 65535)]
    max_in_flight: Annotated[Count, count(1, 10_000)]
    max_body_bytes: Annotated[Count, count(1024, 16 << 20)]
    request_timeout: Annotated[Seconds, within(0.01, 600)]
    requests_per_minute: Annotated[Count, count(1, 1_000_000)]
    burst: Annotated[Count, count(1, 1_000_000)]
    failures_per_minute: Annotated[Count, count(1, 1_000_000)]
    cors_origins: Annotated[tuple[Origin, ...], *ListOrCommas]


class DatabaseSettings(Section):
    """Where agents, numbers, claims and call records live."""

    url: DatabaseUrl  # empty: SQLite in the data folder
    migrate_at_start: bool
    pool_size: Annotated[Count, count(1, 1000)]


class JournalSettings(Section):
    """The embedded log in the data folder."""

    retention_hours: Annotated[Hours, within(0.01, 87_600)]
    queue_limit: Annotated[Count, count(1, 1_000_000)]
    batch_limit: Annotated[Count, count(1, 100_000)]
    min_free_bytes: Annotated[Count, count(0, 1 << 44)]


class KafkaSettings(Section):
    """The brokers; empty `bootstrap_servers` means the journal alone."""

    bootstrap_servers: Annotated[tuple[Broker, ...], *ListOrCommas]
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
    sasl_username: UserName
    sasl_password: OptionalPassword
    ssl_cafile: FilePath
    partitions: Annotated[Count, count(1, 10_000)]
    replication_factor: Annotated[Count, count(1, 32)]
    ack_deadline: Annotated[Seconds, within(0.01, 15)]
    stall_after: Annotated[Seconds, within(0.01, 600)]
    session_timeout: Annotated[Seconds, within(1, 1800)]
    rebalance_timeout: Annotated[Seconds, within(1, 3600)]
    takeover_after: Annotated[Seconds, within(0.01, 600)]


class LiveKitSettings(Section):
    """The LiveKit project that the agents register with."""

    url: LiveKitUrl
    api_key: OptionalApiKeyId
    api_secret: OptionalLiveKitSecret
    sip_host: SipHost
    sip_transport: Literal["udp", "tcp", "tls"]
    webhook_keys: Annotated[dict[ApiKeyId, LiveKitSecret], *Table]
    timeout: Annotated[Seconds, within(0.01, 60)]
    poll_interval: Annotated[Seconds, within(0.01, 60)]
    polls_per_minute: Annotated[Count, count(1, 100_000)]


class DispatchSettings(Section):
    """How long an agent may take, and when a call is too old for one."""

    deadline: Annotated[Seconds, within(0.01, 300)]
    ring_window: Annotated[Seconds, within(0, 3600)]  # 0: see `config.check.ring_window`
    concurrency: Annotated[Count, count(1, 10_000)]
    lease: Annotated[Seconds, within(1, 3600)]


class CallsSettings(Section):
    """What is done about events that never came."""

    sweep_after: Annotated[Seconds, within(0.01, 86_400)]
    max_duration: Annotated[Seconds, within(1, 2_592_000)]
    catch_up_hours: Annotated[Hours, within(0, 720)]
    catch_up_interval: Annotated[Seconds, within(10, 86_400)]


class TwilioSettings(Section):
    """The Twilio accounts whose webhooks are taken."""

    account_sid: OptionalAccountSid
    auth_tokens: Annotated[tuple[Secret, ...], *ListOrCommas]
    accounts: Annotated[
        dict[AccountSid, Annotated[tuple[Secret, ...], *ListOrCommas]],
        *Table,
    ]
    shared_keys: Annotated[dict[SharedKeyId, Secret], *Table]
    api_url: ApiUrl
    dial_timeout: Annotated[Count, count(5, 600)]
    apology: SpokenText
    voice_language: Language


class TelnyxSettings(Section):
    """The Telnyx account whose webhooks are taken, and that is sent commands."""

    api_key: OptionalSecret
    public_keys: Annotated[tuple[Ed25519Key, ...], *ListOrCommas]
    api_url: ApiUrl
    dial_timeout: Annotated[Count, count(5, 600)]
    apology: SpokenText
    voice_language: Language


class VocodeSettings(Section):
    """The Vocode (or Fluents) account whose webhooks are taken."""

    secrets: Annotated[tuple[PathSecret, ...], *ListOrCommas]
    action_secrets: Annotated[tuple[Base64Secret, ...], *ListOrCommas]


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
    data_dir: Folder
    secret_key: NodeKey
    previous_secret_keys: Annotated[tuple[FormerKey, ...], *ListOrCommas]
    durability: Literal["auto", "replicated", "local"]
    roles: Annotated[tuple[Role, ...], *ListOrCommas]
    http: HttpSettings
    api: ApiSettings
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
