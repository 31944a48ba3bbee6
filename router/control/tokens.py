"""Bearer tokens: `sb_` + 256 random bits + checksum; only their SHA-256 is stored.

The form is GitHub's scheme: 43 base62 digits (32 bytes), then the CRC-32 of those digits in 6. So
secret scanners know a token when they see one, and a mistyped one is refused without a query
(https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/).
With 256 random bits in each, a plain hash is as good as a slow one.
"""

import hashlib
import re
import secrets
import string
import uuid
from collections.abc import Sequence
from typing import Any, Final, get_args
from zlib import crc32

import msgspec
from sqlalchemy import ColumnElement, RowMapping, bindparam, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from router.control import accounts, audit
from router.control.context import Control
from router.control.model import Actor, Page, Scope, Token, checked_label, uuid_of
from router.errors import Forbidden, Invalid, NotFound, Unauthorized
from router.storage.schema import tokens
from router.storage.sql import micros, now_after, now_micros, paged

PREFIX: Final = "sb_"
PATTERN: Final = PREFIX + "[0-9A-Za-z]{49}"
"""For secret scanners; the last six digits are the checksum."""

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_BYTES: Final = 32
_RANDOM_DIGITS: Final = 43  # 62**43 > 2**256
_CHECKSUM_DIGITS: Final = 6  # 62**6 > 2**32
_HINT: Final = 4
_LONGEST: Final = 100 * 365 * 86400.0  # seconds that a token may live
_USE_STEP: Final = 60.0  # seconds; a token's last use is written this often
_FORM: Final = re.compile(PATTERN)

# Every request asks this; built once, because building it costs more than running it.
_AUTHENTICATING: Final = select(
    tokens.c.id,
    tokens.c.account_id,
    tokens.c.scopes,
    tokens.c.revoked_at,
    func.coalesce(tokens.c.expires_at <= now_micros(), False).label("expired"),
    func.coalesce(tokens.c.last_used_at <= now_micros() - micros(_USE_STEP), True).label("unseen"),
).where(tokens.c.hash == bindparam("of_hash"))


async def create(
    control: Control,
    actor: Actor,
    *,
    account: str,
    scopes: Sequence[Scope],
    label: str = "",
    lifetime: float | None = None,
) -> tuple[Token, str]:
    """Make a token of an account (id or name); the second value is shown once, here.

    `lifetime` in seconds, None: until it is revoked. For scope `admin` alone.

    Raises:
        NotFound: no such account.
        Invalid: an unknown scope, none at all, or a lifetime that is none.
    """
    _require_admin(actor)
    kept = _checked_scopes(scopes)
    label = checked_label(("body", "label"), label)
    if lifetime is not None and not 0 < lifetime <= _LONGEST:
        raise Invalid((("body", "lifetime"), "must be above 0 and at most 100 years"))
    secret, token_id = _new_secret(), str(uuid.uuid4())
    owner = await accounts.get(control, actor, account)
    values = {
        "id": token_id,
        "account_id": owner.id,
        "label": label,
        "hash": _hash(secret),
        "hint": secret[-_HINT:],
        "scopes": msgspec.json.encode(kept).decode(),
        "expires_at": None if lifetime is None else now_micros() + micros(lifetime),
        "created_at": now_after(tokens.c.created_at, tokens.c.account_id == owner.id),
    }

    async def work(connection: AsyncConnection) -> Token:
        await connection.execute(insert(tokens).values(values))
        token = await _read(connection, tokens.c.id == token_id)
        await _record(connection, actor, "token.created", token)
        return token

    return await control.database.transact(work), secret


async def authenticate(control: Control, token: str, *, request_id: str = "") -> Actor:
    """Whose token it is: one indexed read, so a revoked one is refused at once on every node.

    That it was used is noted in memory alone: `write_used` stores it.

    Raises:
        Unauthorized: malformed (by its checksum, without a query), unknown, expired, revoked.
        StorageUnavailable: nobody can be let in now.
    """
    if not is_well_formed(token):
        raise Unauthorized(
            f"the token is malformed: it is {PREFIX} and 49 letters and digits, whole as "
            "`switchboard tokens create` printed it",
            code="token_malformed",
        )
    async with control.database.read() as connection:
        found = await connection.execute(_AUTHENTICATING, {"of_hash": _hash(token)})
        row = found.one_or_none()
    if row is None:
        raise Unauthorized(
            "nobody has this token here: make one with `switchboard tokens create`",
            code="token_unknown",
        )
    if row.revoked_at is not None:
        raise Unauthorized("the token was revoked: use another one", code="token_revoked")
    if row.expired:
        raise Unauthorized("the token has expired: use a new one", code="token_expired")
    if row.unseen:
        control.used_tokens.add(row.id)
    return Actor(
        account_id=row.account_id,
        name=row.id,
        scopes=frozenset(msgspec.json.decode(row.scopes)),
        request_id=request_id,
    )


def allows(actor: Actor, scope: Scope) -> bool:
    """Whether the actor's scopes include `scope`: `…:write` implies `…:read`, `admin` all."""
    of, _, verb = scope.partition(":")
    return (
        scope in actor.scopes
        or "admin" in actor.scopes
        or (verb == "read" and f"{of}:write" in actor.scopes)
    )


def require(actor: Actor, scope: Scope) -> None:
    """Raise Forbidden, with the scope that is missing, unless the actor has it."""
    if not allows(actor, scope):
        has = ", ".join(sorted(actor.scopes)) or "none"
        raise Forbidden(
            f"this needs the scope {scope}, and the token has {has}: use a token that has it",
            code="scope_missing",
        )


