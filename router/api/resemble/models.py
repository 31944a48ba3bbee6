"""What Resemble's clients send and read: agent phone numbers, and agents as far as they need them.

Sources: https://docs.resemble.ai/agents/phone-numbers (overview, create, delete, force-delete) and
https://docs.resemble.ai/agents (create, update, list). Unknown fields are no error.
"""

import re
from ipaddress import ip_network
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)
from pydantic.json_schema import SkipJsonSchema

from router.api.fields import PAGE_LIMIT, PhoneNumber, Time, no_default

MediaEncryption = Literal["disabled", "allowed", "required"]
Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]

_HEADER: Final = re.compile(r"[A-Za-z0-9.!%*_+`'~-]{1,64}")  # a token of RFC 3261 §25.1
_RESERVED: Final = frozenset(
    {
        *("via", "from", "to", "call-id", "cseq", "contact", "max-forwards", "route"),
        *("record-route", "content-length", "content-type", "authorization", "proxy-authorization"),
    }
)
_MOST_HEADERS: Final = 32
_LONGEST_KEY, _LONGEST_VALUE = 64, 2048  # of a dynamic variable
_RESERVED_KEYS: Final = ("__proto__", "constructor", "prototype")


def _address(text: str) -> str:
    try:
        ip_network(text, strict=False)
    except ValueError:
        raise ValueError("must be an IP address, or a range such as 203.0.113.0/24") from None
    return text


def _host(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9.:\[\]_-]{1,255}", text) is None:
        raise ValueError("must be a host, or host:port, such as sip.example.com:5060")
    return text


def _headers(headers: dict[str, str]) -> dict[str, str]:
    if len(headers) > _MOST_HEADERS:
        raise ValueError(f"has more than {_MOST_HEADERS} headers")
    for name, value in headers.items():
        if _HEADER.fullmatch(name) is None or name.lower() in _RESERVED:
            raise ValueError("has a name that no custom SIP header can have: use X-…")
        if len(value) > 1024 or not value.isprintable():
            raise ValueError("has a value that is too long, or of more than one line")
    return headers


def _variables(found: dict[str, Any]) -> dict[str, Any]:
    for key, value in found.items():
        if not key or len(key) > _LONGEST_KEY or key in _RESERVED_KEYS:
            raise ValueError(f"has a name that is reserved, or of more than {_LONGEST_KEY} letters")
        if not isinstance(value, str | int | float | None):
            raise ValueError("must be flat: text, numbers, booleans or null")  # noqa: TRY004
        if isinstance(value, str) and len(value) > _LONGEST_VALUE:
            raise ValueError(f"has a value of more than {_LONGEST_VALUE} letters")
    return found


