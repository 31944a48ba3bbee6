"""`apply FILE`, `export [FILE]`, `numbers remove`: the mapping as it should be, from the next call.

What will change is shown first and asked about; how it was is kept in the data folder. When it is
stored, the command waits until the instance beside it decides by it, as long as that moves.
"""

import gc
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from typer.core import TyperCommand
from typing_extensions import override

from config import Settings
from router.cli.changes import plan_lines, print_result
from router.cli.context import (
    DEFAULT_NAME,
    NO,
    WRONG,
    AccountOption,
    ConfigOption,
    JsonOption,
    e164,
    fail,
    reported,
    run,
    settings_of,
)
from router.cli.render import console, plain, problems
from router.cli.waiting import Held, closing, wait_until_held
from router.errors import ConfigError, StorageError
from router.files import make_data_folder, make_folder
from router.numbers.export import exported, write
from router.numbers.file import Existing, MappingFile
from router.routing.spec import MappingResult, RouteChange
from router.routing.table import Route
from router.storage import mapping, migrate
from router.storage.engine import Database, open_database

_KEPT: Final = 20  # mappings as they were, in the data folder
_SHARE: Final = 10  # a plain --prune removes at most one of so many numbers
_LONG: Final = 1000  # changes that take long enough for a progress bar
_INTERRUPTED: Final = 130  # exit code

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
WaitOption = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait until the instance beside us has it.")
]


class ApplyCommand(TyperCommand):
    """`--prune` alone means `--prune=some`: it must not take the file's name for its value."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--prune=some" if a == "--prune" else a for a in args])


@dataclass(slots=True)
class _Plan:
    """What a command would change. Once agreed to, the changes are dropped: they may be large."""

    account: str  # its name
    account_id: str
    result: MappingResult  # nothing of it is done; `version` is the present one
    before: mapping.Counts
    carry_out: Callable[[Database, mapping.Progress | None], Awaitable[MappingResult]]


def apply(
    file: Annotated[Path, typer.Argument(help="YAML or JSON: agents and numbers.")],
    prune: Annotated[
        Literal["some", "all"] | None,
        typer.Option(
            "--prune",
            metavar="[=all]",
            help="Also remove what is not in the file; --prune=all: also more than a tenth of it.",
        ),
    ] = None,
    yes: YesOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change; exit code 2 if any.")
    ] = False,
    wait: WaitOption = True,
    account: AccountOption = DEFAULT_NAME,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Make the mapping as FILE says; works beside a running instance."""
    with reported(), _one_shot():
        settings = settings_of(config)
        plan = run(_planned(settings, account, file, prune=prune is not None, dry_run=dry_run))
        refusal = prune_refusal(plan.result, plan.before) if prune == "some" else ""
        _settle(settings, plan, refusal, yes=yes, dry_run=dry_run, wait=wait, json=json)


