"""Numbers: search, buy, adopt, link, release. One number leads to one agent at most.

The link is the number's: `agent_id` of its row, nothing else. So a dialect whose agents say which
number is theirs (voice.ai's `config.phone_number`) computes that from `agents.numbers_of` when it
answers, and calls `link` when it is given: then a number that was released or linked elsewhere is
nowhere left behind.

A purchase is an order first: a row that is written before the carrier is asked, whose id is the tag
that the purchase bears (`router.control.orders`). So whatever happens between buying and storing,
`recover` finds the number and finishes, or finds that it was not bought and forgets the order.

What a carrier still works at (a number that Telnyx has sold and not yet delivered) is not in the
list and routes nowhere, but has its slot; it is in the list as soon as it works.
"""

import uuid
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, RowMapping, delete, func, select
from sqlalchemy import update as update_rows
from sqlalchemy.ext.asyncio import AsyncConnection

from router.control import accounts, audit, connections, number_rows, orders
from router.control.context import Control
from router.control.model import Actor, Number, NumberMode, Page, checked_label
from router.control.number_rows import HELD, NOT_AVAILABLE, SHOWN, shown
from router.errors import Conflict, Forbidden, Invalid, NotFound, Permanent
from router.events.ids import DEFAULT_ACCOUNT
from router.provider import AvailableNumber, NumberInventory, NumberQuery
from router.storage import batch, mapping
from router.storage.schema import agents, numbers
from router.storage.sql import now_micros, paged

_OFFERS: Final = 5  # numbers that are tried, one after the other, where any will do
_TOTALS: Final = 1000  # lists whose length is kept
_CHAIN: Final = 20  # fallbacks of fallbacks that are looked at


async def search(
    control: Control,
    actor: Actor,
    query: NumberQuery,
    *,
    provider: str,
    connection_id: str | None = None,
    where: tuple[str | int, ...] = ("body",),
) -> Sequence[AvailableNumber]:
    """What can be bought at that connection (see `connections.resolve`).

    `where`: the field to be named if the carrier refuses.

    Raises:
        Invalid: the carrier refuses the query; it says why.
        NotFound, Forbidden: as `connections.resolve`.
        Transient, Ambiguous: the carrier is away.
    """
    credentials = await connections.resolve(
        control, actor, provider=provider, connection_id=connection_id
    )
    async with orders.inventory(control, provider, credentials) as carrier:
        return await _offers(carrier, query, where)


async def _offers(
    carrier: NumberInventory, query: NumberQuery, where: tuple[str | int, ...] = ("body",)
) -> Sequence[AvailableNumber]:
    try:
        return await carrier.search(query)
    except Permanent as error:
        raise Invalid((where, str(error)), code=orders.REFUSED) from error


async def buy(
    control: Control,
    actor: Actor,
    *,
    provider: str,
    number: str | None = None,
    query: NumberQuery | None = None,
    connection_id: str | None = None,
    agent_id: str | None = None,
    label: str = "",
    details: Mapping[str, Any] | None = None,
) -> Number:
    """Buy this number, or the first one that answers `query` and can be had.

    A request that is repeated (`Actor.request_key`) gets what it bought, as long as that is held.

    Raises:
        LimitReached: the plan's numbers are used up.
        NotFound: nobody sells it (or it is another account's, which looks the same), or there is
            no such agent or connection.
        Conflict: the account holds it, or is buying it, already (`number_held`); the carrier
            refuses to sell it (`carrier_refused`; it says why).
        Invalid: it is no phone number.
        Transient: the carrier is away, nothing was bought.
        Ambiguous: nobody knows yet, or the carrier is still at it. If it was bought after all, it
            is in the list soon; until that is known it has its slot.
    """
    wanted = None if number is None else number_rows.checked_number(number)
    label = checked_label(("body", "label"), label)
    if (bought := await repeated(control, actor)) is not None:
        return bought
    credentials = await connections.resolve(
        control, actor, provider=provider, connection_id=connection_id
    )
    if agent_id is not None:
        async with control.database.read() as connection:
            agent_id = (await _agent(connection, actor, agent_id, lock=False))["id"]
    if wanted is not None:
        candidates = [wanted]
    else:
        asked = (query or NumberQuery())._replace(limit=_OFFERS)
        async with orders.inventory(control, provider, credentials) as carrier:
            candidates = [offer.number for offer in await _offers(carrier, asked)]
    for candidate in candidates:
        try:
            order = await orders.place(
                control,
                actor,
                number=candidate,
                provider=provider,
                connection_id=credentials.connection_id if credentials is not None else None,
                agent_id=agent_id,
                label=label,
                details=details or {},
            )
            return await orders.purchase(control, order)
        except (NotFound, Conflict) as error:
            if wanted is not None or error.code not in (NOT_AVAILABLE, HELD):
                raise
    raise NotFound("no such phone number is available: search elsewhere", code=NOT_AVAILABLE)


