"""Agents: what answers. What its numbers must be told of a change is in their routes at once.

An agent has two documents. `config` is the dialect's own, kept as it was sent, its secrets sealed.
`metadata` is what its jobs get: what the dialect gives, or what is made from the config
(`router.control.job_metadata`).

Up to `AT_ONCE` numbers are told in the agent's own transaction. Of more, the others are told in
further ones before the answer is given, so that calls are claimed in between; until then the agent
is ahead of them, and whatever ended the process, the role relay tells the rest
(`router.numbers.publish`).
"""

import re
import secrets
import unicodedata
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, RowMapping, func, select
from sqlalchemy import delete as delete_rows
from sqlalchemy import update as update_rows
from sqlalchemy.ext.asyncio import AsyncConnection

from router.control import audit, job_metadata, number_rows
from router.control.context import Control
from router.control.model import (
    Actor,
    Agent,
    Change,
    Json,
    Number,
    Origin,
    Page,
    changed,
    checked_json,
    checked_label,
    uuid_of,
)
from router.errors import Conflict, Invalid, NotFound
from router.routing.spec import AgentStatus
from router.storage import mapping
from router.storage.schema import accounts, agents, numbers
from router.storage.sql import insert as upsert
from router.storage.sql import now_after, now_micros, paged, unindexed
from router.vault import conceal, masked, reveal

_CONFIG: Final = ("body", "config")
_LONGEST_NAME: Final = 60  # characters, before what makes it unique
_SUFFIXES: Final = 20  # -2 to -20; behind that chance makes a name unique
_TRIES: Final = 5
_NAMED: Final = 10  # numbers that an error names
AT_ONCE: Final = 250  # numbers whose routes change in one transaction, some 20 ms
_decoder: Final = msgspec.json.Decoder(dict[str, Any])


class Changed(NamedTuple):
    """What became of a change of an agent."""

    agent: Agent
    told: int  # numbers
    left: bool  # others may be left that were not told: `mapping.tell` is to follow


async def create(
    control: Control,
    actor: Actor,
    *,
    label: str,
    origin: Origin,
    config: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    livekit_agent_name: str = "",
    status: AgentStatus = "deployed",
    exact_name: bool = False,
    number: str | None = None,
    move: bool = True,
) -> Agent:
    """Make an agent, and let `number` lead to it (`move`: as `numbers.link`), all or nothing.

    Its name is made from `label`, unique in the account (`-2`, `-3` … behind it); with `exact_name`
    a name that is taken is a Conflict. Without `livekit_agent_name` the account's worker serves it,
    else a worker of the agent's own name. `config` is kept as it is, its secrets sealed;
    `metadata` is given to its jobs (without it: see the module), as it is, so no secrets in it.

    Raises:
        Invalid: too large for a job (METADATA_LIMIT), or a name can't be made.
        Conflict: the exact name is taken (`agent_name_taken`); the number can't be linked.
        NotFound: the account has no such number.
    """
    label = checked_label(("body", "name"), label)
    if exact_name and not label:
        raise Invalid((("body", "name"), "must not be empty"))
    worker = checked_label(("body", "livekit_agent_name"), livekit_agent_name)
    agent_id = str(uuid.uuid4())
    checked_json(_CONFIG, config)  # before it is walked
    stored = conceal(control.vault, agent_id, config)

    async def work(connection: AsyncConnection) -> Agent:
        default = worker or await _worker(connection, actor)
        created_at = now_after(agents.c.created_at, agents.c.account_id == actor.account_id)
        given = metadata
        if given is None:
            given = await job_metadata.made(connection, actor, stored)
        row = {
            "id": agent_id,
            "account_id": actor.account_id,
            "label": label,
            "metadata": _json(job_metadata.checked(given)),
            "status": status,
            "origin": origin,
            "config": _json(stored),
            "rev": 0,  # nobody leads to it
            "created_at": created_at,
            "updated_at": created_at,
        }
        names = [label] if exact_name else await _names(connection, actor, label)
        for name in names:
            new = {**row, "name": name, "livekit_agent_name": default or name}
            statement = upsert(connection.dialect.name, agents).values(new)
            made = await connection.execute(
                statement.on_conflict_do_nothing(
                    index_elements=[agents.c.account_id, agents.c.name]
                ).returning(agents)
            )
            if (found := made.mappings().one_or_none()) is not None:
                await audit.record(connection, actor, "agent.created", agent_id, after=_told(found))
                if number is not None:
                    linked = await number_rows.assign(
                        connection, actor, agent_id, number, move=move
                    )
                    await mapping.publish(connection, actor.account_id, linked.moved)
                return _agent(found)
        raise Conflict(
            f"the account has an agent {label!r} already: choose another name",
            code="agent_name_taken",
        )

    return await control.database.transact(work)


