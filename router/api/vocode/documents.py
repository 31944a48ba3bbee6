"""Prompts, actions, voices, webhooks, vector databases: the documents that an agent is made of.

All kinds have the same four operations; a kind differs by its models alone.
"""

from functools import partial
from typing import Annotated, Any, Final

from router.api.operation import Answer, ApiRequest, Operation
from router.api.vocode.kinds import KINDS, PROMPT, Kind, PromptParams
from router.api.vocode.schemas import (
    ById,
    OneOf,
    PageQuery,
    Uuid,
    answer_of,
    as_page,
    page_of,
    root_of,
)
from router.control import documents
from router.control.model import Document
from router.errors import NotFound

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


async def find(request: ApiRequest, kind: Kind, document_id: str) -> Document | None:
    """A document; None: it is there no more."""
    try:
        return await documents.get(request.control, request.actor, kind.kind, document_id)
    except NotFound:
        return None


# --- operations


def _operations(kind: Kind) -> list[Operation]:
    name, path, title = kind.kind, f"/v1/{kind.plural}", kind.title
    words = name.replace("_", " ")
    answer = root_of(f"{title}ResponseModel", Annotated[Any, OneOf(*kind.answers)])
    item = NormalizedPrompt if kind is PROMPT else answer
    update_params = Annotated[Any, OneOf(*kind.updates.values())]
    is_typed = "" not in kind.by_type

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
        change = partial(kind.updated, sent=request.sent or {}, where=("body",))
        document_id = request.query.id
        updated = await documents.update(request.control, request.actor, name, document_id, change)
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
            body=root_of(f"{title}ParamsRequest", Annotated[Any, OneOf(*kind.models)]),
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
            body=root_of(f"{title}UpdateParamsRequest", update_params),
            body_required=is_typed,  # the client sends no body where nothing is to change
            answers={200: answer},
            description="What is left out or {} stays as it is; null clears where it is allowed.",
        ),
    ]


OPERATIONS: Final = [operation for kind in KINDS for operation in _operations(kind)]