async def repeated(control: Control, actor: Actor) -> Number | None:
    """What this request bought at an earlier try. Ambiguous: that is still under way."""
    return await orders.repeated(control, actor)


async def adopt(
    control: Control,
    actor: Actor,
    *,
    number: str,
    provider: str,
    connection_id: str | None,
    agent_id: str | None = None,
    label: str = "",
    mode: NumberMode = "webhook",
    details: Mapping[str, Any] | None = None,
) -> Number:
    """Take a number that is at that connection already: set its webhooks, hold it. Takes a slot.

    It is not given back on release: it was not bought by us. In mode `trunk` its webhooks stay as
    they are. What the operator's own account holds is the operator's: only account `default` takes
    it over, whatever a plan allows to be bought there.

    Raises:
        NotFound: the connection does not hold it, or another account does.
        Forbidden: the connection is the operator's.
        LimitReached, Conflict, Invalid, Transient, Ambiguous: as `buy`; it may be asked again.
    """
    wanted = number_rows.checked_number(number)
    label = checked_label(("body", "label"), label)
    credentials = await connections.resolve(
        control, actor, provider=provider, connection_id=connection_id
    )
    if credentials is None and actor.account_id != DEFAULT_ACCOUNT:
        raise Forbidden(
            f"the numbers of this installation's own account at {provider} are the operator's: "
            "name a connection of your own that holds the number",
            code="connection_needed",
        )
    through = None if credentials is None else credentials.connection_id
    number_id = str(uuid.uuid4())
    kept = number_rows.sealed(control, number_id, details or {})

    async def may_have(connection: AsyncConnection) -> str | None:
        agent = None if agent_id is None else await _agent(connection, actor, agent_id)
        await number_rows.require_connection(connection, actor, through)
        await accounts.require_slot(connection, actor.account_id)
        await number_rows.require_free(connection, actor, wanted)
        return None if agent is None else str(agent["id"])

    # First, so that nothing is changed at the carrier for somebody who can't have it.
    await control.database.transact(may_have)
    async with orders.inventory(control, provider, credentials) as carrier:
        try:
            owned = await carrier.find(wanted)
            if owned is not None and mode == "webhook":
                owned = await carrier.configure(owned)
        except Permanent as error:
            raise orders.refused(error) from error
    if owned is None:
        raise NotFound(
            f"that account at {provider} has no such phone number", code="number_not_found"
        )
    at_carrier = owned.provider_number_id

    async def work(connection: AsyncConnection) -> Number:
        linked = await may_have(connection)
        return await number_rows.insert(
            connection,
            actor,
            "number.adopted",
            id=number_id,
            number=wanted,
            provider=provider,
            connection_id=through,
            agent_id=linked,
            label=label,
            mode=mode,
            details=kept,
            provider_number_id=at_carrier,
            bought=False,
        )

    return await control.database.transact(work)


async def get(control: Control, actor: Actor, number: str) -> Number:
    """By E.164 number (with or without `+`), UUID, or short id, in any state. NotFound."""
    async with control.database.read() as connection:
        return shown(await number_rows.found(connection, actor, number))


async def list_(
    control: Control,
    actor: Actor,
    *,
    offset: int = 0,
    limit: int = 50,
    agent_id: str | None = None,
    unlinked: bool = False,
    deleting: bool = False,
    newest_first: bool = False,
) -> Page[Number]:
    """The account's, oldest first; `deleting`: those that are being released too.

    `agent_id`: those that lead to it; `unlinked`: those that lead to nobody.
    """
    wanted = [numbers.c.account_id == actor.account_id]
    if agent_id is not None:  # its numbers are its account's: so the index alone is counted
        own = (agents.c.account_id == actor.account_id, agents.c.id == agent_id)
        wanted = [numbers.c.agent_id == select(agents.c.id).where(*own).scalar_subquery()]
    if unlinked:
        wanted.append(numbers.c.agent_id.is_(None))
    if not deleting:
        wanted.append(numbers.c.state != "deleting")
    order = numbers.c.short_id.desc() if newest_first else numbers.c.short_id
    # The rows before the page are only counted, by the index, and never looked at.
    page = paged(select(numbers.c.short_id).where(*wanted).order_by(order), offset, limit)
    items = SHOWN.where(numbers.c.short_id.in_(page)).order_by(order)
    key = (actor.account_id, agent_id, unlinked, deleting)
    async with control.database.read() as connection:
        rows = (await connection.execute(items)).mappings().all()
        total = await _total(control, connection, key, wanted)
    return Page([shown(row) for row in rows], total)