async def get(control: Control, actor: Actor, agent_id: str, *, secrets: bool = False) -> Agent:
    """By id. NotFound. `secrets`: with the real secrets in `config`, for who merges an update."""
    async with control.database.read() as connection:
        row = await _row(connection, actor, agent_id)
    agent = _agent(row)
    if not secrets:
        return agent
    config = reveal(control.vault, agent.id, _decoder.decode(row["config"]))
    return msgspec.structs.replace(agent, config=config)


async def find(control: Control, actor: Actor, name: str) -> Agent:
    """By name. NotFound."""
    query = select(agents).where(agents.c.account_id == actor.account_id, agents.c.name == name)
    async with control.database.read() as connection:
        row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise _missing()
    return _agent(row)


async def list_(
    control: Control,
    actor: Actor,
    *,
    offset: int = 0,
    limit: int = 50,
    statuses: tuple[AgentStatus, ...] = ("deployed", "paused"),
    newest_first: bool = False,
) -> Page[Agent]:
    """The account's, oldest first."""
    wanted = (agents.c.account_id == actor.account_id, agents.c.status.in_(statuses))
    order: list[ColumnElement[Any]] = [agents.c.created_at, agents.c.id]
    if newest_first:
        order = [column.desc() for column in order]
    page = paged(select(agents.c.id).where(*wanted).order_by(*order), offset, limit)
    items = select(agents).where(agents.c.id.in_(page)).order_by(*order)
    total = select(func.count()).select_from(agents).where(*wanted)
    async with control.database.read() as connection:
        rows = (await connection.execute(items)).mappings().all()
        count = (await connection.execute(total)).scalar_one()
    return Page([_agent(row) for row in rows], count)


async def update(
    control: Control,
    actor: Actor,
    agent_id: str,
    *,
    config: Json | Change | None = None,
    metadata: Mapping[str, Any] | None = None,
    label: str | None = None,
    livekit_agent_name: str | None = None,
    status: AgentStatus | None = None,
    number: str | msgspec.UnsetType | None = msgspec.UNSET,
    move: bool = True,
) -> Agent:
    """Change what is given, all or nothing; a masked secret in `config` keeps the stored one.

    `config` is the whole one, or what makes it from the present one. `livekit_agent_name` "": the
    account's worker, else the agent's own name. The name stays, whatever the label becomes.
    `number` alone leads to the agent from then on, None: no number does (`move`: as
    `numbers.link`). Of more than `number_rows.FREED` others the rest is unlinked in further
    transactions; asked again, it does what is left.

    Raises:
        NotFound: no such agent or number.
        Conflict: the number can't be linked.
        Invalid.
    """
    changes = _given(label=label, status=status, metadata=metadata)
    worker = None
    if livekit_agent_name is not None:
        worker = checked_label(("body", "livekit_agent_name"), livekit_agent_name)

    async def work(connection: AsyncConnection) -> tuple[Changed, number_rows.Assigned | None]:
        row = await _row(connection, actor, agent_id, lock=True)
        new = dict(changes)
        if worker is not None:
            new["livekit_agent_name"] = worker or await _worker(connection, actor) or row["name"]
        if config is not None:
            before = _decoder.decode(row["config"])
            wanted = changed(config, masked(before))
            checked_json(_CONFIG, wanted)  # before it is walked
            after = conceal(control.vault, row["id"], wanted, before)
            new["config"] = _json(after)
            if metadata is None and job_metadata.is_made(row["metadata"], before):
                new["metadata"] = await job_metadata.remade(connection, actor, after)
        if isinstance(number, msgspec.UnsetType):
            return await change(connection, actor, "agent.updated", row, new), None
        given = await number_rows.assign(connection, actor, row["id"], number, move=move)
        room = 0 if given.left else AT_ONCE  # most of what it has yet is unlinked next: untold
        done = await change(
            connection, actor, "agent.updated", row, new, room=room, moved=given.moved
        )
        return done, given

    done, given = await control.database.transact(work)
    if given is not None and given.left:
        await unlink(control, actor, agent_id, but_for=given.number)
    if done.left:
        await mapping.tell(control.database, actor.account_id, done.agent.id)
    return done.agent


