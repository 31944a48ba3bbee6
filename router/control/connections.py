"""Connections: an account's credentials at a provider. Sealed, write-only.

Those at a carrier verify and answer webhooks too, so each change of one is told to every process on
`telephony.connections`, in the transaction that makes it (`router.storage.connections`).
"""

import re
import uuid
from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import RowMapping, case, func, insert, select
from sqlalchemy import delete as delete_rows
from sqlalchemy import update as update_rows
from sqlalchemy.ext.asyncio import AsyncConnection

from config.fields import read_public_key
from router.control import audit
from router.control.context import Control
from router.control.model import (
    Actor,
    Change,
    Connection,
    Json,
    Page,
    changed,
    checked_label,
    uuid_of,
)
from router.errors import Conflict, Forbidden, Invalid, NotFound
from router.events.ids import DEFAULT_ACCOUNT
from router.provider import Credentials
from router.providers import carriers, configured
from router.storage import batch
from router.storage.connections import tell
from router.storage.schema import accounts, connections, numbers, orders
from router.storage.sql import paged
from router.vault import Unreadable, is_masked, mask

DEFAULT: Final = "default"
"""Instead of an id: the account's default at a provider, else the operator's own there."""

_PROVIDER: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}", re.ASCII)
_ACCOUNT_SID: Final = re.compile(r"AC[0-9A-Za-z]{1,64}", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)
_LONGEST: Final = 4096  # characters of a secret
_MOST: Final = 20  # secrets of a connection
# Every ingress holds all of them, and a webhook, still unverified, is looked at with those of the
# account that it names: whoever names somebody else's must not make that account's webhooks slow.
_MOST_HELD: Final = 1000  # connections of an account
_MOST_ALIKE: Final = 20  # of them, with one account at a provider
NEEDED: Final[Mapping[str, Mapping[str, str]]] = {
    "twilio": {"auth_token": "the account's Auth Token, from the front page of Twilio's console"},
    "telnyx": {
        "api_key": "an API v2 key, from Mission Control",
        "public_key": "the account's public key, from Mission Control, Keys & Credentials",
    },
}


async def create(
    control: Control,
    actor: Actor,
    *,
    provider: str,
    secrets: Mapping[str, str],
    provider_account: str = "",
    label: str = "",
    details: Mapping[str, Any] | None = None,
) -> Connection:
    """Keep credentials; the account's first one of a provider becomes its default.

    `secrets`: Twilio `auth_token`; Telnyx `api_key`, `public_key`; of others whatever they have.

    Raises:
        Invalid: a field is missing or can't be right.
        Conflict: there are too many (`too_many_connections`).
        NotFound: the actor's account is gone.
    """
    if _PROVIDER.fullmatch(provider) is None:
        raise Invalid((("body", "provider"), "must be a provider's name, such as twilio"))
    _check_account(provider, provider_account)
    _check_secrets(provider, secrets)
    connection_id = str(uuid.uuid4())
    values = {
        "provider": provider,
        "label": checked_label(("body", "label"), label),
        "provider_account": provider_account,
        "details": _json(details or {}),
        "sealed": control.vault.seal(connection_id, secrets),
    }

    async def work(connection: AsyncConnection) -> Connection:
        # Locked, so that of two first ones one becomes the default.
        owner = select(accounts.c.id).where(accounts.c.id == actor.account_id).with_for_update()
        if (await connection.execute(owner)).first() is None:
            raise NotFound("there is no such account")
        mine = (connections.c.account_id == actor.account_id, connections.c.provider == provider)
        others = select(func.count()).select_from(connections).where(*mine)
        is_first = not (await connection.execute(others)).scalar_one()
        await _require_room(connection, actor, provider, provider_account)
        epoch, rev, now = (await connection.execute(batch.NEXT)).one()
        row = values | {
            "id": connection_id,
            "account_id": actor.account_id,
            "is_default": is_first,
            "rev": rev,
            "created_at": now,
            "updated_at": now,
        }
        await connection.execute(insert(connections).values(row))
        return await _told(control, connection, actor, "created", connection_id, epoch, None)

    return await control.database.transact(work)


async def get(control: Control, actor: Actor, connection_id: str) -> Connection:
    """By id. NotFound."""
    async with control.database.read() as connection:
        return _connection(control, await _row(connection, actor, connection_id))


