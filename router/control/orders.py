"""Orders: what is under way at a carrier, each a row that is written before the carrier is asked.

    buy      placed (a slot taken) ──▶ bought at the carrier ──▶ stored: number in, order gone
    release  number `deleting`, no route, slot free ──▶ given back ──▶ number and order gone

The order's id is the tag of its purchase, and becomes the number's id. Whoever works on an order
has until `due_at`, by the database's clock; after that `recover` takes it, which raises `attempt`:
who had it before writes nothing any more under the old one. It asks the carrier what became of the
order before anything else, and never buys:

- The number is there: the purchase is finished.
- The carrier is still at it (Telnyx takes minutes, with documents to be looked at days): the order
  waits, and its slot is taken. The number is in the list from the moment when it works.
- It is not there, and so much time has passed that a request which was lost can't be on its way any
  more (`_FORGOTTEN`): the order is forgotten, its slot free. Whoever wanted it was told an error.

A carrier that is away, or that refuses us for now, is asked again after growing pauses.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import ColumnElement, Row, RowMapping, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from router.backoff import backoff, jitter
from router.control import accounts, audit, connections, number_rows
from router.control.context import Control
from router.control.model import Actor, Number, NumberState
from router.errors import (
    Ambiguous,
    ConfigError,
    Conflict,
    EffectError,
    LimitReached,
    NotFound,
    Permanent,
    StorageUnavailable,
    SwitchboardError,
)
from router.observability import log
from router.provider import Credentials, NotAvailable, NumberInventory, OwnedNumber
from router.storage import batch
from router.storage.schema import numbers, orders
from router.storage.sql import insert as upsert
from router.storage.sql import micros, now_micros

logger = log.get(__name__)

REFUSED: Final = "carrier_refused"
"""`code` of the Conflict of what the carrier refuses for good."""

_WORK: Final = 45.0  # seconds that whoever has an order may spend at the carrier
_LEASE: Final = 60.0  # seconds until somebody else takes it: longer than that
_FORGOTTEN: Final = 180.0  # seconds; beyond every time-out of a carrier, ours to it included
_GIVEN_UP: Final = 30 * 86400.0  # seconds that a carrier may take to deliver what it sold
_SOON: Final = 5.0  # seconds, the shortest pause
_LONGEST: Final = 600.0
_WORKERS: Final = 4  # orders at once: a carrier that hangs must not keep the others waiting
_LOOK: Final = 10.0  # seconds between looks for orders that are due, at most


Kind = Literal["buy", "release"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the number is to become, or was, and who wants it."""

    agent_id: str | None = None
    label: str = ""
    details: Mapping[str, Any] = {}  # secrets sealed, for the order's id
    actor: str = ""
    request_id: str = ""
    number_id: str = ""  # of a release: the number's, and the carrier's own of it
    provider_number_id: str = ""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An order as it was when it was taken."""

    id: str
    account_id: str
    kind: Kind
    number: str
    provider: str
    connection_id: str | None
    request: Request
    attempt: int
    age: int  # µs, by the database's clock

    @property
    def actor(self) -> Actor:
        """In whose name it is carried out."""
        return Actor(
            account_id=self.account_id,
            name=self.request.actor,
            scopes=frozenset(),
            request_id=self.request.request_id,
        )


_FIELDS: Final = (
    *(orders.c[name] for name in Order.__struct_fields__ if name != "age"),
    (now_micros() - orders.c.created_at).label("age"),
)


# --- the carrier


@asynccontextmanager
async def inventory(
    control: Control, provider: str, credentials: Credentials | None
) -> AsyncIterator[NumberInventory]:
    """A connection's numbers at its carrier. Raises NotFound: there is no account there."""
    async with AsyncExitStack() as stack:
        try:
            carrier = await stack.enter_async_context(control.open_inventory(provider, credentials))
        except ConfigError as error:
            raise NotFound(
                f"Switchboard has no account at {provider}: create a connection with your own",
                code="connection_not_found",
            ) from error
        yield carrier


