"""Accounts and their plans."""

import re
import uuid
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, RowMapping, func, insert, select
from sqlalchemy import update as update_rows
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from router.control import audit
from router.control.context import Control
from router.control.model import Account, Actor, Page, Plan, checked_label, uuid_of
from router.errors import Conflict, Forbidden, Invalid, LimitReached, NotFound
from router.events.ids import DEFAULT_ACCOUNT
from router.storage.schema import accounts, numbers, orders
from router.storage.sql import now_micros, paged

NUMBER_LIMIT_REACHED: Final = "phone_number_limit_reached"
"""`code` of the LimitReached of `require_slot`."""

_NAME: Final = re.compile("[a-z0-9][a-z0-9_-]{0,63}")
_NAME_RULE: Final = (
    "1 to 64 lower-case letters, digits, - and _, of which the first is a letter or a digit; "
    "and not the form of an id"
)
_MOST: Final = 2**31 - 1  # of a limit: what its column takes
_LIMITS: Final = ("numbers", "calls", "minutes")


async def create(
    control: Control, actor: Actor, *, name: str, plan: Plan, worker: str = ""
) -> Account:
    """Make an account, for scope `admin` alone.

    Raises:
        Conflict: the name is taken.
        Invalid: the name, a limit or the worker is wrong.
    """
    _require_admin(actor)
    account_id = str(uuid.uuid4())
    values = _checked(name=name, plan=plan, worker=worker)

    async def work(connection: AsyncConnection) -> Account:
        await _write(
            connection,
            insert(accounts).values(
                id=account_id, **values, created_at=now_micros(), updated_at=now_micros()
            ),
            name,
        )
        account = await _read(connection, accounts.c.id == account_id)
        await _record(connection, actor, "account.created", None, account)
        return account

    return await control.database.transact(work)


async def get(control: Control, actor: Actor, account: str) -> Account:
    """By id or name. NotFound: there is none, or it is another's than the actor may see."""
    async with control.database.read() as connection:
        return await _read(connection, _seen(actor, account), named=account)


async def own(control: Control, actor: Actor) -> Account:
    """The actor's account."""
    async with control.database.read() as connection:
        return await _read(connection, accounts.c.id == actor.account_id)


async def list_(
    control: Control, actor: Actor, *, offset: int = 0, limit: int = 50
) -> Page[Account]:
    """All accounts, by name. For scope `admin` alone."""
    _require_admin(actor)
    page = paged(select(accounts).order_by(accounts.c.name), offset, limit)
    async with control.database.read() as connection:
        rows = (await connection.execute(page)).mappings().all()
        total = await connection.execute(select(func.count()).select_from(accounts))
        return Page([_account(row) for row in rows], total.scalar_one())


async def update(
    control: Control,
    actor: Actor,
    account: str,
    *,
    plan: Plan | None = None,
    worker: str | None = None,
    name: str | None = None,
) -> Account:
    """Change what is given, for scope `admin` alone. What the account holds above a limit stays.

    Raises:
        NotFound: no such account.
        Conflict: the name is taken, or the account is `default`, which keeps its name.
        Invalid: as `create`.
    """
    _require_admin(actor)
    values = _checked(name=name, plan=plan, worker=worker)

    async def work(connection: AsyncConnection) -> Account:
        before = await _read(connection, _seen(actor, account), named=account, locked=True)
        if before.id == DEFAULT_ACCOUNT and name not in (None, before.name):
            raise Conflict("the account default keeps its name: make another account instead")
        changes = {key: value for key, value in values.items() if value != _values(before)[key]}
        if not changes:
            return before
        statement = update_rows(accounts).where(accounts.c.id == before.id)
        await _write(
            connection, statement.values(**changes, updated_at=now_micros()), name or before.name
        )
        after = await _read(connection, accounts.c.id == before.id)
        await _record(connection, actor, "account.updated", before, after)
        return after

    return await control.database.transact(work)


async def require_slot(connection: AsyncConnection, account_id: str) -> Account:
    """Make sure that the account's plan has room for one more number, until the transaction ends.

    The account's row is locked: of two who take the last slot at once, the second waits and then
    finds none. Whoever calls it writes the order or the number in the same transaction, before
    anything that other writers wait for.

    Raises:
        LimitReached: says how many of how many; its code is NUMBER_LIMIT_REACHED.
        NotFound: no such account.
    """
    account = await _read(connection, accounts.c.id == account_id, locked=True)
    limit = account.plan.numbers
    if limit is not None and await numbers_held(connection, account_id, most=limit) >= limit:
        held = await numbers_held(connection, account_id)
        raise LimitReached(
            f"{held} of the {limit} phone numbers of the account's plan are in use: upgrade the "
            "plan, or release a number",
            code=NUMBER_LIMIT_REACHED,
        )
    return account


