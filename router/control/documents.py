"""Prompts, actions, voices, webhooks, vector databases: typed documents that Vocode names by id.

Agents refer to them by id, and their jobs get the bodies: so a change is told to those agents'
routes (`router.control.refresh`).
"""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, RowMapping, func, insert, select
from sqlalchemy import delete as delete_rows
from sqlalchemy import update as update_rows
from sqlalchemy.ext.asyncio import AsyncConnection

from router.control import audit, refresh
from router.control.context import Control
from router.control.model import (
    Actor,
    Change,
    Document,
    DocumentKind,
    Json,
    Page,
    changed,
    checked_json,
    uuid_of,
)
from router.errors import Invalid, NotFound
from router.storage.schema import documents
from router.storage.sql import now_after, now_micros, paged
from router.vault import conceal, masked, reveal

_BODY: Final = ("body",)
_decoder: Final = msgspec.json.Decoder(dict[str, Any])


async def create(
    control: Control, actor: Actor, kind: DocumentKind, body: Mapping[str, Any]
) -> Document:
    """Keep a document; its secrets (`router.vault.conceal` says which) are sealed. Invalid."""
    document_id = str(uuid.uuid4())
    checked_json(_BODY, body)  # before it is walked
    stored = conceal(control.vault, document_id, body)
    of_kind = (documents.c.account_id == actor.account_id) & (documents.c.kind == kind)
    created_at = now_after(documents.c.created_at, of_kind)
    values = {
        "id": document_id,
        "account_id": actor.account_id,
        "kind": kind,
        "body": checked_json(_BODY, stored),
        "created_at": created_at,
        "updated_at": created_at,
    }

    async def work(connection: AsyncConnection) -> Document:
        await connection.execute(insert(documents).values(values))
        row = await _read(connection, actor, kind, document_id)
        await audit.record(connection, actor, f"{kind}.created", document_id, after=_body(row))
        return _document(row)

    return await control.database.transact(work)


async def get(
    control: Control, actor: Actor, kind: DocumentKind, document_id: str, *, secrets: bool = False
) -> Document:
    """By id, its secrets masked, or with `secrets` in the clear.

    Raises:
        NotFound: the account has none of this kind and id.
        Unreadable: its secrets are to be shown, and were sealed with a key that is not here.
    """
    async with control.database.read() as connection:
        row = await _read(connection, actor, kind, document_id)
    if not secrets:
        return _document(row)
    return _document(row, reveal(control.vault, row["id"], _decoder.decode(row["body"])))


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
    theirs = (documents.c.account_id == actor.account_id, documents.c.kind == kind)
    place = (documents.c.created_at, documents.c.id)
    order = [each.desc() if newest_first else each.asc() for each in place]
    page = paged(select(documents.c.id).where(*theirs).order_by(*order), offset, limit)
    items = select(documents).where(documents.c.id.in_(page)).order_by(*order)
    count = select(func.count()).select_from(documents).where(*theirs)
    async with control.database.read() as connection:
        rows = (await connection.execute(items)).mappings().all()
        total = (await connection.execute(count)).scalar_one()
    return Page([_document(row) for row in rows], total)


async def update(
    control: Control, actor: Actor, kind: DocumentKind, document_id: str, body: Json | Change
) -> Document:
    """Replace its body, or change it; a masked secret keeps the stored one.

    Raises:
        NotFound: as `get`.
        Invalid: a masked secret stands where none is stored; or with the document, an agent that
            refers to it has more than a job can take.
    """
    present = await get(control, actor, kind, document_id)
    expected = changed(body, present.body)
    checked_json(_BODY, expected)  # before it is walked
    with _said_of_the_document():
        await refresh.require_room(control, actor, present.id, expected)

    async def work(connection: AsyncConnection) -> tuple[Document, refresh.Refresh]:
        before = await _read(connection, actor, kind, document_id, locked=True)
        stored = _decoder.decode(before["body"])
        wanted = changed(body, masked(stored))
        checked_json(_BODY, wanted)  # before it is walked
        fresh = conceal(control.vault, before["id"], wanted, stored)
        if fresh == stored:
            return _document(before), await refresh.begun(connection, before["id"])
        changing = update_rows(documents).where(documents.c.id == before["id"])
        values = {"body": checked_json(_BODY, fresh), "updated_at": now_micros()}
        await connection.execute(changing.values(values))
        after = await _read(connection, actor, kind, document_id)
        await audit.record(
            connection,
            actor,
            f"{kind}.updated",
            before["id"],
            before=masked(stored),
            after=_body(after),
        )
        with _said_of_the_document():
            return _document(after), await refresh.begin(connection, actor, before["id"])

    document, begun = await control.database.transact(work)
    await refresh.finish(control, actor, document.id, begun)
    return document


async def delete(control: Control, actor: Actor, kind: DocumentKind, document_id: str) -> None:
    """Forget it; jobs of agents that refer to it go without. NotFound."""

    async def work(connection: AsyncConnection) -> tuple[str, refresh.Refresh]:
        before = await _read(connection, actor, kind, document_id, locked=True)
        await connection.execute(delete_rows(documents).where(documents.c.id == before["id"]))
        await audit.record(connection, actor, f"{kind}.deleted", before["id"], before=_body(before))
        with _said_of_the_document():
            return before["id"], await refresh.begin(connection, actor, before["id"])

    gone, begun = await control.database.transact(work)
    await refresh.finish(control, actor, gone, begun)


@contextmanager
def _said_of_the_document() -> Iterator[None]:
    """What is wrong with an agent is said of the document that would make it so."""
    try:
        yield
    except Invalid as error:
        why = "; ".join(words for _, words in error.problems)
        raise Invalid(
            (_BODY, f"an agent refers to it that could get no calls then: {why}")
        ) from None


async def _read(
    connection: AsyncConnection,
    actor: Actor,
    kind: DocumentKind,
    document_id: str,
    *,
    locked: bool = False,
) -> RowMapping:
    query = select(documents).where(_theirs(actor, kind, document_id))
    found = await connection.execute(query.with_for_update() if locked else query)
    row = found.mappings().one_or_none()
    if row is None:
        raise _missing(kind)
    return row


def _theirs(actor: Actor, kind: DocumentKind, document_id: str) -> ColumnElement[bool]:
    found = uuid_of(document_id)
    if found is None:
        raise _missing(kind)
    return (
        (documents.c.id == found)
        & (documents.c.account_id == actor.account_id)
        & (documents.c.kind == kind)
    )


def _missing(kind: DocumentKind) -> NotFound:
    words = kind.replace("_", " ")
    return NotFound(f"the account has no {words} with this id", code=f"{kind}_not_found")


def _body(row: RowMapping) -> dict[str, Any]:
    return masked(_decoder.decode(row["body"]))


def _document(row: RowMapping, body: Mapping[str, Any] | None = None) -> Document:
    known = {name: row[name] for name in Document.__struct_fields__ if name != "body"}
    return Document(**known, body=_body(row) if body is None else body)