@asynccontextmanager
async def _of(control: Control, order: Order) -> AsyncIterator[NumberInventory]:
    """The inventory that an order is about, for as long as its lease lasts. Raises Ambiguous."""
    timer = asyncio.timeout(_WORK)
    try:
        async with timer:
            credentials = await connections.credentials(
                control, order.actor, order.connection_id, order.provider
            )
            async with inventory(control, order.provider, credentials) as carrier:
                yield carrier
    except TimeoutError as error:
        if not timer.expired():
            raise
        raise Ambiguous(f"{order.provider} did not answer within {_WORK:g} s") from error


def refused(error: Permanent) -> Conflict:
    """What the carrier will never do, for who asked."""
    return Conflict(str(error), code=REFUSED)


# --- buying


def id_for(actor: Actor) -> str:
    """The id of a purchase. A request that is repeated makes no second one: it has the first's."""
    if not actor.request_key:
        return str(uuid.uuid4())
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{actor.account_id}/{actor.request_key}"))


async def repeated(control: Control, actor: Actor) -> Number | None:
    """What this very request has bought, at an earlier try whose answer got lost.

    Raises:
        Ambiguous: the carrier is still at it, or nobody knows yet.
    """
    if not actor.request_key:
        return None
    order_id = id_for(actor)
    bought = (numbers.c.id == order_id) & (numbers.c.account_id == actor.account_id)
    async with control.database.read() as connection:
        under_way = await connection.execute(select(orders.c.id).where(orders.c.id == order_id))
        is_under_way = under_way.first() is not None
        row = (await connection.execute(number_rows.SHOWN.where(bought))).mappings().first()
    if row is not None:
        return number_rows.shown(row)
    if is_under_way:
        raise Ambiguous("what this request has ordered is still under way")
    return None


async def place(
    control: Control,
    actor: Actor,
    *,
    number: str,
    provider: str,
    connection_id: str | None,
    agent_id: str | None,
    label: str,
    details: Mapping[str, Any],
) -> Order:
    """Take a slot of the account's plan for a number that is to be bought.

    Raises:
        LimitReached, Conflict, NotFound: see `numbers.buy`.
    """
    order_id = id_for(actor)
    request = Request(
        agent_id=agent_id,
        label=label,
        details=msgspec.json.decode(number_rows.sealed(control, order_id, details)),
        actor=actor.name,
        request_id=actor.request_id,
    )

    async def work(connection: AsyncConnection) -> Order:
        await number_rows.require_free(connection, actor, number)
        await number_rows.require_connection(connection, actor, connection_id)
        await accounts.require_slot(connection, actor.account_id)
        return await _insert(
            connection, actor, order_id, "buy", number, provider, connection_id, request
        )

    return await control.database.transact(work)


async def _insert(
    connection: AsyncConnection,
    actor: Actor,
    order_id: str,
    kind: Kind,
    number: str,
    provider: str,
    connection_id: str | None,
    request: Request,
) -> Order:
    """Raises Conflict, NotFound: somebody was faster."""
    statement = (
        upsert(connection.dialect.name, orders)
        .values(
            id=order_id,
            account_id=actor.account_id,
            kind=kind,
            number=number,
            provider=provider,
            connection_id=connection_id,
            request=msgspec.json.encode(request).decode(),
            attempt=0,
            due_at=now_micros() + micros(_LEASE),
            created_at=now_micros(),
        )
        .on_conflict_do_nothing()  # of the number, or of a request that was sent twice
        .returning(*_FIELDS)
    )
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        await number_rows.require_free(connection, actor, number)
        raise number_rows.not_available()  # it was there a moment ago
    return _order(row)


async def purchase(control: Control, order: Order) -> Number:
    """Buy what was ordered, and store it. Raises as `numbers.buy`."""
    try:
        async with _of(control, order) as carrier:
            owned = await _bought(carrier, order)
    except NotAvailable as error:
        await _forget(control, order)
        raise number_rows.not_available() from error
    except Permanent as error:
        await _forget(control, order)
        raise refused(error) from error
    except Ambiguous:
        await _postpone(control, order)
        raise
    except SwitchboardError:  # it did not happen
        await _forget(control, order)
        raise
    if not owned.active:
        await _postpone(control, order)
        raise Ambiguous(
            f"{order.provider} has taken the order and is still at it: the number will be in the "
            "list of numbers when it works"
        )
    return await _store(control, order, owned)