async def list_(
    control: Control,
    actor: Actor,
    *,
    offset: int = 0,
    limit: int = 50,
    newest_first: bool = False,
    providers: Collection[str] = (),
) -> Page[Connection]:
    """The account's, oldest first; with `providers`, those at one of them."""
    mine = connections.c.account_id == actor.account_id
    if providers:
        mine &= connections.c.provider.in_(providers)
    place = (connections.c.created_at, connections.c.id)
    order = [each.desc() if newest_first else each.asc() for each in place]
    page = paged(select(connections.c.id).where(mine).order_by(*order), offset, limit)
    items = select(connections).where(connections.c.id.in_(page)).order_by(*order)
    async with control.database.read() as connection:
        rows = (await connection.execute(items)).mappings().all()
        total = await connection.execute(select(func.count()).select_from(connections).where(mine))
        return Page([_connection(control, row) for row in rows], total.scalar_one())


async def update(
    control: Control,
    actor: Actor,
    connection_id: str,
    *,
    secrets: Mapping[str, str] | None = None,
    provider_account: str | None = None,
    label: str | None = None,
    details: Json | Change | None = None,
) -> Connection:
    """Change what is given; a secret given masked, as it was shown, keeps the stored one.

    Raises:
        NotFound: no such connection.
        Conflict: another provider account, while numbers are held through this connection, or
            where too many have that one already.
        Invalid: a field can't be right, or is masked in another way than it was shown.
    """

    async def work(connection: AsyncConnection) -> Connection:
        row = await _row(connection, actor, connection_id, locked=True)
        before = _connection(control, row)
        changes: dict[str, Any] = {}
        if secrets is not None:
            changes["sealed"] = control.vault.seal(before.id, _merged(control, row, secrets))
        if provider_account is not None and provider_account != before.provider_account:
            _check_account(before.provider, provider_account)
            await _require_unused(connection, before.id, "change its provider account")
            await _require_room(connection, actor, before.provider, provider_account, more=0)
            changes["provider_account"] = provider_account
        if label is not None:
            changes["label"] = checked_label(("body", "label"), label)
        if details is not None:
            changes["details"] = _json(changed(details, before.details))
        if not changes:
            return before
        epoch, rev, now = (await connection.execute(batch.NEXT)).one()
        statement = update_rows(connections).where(connections.c.id == before.id)
        await connection.execute(statement.values(**changes, rev=rev, updated_at=now))
        return await _told(control, connection, actor, "updated", before.id, epoch, before)

    return await control.database.transact(work)


async def delete(control: Control, actor: Actor, connection_id: str) -> None:
    """Forget it; where it was its provider's default, the oldest that is left becomes that.

    Raises:
        NotFound: no such connection.
        Conflict: numbers are still held through it (the message says how many).
    """

    async def work(connection: AsyncConnection) -> None:
        before = _connection(control, await _row(connection, actor, connection_id, locked=True))
        await _require_unused(connection, before.id, "delete it")
        epoch, rev, now = (await connection.execute(batch.NEXT)).one()
        await connection.execute(delete_rows(connections).where(connections.c.id == before.id))
        if before.is_default:
            await _choose_default(connection, actor, before.provider)
        if before.provider in carriers():
            await tell(connection, before.id, None, version=(epoch, rev), now=now)
        await audit.record(
            connection, actor, "connection.deleted", before.id, before=_audited(before)
        )

    await control.database.transact(work)


async def find_same(
    control: Control, actor: Actor, *, provider: str, provider_account: str
) -> Connection | None:
    """The account's connection with this provider account, if it has one (Resemble's create)."""
    query = (
        select(connections)
        .where(
            connections.c.account_id == actor.account_id,
            connections.c.provider == provider,
            connections.c.provider_account == provider_account,
        )
        .order_by(connections.c.created_at, connections.c.id)
        .limit(1)
    )
    async with control.database.read() as connection:
        row = (await connection.execute(query)).mappings().first()
    return None if row is None else _connection(control, row)


