"""The rows of numbers: found, locked, shown.

A number's agent is locked before the number, and the revision is taken last (`batch.publish`), as
every change of the mapping does (`router.storage.batch`): so a route is never published that was
true only before.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, RowMapping, func, select
from sqlalchemy import update as update_rows
from sqlalchemy.ext.asyncio import AsyncConnection

from router.control import audit
from router.control.context import Control
from router.control.model import Actor, Number, checked_json, uuid_of
from router.errors import Conflict, Invalid, NotFound
from router.events.phone import normalise
from router.storage import mapping
from router.storage.schema import agents, connections, numbers, orders
from router.storage.sql import insert as upsert
from router.storage.sql import now_micros
from router.vault import conceal, masked

NOT_AVAILABLE: Final = "number_not_available"
"""`code` of the NotFound of a number that nobody sells, or that another account has."""
HELD: Final = "number_held"
"""`code` of the Conflict of a number that the account has or is buying already."""

NOT_LINKABLE: Final = frozenset(
    {"number_not_found", "number_deleting", "number_corrupted", "number_linked"}
)
"""`code`s of the NotFound or Conflict of a number that can't be linked."""

FREED: Final = 100
"""Numbers that one transaction unlinks: each has its own row in the audit."""

_DETAILS: Final = ("body", "details")
_DIGITS: Final = tuple("123456789")
_KEPT: Final = ("account_id", "number", "fallback", "rev", "created_at")
_SHORT_ID: Final = 18  # digits at most: what a column of 64 bits takes
_decoder: Final = msgspec.json.Decoder(dict[str, Any])

SHOWN: Final = select(
    numbers, agents.c.name.label("agent_name"), agents.c.label.label("agent_label")
).select_from(numbers.outerjoin(agents, numbers.c.agent_id == agents.c.id))
"""What `shown` takes a row of."""


def shown(row: Mapping[Any, Any]) -> Number:
    """A number as answers have it; a row of `SHOWN`."""
    values = {field: row[field] for field in Number.__struct_fields__}
    return Number(**{**values, "details": masked(_decoder.decode(row["details"]))})


def e164(text: str) -> str:
    """A number with or without its `+`, as E.164. Raises ValueError."""
    text = text.strip()
    if text[:1] in _DIGITS:
        text = f"+{text}"
    return normalise(text)


def checked_number(text: str, where: tuple[str | int, ...] = ("body", "phone_number")) -> str:
    """The same. Raises Invalid."""
    try:
        return e164(text)
    except ValueError as error:
        raise Invalid((where, str(error))) from None


async def found(
    connection: AsyncConnection, actor: Actor, key: str, *, lock: bool = False
) -> RowMapping:
    """The row of `SHOWN` of a number of the account: by E.164 number, UUID or short id.

    Raises:
        NotFound: the account has no such number.
    """
    for name in _names(key):
        query = SHOWN.where(numbers.c.account_id == actor.account_id, name)
        if lock:
            query = query.with_for_update(of=numbers)
        row = (await connection.execute(query)).mappings().one_or_none()
        if row is not None:
            return row
    raise missing()


def missing() -> NotFound:
    """There is no such number, or it is another account's."""
    return NotFound("the account has no such phone number", code="number_not_found")


def _names(key: str) -> Iterator[ColumnElement[bool]]:
    """What a key can mean, one after the other: of digits alone, first a number without its +."""
    identifier = uuid_of(key)
    if identifier is not None:
        yield numbers.c.id == identifier
        return
    with suppress(ValueError):
        yield numbers.c.number == e164(key)
    if key.isascii() and key.isdigit() and len(key) <= _SHORT_ID:
        yield numbers.c.short_id == int(key)


def require_active(row: RowMapping) -> None:
    """Raises Conflict: it is being released, or that failed."""
    if row["state"] == "deleting":
        raise Conflict("the phone number is being released", code="number_deleting")
    if row["state"] == "corrupted":
        raise Conflict(
            "the phone number could not be released at its carrier: see to it there, then "
            "release it again or force its deletion",
            code="number_corrupted",
        )


async def require_free(connection: AsyncConnection, actor: Actor, number: str) -> None:
    """Make sure that nobody holds a number, and nobody is about to.

    Raises:
        Conflict: the account does.
        NotFound: another does, which looks as if nobody sold it.
    """
    held = select(numbers.c.account_id, numbers.c.state.label("kind"))
    under_way = select(orders.c.account_id, orders.c.kind)
    for query, table in ((held, numbers), (under_way, orders)):
        row = (await connection.execute(query.where(table.c.number == number))).one_or_none()
        if row is not None:
            raise taken(actor, *row)


def taken(actor: Actor, account_id: str, kind: str) -> Conflict | NotFound:
    """Why an account can't have a number that `account_id` has; `kind`: of its state or order."""
    if account_id != actor.account_id:
        return not_available()
    match kind:
        case "buy":
            why = "is being bought already: look for it in the list of numbers"
        case "release" | "deleting":
            why = "is still being released at its carrier: try again later"
        case _:
            why = "belongs to the account already"
    return Conflict(f"the phone number {why}", code=HELD)


def not_available() -> NotFound:
    """Nobody sells it, or not to this account."""
    return NotFound(
        "the phone number is not available: search again and choose another one",
        code=NOT_AVAILABLE,
    )


async def require_connection(
    connection: AsyncConnection, actor: Actor, connection_id: str | None
) -> None:
    """Make sure that a connection stays until the transaction ends. Raises NotFound: it is gone."""
    if connection_id is None:
        return
    query = select(connections.c.id).where(
        connections.c.account_id == actor.account_id, connections.c.id == connection_id
    )
    query = query.with_for_update(read=True, key_share=True)
    if (await connection.execute(query)).first() is None:
        raise NotFound("the account has no such connection", code="connection_not_found")


