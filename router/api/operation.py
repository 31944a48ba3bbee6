"""What a dialect is made of: operations, each with the models that validate and document it.

A dialect translates only: request → a call of `router.control` → the dialect's shape. The server
(`router.api.app`) does the rest for all of them, in this order: who asks (401), how often (429),
may they (403), the body's size and JSON, its models (422), Idempotency-Key, the handler, errors in
the dialect's shape.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import BaseModel

from router.control.context import Control
from router.control.model import Actor, Scope
from router.errors import RequestError

NOBODY: Final = Actor(account_id="", name="nobody", scopes=frozenset())
"""Who asks by an open operation, until its handler knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequest:
    """A request whose sender may ask for it, and that its models found right."""

    control: Control
    actor: Actor  # of an open operation NOBODY
    path: Mapping[str, str] = field(default_factory=dict)
    query: Any = None  # an instance of `Operation.query`
    body: Any = None  # an instance of `Operation.body`; None where none was sent and none is needed
    sent: Any = None  # the body's JSON as it was sent: what is absent, null or {}
    headers: Mapping[str, str] = field(default_factory=dict)  # case-insensitive


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the client gets. `body`: a model (dumped `by_alias`), plain JSON values, or bytes."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


Handler = Callable[[ApiRequest], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path. `path` is absolute, its variables in braces."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    id: str  # operationId, unique in its dialect
    summary: str
    tag: str
    handle: Handler
    scope: Scope | None  # None: any valid token
    query: type[BaseModel] | None = None  # unknown parameters are ignored
    body: type[BaseModel] | None = None  # a RootModel where it is no object
    body_required: bool = True
    answers: Mapping[int, Any]  # status → model (type) of its body, None: no body; successes first
    creates: bool = False  # takes an Idempotency-Key
    open: bool = False  # asks for no token: the request itself proves that it may (a signed link)
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One shape of the control API. `router/api/<name>/__init__.py` exports one as `DIALECT`."""

    name: str
    base: str  # "/api/v1": unknown paths below it are answered in its shape, too
    title: str
    version: str
    description: str
    operations: Sequence[Operation]
    refuse: Callable[[RequestError], Answer]
    """The dialect's answer to an error; also to those of the server (401, 404, 405, 413, 429 …).

    Whatever else is raised becomes a RequestError before (`router.api.app`); `error.status` is the
    status that it has unless the dialect documents another. The server adds the headers that go
    with it: Allow, Retry-After, WWW-Authenticate.
    """
    errors: Mapping[int, Any]  # status → model, documented with every operation that can answer it
