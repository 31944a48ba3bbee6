"""Whether a running instance decides by what was stored, and how far it is on the way there."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Final
from urllib.parse import urlsplit

import msgspec

from config import Settings
from router.cli.context import local_url
from router.routing.spec import MappingResult
from router.storage import mapping
from router.storage.engine import Database

_PATIENCE: Final = 5.0  # seconds in which something must move on the way to the instance
_LOOK: Final = 0.1  # seconds between looks
_ANSWER: Final = 2.0  # seconds until another answer or piece of it must be there
_MOST: Final = 1 << 20  # bytes of an answer


class _Routes(msgspec.Struct, frozen=True):
    fingerprint: str = ""
    numbers: int = 0
    version: int = 0
    restored: str = ""
    comparing: bool = (
        False  # with the database; equal versions may mean different routes until then
    )


class _Ready(msgspec.Struct, frozen=True):
    """What /readyz says, as far as it matters here."""

    roles: tuple[str, ...]  # whatever answers without them is not Switchboard
    routes: _Routes = _Routes()


@dataclass(frozen=True, slots=True)
class Held:
    """How far a change has come. `holds` None: no instance answers."""

    holds: bool | None
    left: int = 0  # records of changes that wait in the database
    has: int = 0  # numbers that the instance has
    of: int = 0  # numbers that are mapped
    roles: tuple[str, ...] = ()  # of the instance
    refused: str = ""  # why it does not publish from this database


async def wait_until_held(
    settings: Settings, database: Database, show: Callable[[float], None] = lambda _: None
) -> Held:
    """Until the instance at http.host:port has the routes of the database, as long as it moves.

    Args:
        settings: say where the instance is.
        database: whose routes they are.
        show: told the share (0 to 1) that has left the database.
    """
    seen: object = None
    moved_at = compared_at = time.monotonic()
    first = wanted = 0
    while True:
        ready = await asyncio.to_thread(_asked, settings)
        left = await mapping.at_most_unpublished(database)
        if seen is None and (ready is None or "ingress" not in ready.roles):
            return Held(None, left, roles=ready.roles if ready else ())
        if seen is None:
            first, wanted = left, await mapping.fingerprint(database)
        if (
            ready is not None
            and ready.routes.fingerprint == f"{wanted:016x}"
            and not ready.routes.comparing
        ):
            return Held(True, left)
        show(1 - min(left, first) / max(first, 1))
        if (ready, left) != seen:
            seen, moved_at = (ready, left), time.monotonic()
        elif time.monotonic() - moved_at > _PATIENCE:
            return await _stuck(database, ready)
        elif not left and time.monotonic() - compared_at > 1:
            compared_at = time.monotonic()
            wanted = await mapping.fingerprint(database)  # it may have changed once more
        await asyncio.sleep(_LOOK)


async def _stuck(database: Database, ready: _Ready | None) -> Held:
    numbers, left = await mapping.size(database), await mapping.unpublished(database)
    if ready is None:
        return Held(None, left, of=numbers)
    refused = ready.routes.restored if ready.routes.comparing else ""
    return Held(False, left, ready.routes.numbers, numbers, ready.roles, refused)


def _asked(settings: Settings) -> _Ready | None:
    """What the instance says of itself; None when there is none, or it is another program."""
    # Not by aiohttp: importing it takes longer than all else that a small `apply` does.
    where = urlsplit(local_url(settings))
    connection = HTTPConnection(str(where.hostname), where.port, timeout=_ANSWER)
    try:
        connection.request("GET", "/readyz")
        return msgspec.json.decode(connection.getresponse().read(_MOST), type=_Ready)
    except (OSError, HTTPException, ValueError):  # msgspec's errors are ValueErrors
        return None
    finally:
        connection.close()


def closing(settings: Settings, result: MappingResult, held: Held | None) -> Iterator[str]:
    """What to say of a stored change; `held` None: nobody waited for it."""
    where, stored = local_url(settings), f"Stored as version {result.version}"
    if held is None:
        yield f"{stored}; not waited until it holds."
    elif held.holds:
        yield f"Holds now: the instance on {where} decides by version {result.version}."
    elif held.holds is None and held.roles:
        yield f"{stored}; the instance on {where} runs {', '.join(held.roles)}: no ingress."
    elif held.holds is None:
        yield f"{stored}; no instance runs on {where}."
    else:
        yield (
            f"{stored}, but nothing has moved for {_PATIENCE:g} s: the instance on {where} has "
            f"{held.has} of {held.of} numbers, {held.left} records wait in the database."
        )
        yield _why_stuck(held, where)


def _why_stuck(held: Held, where: str) -> str:
    if held.refused:
        return f"It says: {held.refused}"
    if not held.left:
        return f"Does it follow the log that this database is published to? See {where}/readyz"
    if "relay" not in held.roles:
        return (
            f"It runs {', '.join(held.roles)}: is a process with the role relay running, over the "
            f"same database? See {where}/readyz"
        )
    return (
        "Its role relay does not publish them: does it use another database or data folder, or is "
        f"its log (Kafka) away? See {where}/readyz"
    )
