"""What a start with these settings needs, and what it must not combine."""

import ssl
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from config.settings import ALL_ROLES, KafkaSettings, ProvidersSettings, Settings

_OF_CALLS: Final = frozenset(ALL_ROLES) - {"api"}  # together they are a whole installation
_PER_CONNECTION: Final = 32  # calls; that many turns fit into the wait for one (storage.engine)
_LONGEST_WINDOW: Final = 60.0  # seconds; hardly anybody listens to the ringing for longer


class ConfigProblem(Exception):
    """The settings can't be used; the message names each key and the mend."""


def check(settings: Settings) -> None:
    """Refuse to start with missing secrets or a combination that would lose calls.

    Raises:
        ConfigProblem: one line a problem.
    """
    problems = [
        *_missing(settings),
        *_split(settings),
        *_kafka(settings.kafka),
        *_api(settings),
        *_risky(settings),
    ]
    if problems:
        raise ConfigProblem("\n".join(problems))


def ring_window(settings: Settings) -> float:
    """Seconds after which nothing is begun for a call: its carrier has given the agent up by then.

    As set, else the shortest dial time-out of the carriers, a minute at most.
    """
    timeouts = [timeout for _, timeout in _dial_timeouts(settings.providers)]
    return settings.dispatch.ring_window or min(_LONGEST_WINDOW, *timeouts)


def _missing(settings: Settings) -> Iterator[str]:
    livekit = settings.livekit
    wanted: list[tuple[str, object, str]] = []
    if "ingress" in settings.roles:
        wanted += [
            ("public_url", settings.public_url, "the https address that the carriers are given"),
            ("livekit.sip_host", livekit.sip_host, "where the carriers send the SIP leg"),
            *_carriers(settings),
        ]
    if {"ingress", "dispatch"} & set(settings.roles):
        wanted += [
            ("livekit.api_key", livekit.api_key, "of the LiveKit project"),
            ("livekit.api_secret", livekit.api_secret.get_secret_value(), "of the LiveKit project"),
        ]
    if "dispatch" in settings.roles:
        wanted.append(("livekit.url", livekit.url, "the LiveKit server's address"))
    for key, value, what in wanted:
        if not value:
            yield f"{key}: is missing ({what}); without any account: switchboard up --sandbox"


def _carriers(settings: Settings) -> Iterator[tuple[str, object, str]]:
    """What each carrier that is begun lacks; of the first one where none is and one must be."""
    twilio, telnyx = settings.providers.twilio, settings.providers.telnyx
    begun = _begun(settings.providers)
    if "telnyx" in begun:
        what = "the account's public key, from Mission Control"
        yield "providers.telnyx.public_keys", telnyx.public_keys, what
        key = telnyx.api_key.get_secret_value()
        yield "providers.telnyx.api_key", key, "KEY…, from Mission Control"
    if "twilio" in begun or not (begun or _may_have_tenants(settings)):
        keys = twilio.auth_tokens or twilio.shared_keys
        yield "providers.twilio.account_sid", twilio.account_sid, "AC…, from the Twilio console"
        yield "providers.twilio.auth_tokens", keys, "the account's Auth Token"


def _may_have_tenants(settings: Settings) -> bool:
    """Whether accounts may bring connections of their own: by an API here, or elsewhere."""
    return "api" in settings.roles or settings.has_kafka or _has_postgres(settings)


def _split(settings: Settings) -> Iterator[str]:
    if not settings.roles:
        yield "roles: there must be at least one"
    # The API meets the others in the database: its changes are published by the role relay.
    alone = settings.roles == ("api",)
    split = alone or bool(_OF_CALLS - set(settings.roles))
    if split and not (settings.has_kafka or alone):
        yield "roles: separate processes meet in Kafka only; set kafka.bootstrap_servers"
    postgres = _has_postgres(settings)
    if split and settings.roles != ("ingress",) and not postgres:
        yield "roles: separate processes share a database; set database.url to PostgreSQL"


