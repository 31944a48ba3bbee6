"""An agent's configuration: its fields, what of it is stored, what is shown.

It is stored as it is sent, but for the number (which leads to the agent, not the other way round)
and what says whether there is a secret. It is validated as a whole, after an update is merged in.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, HttpUrl, Tag, ValidationError

from router.api.fields import PhoneNumber, merged
from router.errors import Invalid

PHONE: Final = "phone_number"

_EITHER: Final = ("<one>", "<list>")
"""Of a field that may be either: pydantic puts them into the places of problems."""


class Sent(BaseModel):
    """Of a request: types are strict, unknown fields are no error."""

    model_config = ConfigDict(strict=True, extra="allow")


class TTSParams(Sent):
    """How the agent speaks."""

    voice_id: str | None = Field(default=None, description="Voice to speak with")
    model: str | None = Field(default=None, description="TTS model; by language if not given")
    language: str | None = Field(default=None, description="ISO 639-1 code, or 'auto'")
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)


class MCPServerConfig(Sent):
    """An MCP server whose tools the agent may use."""

    name: str = Field(description="Human-readable name for the server")
    description: str | None = None
    url: str = Field(description="Endpoint; one that ends with '/mcp' is streamable HTTP")
    auth_type: Literal["none", "bearer_token", "api_key", "custom_headers"] | None = None
    auth_token: str | None = Field(
        default=None, description="Of 'bearer_token' and 'api_key'; answers show its end alone"
    )
    headers: dict[str, str] | None = None


class WebhookEvents(Sent):
    """Where news of the agent's calls go."""

    url: Annotated[HttpUrl, Field(strict=False)] = Field(description="Webhook endpoint URL")
    secret: str | None = Field(
        default=None, description="Signs the payloads (HMAC-SHA256). Never answered", max_length=500
    )
    has_secret: bool | None = Field(
        default=None, description="Whether a secret is kept. Ignored when sent"
    )
    events: list[Literal["call.started", "call.completed"]] | None = Field(
        default=None, description="Which ones to send; empty: all"
    )
    timeout: int | None = Field(default=None, ge=1, le=30, description="Seconds (default: 5)")
    enabled: bool | None = Field(default=None, description="Whether any are sent (default: true)")


def _one_or_list(sent: object) -> str:
    return _EITHER[1] if isinstance(sent, list) else _EITHER[0]


class Webhooks(Sent):
    """The agent's webhooks."""

    events: (
        Annotated[
            Annotated[WebhookEvents, Tag(_EITHER[0])]
            | Annotated[list[WebhookEvents], Tag(_EITHER[1])],
            Discriminator(_one_or_list),
        ]
        | None
    ) = None


class AgentConfig(Sent):
    """How an agent behaves, kept as it is sent and given to its jobs.

    Switchboard itself reads `phone_number` and `livekit_agent_name`.
    """

    phone_number: PhoneNumber | None = Field(
        default=None,
        description="Number in E.164 format whose calls the agent takes; the account must hold it. "
        "One that another agent has moves here",
    )
    livekit_agent_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Name that the agent's workers register with at LiveKit; the account's default "
        "worker serves it if not given",
    )
    prompt: str | None = Field(default=None, description="Agent system prompt")
    greeting: str | None = Field(default=None, description="Initial greeting message")
    llm_temperature: float | None = Field(default=None, description="(default: 0.7)")
    llm_model: str | None = Field(default=None, description="LLM model")
    tts_min_sentence_len: int | None = Field(default=None, description="(default: 20)")
    tts_params: TTSParams | None = None
    min_silence_duration: float | None = Field(default=None, description="(default: 0.55)")
    min_speech_duration: float | None = Field(default=None, description="(default: 0.1)")
    user_silence_timeout: float | None = Field(default=None, description="(default: 10.0)")
    max_call_duration_seconds: int | None = Field(default=None, description="(default: 900)")
    allow_interruptions: bool | None = Field(default=None, description="(default: true)")
    allow_interruptions_on_greeting: bool | None = Field(
        default=None, description="(default: false)"
    )
    min_interruption_words: int | None = Field(default=None, description="(default: 1)")
    auto_noise_reduction: bool | None = Field(default=None, description="(default: true)")
    allow_agent_to_end_call: bool | None = Field(default=None, description="(default: false)")
    allow_agent_to_skip_turn: bool | None = Field(default=None, description="(default: false)")
    min_endpointing_delay: float | None = Field(default=None, description="(default: 0.5)")
    max_endpointing_delay: float | None = Field(default=None, description="(default: 3.0)")
    vad_activation_threshold: float | None = Field(default=None, description="(default: 0.6)")
    webhooks: Webhooks | None = Field(default=None, description="Notifications of calls")
    mcp_servers: list[MCPServerConfig] | None = None


class AgentConfigUpdate(AgentConfig):
    """Changes of a configuration (RFC 7396): what is absent stays, null clears, objects merge."""

    webhooks: dict[str, Any] | None = Field(  # type: ignore[assignment]
        default=None, description="As in AgentConfig"
    )


class AgentConfigAnswer(AgentConfig):
    """An agent's configuration; secrets are left out or show their last four characters."""

    phone_number: str | None = Field(description="Number whose calls the agent takes, null: none")


def kept(sent: Mapping[str, Any], *, nulls: bool = False) -> dict[str, Any]:
    """What of a configuration is stored; `nulls`: with those that clear something."""
    config = deepcopy(dict(sent))
    config.pop(PHONE, None)
    for hook in _hooks(config):
        hook.pop("has_secret", None)
    return config if nulls else merged({}, config)


def public(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration is shown, in voice.ai's types: another dialect's may have others."""
    config = deepcopy(dict(stored))
    for hook in _hooks(config):
        hook["has_secret"] = bool(hook.pop("secret", None))
    try:
        AgentConfig.model_validate(config)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            config.pop(str(problem["loc"][0]), None)
    return config


def validated(config: Mapping[str, Any]) -> AgentConfig:
    """A whole configuration, after an update is in it. Raises Invalid, below body.config."""
    try:
        return AgentConfig.model_validate(config)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        raise Invalid(
            *((("body", "config", *_place(each["loc"])), _words(each["msg"])) for each in found),
            kinds=[each["type"] for each in found],
        ) from None


def _place(where: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Without the names of the types that a field may have."""
    return tuple(each for each in where if each not in _EITHER)


def _words(message: str) -> str:
    return message.removeprefix("Value error, ")


def _hooks(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each object of `webhooks` that can have a secret."""
    webhooks = config.get("webhooks")
    found = webhooks.values() if isinstance(webhooks, Mapping) else ()
    each = [hook for value in found for hook in (value if isinstance(value, list) else [value])]
    return [hook for hook in each if isinstance(hook, dict)]
