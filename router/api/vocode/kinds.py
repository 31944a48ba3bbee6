"""What an agent is made of: the models of prompts, actions, voices, webhooks, vector databases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from router.api.vocode.schemas import (
    NOT_SET,
    OneOf,
    Place,
    Schema,
    Uuid,
    answer_of,
    complete,
    guess,
    merged,
    type_of,
    update_of,
)
from router.control.model import DocumentKind

# --- prompts


class CollectField(Schema):
    """Something that the agent is to ask for."""

    field_type: Literal["field_type_email"] = "field_type_email"
    label: str
    name: str
    description: str | None = None


class PromptTemplate(Schema):
    """The template that a prompt was made from."""

    id: Uuid
    user_id: Uuid
    label: str = NOT_SET
    required_context_keys: list[str]


class PromptParams(Schema):
    """What an agent is told to be and do."""

    content: str = ""
    collect_fields: list[CollectField] | None = None
    context_endpoint: str | None = None
    prompt_template: Annotated[Any, OneOf(PromptTemplate, reference=True)] | None = None


# --- actions


class EmptyConfig(Schema):
    """Nothing has to be set."""


class TransferCallConfig(Schema):
    """Where to."""

    phone_number: str


class AddToConferenceConfig(Schema):
    """Who is added."""

    phone_number: str
    place_primary_on_hold: bool | None = None


class ExternalActionConfig(Schema):
    """A function of the user's own, called over HTTP."""

    processing_mode: Literal["muted"] | None = None
    name: str
    description: str
    url: str
    input_schema: dict[str, Any]
    speak_on_send: bool
    speak_on_receive: bool
    signature_secret: str | None = None


class FunctionCallTrigger(Schema):
    """The agent decides."""

    type: Literal["action_trigger_function_call"] = "action_trigger_function_call"
    config: EmptyConfig | None = None


class PhraseTrigger(Schema):
    """Something that is said."""

    phrase: str
    conditions: list[Literal["phrase_condition_type_contains"]]


class PhraseTriggers(Schema):
    """Any of these."""

    phrase_triggers: list[PhraseTrigger]


class PhraseBasedTrigger(Schema):
    """What is said decides."""

    type: Literal["action_trigger_phrase_based"] = "action_trigger_phrase_based"
    config: PhraseTriggers


_Trigger = Annotated[Any, OneOf(FunctionCallTrigger, PhraseBasedTrigger, guessed=True)]


class TransferCallActionParams(Schema):
    """Puts the call through to a number."""

    type: Literal["action_transfer_call"]
    config: TransferCallConfig
    action_trigger: _Trigger = NOT_SET


class EndConversationActionParams(Schema):
    """Hangs up."""

    type: Literal["action_end_conversation"]
    config: EmptyConfig = NOT_SET
    action_trigger: _Trigger = NOT_SET


class DTMFActionParams(Schema):
    """Presses keys."""

    type: Literal["action_dtmf"]
    config: EmptyConfig = NOT_SET
    action_trigger: FunctionCallTrigger = NOT_SET


class AddToConferenceActionParams(Schema):
    """Adds somebody to the call."""

    type: Literal["action_add_to_conference"]
    config: AddToConferenceConfig
    action_trigger: _Trigger = NOT_SET


class SetHoldActionParams(Schema):
    """Puts somebody on hold."""

    type: Literal["action_set_hold"]
    config: EmptyConfig = NOT_SET
    action_trigger: _Trigger = NOT_SET


class ExternalActionParams(Schema):
    """Calls the user's own function."""

    type: Literal["action_external"]
    config: ExternalActionConfig
    action_trigger: FunctionCallTrigger = NOT_SET


# --- voices


class AzureVoiceParams(Schema):
    """A voice of Azure."""

    type: Literal["voice_azure"]
    voice_name: str
    pitch: int = 0
    rate: int = 15


class RimeVoiceParams(Schema):
    """A voice of Rime."""

    type: Literal["voice_rime"]
    speaker: str
    speed_alpha: float | None = None
    model_id: Literal["mist", "v1"] | None = None


class ElevenLabsVoiceParams(Schema):
    """A voice of ElevenLabs."""

    type: Literal["voice_eleven_labs"]
    voice_id: str
    stability: float | None = None
    similarity_boost: float | None = None
    api_key: str | None = None
    optimize_streaming_latency: int | None = None
    model_id: str | None = None
    experimental_input_streaming: bool = NOT_SET


