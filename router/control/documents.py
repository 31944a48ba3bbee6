"""Prompts, actions, voices, webhooks, vector databases: typed documents that Vocode names by id."""

from collections.abc import Mapping
from typing import Any

from router.control.context import Control
from router.control.model import Actor, Document, DocumentKind, Page


async def create(
    control: Control, actor: Actor, kind: DocumentKind, body: Mapping[str, Any]
) -> Document:
    """Keep a document; its secrets (`api_key`, `…_secret`, `…_token`, `credentials`) are sealed."""
    raise NotImplementedError


async def get(
    control: Control, actor: Actor, kind: DocumentKind, document_id: str, *, secrets: bool = False
) -> Document:
    """NotFound."""
    raise NotImplementedError


async def list_(
    control: Control,
    actor: Actor,
    kind: DocumentKind,
    *,
    offset: int = 0,
    limit: int = 50,
    newest_first: bool = False,
) -> Page[Document]:
    """The account's of that kind, oldest first."""
    raise NotImplementedError


async def update(
    control: Control, actor: Actor, kind: DocumentKind, document_id: str, body: Mapping[str, Any]
) -> Document:
    """Replace its body (the caller has merged); a masked secret keeps the stored one."""
    raise NotImplementedError


async def delete(control: Control, actor: Actor, kind: DocumentKind, document_id: str) -> None:
    """NotFound."""
    raise NotImplementedError