async def resolve(
    control: Control, actor: Actor, *, provider: str, connection_id: str | None
) -> Credentials | None:
    """What to speak to a carrier with; None: the operator's own, from the settings.

    `connection_id` None or "default": the account's default at that provider, else the operator's
    where the plan allows it (`shared_carriers`; account `default` is the operator: always).

    Raises:
        NotFound: no such connection, or none at all.
        Forbidden: the plan does not allow the operator's.
        Invalid: it is another provider's, or this provider sells no numbers.
        Unreadable: it was sealed with a key that is not here any more.
    """
    if provider not in carriers():
        known = " or ".join(carriers())
        raise Invalid((("body", "provider"), f"sells no numbers: it must be {known}"))
    if connection_id not in (None, DEFAULT):
        return await credentials(control, actor, connection_id, provider)
    query = select(connections).where(
        connections.c.account_id == actor.account_id,
        connections.c.provider == provider,
        connections.c.is_default,
    )
    shared = select(accounts.c.shared_carriers).where(accounts.c.id == actor.account_id)
    async with control.database.read() as connection:
        row = (await connection.execute(query)).mappings().first()
        may_share = (await connection.execute(shared)).scalar_one_or_none()
    if row is not None:
        return _credentials(control, row)
    if provider not in (each.name for each in configured(control.settings)):
        raise NotFound(f"the account has no connection at {provider}: make one first")
    if not may_share and actor.account_id != DEFAULT_ACCOUNT:
        raise Forbidden(
            f"the account has no connection at {provider}, and its plan does not allow those of "
            "this installation: make one first"
        )
    return None


async def credentials(
    control: Control, actor: Actor, connection_id: str | None, provider: str
) -> Credentials | None:
    """Of a number's connection; None for the operator's.

    Raises:
        NotFound: no such connection.
        Invalid: it is another provider's.
        Unreadable: it was sealed with a key that is not here any more.
    """
    if connection_id is None:
        return None
    async with control.database.read() as connection:
        row = await _row(connection, actor, connection_id)
    if row["provider"] != provider:
        raise Invalid(
            (("body", "connection_id"), f"is a connection at {row['provider']}, not at {provider}")
        )
    return _credentials(control, row)


async def _row(
    connection: AsyncConnection, actor: Actor, connection_id: str, *, locked: bool = False
) -> RowMapping:
    """The row, kept as it is until the transaction ends where `locked`. Raises NotFound."""
    wanted = uuid_of(connection_id)
    query = select(connections).where(
        connections.c.account_id == actor.account_id, connections.c.id == wanted
    )
    query = query.with_for_update() if locked else query
    row = None if wanted is None else (await connection.execute(query)).mappings().first()
    if row is None:
        raise NotFound("there is no such connection")
    return row


async def _require_room(
    connection: AsyncConnection, actor: Actor, provider: str, provider_account: str, more: int = 1
) -> None:
    """Raises Conflict: the account has as many as it may, or as may have that provider account."""
    mine = connections.c.account_id == actor.account_id
    alike = (connections.c.provider == provider) & (
        connections.c.provider_account == provider_account
    )
    counts = select(func.count(), func.count(case((alike, 1)))).where(mine)
    held, same = (await connection.execute(counts)).one()
    why = ""
    if held + more > _MOST_HELD:
        why = f"the account has {held} connections, and {_MOST_HELD} are the most"
    elif provider_account and same >= _MOST_ALIKE:
        why = f"{same} connections have this account at {provider}, which is the most"
    if why:
        raise Conflict(f"{why}: change or delete one", code="too_many_connections")


async def _require_unused(connection: AsyncConnection, connection_id: str, what: str) -> None:
    held = select(func.count()).where(numbers.c.connection_id == connection_id)
    ordered = select(func.count()).where(orders.c.connection_id == connection_id)
    count = (await connection.execute(held)).scalar_one()
    pending = (await connection.execute(ordered)).scalar_one()
    if count or pending:
        uses = f"{count} number{'' if count == 1 else 's'}" if count else f"{pending} order(s)"
        are = "is" if count == 1 else "are"
        raise Conflict(
            f"{uses} {are} held through this connection: release them first, then {what}",
            code="connection_in_use",
        )


async def _choose_default(connection: AsyncConnection, actor: Actor, provider: str) -> None:
    oldest = (
        select(connections.c.id)
        .where(connections.c.account_id == actor.account_id, connections.c.provider == provider)
        .order_by(connections.c.created_at, connections.c.id)
        .limit(1)
    )
    statement = update_rows(connections).where(connections.c.id == oldest.scalar_subquery())
    await connection.execute(statement.values(is_default=True))