def remove(
    numbers: Annotated[list[str], typer.Argument(metavar="NUMBER...", help="Numbers of ours.")],
    yes: YesOption = False,
    wait: WaitOption = True,
    account: AccountOption = DEFAULT_NAME,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Remove numbers from the mapping; nothing is released at the carrier."""
    with reported():
        settings = settings_of(config)
        plan = run(_planned_removal(settings, account, numbers))
        _settle(settings, plan, "", yes=yes, dry_run=False, wait=wait, json=json)


def export(
    file: Annotated[Path | None, typer.Argument(help="Where to; without it, to stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
    account: AccountOption = DEFAULT_NAME,
    config: ConfigOption = None,
) -> None:
    """Write the present mapping as a file that apply takes: applying it changes nothing."""
    with reported():
        settings = settings_of(config)
        if file is not None and file.exists() and not force:
            raise ConfigError(f"{file} is there already: name another file, or say --force")
        run(_export(settings, account, file))


async def account_of(database: Database, name: str) -> str:
    """The id of the account that is called so. Raises ConfigError, StorageUnavailable."""
    found = await mapping.account_named(database, name)
    if found is None:
        raise ConfigError(
            f"--account: there is no account {name!r}; those that there are:"
            "  switchboard accounts list"
        )
    return found


def prune_refusal(result: MappingResult, before: mapping.Counts) -> str:
    """Why a plain `--prune` does not do this: it removes too much. "" when it may."""
    gone = [change for change in result.changes if change.after is None]
    numbers = sum(isinstance(change, RouteChange) for change in gone)
    agents = len(gone) - numbers
    if numbers * _SHARE > before.numbers:
        what = f"{numbers} of {before.numbers} numbers"
    elif agents and agents == before.agents:
        what = f"all {agents} agents"
    else:
        return ""
    return f"Nothing was changed: --prune removes up to a tenth, not {what}; --prune=all does."


async def _planned(
    settings: Settings, account: str, file: Path, *, prune: bool, dry_run: bool
) -> _Plan:
    text = MappingFile(file)
    try:
        async with _prepared(settings, dry_run=dry_run) as prepared:
            owner = await account_of(prepared, account)
            existing = Existing() if prune else await _existing(prepared, owner, text.outside())
            wanted = text.spec(existing)
            result = await mapping.plan_mapping(prepared, owner, wanted, prune=prune)
            before = await mapping.counts(prepared, owner)
    except StorageError:
        text.spec()  # its own mistakes show without a database
        raise

    def carry_out(
        database: Database, progress: mapping.Progress | None
    ) -> Awaitable[MappingResult]:
        return mapping.apply_mapping(database, owner, wanted, prune=prune, progress=progress)

    return _Plan(account, owner, result, before, carry_out)


@asynccontextmanager
async def _prepared(settings: Settings, *, dry_run: bool) -> AsyncIterator[Database]:
    """The database, ready for changes. A look makes and changes nothing: where there is no
    database yet it is at an empty one, elsewhere.
    """
    with TemporaryDirectory(prefix="switchboard-") as elsewhere:
        if not dry_run:
            make_data_folder(settings.data_dir)
            await migrate.prepare(settings)
        elif await migrate.current(settings) is not None:
            await migrate.check(settings)
        else:
            url = {"url": f"sqlite+aiosqlite:///{elsewhere}/empty.db"}
            section = settings.database.model_copy(update=url)
            settings = settings.model_copy(update={"database": section})
            await migrate.migrate(settings)
        async with open_database(settings) as database:
            yield database


async def _existing(database: Database, owner: str, leads_to: Collection[str]) -> Existing:
    """The agents that there are, and where the fallbacks of the numbers `leads_to` lead."""
    chains: dict[str, str] = {}
    ahead = set(leads_to)
    while ahead:
        found = await mapping.fallbacks(database, owner, ahead)
        chains |= found
        ahead = set(found.values()) - chains.keys()
    agents = {agent.name for agent in await mapping.list_agents(database, owner)}
    return Existing(agents, chains)


async def _planned_removal(settings: Settings, account: str, numbers: Sequence[str]) -> _Plan:
    await migrate.check(settings)
    async with open_database(settings) as database:
        owner = await account_of(database, account)
        found = {written: await _mapped(database, owner, written) for written in numbers}
        unknown = [written for written, route in found.items() if route is None]
        if unknown:
            raise fail(f"not mapped: {', '.join(unknown)}; nothing was changed", NO)
        routes = {route.number: route for route in found.values() if route is not None}
        changes = tuple(RouteChange(number, route, None) for number, route in routes.items())
        result = MappingResult(await mapping.version(database), changes)
        before = await mapping.counts(database, owner)

    def carry_out(database: Database, _: mapping.Progress | None) -> Awaitable[MappingResult]:
        return mapping.delete_numbers(database, owner, list(routes))

    return _Plan(account, owner, result, before, carry_out)


async def _mapped(database: Database, owner: str, written: str) -> Route | None:
    """The route of a number, also of one that is mapped in a form that is no longer taken."""
    as_it_is = await mapping.get_route(database, owner, written)
    return as_it_is or await mapping.get_route(database, owner, e164(written))


def _settle(
    settings: Settings,
    plan: _Plan,
    refusal: str,
    *,
    yes: bool,
    dry_run: bool,
    wait: bool,
    json: bool,
) -> None:
    """Show the plan, ask, do it, wait until it holds."""
    result, undo = plan.result, None
    if result.changes:
        if not json:
            for each in plan_lines(result.changes):
                console.print(plain(each))
        if dry_run or refusal or not _agreed(yes=yes):
            raise _left(plan, refusal, dry_run=dry_run, json=json)
        total = len(result.changes)
        result = plan.result = MappingResult(result.version)
        result, undo = _changed(settings, plan, total, quiet=json)
    held = _held(settings, result, quiet=json) if wait and not dry_run else None
    if json:
        return print_result(result, holds=held.holds if held else None, applied=undo is not None)
    if not result.changes:
        console.print("Nothing to change: everything is as it should be.")
    if not dry_run:
        for each in closing(settings, result, held):
            console.print(plain(each))
    if undo is not None and plan.before != (0, 0):
        whose = "" if plan.account == DEFAULT_NAME else f" --account {quote(plan.account)}"
        undoing = f"switchboard apply {quote(str(undo))} --prune=all{whose}"
        console.print(plain(f"As it was before: {undoing}"))
    return None


def _left(plan: _Plan, refusal: str, *, dry_run: bool, json: bool) -> typer.Exit:
    """Nothing is changed: say why, unless that was what was asked for."""
    if json:
        print_result(plan.result, holds=None, applied=False)
    if not refusal and not dry_run:
        refusal = "Nothing was changed: nobody could be asked. Say --yes to do it."
    return fail(refusal, WRONG) if refusal else typer.Exit(WRONG)


def _agreed(*, yes: bool) -> bool:
    """Whether the user wants it; False where nobody can be asked. A "no" ends the command."""
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    typer.confirm("Do it?", abort=True, err=True)
    return True


def _changed(
    settings: Settings, plan: _Plan, total: int, *, quiet: bool
) -> tuple[MappingResult, Path]:
    try:
        return run(_change(settings, plan, total, quiet=quiet))
    except KeyboardInterrupt:
        words = "Interrupted: part of it may be stored. The same command once more does the rest."
        raise fail(words, _INTERRUPTED) from None


async def _change(
    settings: Settings, plan: _Plan, total: int, *, quiet: bool
) -> tuple[MappingResult, Path]:
    """Carry the plan out, unless the mapping is no longer the one that it was made for."""
    async with open_database(settings) as database:
        if await mapping.version(database) != plan.result.version:
            raise fail("the mapping was changed meanwhile; look at the plan again", NO)
        undo = await _keep(settings, database, plan)
        with _bar("Storing", total, quiet=quiet) as show:
            result = await plan.carry_out(database, lambda done, of: show(done / of))
    return result, undo


async def _keep(settings: Settings, database: Database, plan: _Plan) -> Path:
    """Save the mapping as it is, so that a change can be undone; the newest few are kept."""
    folder = settings.data_dir / "history"
    make_folder(folder)
    file = folder / f"mapping-{plan.result.version:08d}.yaml"
    await write(file, database, plan.account_id)
    for old in sorted(folder.glob("mapping-*.yaml"))[:-_KEPT]:
        old.unlink(missing_ok=True)
    return file


async def _export(settings: Settings, account: str, file: Path | None) -> None:
    await migrate.check(settings)
    async with open_database(settings) as database:
        owner = await account_of(database, account)
        before = await mapping.version(database)
        if file is not None:
            await write(file, database, owner)
        else:
            async for piece in exported(database, owner):
                sys.stdout.write(piece)
        if await mapping.version(database) != before:
            raise fail("the mapping changed while it was written: export it again", NO)


def _held(settings: Settings, result: MappingResult, *, quiet: bool) -> Held | None:
    """Wait for the instance; Ctrl-C ends the waiting, and what is stored stays."""
    try:
        with _bar("Reaching the instance", len(result.changes), quiet=quiet) as show:
            return run(_wait(settings, show))
    except KeyboardInterrupt:
        if quiet:
            print_result(result, holds=False, applied=bool(result.changes))
        problems.print(f"Stored as version {result.version}; not waited until it holds.")
        raise typer.Exit(_INTERRUPTED) from None


async def _wait(settings: Settings, show: Callable[[float], None]) -> Held:
    async with open_database(settings) as database:
        return await wait_until_held(settings, database, show)


@contextmanager
def _bar(what: str, total: int, *, quiet: bool) -> Iterator[Callable[[float], None]]:
    """A progress bar on a terminal, for what is long; yields what takes the share (0 to 1) done."""
    with ExitStack() as stack:
        if quiet or not problems.is_terminal or total < _LONG:
            yield lambda _: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        bar = stack.enter_context(Progress(*columns, console=problems, transient=True))
        task = bar.add_task(what, total=total)

        yield lambda share: bar.update(task, completed=round(share * total))


@contextmanager
def _one_shot() -> Iterator[None]:
    """No search for garbage: all that is read of a large file lives to the end of the command."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
