"""Prompts, actions, voices, webhooks, vector databases: the documents that an agent is made of.

All kinds have the same four operations; a kind differs by its models alone.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, RootModel, create_model

from router.api.operation import Answer, ApiRequest, Operation
from router.api.vocode.schemas import (
    NOT_SET,
    ById,
    OneOf,
    PageQuery,
    Place,
    Schema,
    Uuid,
    answer_of,
    as_page,
    complete,
    merged,
    page_of,
    type_of,
    update_of,
)
from router.control import documents
from router.control.model import Document, DocumentKind

# --- prompts


class CollectField(Schema):
    """Something that the agent is to ask for."""

    field_type: Literal["field_type_email"]
    label: str
    name: str
    description: str | None = None


class PromptTemplate(Schema):
    """The template that a prompt was made from."""

    id: Uuid
    user_id: Uuid
    label: str = ""
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

    type: Literal["action_trigger_function_call"]
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

    type: Literal["action_trigger_phrase_based"]
    config: PhraseTriggers


_Trigger = Annotated[Any, OneOf(FunctionCallTrigger, PhraseBasedTrigger)]


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
    def updates(self) -> Sequence[type[Schema]]:
        """The models of an update of one."""
        return [update_of(model) for model in self.models]

    @cached_property
    def answers(self) -> Sequence[type[Schema]]:
        """The models of one in an answer."""
        return [answer_of(model) for model in self.models]

    def params(self, *, reference: bool = False) -> Any:
        """The type of a field that makes one (or, with `reference`, names one)."""
        return Annotated[Any, OneOf(*self.models, reference=reference)]

    def update(self, *, reference: bool = False, text: bool = False) -> Any:
        """The type of a field that updates one."""
        return Annotated[Any, OneOf(*self.updates, reference=reference, text=text)]

    @cached_property
    def answer(self) -> Any:
        """The type of a field that shows one."""
        return Annotated[Any, OneOf(*self.answers)]

    def completed(self, body: Mapping[str, Any], where: Place) -> dict[str, Any]:
        """A whole document, checked. Raises Invalid: it names what is missing."""
        known = {type_of(model): model for model in self.models}
        tag = body.get("type", "") if "" not in known else ""
        return complete(known[tag], body, where)

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


BY_KIND: Final = {kind.kind: kind for kind in KINDS}

NormalizedPrompt: Final = answer_of(PromptParams, "NormalizedPrompt", prompt_template=Uuid)


def shown(document: Document) -> dict[str, Any]:
    """A document as answers have it."""
    body = dict(document.body)
    template = body.get("prompt_template")
    if document.kind == "prompt" and isinstance(template, str):
        # Templates are made elsewhere: of one that was named by its id, that is all we know.
        body["prompt_template"] = {
            "id": template,
            "user_id": document.account_id,
            "required_context_keys": [],
        }
    return {"id": document.id, "user_id": document.account_id, **body}


def normalised(document: Document) -> dict[str, Any]:
    """A document as lists have it: a prompt's template is its id."""
    answer = shown(document)
    if document.kind == "prompt" and "prompt_template" in answer:
        answer["prompt_template"] = answer["prompt_template"]["id"]
    return answer


# --- operations

Changed = Callable[[ApiRequest, str], Awaitable[None]]
"""Called with the id of a document that was changed."""


def operations(changed: Changed) -> list[Operation]:
    """Get, list, create and update, of each kind; `changed` hears of every update."""
    return [operation for kind in KINDS for operation in _operations_of(kind, changed)]


def _operations_of(kind: Kind, changed: Changed) -> list[Operation]:
    name, path, title = kind.kind, f"/v1/{kind.plural}", kind.title
    words = name.replace("_", " ")
    answer = _root(f"{title}ResponseModel", kind.answer)
    item = NormalizedPrompt if kind is PROMPT else kind.answer
    typed = all(type_of(model) for model in kind.models)

    async def get(request: ApiRequest) -> Answer:
        found = await documents.get(request.control, request.actor, name, request.query.id)
        return Answer(body=shown(found))

    async def list_(request: ApiRequest) -> Answer:
        window = request.query.window
        page = await documents.list_(request.control, request.actor, name, **window)
        return Answer(body=as_page(request.query, page, [normalised(each) for each in page.items]))

    async def create(request: ApiRequest) -> Answer:
        body = kind.completed(request.sent or {}, ("body",))
        made = await documents.create(request.control, request.actor, name, body)
        return Answer(body=shown(made))

    async def update(request: ApiRequest) -> Answer:
        control, actor, document_id = request.control, request.actor, request.query.id
        stored = await documents.get(control, actor, name, document_id)
        body = kind.updated(stored.body, request.sent or {}, ("body",))
        updated = await documents.update(control, actor, name, document_id, body)
        await changed(request, document_id)
        return Answer(body=shown(updated))

    return [
        Operation(
            method="GET",
            path=path,
            id=f"get_{name}",
            summary=f"Get one {words}",
            tag=kind.plural,
            handle=get,
            scope="agents:read",
            query=ById,
            answers={200: answer},
        ),
        Operation(
            method="GET",
            path=f"{path}/list",
            id=f"list_{kind.plural}",
            summary=f"List {words}s",
            tag=kind.plural,
            handle=list_,
            scope="agents:read",
            query=PageQuery,
            answers={200: page_of(f"{title}Page", item)},
        ),
        Operation(
            method="POST",
            path=f"{path}/create",
            id=f"create_{name}",
            summary=f"Create one {words}",
            tag=kind.plural,
            handle=create,
            scope="agents:write",
            body=_root(f"{title}ParamsRequest", kind.params()),
            body_required=kind is not PROMPT,  # nothing of it has to be set
            answers={200: answer},
            creates=True,
        ),
        Operation(
            method="POST",
            path=f"{path}/update",
            id=f"update_{name}",
            summary=f"Update one {words}",
            tag=kind.plural,
            handle=update,
            scope="agents:write",
            query=ById,
            body=_root(f"{title}UpdateParamsRequest", kind.update()),
            body_required=typed,  # the client sends no body where nothing is to change
            answers={200: answer},
            description="What is left out or {} stays as it is; null clears where it is allowed.",
        ),
    ]


def _root(name: str, kind: Any) -> type[BaseModel]:
    return create_model(name, __base__=RootModel[kind], __module__=__name__)