async def _bought(carrier: NumberInventory, order: Order) -> OwnedNumber:
    try:
        return await carrier.buy(order.number, tag=order.id)
    except Ambiguous as error:
        try:
            owned = await carrier.find(order.number, tag=order.id)
        except EffectError:
            owned = None
        if owned is None:
            raise
        logger.info("order.found", order=order.id, provider=order.provider, why=str(error))
        return owned


async def _store(control: Control, order: Order, owned: OwnedNumber) -> Number:
    """Make the number of what was bought; once, whoever else does it too.

    Raises:
        NotFound: another account holds it; the order stays.
        LimitReached: the order was forgotten meanwhile, and its slot is another's; the number is
            given back.
    """
    actor = order.actor

    async def work(connection: AsyncConnection) -> Number:
        wanted = order.request.agent_id or ""
        agent = await number_rows.agent_row(connection, order.account_id, wanted, lock=True)
        mine = delete(orders).where(orders.c.id == order.id).returning(orders.c.id)
        if (await connection.execute(mine)).one_or_none() is None:
            done = (numbers.c.id == order.id) & (numbers.c.account_id == order.account_id)
            row = (await connection.execute(number_rows.SHOWN.where(done))).mappings()
            if (found := row.one_or_none()) is not None:
                return number_rows.shown(found)
            await accounts.require_slot(connection, order.account_id)
        return await number_rows.insert(
            connection,
            actor,
            "number.bought",
            id=order.id,
            number=order.number,
            provider=order.provider,
            connection_id=order.connection_id,
            agent_id=None if agent is None else agent["id"],
            label=order.request.label,
            details=msgspec.json.encode(order.request.details).decode(),
            provider_number_id=owned.provider_number_id,
            bought=True,
        )

    try:
        return await control.database.transact(work)
    except LimitReached:
        async with _of(control, order) as carrier:
            await carrier.release(owned)
        raise


async def _forget(control: Control, order: Order) -> None:
    """Drop an order, unless somebody else has it by now."""
    async with control.database.write() as connection:
        await connection.execute(delete(orders).where(_mine(order)))


async def _postpone(control: Control, order: Order) -> None:
    """Let somebody look again after a pause."""
    pause = jitter(max(_SOON, backoff(order.attempt, longest=_LONGEST)))
    due_at = now_micros() + micros(pause)
    async with control.database.write() as connection:
        await connection.execute(update(orders).where(_mine(order)).values(due_at=due_at))


def _mine(order: Order) -> ColumnElement[bool]:
    return (orders.c.id == order.id) & (orders.c.attempt == order.attempt)


# --- releasing


async def begin_release(connection: AsyncConnection, actor: Actor, row: RowMapping) -> Order:
    """The order to give back a number at its carrier; its row is locked."""
    request = Request(
        actor=actor.name,
        request_id=actor.request_id,
        number_id=row["id"],
        provider_number_id=row["provider_number_id"],
    )
    return await _insert(
        connection,
        actor,
        str(uuid.uuid4()),
        "release",
        row["number"],
        row["provider"],
        row["connection_id"],
        request,
    )


async def give_back(control: Control, order: Order) -> NumberState:
    """Give a number back at its carrier. What became of it: `deleting` is to be done later."""
    try:
        async with _of(control, order) as carrier:
            owned = await carrier.find(order.number)
            if owned is not None and _is_the_same(owned, order.request):
                await carrier.release(owned)
    except Permanent as error:
        logger.error(  # noqa: TRY400 - an answer of the carrier's
            "order.refused", order=order.id, provider=order.provider, why=str(error)
        )
        return await _end_release(control, order, "corrupted")
    except StorageUnavailable:
        raise
    except SwitchboardError as error:
        logger.warning("order.waiting", order=order.id, provider=order.provider, why=str(error))
        await _postpone(control, order)
        return "deleting"
    return await _end_release(control, order, "released")