async def _told(
    control: Control,
    connection: AsyncConnection,
    actor: Actor,
    what: str,
    connection_id: str,
    epoch: int,
    before: Connection | None,
) -> Connection:
    """What was written, after it was told to the log and to the audit."""
    row = await _row(connection, actor, connection_id)
    after = _connection(control, row)
    if after.provider in carriers():
        version = (epoch, row["rev"])
        await tell(connection, after.id, row, version=version, now=after.updated_at)
    await audit.record(
        connection,
        actor,
        f"connection.{what}",
        after.id,
        before=None if before is None else _audited(before),
        after=_audited(after),
    )
    return after


def _audited(connection: Connection) -> Mapping[str, Any]:
    return msgspec.to_builtins(connection)  # type: ignore[no-any-return]  # masked as it is


def _connection(control: Control, row: RowMapping) -> Connection:
    try:
        secrets = control.vault.open(row["id"], row["sealed"])
    except Unreadable:  # it can still be listed, changed and deleted
        secrets = {}
    return Connection(
        id=row["id"],
        account_id=row["account_id"],
        provider=row["provider"],
        label=row["label"],
        provider_account=row["provider_account"],
        details=msgspec.json.decode(row["details"]),
        masked={name: mask(str(secret)) for name, secret in secrets.items()},
        is_default=row["is_default"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _credentials(control: Control, row: RowMapping) -> Credentials:
    return Credentials(
        row["provider"],
        row["id"],
        row["provider_account"],
        control.vault.open(row["id"], row["sealed"]),
    )


def _merged(control: Control, row: RowMapping, given: Mapping[str, str]) -> Mapping[str, str]:
    """The stored secrets with those that were given. Raises Invalid."""
    try:
        stored = control.vault.open(row["id"], row["sealed"])
    except Unreadable:  # its key is lost: whoever sends all of them mends it
        stored = {}
    kept = {
        name
        for name, secret in given.items()
        if is_masked(secret) and name in stored and mask(stored[name]) == secret
    }
    merged = stored | {name: secret for name, secret in given.items() if name not in kept}
    _check_secrets(row["provider"], merged)
    return merged


def _check_account(provider: str, provider_account: str) -> None:
    where = ("body", "provider_account")
    if provider == "twilio" and _ACCOUNT_SID.fullmatch(provider_account) is None:
        raise Invalid((where, "must be an Account SID, AC and 32 digits, from Twilio's console"))
    if len(provider_account) > _LONGEST or not (
        provider_account.isprintable() and provider_account.isascii()
    ):
        raise Invalid((where, "must be visible ASCII characters"))


def _check_secrets(provider: str, secrets: Mapping[str, str]) -> None:
    problems: list[tuple[tuple[str | int, ...], str]] = [
        (("body", "secrets", name), f"is missing: {words}")
        for name, words in NEEDED.get(provider, {}).items()
        if name not in secrets
    ]
    if len(secrets) > _MOST or any(_NAME.fullmatch(name) is None for name in secrets):
        raise Invalid((("body", "secrets"), f"must be at most {_MOST} names with their secrets"))
    problems += (
        (("body", "secrets", name), why)
        for name, secret in secrets.items()
        if (why := _wrong(secret))
    )
    if not problems and provider == "telnyx":
        try:
            read_public_key(secrets["public_key"])
        except ValueError as error:
            problems.append((("body", "secrets", "public_key"), str(error)))
    if problems:
        raise Invalid(*problems)


def _wrong(secret: str) -> str:
    """Why it can't be a credential; no message repeats it. "" where nothing is wrong."""
    if is_masked(secret):
        return "is masked: send the secret itself, or leave it out"
    if not secret.strip():
        return "is empty or blank: anybody could use it"
    if secret != secret.strip() or not secret.isprintable() or not secret.isascii():
        return "has a space at an end, or a character that no credential has: copy it again"
    return f"is longer than {_LONGEST} characters" if len(secret) > _LONGEST else ""


def _json(document: Mapping[str, Any]) -> str:
    return msgspec.json.encode(document).decode()
