"""`switchboard apply FILE`: agents and numbers as the file says, from the next call on."""

import asyncio
import time
from pathlib import Path
from typing import Annotated, Final

import aiohttp
import msgspec
import typer

from config import Settings
from router.cli.context import (
    ConfigOption,
    JsonOption,
    local_url,
    print_json,
    reported,
    run,
    settings_of,
)
from router.cli.render import console, plain
from router.files import make_data_folder
from router.numbers.file import read_mapping
from router.routing.spec import AgentChange, MappingResult, MappingSpec, RouteChange
from router.routing.table import Route
from router.storage import mapping
from router.storage.engine import open_database
from router.storage.mapping import apply_mapping
from router.storage.migrate import prepare

_PATIENCE: Final = 5.0  # seconds until the running instance must have the change


class _Routes(msgspec.Struct, frozen=True):
    fingerprint: str = ""


class _Ready(msgspec.Struct, frozen=True):
    """What /readyz says, as far as it matters here."""

    roles: tuple[str, ...]  # whatever answers without them is not Switchboard
    routes: _Routes = _Routes()


def apply(
    file: Annotated[Path, typer.Argument(help="YAML: agents and numbers.")],
    prune: Annotated[
        bool, typer.Option("--prune", help="Also remove what is not in the file.")
    ] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Make the mapping as FILE says; works beside a running instance."""
    with reported():
        settings = settings_of(config)
        wanted = read_mapping(file)
        result, held = run(_apply(settings, wanted, prune=prune))
        if json:
            return print_json({"version": result.version, "changes": result.changes, "holds": held})
        for change in result.changes:
            console.print(plain(_line(change)))
        if not result.changes:
            console.print("Nothing to change: everything is as the file says.")
        console.print(_closing(result, held, settings))
        return None


async def _apply(
    settings: Settings, wanted: MappingSpec, *, prune: bool
) -> tuple[MappingResult, bool | None]:
    make_data_folder(settings.data_dir)
    await prepare(settings)
    async with open_database(settings) as database:
        result = await apply_mapping(database, wanted, prune=prune)
        fingerprint = await mapping.fingerprint(database)
    return result, await holds(settings, fingerprint)


async def holds(settings: Settings, fingerprint: int) -> bool | None:
    """Whether the instance at http.host:port has these very routes; None when none runs there."""
    url = f"{local_url(settings)}/readyz"
    give_up = time.monotonic() + _PATIENCE
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        while time.monotonic() < give_up:
            try:
                async with session.get(url) as answer:
                    ready = msgspec.json.decode(await answer.read(), type=_Ready)
            except (aiohttp.ClientError, TimeoutError, ValueError):  # or another program's
                return None
            if ready.routes.fingerprint == f"{fingerprint:016x}":
                return True
            await asyncio.sleep(0.05)
    return False


def _closing(result: MappingResult, held: bool | None, settings: Settings) -> str:
    where = local_url(settings)
    match held:
        case True:
            return f"Holds now: the instance on {where} decides by version {result.version}."
        case False:
            return (
                f"Stored as version {result.version}, but the instance on {where} does not have it "
                f"yet: is a process with the role relay running? See {where}/readyz"
            )
        case None:
            return f"Stored as version {result.version}; no instance runs on {where}."


def _line(change: AgentChange | RouteChange) -> str:
    sign = "+" if change.before is None else "-" if change.after is None else "~"
    if isinstance(change, AgentChange):
        return f"{sign} agent  {change.name}"
    return f"{sign} number {change.number}: {_to(change.before)} → {_to(change.after)}"


def _to(route: Route | None) -> str:
    if route is None:
        return "nothing"
    first = route.targets[0].agent if route.targets else "no agent"
    return f"{first}, else {route.fallback}" if route.fallback else first