def _is_the_same(owned: OwnedNumber, request: Request) -> bool:
    """Whether it is what we bought: it may be given back already, and bought anew by somebody."""
    return request.number_id == owned.tag or request.provider_number_id == owned.provider_number_id


async def _end_release(control: Control, order: Order, state: NumberState) -> NumberState:
    leaving = (
        (numbers.c.account_id == order.account_id)
        & (numbers.c.number == order.number)
        & (numbers.c.state == "deleting")
    )

    async def work(connection: AsyncConnection) -> None:
        mine = delete(orders).where(_mine(order)).returning(orders.c.id)
        if (await connection.execute(mine)).one_or_none() is None:
            return
        gone = (
            delete(numbers)
            if state == "released"
            else update(numbers).values(state=state, updated_at=now_micros())
        )
        ended = await connection.execute(gone.where(leaving).returning(numbers.c.id))
        number_id = ended.scalar_one_or_none()
        if number_id is not None:
            await connection.execute(batch.NEXT)
            action = "number.released" if state == "released" else "number.corrupted"
            await audit.record(
                connection, order.actor, action, number_id, before={"number": order.number}
            )

    await control.database.transact(work)
    return state


# --- recovering


async def recover(control: Control) -> int:
    """See `numbers.recover`."""
    if not await _is_any_due(control):
        return 0
    done = await asyncio.gather(
        *(_work_off(control) for _ in range(_WORKERS)), return_exceptions=True
    )
    for each in done:
        if isinstance(each, BaseException):
            raise each
    return sum(each for each in done if isinstance(each, int))


async def recover_loop(control: Control) -> None:
    """Recover every few seconds, until cancelled; outages of the database are waited out."""
    while True:
        try:
            await recover(control)
        except StorageUnavailable as error:
            logger.warning("orders.waiting", why=str(error))
        await control.clock.sleep(jitter(_LOOK))


async def _is_any_due(control: Control) -> bool:
    query = select(orders.c.id).where(orders.c.due_at <= now_micros()).limit(1)
    async with control.database.read() as connection:
        return (await connection.execute(query)).first() is not None


async def _work_off(control: Control) -> int:
    finished = 0
    while (order := await _take(control)) is not None:
        work = _finish_purchase if order.kind == "buy" else _finish_release
        finished += await work(control, order)
    return finished


async def _take(control: Control) -> Order | None:
    """The order that is due longest, for a lease; nobody else has it until then."""
    due = (
        select(orders.c.id)
        .where(orders.c.due_at <= now_micros())
        .order_by(orders.c.due_at)
        .limit(1)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    statement = (
        update(orders)
        .where(orders.c.id.in_(select(due.c.id)))
        .values(attempt=orders.c.attempt + 1, due_at=now_micros() + micros(_LEASE))
        .returning(*_FIELDS)
    )
    async with control.database.write() as connection:
        row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _order(row)


async def _finish_release(control: Control, order: Order) -> bool:
    return await give_back(control, order) != "deleting"


async def _finish_purchase(control: Control, order: Order) -> bool:
    """Whether the order is finished, one way or the other."""
    try:
        async with _of(control, order) as carrier:
            owned = await carrier.find(order.number, tag=order.id)
            if owned is not None and owned.active and not owned.ours:
                owned = await carrier.configure(owned)
        if owned is not None and owned.active:
            await _store(control, order, owned)
            logger.info("order.finished", order=order.id, provider=order.provider)
            return True
    except StorageUnavailable:
        raise
    except SwitchboardError as error:
        logger.warning("order.waiting", order=order.id, provider=order.provider, why=str(error))
        await _postpone(control, order)
        return False
    if order.age > micros(_FORGOTTEN if owned is None else _GIVEN_UP):
        logger.warning("order.forgotten", order=order.id, provider=order.provider)
        await _forget(control, order)
        return True
    await _postpone(control, order)
    return False


def _order(row: Row[*tuple[Any, ...]]) -> Order:
    values = row._asdict()
    return Order(**{**values, "request": msgspec.json.decode(row.request, type=Request)})
