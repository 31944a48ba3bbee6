"""OpenAPI 3.1, generated from the operations and the models that validate them.

One document a dialect, and one of all: there the names of schemas, operations and tags begin with
the dialect's, so that two dialects may use the same.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, Literal

from pydantic import BaseModel, TypeAdapter

from router.api.idempotency import HEADER, REPLAYED
from router.api.operation import Dialect, Operation
from router.errors import NotFound

_VERSION: Final = "3.1.0"
_SCHEMAS: Final = "#/components/schemas/"
_VARIABLE: Final = re.compile(r"{(\w+)}")
_ALWAYS: Final = ("X-Request-Id", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
_INTEGER: Final = {"type": "integer", "minimum": 0}
_HEADERS: Final[Mapping[str, Any]] = {
    "X-Request-Id": ("Names this request in our logs; the client's own if it sent one", None),
    "RateLimit-Limit": ("Requests that a token may send at once", _INTEGER),
    "RateLimit-Remaining": ("Requests that are left now", _INTEGER),
    "RateLimit-Reset": ("Seconds until all of them are there again", _INTEGER),
    "Retry-After": ("Seconds to wait before the next try", _INTEGER),
    "WWW-Authenticate": ("How to authenticate, and what is missing (RFC 6750)", None),
    REPLAYED: ("`true`: the answer to the first request with this Idempotency-Key", None),
}
_OF_BODIES: Final = frozenset({400, 413, 415})  # statuses that need something that is sent
_WAITS: Final = (429, 503)

Mode = Literal["validation", "serialization"]


def document(dialects: Sequence[Dialect], *, server: str) -> dict[str, Any]:
    """The document of one dialect, or of several.

    Args:
        dialects: whose.
        server: the URL that the paths are below; "": where the document was read.
    """
    several = len(dialects) > 1
    first = dialects[0]
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    tags: list[dict[str, str]] = []
    for dialect in dialects:
        part = _Part(dialect, prefix=f"{dialect.name}." if several else "")
        for operation in dialect.operations:
            method = operation.method.lower()
            paths.setdefault(operation.path, {})[method] = part.operation(operation)
        schemas |= part.definitions
        tags += part.tags()
    described = "\n\n".join(
        f"**{each.title}** (`{each.base}`). {each.description}" for each in dialects
    )
    return {
        "openapi": _VERSION,
        "info": {
            "title": "Switchboard" if several else first.title,
            "version": "1" if several else first.version,
            "description": described if several else first.description,
        },
        "servers": [{"url": server or "/"}],
        "security": [{"bearer": []}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "headers": {name: _header(*told) for name, told in _HEADERS.items()},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of an account: `switchboard tokens create`",
                }
            },
        },
    }


def _header(description: str, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"description": description, "schema": dict(schema or {"type": "string"})}


class _Part:
    """What one dialect has in a document."""

    def __init__(self, dialect: Dialect, *, prefix: str) -> None:
        self._dialect = dialect
        self._prefix = prefix
        self._error_type = dialect.refuse(NotFound("")).content_type
        asked = list(_models(dialect))
        found, definitions = TypeAdapter.json_schemas(
            [(key, mode, TypeAdapter(model)) for key, mode, model in asked],
            ref_template=_SCHEMAS + prefix + "{model}",
        )
        self._schemas: dict[Any, Any] = {key: schema for (key, _mode), schema in found.items()}
        self.definitions: dict[str, Any] = {
            prefix + name: schema for name, schema in definitions.get("$defs", {}).items()
        }

    def tags(self) -> list[dict[str, str]]:
        """Each once, in the order of the operations."""
        return [{"name": name} for name in dict.fromkeys(map(self._tag, self._dialect.operations))]

    def operation(self, operation: Operation) -> dict[str, Any]:
        """The operation object."""
        parameters = [*self._path(operation), *self._query(operation)]
        if operation.creates:
            parameters.append(_KEY)
        found: dict[str, Any] = {
            "operationId": self._prefix + operation.id,
            "summary": operation.summary,
            "tags": [self._tag(operation)],
            "responses": self._responses(operation),
        }
        if operation.description:
            found["description"] = operation.description
        if operation.scope is not None:
            found["security"] = [{"bearer": [operation.scope]}]
        if parameters:
            found["parameters"] = parameters
        if operation.body is not None:
            found["requestBody"] = {
                "required": operation.body_required,
                "content": {"application/json": {"schema": self._schemas[operation.id, "body"]}},
            }
        return found

    def _tag(self, operation: Operation) -> str:
        return f"{self._dialect.title}: {operation.tag}" if self._prefix else operation.tag

    def _path(self, operation: Operation) -> Iterator[dict[str, Any]]:
        for name in _VARIABLE.findall(operation.path):
            schema = {"type": "string", "minLength": 1}
            yield {"name": name, "in": "path", "required": True, "schema": schema}

    def _query(self, operation: Operation) -> Iterator[dict[str, Any]]:
        if operation.query is None:
            return
        whole = self._schemas[operation.id, "query"]
        if "$ref" in whole:
            whole = self.definitions[whole["$ref"].removeprefix(_SCHEMAS)]
        for name, schema in whole.get("properties", {}).items():
            own = _without_null(schema)
            described = {"description": text} if (text := own.pop("description", "")) else {}
            required = name in whole.get("required", ())
            yield {"name": name, "in": "query", "required": required, **described, "schema": own}

    def _responses(self, operation: Operation) -> dict[str, Any]:
        own = {
            str(status): self._response(status, self._schemas.get((operation.id, status)), model)
            for status, model in operation.answers.items()
        }
        errors = {
            str(status): self._error(status)
            for status in self._dialect.errors
            if str(status) not in own and _can_answer(operation, status)
        }
        if operation.creates:
            for status, response in own.items():
                if status.startswith("2"):
                    response["headers"][REPLAYED] = _ref(REPLAYED)
        return own | errors

    def _response(self, status: int, schema: Any, model: Any) -> dict[str, Any]:
        found: dict[str, Any] = {
            "description": HTTPStatus(status).phrase,
            "headers": {name: _ref(name) for name in _ALWAYS},
        }
        if model is bytes:
            found["content"] = {"application/octet-stream": {}}
        elif model is not None:
            error = status >= HTTPStatus.BAD_REQUEST
            content_type = self._error_type if error else "application/json"
            found["content"] = {content_type: {"schema": schema}}
        return found

    def _error(self, status: int) -> dict[str, Any]:
        model = self._dialect.errors[status]
        found = self._response(status, self._schemas.get(status), model)
        if status in _WAITS:
            found["headers"]["Retry-After"] = _ref("Retry-After")
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            found["headers"]["WWW-Authenticate"] = _ref("WWW-Authenticate")
        if status == HTTPStatus.UNAUTHORIZED:  # nobody's limit, yet
            for name in _ALWAYS[1:]:
                del found["headers"][name]
        return found


_KEY: Final = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "Of your choice, one for each thing to be made. A repeated request with the "
    "same key gets the first one's answer, for 24 hours; another request with it is refused",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}


def _ref(header: str) -> dict[str, str]:
    return {"$ref": f"#/components/headers/{header}"}


def _models(dialect: Dialect) -> Iterator[tuple[Any, Mode, type[BaseModel] | Any]]:
    for operation in dialect.operations:
        if operation.query is not None:
            yield (operation.id, "query"), "validation", operation.query
        if operation.body is not None:
            yield (operation.id, "body"), "validation", operation.body
        for status, model in operation.answers.items():
            if model not in (None, bytes):
                yield (operation.id, status), "serialization", model
    for status, model in dialect.errors.items():
        if model is not None:
            yield status, "serialization", model


def _can_answer(operation: Operation, status: int) -> bool:
    sends = operation.body is not None or operation.query is not None or operation.creates
    if status in _OF_BODIES:
        return operation.body is not None
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        return sends or "{" in operation.path
    if status == HTTPStatus.FORBIDDEN:
        return operation.scope is not None
    if status == HTTPStatus.NOT_FOUND:
        return operation.body is not None or operation.query is not None or "{" in operation.path
    if status in (HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.CONFLICT):
        return operation.method != "GET"
    return True


def _without_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A query can't say null: what is left out is."""
    found = dict(schema)
    choices = [each for each in found.get("anyOf", ()) if each != {"type": "null"}]
    if len(choices) == 1:
        del found["anyOf"]
        found = {**choices[0], **found}
    elif choices:
        found["anyOf"] = choices
    if found.get("default", "") is None:
        del found["default"]
    return found