async def _total(
    control: Control,
    connection: AsyncConnection,
    key: Hashable,
    wanted: Sequence[ColumnElement[bool]],
) -> int:
    """How many there are; of a hundred thousand they are counted once after each change.

    Whatever adds, removes or links a number takes a revision, which is read first: a count that is
    newer than its revision is only made again.
    """
    position = tuple((await connection.execute(batch.POSITION)).one())
    at, total = control.totals.get(key, (None, 0))
    if at == position:
        return total
    query = select(func.count()).select_from(numbers).where(*wanted)
    total = (await connection.execute(query)).scalar_one()
    if len(control.totals) >= _TOTALS:
        control.totals.clear()
    control.totals[key] = (position, total)
    return total


async def link(
    control: Control, actor: Actor, number: str, agent_id: str | None, *, move: bool = True
) -> Number:
    """Let a number lead to an agent, None: to nobody.

    Raises:
        NotFound: no such number or agent.
        Conflict: it leads elsewhere, and `move` is False (`number_linked`); it is being released.
    """

    async def work(connection: AsyncConnection) -> Number:
        agent = None if agent_id is None else await _agent(connection, actor, agent_id)
        target = None if agent is None else agent["id"]
        row = await number_rows.found(connection, actor, number, lock=True)
        number_rows.require_active(row)
        if row["agent_id"] == target:
            return shown(row)
        if row["agent_id"] is not None and target is not None and not move:
            raise number_rows.linked(row)
        action = "number.unlinked" if target is None else "number.linked"
        return await _change(connection, actor, action, row, agent_id=target)

    return await control.database.transact(work)


async def update(
    control: Control,
    actor: Actor,
    number: str,
    *,
    label: str | None = None,
    fallback: str | None = None,
    details: Mapping[str, Any] | None = None,
    agent_id: str | msgspec.UnsetType | None = msgspec.UNSET,
) -> Number:
    """Change what is given; `details` are merged key by key, a value None removes its key.

    `fallback`: who is called when no agent comes, "" for nobody. `agent_id`: as `link`.

    Raises:
        NotFound: no such number or agent.
        Conflict: it is being released.
        Invalid: a label, a fallback, or a secret in `details` can't be right.
    """
    changes: dict[str, Any] = {}
    if label is not None:
        changes["label"] = checked_label(("body", "label"), label)
    if fallback is not None:
        where = ("body", "fallback")
        changes["fallback"] = number_rows.checked_number(fallback, where) if fallback else ""

    async def work(connection: AsyncConnection) -> Number:
        new = dict(changes)
        if not isinstance(agent_id, msgspec.UnsetType):
            agent = None if agent_id is None else await _agent(connection, actor, agent_id)
            new["agent_id"] = None if agent is None else agent["id"]
        row = await number_rows.found(connection, actor, number, lock=True)
        number_rows.require_active(row)
        if details is not None:
            stored = number_rows.stored_details(row)  # what was not given stays sealed as it is
            kept = {name: value for name, value in stored.items() if name not in details}
            given = {name: value for name, value in details.items() if value is not None}
            new["details"] = number_rows.sealed(control, row["id"], given, stored, kept)
        if new.get("fallback"):
            await _require_no_loop(connection, actor, row["number"], new["fallback"])
        new = {name: value for name, value in new.items() if value != row[name]}
        action = "number.updated"
        if list(new) == ["agent_id"]:
            action = "number.unlinked" if new["agent_id"] is None else "number.linked"
        return await _change(connection, actor, action, row, **new)

    return await control.database.transact(work)


async def _change(
    connection: AsyncConnection, actor: Actor, action: str, row: RowMapping, **values: Any
) -> Number:
    """Write, tell the ingress where that changes the route, and leave a row of the audit."""
    if not values:
        return shown(row)
    written = await number_rows.write(connection, actor, action, row, **values)
    if not values.keys().isdisjoint(("agent_id", "fallback")):
        await mapping.publish(connection, actor.account_id, [row["number"]])
    return written


