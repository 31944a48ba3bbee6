"""What became of an account's calls: history, one call, usage."""

from collections.abc import Sequence

import msgspec

from router.control.context import Control
from router.control.model import Actor, Page
from router.events.call import CallRecord
from router.events.model import Event


class CallQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which calls; times in µs, None: any."""

    since: int | None = None
    until: int | None = None
    agent_ids: tuple[str, ...] = ()
    agent_name: str = ""  # part of it
    with_agent: bool = False  # only calls that an agent was meant for
    newest_first: bool = True
    offset: int = 0
    limit: int = 50


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an account used in the present calendar month (UTC)."""

    minutes: float
    minutes_limit: int | None
    calls: int
    numbers: int
    numbers_limit: int | None


async def list_(control: Control, actor: Actor, query: CallQuery) -> Page[CallRecord]:
    """The account's calls."""
    raise NotImplementedError


async def get(control: Control, actor: Actor, call_id: str) -> CallRecord:
    """NotFound."""
    raise NotImplementedError


async def events(control: Control, actor: Actor, call_id: str) -> Sequence[Event]:
    """Of one call, in their order. NotFound."""
    raise NotImplementedError


async def usage(control: Control, actor: Actor) -> Usage:
    """See `Usage`."""
    raise NotImplementedError