class PlayHtVoiceParams(Schema):
    """A voice of PlayHT."""

    type: Literal["voice_play_ht"]
    voice_id: str
    api_user_id: str | None = None
    api_key: str | None = None
    version: Literal["1", "2"] = NOT_SET
    speed: float | None = None
    quality: Literal["faster", "draft", "low", "medium", "high", "premium"] | None = None
    temperature: float | None = None
    top_p: float | None = None
    text_guidance: float | None = None
    voice_guidance: float | None = None
    experimental_remove_silence: bool = NOT_SET


class VocodeVoiceParams(Schema):
    """Vocode's own voice."""

    type: Literal["voice_vocode"]
    voice_id: Literal["joe"]


# --- webhooks, vector databases

EventType = Literal[
    "event_message", "event_action", "event_phone_call_connected", "event_phone_call_ended",
    "event_phone_call_did_not_connect", "event_transcript", "event_recording",
    "event_human_detection",
]  # fmt: skip


class WebhookParams(Schema):
    """Who is told what happens in calls."""

    subscriptions: list[EventType]
    url: str
    method: Literal["GET", "POST"] = "POST"


class PineconeVectorDatabaseParams(Schema):
    """Where an agent looks things up."""

    type: Literal["vector_database_pinecone"]
    index: str
    api_key: str
    api_environment: str


# --- kinds


@dataclass(frozen=True)
class Kind:
    """One of the five: its name in paths, and the models of its parameters."""

    kind: DocumentKind
    models: Sequence[type[Schema]]

    @property
    def plural(self) -> str:
        """Its name in paths."""
        return f"{self.kind}s"

    @property
    def title(self) -> str:
        """`VectorDatabase`."""
        return "".join(word.capitalize() for word in self.kind.split("_"))

    @cached_property
    def by_type(self) -> Mapping[str, type[Schema]]:
        """Its models; "" is the type of those that have none."""
        return {type_of(model): model for model in self.models}

    @cached_property
    def updates(self) -> Mapping[str, type[Schema]]:
        """The models of an update of one."""
        return {tag: update_of(model) for tag, model in self.by_type.items()}

    @cached_property
    def answers(self) -> Sequence[type[Schema]]:
        """The models of one in an answer."""
        return [answer_of(model) for model in self.models]

    def inline(self) -> OneOf:
        """One in an agent's parameters: an id, or parameters of its own."""
        return OneOf(*self.models, reference=True, untyped="" not in self.by_type)

    def inline_update(self, *, text: bool = False) -> OneOf:
        """One in an update of an agent."""
        untyped = "" not in self.by_type
        return OneOf(*self.updates.values(), reference=not text, text=text, untyped=untyped)

    def type_in(self, sent: Mapping[str, Any], stored: Mapping[str, Any]) -> str | None:
        """The type of parameters that leave it out: the stored one's, if they fit; else a guess."""
        present = self.by_type.get(stored.get("type", ""))
        if present is not None and sent.keys() <= present.model_fields.keys():
            return str(stored.get("type", ""))
        return guess(self.by_type, sent)

    def completed(self, body: Mapping[str, Any], where: Place) -> dict[str, Any]:
        """A whole document, checked. Raises Invalid: it names what is missing."""
        tag = "" if "" in self.by_type else body.get("type", "")
        return complete(self.by_type[tag], body, where)

    def updated(
        self, stored: Mapping[str, Any], sent: Mapping[str, Any], where: Place
    ) -> dict[str, Any]:
        """A document after an update; what is of another type begins anew. Raises Invalid."""
        if sent.get("type", stored.get("type")) != stored.get("type"):
            stored = {}
        return self.completed(merged(stored, sent), where)


PROMPT: Final = Kind("prompt", [PromptParams])
ACTION: Final = Kind(
    "action",
    [
        TransferCallActionParams,
        EndConversationActionParams,
        DTMFActionParams,
        AddToConferenceActionParams,
        SetHoldActionParams,
        ExternalActionParams,
    ],
)
VOICE: Final = Kind(
    "voice",
    [
        AzureVoiceParams,
        RimeVoiceParams,
        ElevenLabsVoiceParams,
        PlayHtVoiceParams,
        VocodeVoiceParams,
    ],
)
WEBHOOK: Final = Kind("webhook", [WebhookParams])
VECTOR_DATABASE: Final = Kind("vector_database", [PineconeVectorDatabaseParams])
KINDS: Final = (PROMPT, ACTION, VOICE, WEBHOOK, VECTOR_DATABASE)

PARTS: Final[Mapping[str, Kind]] = {
    "prompt": PROMPT,
    "voice": VOICE,
    "webhook": WEBHOOK,
    "vector_database": VECTOR_DATABASE,
}
"""The fields of an agent that name one document each; `actions` names many."""

CONNECTION: Final = "openai_account_connection"
"""The field of an agent that names a connection."""