async def write_used(control: Control) -> int:
    """Store which tokens were used since the last time; how many that were.

    Called every few seconds beside the requests, none of which waits for it. What is lost with the
    process, or on an error, is the last minute's use.

    Raises:
        StorageUnavailable: they are forgotten; their next use notes them again.
    """
    used = sorted(control.used_tokens)
    control.used_tokens.clear()
    if not used:
        return 0
    async with control.database.write(yields=True) as connection:
        for start in range(0, len(used), 500):  # parameters of a statement
            await connection.execute(
                update(tokens)
                .where(
                    tokens.c.id.in_(used[start : start + 500]),
                    or_(
                        tokens.c.last_used_at.is_(None),
                        tokens.c.last_used_at <= now_micros() - micros(_USE_STEP),
                    ),
                )
                .values(last_used_at=now_micros())
            )
    return len(used)


async def get(control: Control, actor: Actor, token_id: str) -> Token:
    """NotFound: there is none, or it is another account's and the actor no `admin`."""
    async with control.database.read() as connection:
        return await _read(connection, _seen(actor, token_id))


async def list_(
    control: Control, actor: Actor, *, account: str | None = None, offset: int = 0, limit: int = 50
) -> Page[Token]:
    """Newest first; of one account, or (admin) of all. NotFound: no such account."""
    conditions: list[ColumnElement[bool]] = []
    if account is not None:
        owner = await accounts.get(control, actor, account)
        conditions.append(tokens.c.account_id == owner.id)
    elif "admin" not in actor.scopes:
        conditions.append(tokens.c.account_id == actor.account_id)
    order = (tokens.c.created_at.desc(), tokens.c.id.desc())
    page = paged(select(tokens.c.id).where(*conditions).order_by(*order), offset, limit)
    items = select(tokens).where(tokens.c.id.in_(page)).order_by(*order)
    count = select(func.count()).select_from(tokens).where(*conditions)
    async with control.database.read() as connection:
        rows = (await connection.execute(items)).mappings().all()
        return Page([_token(row) for row in rows], (await connection.execute(count)).scalar_one())


async def revoke(control: Control, actor: Actor, token_id: str) -> Token:
    """From now on nobody gets in with it. Revoking twice is once. NotFound."""
    condition = _seen(actor, token_id)

    async def work(connection: AsyncConnection) -> Token:
        revoking = update(tokens).where(condition, tokens.c.revoked_at.is_(None))
        done = await connection.execute(revoking.values(revoked_at=now_micros()))
        token = await _read(connection, condition)
        if done.rowcount:
            await _record(connection, actor, "token.revoked", token)
        return token

    return await control.database.transact(work)


def is_well_formed(token: str) -> bool:
    """Whether it can be a token: by its form and its checksum."""
    if not _FORM.fullmatch(token):
        return False
    digits = token[len(PREFIX) : -_CHECKSUM_DIGITS]
    return secrets.compare_digest(token[-_CHECKSUM_DIGITS:], _checksum(digits))


def _new_secret() -> str:
    digits = _base62(int.from_bytes(secrets.token_bytes(_RANDOM_BYTES)), _RANDOM_DIGITS)
    return PREFIX + digits + _checksum(digits)


def _checksum(digits: str) -> str:
    return _base62(crc32(digits.encode()), _CHECKSUM_DIGITS)


def _base62(value: int, width: int) -> str:
    digits = []
    for _ in range(width):
        value, digit = divmod(value, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _require_admin(actor: Actor) -> None:
    if "admin" not in actor.scopes:
        raise Forbidden("this needs a token with the scope admin")


def _checked_scopes(scopes: Sequence[Scope]) -> list[Scope]:
    """In the order of SCOPES, each once."""
    known = ", ".join(SCOPES)
    if not scopes:
        raise Invalid((("body", "scopes"), f"must name at least one of {known}"))
    unknown = [index for index, scope in enumerate(scopes) if scope not in SCOPES]
    if unknown:
        raise Invalid(
            *(
                (("body", "scopes", index), f"is not a scope; there are {known}")
                for index in unknown
            )
        )
    return [scope for scope in SCOPES if scope in scopes]


def _seen(actor: Actor, token_id: str) -> ColumnElement[bool]:
    """The token of that id, if the actor may know of it. Raises NotFound."""
    found = uuid_of(token_id)
    if found is None:
        raise _missing()
    wanted = tokens.c.id == found
    if "admin" in actor.scopes:
        return wanted
    return wanted & (tokens.c.account_id == actor.account_id)


def _missing() -> NotFound:
    return NotFound("there is no token with this id: `switchboard tokens list` shows all")


async def _read(connection: AsyncConnection, condition: ColumnElement[bool]) -> Token:
    found = await connection.execute(select(tokens).where(condition))
    row = found.mappings().one_or_none()
    if row is None:
        raise _missing()
    return _token(row)


async def _record(connection: AsyncConnection, actor: Actor, action: str, token: Token) -> None:
    told: dict[str, Any] = {
        "label": token.label,
        "scopes": token.scopes,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
    }
    await audit.record(connection, actor, action, token.id, after=told, account_id=token.account_id)


def _token(row: RowMapping) -> Token:
    known = {name: row[name] for name in Token.__struct_fields__ if name != "scopes"}
    return Token(**known, scopes=tuple(msgspec.json.decode(row["scopes"])))
