"""What became of an account's calls: history, one call, usage."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, and_, func, or_, select

from router.control.accounts import numbers_held
from router.control.context import Control
from router.control.model import Actor, Page, Scope, can_be_asked_for
from router.errors import Forbidden, NotFound
from router.events.call import CallRecord
from router.events.model import Event
from router.events.types import EventType
from router.storage import calls as call_records
from router.storage.schema import accounts, agents, call_events, calls
from router.storage.sql import MICROS, paged
from router.vault import Unreadable

_LINK_SECONDS: Final = 3600


class CallQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which calls; times in µs, None: any."""

    since: int | None = None  # when they began, this moment too
    until: int | None = None  # before this moment
    agent_ids: tuple[str, ...] = ()
    agent_name: str = ""  # part of its name or label, in capitals or not
    with_agent: bool = False  # only calls that an agent was meant for
    by_duration: bool = False  # in the order of their durations, else of their beginnings
    newest_first: bool = True  # or longest first
    offset: int = 0
    limit: int = 50


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an account used in the present calendar month (UTC)."""

    minutes: float  # of answered calls that are over, by the month in which they began
    minutes_limit: int | None
    calls: int  # that came in or went out
    numbers: int  # that it holds now, or is buying
    numbers_limit: int | None


async def list_(control: Control, actor: Actor, query: CallQuery) -> Page[CallRecord]:
    """The account's calls."""
    if not can_be_asked_for("".join((query.agent_name, *query.agent_ids))):
        return Page([], 0)
    wanted = [calls.c.account_id == actor.account_id, *_conditions(actor, query)]
    place: list[ColumnElement[Any]] = [calls.c.initiated_at, calls.c.call_id]
    if query.by_duration:
        place.insert(0, func.coalesce(calls.c.duration, 0.0))
    order = [each.desc() if query.newest_first else each.asc() for each in place]
    page = select(calls.c.call_id).where(*wanted).order_by(*order)
    page = paged(page, query.offset, query.limit)
    items = select(calls).where(calls.c.call_id.in_(page)).order_by(*order)
    count = select(func.count()).select_from(calls).where(*wanted)
    async with control.database.read() as connection:
        rows = (await connection.execute(items)).mappings().all()
        total = (await connection.execute(count)).scalar_one()
    return Page([call_records.record_of(row) for row in rows], total)


async def get(control: Control, actor: Actor, call_id: str) -> CallRecord:
    """NotFound: the account has no such call."""
    if can_be_asked_for(call_id):
        found = await call_records.get(control.database, actor.account_id, call_id)
        if found is not None:
            return found
    raise NotFound("the account has no call with this id", code="call_not_found")


async def events(control: Control, actor: Actor, call_id: str) -> Sequence[Event]:
    """Of one call, in their order. NotFound."""
    await get(control, actor, call_id)
    return await call_records.events(control.database, call_id)


async def transcribed(control: Control, actor: Actor, call_ids: Collection[str]) -> set[str]:
    """Those among the account's calls (a page of them) of which something is written down."""
    said = (EventType.TRANSCRIPT_ADDED.value, EventType.MESSAGE_SPOKEN.value)
    query = (
        select(call_events.c.call_id)
        .distinct()
        .join(calls, calls.c.call_id == call_events.c.call_id)
        .where(
            calls.c.account_id == actor.account_id,
            call_events.c.call_id.in_(call_ids),
            call_events.c.type.in_(said),
        )
    )
    async with control.database.read() as connection:
        return set((await connection.execute(query)).scalars())


async def usage(control: Control, actor: Actor) -> Usage:
    """See `Usage`."""
    month = select(func.count(), func.coalesce(func.sum(calls.c.duration), 0.0)).where(
        calls.c.account_id == actor.account_id,
        calls.c.initiated_at >= _month_began(control.clock.now()),
    )
    limits = select(accounts.c.minutes_limit, accounts.c.numbers_limit).where(
        accounts.c.id == actor.account_id
    )
    async with control.database.read() as connection:
        count, seconds = (await connection.execute(month)).one()
        minutes_limit, numbers_limit = (await connection.execute(limits)).one()
        held = await numbers_held(connection, actor.account_id)
    return Usage(
        minutes=round(seconds / 60, 3),
        minutes_limit=minutes_limit,
        calls=count,
        numbers=held,
        numbers_limit=numbers_limit,
    )


def sealed_link(control: Control, actor: Actor, call_id: str) -> str:
    """What lets its bearer read the transcript of a call of the account, for an hour; URL-safe."""
    until = control.clock.now() + _LINK_SECONDS * MICROS
    sealed = control.vault.seal(_owner(call_id), {"account": actor.account_id, "until": until})
    return urlsafe_b64encode(sealed).decode().rstrip("=")


def opened_link(control: Control, call_id: str, link: str) -> Actor:
    """Who may read that call, and no more, by what `sealed_link` made. Forbidden: it is not."""
    try:
        sealed = urlsafe_b64decode(link + "=" * (-len(link) % 4))
        made = control.vault.open(_owner(call_id), sealed)
    except (ValueError, Unreadable):
        raise Forbidden("the link is not valid: ask for a new one", code="link_invalid") from None
    if made["until"] <= control.clock.now():
        raise Forbidden("the link has expired: ask for a new one", code="link_expired")
    scopes: frozenset[Scope] = frozenset({"calls:read"})
    return Actor(account_id=made["account"], name="link", scopes=scopes)


def _owner(call_id: str) -> str:
    return f"transcript/{call_id}"


def _conditions(actor: Actor, query: CallQuery) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if query.since is not None:
        found.append(calls.c.initiated_at >= _of_64_bits(query.since))
    if query.until is not None:
        found.append(calls.c.initiated_at < _of_64_bits(query.until))
    if query.agent_ids:
        # Calls of before accounts have their agent's name alone.
        names = select(agents.c.name).where(
            agents.c.account_id == actor.account_id, agents.c.id.in_(query.agent_ids)
        )
        before = and_(calls.c.agent_id == "", calls.c.agent.in_(names))
        found.append(or_(calls.c.agent_id.in_(query.agent_ids), before))
    if query.agent_name:
        by_label = select(agents.c.id).where(
            agents.c.account_id == actor.account_id,
            agents.c.label.icontains(query.agent_name, autoescape=True),
        )
        by_name = calls.c.agent.icontains(query.agent_name, autoescape=True)
        found.append(or_(by_name, calls.c.agent_id.in_(by_label)))
    if query.with_agent:
        found.append(calls.c.agent != "")
    return found


def _of_64_bits(micros: int) -> int:
    return max(-(2**63), min(micros, 2**63 - 1))


def _month_began(now: int) -> int:
    """The first moment of the calendar month (UTC) that `now` is in; both in µs."""
    moment = datetime.fromtimestamp(now / MICROS, UTC)
    first = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return int(first.timestamp()) * MICROS
