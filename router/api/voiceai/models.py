"""What voice.ai's clients send and read; names and words are those of its documents.

Requests may have fields that are not documented: they are kept in an agent's `config`, and ignored
elsewhere.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.json_schema import SkipJsonSchema

from router.api.fields import PAGE_LIMIT, PhoneNumber, ShownAs, Time, no_default
from router.api.voiceai.config import AgentConfig, AgentConfigAnswer, AgentConfigUpdate, Sent

Provider = Literal["twilio", "telnyx"]
CallType = Literal["web", "sip_inbound", "sip_outbound"]
AgentStatus = Literal["deployed", "paused", "disabled"]

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class _Query(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Answered(BaseModel):
    model_config = ConfigDict(extra="forbid")


# --- errors and pages


class ErrorResponse(_Answered):
    """What went wrong."""

    error: str = Field(description="Error message")
    detail: str | SkipJsonSchema[None] = Field(
        default=None, description="Detailed error information", json_schema_extra=no_default
    )
    code: str | SkipJsonSchema[None] = Field(
        default=None, description="Error code", json_schema_extra=no_default
    )


class ValidationError(_Answered):
    """One field that is missing or wrong."""

    loc: list[str | int] = Field(title="Location", description="Where it is: body, config, …")
    msg: str = Field(title="Message")
    type: str = Field(title="Error Type")


class HTTPValidationError(_Answered):
    """Every field that is missing or wrong."""

    detail: list[ValidationError] = Field(default=[], title="Detail")


class PageQuery(_Query):
    """Which part of a list; without either, the whole list comes in its unpaged form."""

    page: int | None = Field(default=None, ge=1, le=PAGE_LIMIT, description="Page number, from 1")
    limit: int | None = Field(default=None, ge=1, le=100, description="Items per page")


class Pagination(_Answered):
    """Which part of a list this is."""

    current_page: int
    total_pages: int
    total_items: int
    limit: int = Field(description="Items per page, at most 100")
    has_next: bool
    has_previous: bool


# --- phone numbers


class SearchPhoneNumbersRequest(Sent):
    """Which numbers are looked for."""

    country_code: str = Field(
        default="US", pattern=r"^[A-Za-z]{2}$", description="Country code (e.g., 'US', 'CA')"
    )
    area_code: str | None = Field(
        default=None, pattern=r"^[0-9]{1,6}$", description="3-digit area code (e.g., '415')"
    )
    provider: Provider = Field(default="twilio", description="Provider: 'twilio' or 'telnyx'")


class AvailablePhoneNumber(_Answered):
    """A number that can be selected."""

    phone_number: str
    locality: str | None = None
    region: str | None = None
    country_code: str


class SearchPhoneNumbersResponse(_Answered):
    """Numbers that can be selected now."""

    results: list[AvailablePhoneNumber]
    total_results: int


class PurchasePhoneNumberRequest(Sent):
    """A number, and who provides it."""

    phone_number: PhoneNumber = Field(
        title="Phone Number",
        description="Exact phone number to select from search results (e.g., '+15551234567')",
    )
    provider: Provider = Field(
        default="twilio", title="Provider", description="Provider: 'twilio' or 'telnyx'"
    )


class PurchasePhoneNumberResponse(_Answered):
    """What became of it."""

    phone_number: str = Field(title="Phone Number")
    status: Literal["selected", "released"] = Field(title="Status")


class PhoneNumberInfo(_Answered):
    """A number of the account."""

    phone_number: str
    status: Literal["available", "assigned", "corrupted"] = Field(
        description="`available`: no agent has it. `corrupted`: the carrier refused its release"
    )
    assigned_to_agent_id: str | None = None
    assigned_to_agent_name: str | None = None


class AllPhoneNumbersResponse(_Answered):
    """All numbers of the account."""

    phone_numbers: list[PhoneNumberInfo]
    total_numbers: int
    total_available: int
    total_assigned: int


class PaginatedAllPhoneNumbersResponse(_Answered):
    """Some of the account's numbers."""

    items: list[PhoneNumberInfo]
    pagination: Pagination


class UnassignedPhoneNumber(AvailablePhoneNumber):
    """A number of the account that no agent has."""

    status: Literal["available"] = "available"


class AvailablePhoneNumbersResponse(_Answered):
    """All numbers of the account that no agent has."""

    phone_numbers: list[UnassignedPhoneNumber]
    total_numbers: int
    total_available: int
    total_assigned: int


class PaginatedPhoneNumberResponse(_Answered):
    """Some of the account's numbers that no agent has."""

    items: list[UnassignedPhoneNumber]
    pagination: Pagination


# --- agents