async def _require_no_loop(
    connection: AsyncConnection, actor: Actor, number: str, fallback: str
) -> None:
    """Raises Invalid: the account's fallbacks would lead back to the number."""
    step = fallback
    for _ in range(_CHAIN):
        if step == number:
            raise Invalid((("body", "fallback"), "leads back to the number: a loop"))
        query = select(numbers.c.fallback).where(
            numbers.c.account_id == actor.account_id,
            numbers.c.number == step,
            numbers.c.state == "active",
        )
        step = (await connection.execute(query)).scalar_one_or_none() or ""
        if not step:
            return


async def release(
    control: Control, actor: Actor, number: str, *, from_deployed: bool = True
) -> Number:
    """Route it nowhere and free its slot at once; give it back at the carrier if we bought it.

    The answer's `state` is `released`. Where the carrier is away its release goes on in the
    background (`recover`): `deleting`. Where the carrier refuses for good: `corrupted`; that may be
    released again when the reason is gone. The other fields are as before, without the agent.

    Raises:
        NotFound.
        Conflict: its agent is deployed, and `from_deployed` is False: pause the agent first
            (`agent_deployed`).
    """

    async def begin(connection: AsyncConnection) -> tuple[Number, orders.Order | None]:
        row = await number_rows.found(connection, actor, number, lock=True)
        if row["state"] == "deleting":
            return shown(row), None
        if not from_deployed and await _is_deployed(connection, row["agent_id"]):
            raise Conflict(
                f"the phone number leads to agent {row['agent_name']!r}, which is deployed: pause "
                "the agent first",
                code="agent_deployed",
            )
        before, this = number_rows.told(row), numbers.c.id == row["id"]
        order = None
        if row["bought"]:
            leaving = {"state": "deleting", "agent_id": None, "updated_at": now_micros()}
            await connection.execute(update_rows(numbers).where(this).values(leaving))
            order = await orders.begin_release(connection, actor, row)
            action = "number.releasing"
        else:
            await connection.execute(delete(numbers).where(this))
            action = "number.released"
        await mapping.publish(connection, actor.account_id, [row["number"]])
        await audit.record(connection, actor, action, row["id"], before=before)
        state = "released" if order is None else "deleting"
        return shown(
            {**row, "agent_id": None, "agent_name": None, "agent_label": None, "state": state}
        ), order

    leaving, order = await control.database.transact(begin)
    if order is None:
        return leaving
    return msgspec.structs.replace(leaving, state=await orders.give_back(control, order))


async def force_delete(control: Control, actor: Actor, number: str) -> None:
    """Forget a corrupted number; at its carrier it stays as it is.

    Raises:
        NotFound.
        Conflict: it is not corrupted (`number_not_corrupted`).
    """

    async def work(connection: AsyncConnection) -> None:
        row = await number_rows.found(connection, actor, number, lock=True)
        if row["state"] != "corrupted":
            raise Conflict(
                "only a corrupted phone number is deleted by force: release it instead",
                code="number_not_corrupted",
            )
        await connection.execute(delete(numbers).where(numbers.c.id == row["id"]))
        await connection.execute(batch.NEXT)
        await audit.record(
            connection, actor, "number.forgotten", row["id"], before=number_rows.told(row)
        )

    await control.database.transact(work)


async def recover(control: Control) -> int:
    """Finish the orders that nobody works on any more; how many were finished.

    To be called every few seconds (`orders.recover_loop`), by as many processes as wanted.

    Raises:
        StorageUnavailable: try again.
    """
    return await orders.recover(control)


async def held(control: Control, actor: Actor) -> int:
    """How many of its plan's numbers the account uses: those that it holds, and is buying."""
    async with control.database.read() as connection:
        return await accounts.numbers_held(connection, actor.account_id)


async def _agent(
    connection: AsyncConnection, actor: Actor, agent_id: str, *, lock: bool = True
) -> RowMapping:
    agent = await number_rows.agent_row(connection, actor.account_id, agent_id, lock=lock)
    if agent is None:
        raise NotFound("the account has no such agent", code="agent_not_found")
    return agent


async def _is_deployed(connection: AsyncConnection, agent_id: str | None) -> bool:
    query = select(agents.c.id).where(agents.c.id == agent_id, agents.c.status == "deployed")
    return (await connection.execute(query)).first() is not None
