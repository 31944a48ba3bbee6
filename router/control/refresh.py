"""A document changed: the jobs of the agents that refer to it get it as it is now.

Up to `_AGENTS` agents, and `agents.AT_ONCE` numbers of theirs, change in the document's own
transaction. Of more, the others are changed in further ones before the answer is given, so that
calls are claimed in between. That they are to be changed is written with the document: whatever
ends the process, another one with the role api does the rest (`recover`).
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Select, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from router.control import agents, job_metadata
from router.control.context import Control
from router.control.model import Actor
from router.errors import Invalid
from router.observability import log
from router.storage import mapping
from router.storage.schema import agents as agent_rows
from router.storage.schema import refreshes
from router.storage.sql import insert as upsert
from router.storage.sql import micros, now_micros

logger = log.get(__name__)

_AGENTS: Final = 50  # in one transaction: each has its metadata, its revision, its audit
_LEASE: Final = 60.0  # seconds without a step after which somebody else goes on

_decoder: Final = msgspec.json.Decoder(dict[str, Any])


class Refresh(msgspec.Struct, frozen=True):
    """What the document's own transaction left to be done."""

    untold: Sequence[str] = ()  # ids of agents that have numbers which were not told yet
    last: str | None = None  # the name of the agent that was changed last; None: no other is left
    token: str = ""  # of the row of `refreshes`


async def require_room(
    control: Control, actor: Actor, document_id: str, body: Mapping[str, Any]
) -> None:
    """Before a document gets this body: where its own transaction can't look at all agents.

    Raises:
        Invalid: with it, an agent would have more than a job can take.
    """
    changed = {document_id: msgspec.json.encode(body).decode()}
    last: str | None = ""
    while last is not None:
        async with control.database.read() as connection:
            rows = (await connection.execute(_referring(actor, document_id, last))).all()
            if not last and len(rows) <= _AGENTS:
                return
            for row in rows[:_AGENTS]:
                config = _decoder.decode(row.config)
                if job_metadata.is_made(row.metadata, config):
                    found = await job_metadata.made(
                        connection, actor, config, locked=False, changed=changed
                    )
                    job_metadata.checked(found)
        last = rows[_AGENTS - 1].name if len(rows) > _AGENTS else None


async def begin(connection: AsyncConnection, actor: Actor, document_id: str) -> Refresh:
    """In the transaction that changes the document; `finish` is for what it returns.

    Raises:
        Invalid: with the document, an agent has more than a job can take.
    """
    done = await _some(connection, actor, document_id, "", strict=True)
    if done.last is None:
        return done
    token = str(uuid.uuid4())
    values = {"token": token, "due_at": now_micros() + micros(_LEASE)}
    statement = upsert(connection.dialect.name, refreshes).values(
        document_id=document_id, account_id=actor.account_id, **values
    )
    await connection.execute(
        statement.on_conflict_do_update(index_elements=[refreshes.c.document_id], set_=values)
    )
    return msgspec.structs.replace(done, token=token)


async def begun(connection: AsyncConnection, document_id: str) -> Refresh:
    """What is left of a change that was made before: for who asks for it once more."""
    query = select(refreshes.c.token).where(refreshes.c.document_id == document_id)
    token = (await connection.execute(query)).scalar_one_or_none()
    return Refresh() if token is None else Refresh(last="", token=token)


async def finish(control: Control, actor: Actor, document_id: str, begun: Refresh) -> None:
    """Change the agents that are left, and tell their numbers."""
    step = begun
    while True:
        for agent_id in step.untold:
            await mapping.tell(control.database, actor.account_id, agent_id)
        if step.last is None:
            break
        step = await _next(control, actor, document_id, step.last)
    if begun.token:  # a change that came meanwhile has another one, and is not done
        done = delete(refreshes).where(refreshes.c.document_id == document_id)
        async with control.database.write() as connection:
            await connection.execute(done.where(refreshes.c.token == begun.token))


async def recover(control: Control) -> int:
    """Do what is left of refreshes that nobody works at any more; how many.

    Raises:
        StorageUnavailable: try again.
    """
    done = 0
    while (row := await _take(control)) is not None:
        document_id, account_id, token = row
        actor = Actor(account_id=account_id, name="refresh")
        await finish(control, actor, document_id, Refresh(last="", token=token))
        logger.info("refresh.finished", document=document_id)
        done += 1
    return done


async def _take(control: Control) -> tuple[str, str, str] | None:
    """The document, its account and the token of a change that nobody works at, for a lease."""
    due = select(refreshes.c.document_id).where(refreshes.c.due_at <= now_micros()).limit(1)
    async with control.database.read() as connection:
        if (await connection.execute(due)).first() is None:
            return None
    first = due.with_for_update(skip_locked=True).scalar_subquery()
    statement = (
        update(refreshes)
        .where(refreshes.c.document_id == first)
        .values(due_at=now_micros() + micros(_LEASE))
        .returning(refreshes.c.document_id, refreshes.c.account_id, refreshes.c.token)
    )
    async with control.database.write() as connection:
        row = (await connection.execute(statement)).one_or_none()
        return None if row is None else (row[0], row[1], row[2])


async def _next(control: Control, actor: Actor, document_id: str, last: str) -> Refresh:
    """One transaction more."""
    leased = update(refreshes).where(refreshes.c.document_id == document_id)
    leased = leased.values(due_at=now_micros() + micros(_LEASE))

    async def work(connection: AsyncConnection) -> Refresh:
        step = await _some(connection, actor, document_id, last, strict=False)
        await connection.execute(leased)
        return step

    return await control.database.transact(work)


async def _some(
    connection: AsyncConnection, actor: Actor, document_id: str, last: str, *, strict: bool
) -> Refresh:
    """Change the agents behind the name `last`; not `strict`: but for one that has no room."""
    query = _referring(actor, document_id, last).with_for_update()
    rows = (await connection.execute(query)).mappings().all()
    untold: list[str] = []
    room = agents.AT_ONCE
    for row in rows[:_AGENTS]:
        config = _decoder.decode(row["config"])
        if not job_metadata.is_made(row["metadata"], config):
            continue
        try:
            metadata = await job_metadata.remade(connection, actor, config)
        except Invalid as error:
            if strict:
                raise
            logger.warning("refresh.no_room", agent=row["id"], document=document_id, why=str(error))
            continue
        new = {"metadata": metadata}
        changed = await agents.change(connection, actor, "agent.refreshed", row, new, room=room)
        room -= changed.told
        untold += [row["id"]] if changed.left else []
    return Refresh(untold, rows[_AGENTS - 1]["name"] if len(rows) > _AGENTS else None)


def _referring(actor: Actor, document_id: str, last: str) -> Select[Any]:
    """Agents behind the name `last` whose config has the document's id: one more than are taken."""
    theirs = (agent_rows.c.account_id == actor.account_id, agent_rows.c.name > last)
    query = select(agent_rows).where(*theirs, agent_rows.c.config.contains(document_id))
    return query.order_by(agent_rows.c.name).limit(_AGENTS + 1)