class CreateAgentRequest(Sent):
    """A new agent. It is paused until it is deployed."""

    name: Name = Field(description="Agent name (cannot be empty)")
    config: Annotated[dict[str, Any], ShownAs(AgentConfig)] = Field(default={})
    kb_id: None = Field(default=None, description="Knowledge bases are not served: null")


class UpdateAgentRequest(Sent):
    """What is to change; null clears."""

    name: Name = Field(default="", description="New agent name", json_schema_extra=no_default)
    config: Annotated[dict[str, Any], ShownAs(AgentConfigUpdate)] | None = Field(
        default=None, description="Changes of the configuration; null clears all of it"
    )
    kb_id: None = Field(default=None, description="Knowledge bases are not served: null")


class Agent(_Answered):
    """An agent."""

    agent_id: str = Field(description="Unique agent identifier")
    name: str
    config: Annotated[dict[str, Any], ShownAs(AgentConfigAnswer)]
    status: AgentStatus
    status_code: Literal[0, 1, 2] = Field(description="0: disabled, 1: paused, 2: deployed")
    created_at: Time
    updated_at: Time


class PaginatedAgentResponse(_Answered):
    """Some of the account's agents."""

    items: list[Agent]
    pagination: Pagination


class ListAgentsQuery(PageQuery):
    """Which agents."""

    show_statuses: list[AgentStatus] | None = Field(
        default=None, description="Statuses to show (default: deployed and paused)"
    )


class AgentDeployResponse(_Answered):
    """The agent takes calls now."""

    agent: Agent
    message: str
    sip_status: Literal["ready", "no_phone_number"] = Field(
        description="`ready`: calls to its number reach it"
    )
    sip_details: dict[str, Any] = Field(description="`phone_number`: its number, or null")


class AgentPauseResponse(_Answered):
    """The agent takes no calls now."""

    agent: Agent


class AgentDeleteResponse(_Answered):
    """The agent is gone but for its record."""

    agent: Agent
    message: str


class AgentConnectionStatusResponse(_Answered):
    """Whether the agent can be called."""

    agent_id: str
    name: str
    voice_id: str
    status: AgentStatus
    status_code: int
    call_allowed: bool
    call_validation_details: dict[str, Any] = Field(
        description="`reason` and `message`, where it can't be called"
    )


class AgentStatusSummary(_Answered):
    """How many agents have which status."""

    deployed: int
    paused: int
    disabled: int


class AgentStatsSummaryResponse(_Answered):
    """How many agents there are."""

    total_agents: int
    status_summary: AgentStatusSummary


# --- calls


class CallHistoryQuery(_Query):
    """Which calls, in which order."""

    page: int = Field(default=1, ge=1, le=PAGE_LIMIT)
    limit: int = Field(default=10, ge=1, le=100)
    start_date: str | None = Field(
        default=None, description="Calls from then on (ISO 8601, e.g., 2024-01-01T00:00:00+00:00)"
    )
    end_date: str | None = Field(default=None, description="Calls before then (ISO 8601)")
    agent_ids: list[str] | None = Field(default=None, max_length=100, description="Of these agents")
    agent_name: str | None = Field(default=None, max_length=200, description="Part of their name")
    sort_by: Literal["timestamp", "call_timestamp", "date", "duration"] = "timestamp"
    sort_dir: Literal["asc", "desc"] = "desc"


class CallHistoryItem(_Answered):
    """A call."""

    id: int
    call_id: str = Field(description="The same for ever")
    agent_id: str | None = None
    agent_name: str | None = None
    call_timestamp: Time
    call_duration_seconds: float
    credits_used: float = Field(description="0: Switchboard counts no credits")
    has_transcript: bool
    call_type: CallType | None = None
    from_number: str | None = None
    to_number: str | None = None
    transcription_summary: str | None = None


class PaginatedCallHistoryResponse(_Answered):
    """Some of the account's calls."""

    items: list[CallHistoryItem]
    pagination: Pagination


class TranscriptResponse(_Answered):
    """Where the transcript is; reading it takes the same token."""

    url: str


class TranscriptSegment(_Answered):
    """Something that was said."""

    role: Literal["user", "assistant"]
    text: str
    timestamp: Time


class Transcript(_Answered):
    """What was said in a call."""

    call_id: str
    transcript: list[TranscriptSegment]


class RecordingResponse(_Answered):
    """Where the recording is, at the carrier or provider that made it."""

    status: Literal["ready", "processing", "not_recorded"]
    url: str | None = None


class OutboundCallRequest(Sent):
    """A call that an agent is to place."""

    agent_id: str | None = None
    target_phone_number: str | None = None