async def numbers_held(
    connection: AsyncConnection, account_id: str, *, most: int | None = None
) -> int:
    """How many slots the account uses: its numbers, and what it buys.

    Not those that are being released, nor those (corrupted) whose release the carrier refused:
    their slot was freed when the release began, and may be another number's by now. `most`: of
    numbers no more are counted.
    """
    active = select(numbers.c.short_id).where(
        numbers.c.account_id == account_id, numbers.c.state == "active"
    )
    held = select(func.count()).select_from(active.limit(most).subquery())
    # A number that is stored already takes one slot, also while its order is not yet gone.
    buying = select(func.count()).where(
        orders.c.account_id == account_id,
        orders.c.kind == "buy",
        ~select(numbers.c.id).where(numbers.c.number == orders.c.number).exists(),
    )
    total = select(held.scalar_subquery() + buying.scalar_subquery())
    return int((await connection.execute(total)).scalar_one())


def _require_admin(actor: Actor) -> None:
    if "admin" not in actor.scopes:
        raise Forbidden("accounts are managed with a token that has the scope admin")


def _seen(actor: Actor, account: str) -> ColumnElement[bool]:
    """The account of that id or name, if the actor may know of it. Raises NotFound."""
    account_id = uuid_of(account)
    if account_id is None and not _NAME.fullmatch(account):
        raise _missing(account)
    wanted = accounts.c.name == account if account_id is None else accounts.c.id == account_id
    return wanted if "admin" in actor.scopes else wanted & (accounts.c.id == actor.account_id)


def _missing(account: str) -> NotFound:
    named = f" {account}" if account.isprintable() and len(account) <= 64 else ""
    return NotFound(f"there is no account{named}; `switchboard accounts list` names those that are")


def _checked(*, name: str | None, plan: Plan | None, worker: str | None) -> dict[str, Any]:
    """The columns of what is given. Raises Invalid, with every problem in it."""
    problems: list[tuple[tuple[str | int, ...], str]] = []
    values: dict[str, Any] = {}
    if name is not None:
        if not _NAME.fullmatch(name) or uuid_of(name):
            problems.append((("body", "name"), f"must be {_NAME_RULE}"))
        values["name"] = name
    if plan is not None:
        for limit in _LIMITS:
            value = getattr(plan, limit)
            if value is not None and not 0 <= value <= _MOST:
                problems.append((("body", "plan", limit), f"must be 0 to {_MOST}, or none"))
        values |= {f"{limit}_limit": getattr(plan, limit) for limit in _LIMITS}
        values["shared_carriers"] = plan.shared_carriers
    if worker is not None:
        try:
            values["worker"] = checked_label(("body", "worker"), worker)
        except Invalid as error:
            problems += error.problems
    if problems:
        raise Invalid(*problems)
    return values


async def _write(connection: AsyncConnection, statement: Any, name: str) -> None:
    try:
        await connection.execute(statement)
    except IntegrityError:  # it quotes the row, so it is no cause
        raise Conflict(f"there is an account {name} already: choose another name") from None


async def _read(
    connection: AsyncConnection,
    condition: ColumnElement[bool],
    *,
    named: str = "",
    locked: bool = False,
) -> Account:
    query = select(accounts).where(condition)
    if locked:  # but whoever adds a row that refers to the account need not wait
        query = query.with_for_update(key_share=True)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise _missing(named)
    return _account(row)


async def _record(
    connection: AsyncConnection, actor: Actor, action: str, before: Account | None, after: Account
) -> None:
    await audit.record(
        connection,
        actor,
        action,
        after.id,
        before=None if before is None else _told(before),
        after=_told(after),
        account_id=after.id,
    )


def _told(account: Account) -> Mapping[str, Any]:
    """What of it can change."""
    return {
        "name": account.name,
        **msgspec.structs.asdict(account.plan),
        "worker": account.worker,
    }


def _values(account: Account) -> dict[str, Any]:
    return _checked(name=account.name, plan=account.plan, worker=account.worker)


def _account(row: RowMapping) -> Account:
    return Account(
        id=row["id"],
        name=row["name"],
        plan=Plan(
            numbers=row["numbers_limit"],
            calls=row["calls_limit"],
            minutes=row["minutes_limit"],
            shared_carriers=row["shared_carriers"],
        ),
        worker=row["worker"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