async def agent_row(
    connection: AsyncConnection, account_id: str, agent_id: str, *, lock: bool
) -> RowMapping | None:
    """An agent of the account, with `lock` as it stays until the transaction's end; None: no."""
    identifier = uuid_of(agent_id)
    if identifier is None:
        return None
    query = select(agents).where(agents.c.account_id == account_id, agents.c.id == identifier)
    if lock:
        query = query.with_for_update(read=True)
    return (await connection.execute(query)).mappings().one_or_none()


def sealed(
    control: Control,
    owner: str,
    details: Mapping[str, Any],
    stored: Mapping[str, Any] | None = None,
    kept: Mapping[str, Any] | None = None,
) -> str:
    """Details as their column has them, secrets sealed for `owner`. Raises Invalid.

    `stored`: what there was, for secrets that come masked; `kept`: what of it stays as it is.
    """
    checked_json(_DETAILS, details)  # before it is walked
    return checked_json(
        _DETAILS, {**(kept or {}), **conceal(control.vault, owner, details, stored)}
    )


def stored_details(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The details of a row, secrets sealed."""
    return _decoder.decode(row["details"])


def told(row: Mapping[Any, Any]) -> dict[str, Any]:
    """What the audit says of a number."""
    fields: Sequence[str] = ("number", "agent_id", "fallback", "label", "state", "mode")
    return {name: row[name] for name in fields} | {"details": masked(stored_details(row))}


async def write(
    connection: AsyncConnection, actor: Actor, action: str, row: RowMapping, **values: Any
) -> Number:
    """Change a locked row, and leave a row of the audit; the route is the caller's to publish."""
    this = numbers.c.id == row["id"]
    await connection.execute(
        update_rows(numbers).where(this).values(**values, updated_at=now_micros())
    )
    after = (await connection.execute(SHOWN.where(this))).mappings().one()
    await audit.record(connection, actor, action, row["id"], before=told(row), after=told(after))
    return shown(after)


class Assigned(NamedTuple):
    """What `assign` did."""

    number: str | None
    moved: Sequence[str]  # the numbers whose routes change, for `mapping.publish`
    left: bool  # the agent has more that are to be unlinked (`agents.unlink`)


async def assign(
    connection: AsyncConnection, actor: Actor, agent_id: str, key: str | None, *, move: bool
) -> Assigned:
    """Let one number alone lead to an agent whose row is locked; None: none does.

    Raises:
        NotFound: the account has no such number.
        Conflict: it is not active, or leads to another agent and `move` is False.
    """
    number = None if key is None else (await found(connection, actor, key))["number"]
    held = select(numbers.c.number).where(
        numbers.c.agent_id == agent_id, numbers.c.number != (number or "")
    )
    others = await connection.execute(held.order_by(numbers.c.short_id).limit(FREED + 1))
    theirs = others.scalars().all()  # it gets no more of them: its row is locked
    concerned = [*theirs[:FREED], *([] if number is None else [number])]
    query = SHOWN.where(
        numbers.c.account_id == actor.account_id, numbers.c.number.in_(concerned)
    ).order_by(numbers.c.number)  # as all do that lock several
    rows = await connection.execute(query.with_for_update(of=numbers))
    each = {row["number"]: row for row in rows.mappings()}
    if number is not None:
        if number not in each:  # it went away meanwhile
            raise missing()
        require_active(each[number])
        if not move and each[number]["agent_id"] not in (None, agent_id):
            raise linked(each[number])
    moved = []
    for name, row in each.items():
        if name == number and row["agent_id"] != agent_id:
            await write(connection, actor, "number.linked", row, agent_id=agent_id)
        elif name != number and row["agent_id"] == agent_id:
            await write(connection, actor, "number.unlinked", row, agent_id=None)
        else:
            continue
        moved.append(name)
    return Assigned(number, moved, left=len(theirs) > FREED)


def linked(row: RowMapping) -> Conflict:
    """A number leads to an agent, and is not to be moved."""
    return Conflict(
        f"the phone number leads to agent {row['agent_name']!r} already: unlink it first",
        code="number_linked",
    )


async def insert(
    connection: AsyncConnection, actor: Actor, action: str, /, **values: Any
) -> Number:
    """Give an account a number: its row, its route, the audit; its agent is locked.

    A row that the account's mapping file made meanwhile becomes it.

    Raises:
        Conflict, NotFound: somebody was faster.
    """
    row = {
        "account_id": actor.account_id,
        "fallback": "",
        "state": "active",
        "mode": "webhook",
        "rev": 0,
        "created_at": now_micros(),
        "updated_at": now_micros(),
        **values,
    }
    statement = upsert(connection.dialect.name, numbers).values(row)
    new: dict[str, Any] = {name: statement.excluded[name] for name in row if name not in _KEPT}
    new["agent_id"] = func.coalesce(statement.excluded.agent_id, numbers.c.agent_id)
    mine = (numbers.c.account_id == actor.account_id) & (numbers.c.state == "active")
    await connection.execute(
        statement.on_conflict_do_update(index_elements=[numbers.c.number], set_=new, where=mine)
    )
    query = SHOWN.where(numbers.c.number == row["number"])
    stored = (await connection.execute(query)).mappings().one_or_none()
    if stored is None:
        raise not_available()
    if stored["id"] != row["id"]:
        raise taken(actor, stored["account_id"], stored["state"])
    await mapping.publish(connection, actor.account_id, [row["number"]])
    await audit.record(connection, actor, action, row["id"], after=told(stored))
    return shown(stored)