def _kafka(kafka: KafkaSettings) -> Iterator[str]:
    if not kafka.bootstrap_servers:
        return
    if kafka.security_protocol.startswith("SASL"):
        for key in ("sasl_username", "sasl_password"):
            if not getattr(kafka, key):
                yield f"kafka.{key}: is missing; kafka.security_protocol asks for it"
    if kafka.ssl_cafile and kafka.security_protocol.endswith("SSL"):
        try:
            ssl.create_default_context(cafile=kafka.ssl_cafile)
        except OSError as error:  # an SSLError is one
            why = "holds no PEM certificate" if isinstance(error, ssl.SSLError) else error.strerror
            yield f"kafka.ssl_cafile: can't be used: {why}"


def _api(settings: Settings) -> Iterator[str]:
    api, http = settings.api, settings.http
    if api.host and not api.port:
        yield "api.host: needs api.port; without it the API is where the webhooks are (http.host)"
    if api.port and api.port == http.port and (api.host or http.host) == http.host:
        yield "api.port: is http.port; leave it at 0 for the API beside the webhooks"


def _risky(settings: Settings) -> Iterator[str]:
    alone = set(settings.roles) >= _OF_CALLS and not _has_postgres(settings)
    if not alone and not settings.secret_key.get_secret_value():
        yield (
            "secret_key: must be set, the same on every node, or each would use other SIP "
            "credentials and LiveKit refuse its calls; make one: openssl rand -hex 32"
        )
    if settings.kafka.ack_deadline >= settings.http.request_timeout and settings.replicated:
        yield (
            "kafka.ack_deadline: must be under http.request_timeout, or every webhook gets 503 "
            "while Kafka is away instead of an answer from the journal"
        )
    if settings.durability == "replicated" and not settings.has_kafka:
        yield "durability: replicated needs kafka.bootstrap_servers"
    most = settings.database.pool_size * _PER_CONNECTION
    if _has_postgres(settings) and settings.dispatch.concurrency > most:
        yield (
            f"dispatch.concurrency: {settings.dispatch.concurrency} calls at once would wait too "
            f"long for one of {settings.database.pool_size} connections; at most {most}, "
            f"{_PER_CONNECTION} for each: raise database.pool_size, or lower this"
        )
    if urlsplit(settings.public_url).scheme == "http":
        host = urlsplit(settings.public_url).hostname
        if host not in ("127.0.0.1", "localhost", "::1"):
            yield "public_url: must be https: callers' numbers and our SIP password travel over it"
    for name, dial_timeout in _dial_timeouts(settings.providers):
        if settings.dispatch.deadline * 2 >= dial_timeout:
            yield (
                f"dispatch.deadline: two of them must fit into providers.{name}.dial_timeout, or "
                f"{name.title()} gives up before the second try"
            )
        if settings.dispatch.ring_window > dial_timeout:
            yield (
                f"dispatch.ring_window: is longer than providers.{name}.dial_timeout "
                f"({dial_timeout} s): after an outage agents would be sent to callers who have "
                "gone to the fallback; leave it at 0, which is as long as the dial time-out"
            )


def _dial_timeouts(providers: ProvidersSettings) -> Iterator[tuple[str, int]]:
    """Of each carrier that is set up, Twilio's also where its keys are on other nodes."""
    begun = _begun(providers)
    if "telnyx" in begun:
        yield "telnyx", providers.telnyx.dial_timeout
    if "twilio" in begun or not begun:
        yield "twilio", providers.twilio.dial_timeout


def _begun(providers: ProvidersSettings) -> set[str]:
    """The carriers that somebody began to set up: all their keys and accounts are empty before."""
    secrets = {
        name
        for name, section in providers
        if any(value and isinstance(value, SecretStr | tuple | dict) for _, value in section)
    }
    return secrets | ({"twilio"} if providers.twilio.account_sid else set())


def _has_postgres(settings: Settings) -> bool:
    return settings.database.url.startswith("postgresql")