class _Sent(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Answered(BaseModel):
    model_config = ConfigDict(extra="allow")


# --- errors, pages


class Refused(_Answered):
    """What went wrong."""

    success: Literal[False] = False
    message: str
    errors: dict[str, list[str]] | SkipJsonSchema[None] = Field(
        default=None, description="By field, `base`: the whole", json_schema_extra=no_default
    )


class Done(_Answered):
    """It is done."""

    success: Literal[True] = True
    message: str


class ForceDeleted(Done):
    """It is forgotten."""

    force_deleted: Literal[True] = True


class PageQuery(BaseModel):
    """Which part of a list."""

    page: int = Field(default=1, ge=1, le=PAGE_LIMIT)
    page_size: int = Field(default=25, ge=1, le=1000)


class _Page(_Answered):
    success: Literal[True] = True
    page: int
    num_pages: int
    page_size: int


# --- phone numbers


class _Trunk(_Sent):
    media_encryption: MediaEncryption = "disabled"
    has_auth_credentials: bool = Field(default=False, description="Whether to authenticate")
    username: str | None = Field(default=None, max_length=200, validate_default=True)
    password: str | None = Field(default=None, max_length=200, description="Never answered")

    @field_validator("username")
    @classmethod
    def _needed(cls, value: str | None, info: ValidationInfo) -> str | None:
        if not value and info.data.get("has_auth_credentials"):
            raise ValueError("is required if has_auth_credentials is true")
        return value


class OutboundTrunk(_Trunk):
    """The SIP trunk that calls go out by."""

    address: Annotated[str, AfterValidator(_host)] | None = Field(
        default=None, description="SIP trunk address"
    )
    transport: Literal["auto", "udp", "tcp", "tls"] = "auto"
    headers: Annotated[dict[str, str], AfterValidator(_headers)] = Field(
        default={}, description="Custom SIP headers"
    )


class InboundTrunk(_Trunk):
    """Who may call in by SIP."""

    allowed_addresses: list[Annotated[str, AfterValidator(_address)]] = Field(
        default=[], max_length=100, description="IP addresses"
    )
    allowed_numbers: list[PhoneNumber] = Field(
        default=[], max_length=1000, description="Phone numbers"
    )
    headers: Annotated[dict[str, str], AfterValidator(_headers)] = Field(
        default={}, description="Custom SIP headers"
    )


class CreatePhoneNumberRequest(_Sent):
    """A number that is at Twilio already."""

    phone_number: PhoneNumber = Field(description="E.164 formatted phone number")
    label: Label = Field(description="Human-readable label for the phone number")
    supports_inbound: bool = Field(default=False, description="Enable inbound calls")
    supports_outbound: bool = Field(default=False, description="Enable outbound calls")
    provider: Literal["twilio"] | None = Field(default=None, description='Provider: "twilio"')
    twilio_account_sid: str | None = Field(
        default=None,
        validate_default=True,
        pattern=r"^AC[0-9A-Za-z]{1,64}$",
        description='Required if provider is "twilio"',
    )
    twilio_auth_token: str | None = Field(
        default=None,
        validate_default=True,
        pattern=r"^[!-~]{1,200}$",
        description='Required if provider is "twilio". Never answered',
    )
    outbound_trunk: OutboundTrunk | None = None
    inbound_trunk: InboundTrunk | None = None
    agent_uuid: str | None = Field(default=None, description="Agent to link the number to")

    @field_validator("twilio_account_sid", "twilio_auth_token")
    @classmethod
    def _needed(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("provider") == "twilio":
            raise ValueError("is required if provider is twilio")
        return value


class AgentPhoneNumber(_Answered):
    """An agent phone number."""

    id: int
    phone_number: str
    label: str
    supports_inbound: bool
    supports_outbound: bool
    provider: str
    status: Literal["active", "corrupted", "deleting"]
    has_twilio_credentials: bool
    outbound_trunk: dict[str, Any]
    inbound_trunk: dict[str, Any]
    agent_uuid: str | None = Field(description="Agent that the number leads to")
    created_at: Time
    updated_at: Time


class PhoneNumberAnswer(_Answered):
    """One phone number."""

    success: Literal[True] = True
    item: AgentPhoneNumber


class PhoneNumberList(_Page):
    """Some of the account's phone numbers."""

    items: list[AgentPhoneNumber]


# --- agents


class AgentFields(_Sent):
    """How an agent behaves, kept as it is sent and given to its jobs."""

    voice_uuid: str | None = Field(default=None, description="Voice to speak with")
    languages: list[str] | None = Field(default=None, description='(default: ["en-US"])')
    dynamic_variables: Annotated[dict[str, Any], AfterValidator(_variables)] | None = None
    asr: dict[str, Any] | None = Field(default=None, description="Speech recognition")
    turn: dict[str, Any] | None = Field(default=None, description="Turn-taking")
    llm: dict[str, Any] | None = Field(default=None, description="Language model")
    webhooks: list[dict[str, Any]] | None = None
    system_tools: dict[str, Any] | None = None


class CreateAgentRequest(AgentFields):
    """A new agent. It takes calls at once."""

    name: Label = Field(description="Name of the agent")
    phone_number_id: int | None = Field(
        default=None, description="Phone number to link; no other agent may have it"
    )


class UpdateAgentRequest(AgentFields):
    """What is to change: what is absent stays, objects merge, null clears."""

    name: Label = Field(default="", description="Name of the agent", json_schema_extra=no_default)
    phone_number_id: int | None = Field(
        default=None, description="Phone number to link instead of its present one; null: none"
    )


class AgentFacts(_Answered):
    """What an agent is."""

    name: str
    uuid: str
    languages: list[str]
    dynamic_variables: dict[str, Any]
    status: Literal["active", "inactive"]
    created_at: Time
    updated_at: Time


class AgentItem(_Answered):
    """An agent and its parts."""

    uuid: str
    name: str
    phone_number_id: int | None
    agent: AgentFacts
    asr: dict[str, Any]
    tts: dict[str, Any]
    turn: dict[str, Any]
    llm: dict[str, Any]
    phone_numbers: list[AgentPhoneNumber]
    webhooks: list[dict[str, Any]]
    system_tools: dict[str, Any]


class AgentAnswer(_Answered):
    """One agent."""

    success: Literal[True] = True
    item: AgentItem


class AgentList(_Page):
    """Some of the account's agents."""

    count: int = Field(description="How many there are in all")
    items: list[AgentItem]


class AgentsQuery(PageQuery):
    """Which agents."""

    phone_number: PhoneNumber | None = Field(default=None, description="The agent that has it")