def _given(
    *, label: str | None, status: AgentStatus | None, metadata: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The columns of what is given. Raises Invalid."""
    given: dict[str, Any] = {}
    if label is not None:
        given["label"] = checked_label(("body", "name"), label)
    if status is not None:
        given["status"] = status
    if metadata is not None:
        given["metadata"] = _json(job_metadata.checked(metadata))
    return given


async def delete(control: Control, actor: Actor, agent_id: str) -> None:
    """Remove it. NotFound. Conflict: it has numbers; the message names them (`agent_in_use`)."""

    async def work(connection: AsyncConnection) -> None:
        row = await _row(connection, actor, agent_id, lock=True)
        query = select(numbers.c.number).where(numbers.c.agent_id == row["id"])
        query = query.order_by(numbers.c.short_id).limit(_NAMED + 1)
        used = (await connection.execute(query)).scalars().all()
        if used:
            more = " and more" if len(used) > _NAMED else ""
            raise Conflict(
                f"the agent has the phone numbers {', '.join(used[:_NAMED])}{more}: unlink or "
                "release them first",
                code="agent_in_use",
            )
        await connection.execute(delete_rows(agents).where(agents.c.id == row["id"]))
        await audit.record(connection, actor, "agent.deleted", row["id"], before=_told(row))

    await control.database.transact(work)


async def numbers_of(control: Control, actor: Actor, agent_id: str) -> list[Number]:
    """The numbers that lead to it, oldest first; none where there is no such agent."""
    identifier = uuid_of(agent_id)
    query = number_rows.SHOWN.where(
        numbers.c.account_id == actor.account_id, numbers.c.agent_id == identifier
    )
    async with control.database.read() as connection:
        rows = (await connection.execute(query.order_by(numbers.c.short_id))).mappings()
        return [number_rows.shown(row) for row in rows]


async def numbers_of_each(
    control: Control, actor: Actor, agent_ids: Collection[str], *, first: bool = False
) -> Mapping[str, Sequence[Number]]:
    """The same of some agents (a page of them); one that has none is not in it.

    `first`: the oldest of each alone, however many there are.
    """
    query = number_rows.SHOWN.where(unindexed(numbers.c.account_id) == actor.account_id)
    if first:  # one look at the index for each agent, however many numbers it has
        oldest = select(func.min(numbers.c.short_id)).where(numbers.c.agent_id == agents.c.id)
        each = select(oldest.correlate(agents).scalar_subquery()).where(agents.c.id.in_(agent_ids))
        query = query.where(numbers.c.short_id.in_(each))
    else:
        query = query.where(numbers.c.agent_id.in_(agent_ids))
    found: dict[str, list[Number]] = {}
    async with control.database.read() as connection:
        for row in (await connection.execute(query.order_by(numbers.c.short_id))).mappings():
            found.setdefault(row["agent_id"], []).append(number_rows.shown(row))
    return found


async def unlink(
    control: Control, actor: Actor, agent_id: str, *, but_for: str | None = None
) -> list[str]:
    """Let none of its numbers lead to it any more, but for the E.164 number `but_for`; which ones.

    Part by part, so that calls are claimed in between; asked again, it does what is left.
    """
    mine = (numbers.c.account_id == actor.account_id, numbers.c.agent_id == uuid_of(agent_id))
    some = select(numbers.c.short_id).where(*mine, numbers.c.number != (but_for or ""))
    some = some.order_by(numbers.c.short_id).limit(number_rows.FREED)

    async def work(connection: AsyncConnection) -> list[str]:
        query = number_rows.SHOWN.where(*mine, numbers.c.short_id.in_(some))
        query = query.order_by(numbers.c.number).with_for_update(of=numbers)
        rows = (await connection.execute(query)).mappings().all()
        keys = [row["number"] for row in rows]
        if not keys:
            return keys
        these = update_rows(numbers).where(numbers.c.number.in_(keys))
        await connection.execute(these.values(agent_id=None, updated_at=now_micros()))
        await mapping.publish(connection, actor.account_id, keys)
        for row in rows:
            before, after = number_rows.told(row), number_rows.told({**row, "agent_id": None})
            action = "number.unlinked"
            await audit.record(connection, actor, action, row["id"], before=before, after=after)
        return keys

    freed: list[str] = []
    while part := await control.database.transact(work):
        freed += part
    return freed


async def change(
    connection: AsyncConnection,
    actor: Actor,
    action: str,
    row: RowMapping,
    new: Mapping[str, Any],
    *,
    room: int = AT_ONCE,
    moved: Sequence[str] = (),
) -> Changed:
    """Write what differs in the row of an agent, which is locked, and tell `room` of its numbers.

    `moved`: numbers whose routes change in any case; they are told too.

    Where nothing differs, numbers may be left all the same, of a change that is not yet done: who
    asks for it once more gets the answer when all are told.
    """
    new = {name: value for name, value in new.items() if value != row[name]}
    this, after = agents.c.id == row["id"], row
    if new:
        statement = update_rows(agents).where(this).values(**new, updated_at=now_micros())
        await connection.execute(statement)
        after = (await connection.execute(select(agents).where(this))).mappings().one()
        before, now = _told(row), _told(after)
        await audit.record(connection, actor, action, row["id"], before=before, after=now)
    theirs: Sequence[str] = ()
    if _leads(row) != _leads(after):
        query = select(numbers.c.number).where(numbers.c.agent_id == row["id"])
        query = query.order_by(numbers.c.short_id).limit(room + 1)
        theirs = (await connection.execute(query)).scalars().all()
    left = len(theirs) > room or (not new and row["rev"] > 0)
    if not theirs and not moved:
        return Changed(_agent(after), 0, left=left)
    these = numbers.c.number.in_(theirs[:room])
    locking = select(numbers.c.number).where(these).order_by(numbers.c.number).with_for_update()
    locked = (await connection.execute(locking)).scalars().all()
    keys = list(dict.fromkeys((*moved, *locked)))
    rev = await mapping.publish(connection, actor.account_id, keys)
    if theirs:
        await connection.execute(update_rows(agents).where(this).values(rev=rev))
    return Changed(_agent(after), len(keys), left=left)


def _leads(row: RowMapping) -> object:
    """What of an agent is in the routes of its numbers; None: it gets no calls."""
    if row["status"] != "deployed":
        return None
    return row["livekit_agent_name"], row["metadata"]


# --- names


def _slug(label: str) -> str:
    """`Dr. Müller's Büro` → `dr-mullers-buro`; `agent` where nothing is left."""
    plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
    slug = re.sub("[^a-z0-9]+", "-", plain.replace("'", "")).strip("-")
    return slug[:_LONGEST_NAME].strip("-") or "agent"


def _numbered(slug: str) -> list[str]:
    return [slug, *(f"{slug}-{count}" for count in range(2, _SUFFIXES + 1))]


async def _names(connection: AsyncConnection, actor: Actor, label: str) -> list[str]:
    """Names to try, one after the other: somebody else may take one at the same moment."""
    slug = _slug(label)
    numbered = _numbered(slug)
    query = select(agents.c.name).where(
        agents.c.account_id == actor.account_id, agents.c.name.in_(numbered)
    )
    taken = set((await connection.execute(query)).scalars())
    free = [name for name in numbered if name not in taken]
    return free[:_TRIES] + [f"{slug}-{secrets.token_hex(4)}" for _ in range(_TRIES)]


async def _worker(connection: AsyncConnection, actor: Actor) -> str:
    query = select(accounts.c.worker).where(accounts.c.id == actor.account_id)
    return str((await connection.execute(query)).scalar_one_or_none() or "")


# --- rows


async def _row(
    connection: AsyncConnection, actor: Actor, agent_id: str, *, lock: bool = False
) -> RowMapping:
    identifier = uuid_of(agent_id)
    if identifier is None:
        raise _missing()
    mine = (agents.c.account_id == actor.account_id, agents.c.id == identifier)
    query = select(agents).where(*mine)
    if lock:
        query = query.with_for_update()
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise _missing()
    return row


def _missing() -> NotFound:
    return NotFound("the account has no such agent", code="agent_not_found")


def _agent(row: RowMapping) -> Agent:
    values = {field: row[field] for field in Agent.__struct_fields__}
    values["metadata"] = _decoder.decode(row["metadata"])
    values["config"] = masked(_decoder.decode(row["config"]))
    return Agent(**values)


def _told(row: RowMapping) -> dict[str, Any]:
    """What the audit says of an agent."""
    agent = _agent(row)
    return {
        "name": agent.name,
        "label": agent.label,
        "livekit_agent_name": agent.livekit_agent_name,
        "status": agent.status,
        "config": agent.config,
    }


def _json(document: Mapping[str, Any]) -> str:
    return msgspec.json.encode(document).decode()
