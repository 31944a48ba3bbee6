"""`accounts` and `audit`: whose everything is, and who changed what.

And what every command over the control plane starts with: `with_control`. One that changes
something prepares the database first, as a start does, so each of them may be the first one on a
machine; a look makes nothing.
"""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
import typer
from rich.table import Table

from config import Settings
from router.cli.context import ConfigOption, JsonOption, print_json, reported, run, settings_of
from router.cli.render import console, date_time, facts, plain
from router.clock import SYSTEM
from router.control import accounts as account_service
from router.control import audit as audit_service
from router.control import calls as call_service
from router.control import numbers as number_service
from router.control.calls import Usage
from router.control.context import Control, control_of
from router.control.model import Account, Actor, AuditRow, Number, Page, Plan
from router.events.ids import DEFAULT_ACCOUNT
from router.files import make_data_folder
from router.secrets import find_key, load_keys
from router.storage import migrate
from router.storage.engine import open_database

T = TypeVar("T")

OPERATOR: Final = Actor(account_id=DEFAULT_ACCOUNT)
"""Who types a command: scope `admin`."""

PAGE: Final = 500

accounts = typer.Typer(
    no_args_is_help=True, help="Accounts (tenants), and how much their plans allow."
)

NameArgument = Annotated[str, typer.Argument(metavar="ACCOUNT", help="Its name or its id.")]
NumbersOption = Annotated[
    str | None,
    typer.Option("--numbers", metavar="N|none", help="Numbers that it may hold; none: no limit."),
]
CallsOption = Annotated[
    str | None,
    typer.Option("--calls", metavar="N|none", help="Calls at the same time; none: no limit."),
]
MinutesOption = Annotated[
    str | None,
    typer.Option(
        "--minutes", metavar="N|none", help="Minutes of calls in a month (UTC); none: no limit."
    ),
]
SharedOption = Annotated[
    bool | None,
    typer.Option(
        "--shared-carriers/--own-carriers",
        help="Whether it may buy numbers through the operator's carriers too.",
    ),
]
WorkerOption = Annotated[
    str | None,
    typer.Option(
        "--worker",
        metavar="NAME",
        help="LiveKit worker (livekit_agent_name) of its agents that name none.",
    ),
]


@asynccontextmanager
async def opened_control(settings: Settings, *, changes: bool) -> AsyncIterator[Control]:
    """The control plane over the instance's database; `changes`: which is made where there is none.

    Raises:
        StorageError: the database can't be used as it is, or it is only to be looked at and there
            is none.
    """
    if changes:
        make_data_folder(settings.data_dir)
        await migrate.prepare(settings)
    else:
        await migrate.check(settings)
    configured = settings.secret_key.get_secret_value()
    if changes or find_key(configured, settings.data_dir) is not None:
        previous = [key.get_secret_value() for key in settings.previous_secret_keys]
        keys = load_keys(configured, previous, settings.data_dir)
    else:  # nothing is sealed yet that a look could open
        keys = [secrets.token_bytes(32)]
    async with open_database(settings) as database:
        yield control_of(settings, database, keys, SYSTEM)


def with_control(
    config: Path | None, work: Callable[[Control], Awaitable[T]], *, changes: bool = False
) -> T:
    """What `work` gives with the control plane of the instance that is meant."""
    settings = settings_of(config)

    async def whole() -> T:
        async with opened_control(settings, changes=changes) as control:
            return await work(control)

    return run(whole())


def released(config: Path | None, account: str, number: str) -> Number:
    """The account's number, given back (`numbers.release`)."""

    async def work(control: Control) -> Number:
        owner = await account_service.get(control, OPERATOR, account)
        return await number_service.release(control, Actor(account_id=owner.id), number)

    return with_control(config, work, changes=True)


async def all_of(page_at: Callable[[int], Awaitable[Page[T]]]) -> list[T]:
    """Every item of a list, page by page."""
    found: list[T] = []
    while True:
        page = await page_at(len(found))
        found += page.items
        if len(page.items) < PAGE:
            return found


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Cells are printed `plain`."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        table.add_column(name)
    for row in rows:
        table.add_row(*map(plain, row))
    console.print(table)


@accounts.command("create")
def create_account(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Lower-case letters, digits, - and _.")
    ],
    numbers: NumbersOption = None,
    calls: CallsOption = None,
    minutes: MinutesOption = None,
    shared: SharedOption = None,
    worker: WorkerOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Make an account; a limit that is not given is none."""
    with reported():
        plan = _plan(Plan(), numbers, calls, minutes, shared)

        async def work(control: Control) -> Account:
            return await account_service.create(
                control, OPERATOR, name=name, plan=plan, worker=worker or ""
            )

        _show_account(with_control(config, work, changes=True), json=json)


@accounts.command("list")
def list_accounts(config: ConfigOption = None, json: JsonOption = False) -> None:
    """All accounts, by name."""
    with reported():

        async def work(control: Control) -> list[Account]:
            return await all_of(
                lambda offset: account_service.list_(control, OPERATOR, offset=offset, limit=PAGE)
            )

        found = with_control(config, work)
        if json:
            return print_json(found)
        rows = [
            (
                each.name,
                *map(_limit, (each.plan.numbers, each.plan.calls, each.plan.minutes)),
                "shared" if each.plan.shared_carriers else "own",
                each.worker or "-",
                each.id,
            )
            for each in found
        ]
        columns = ("account", "numbers", "calls", "minutes", "carriers", "worker", "id")
        return print_table(columns, rows)


@accounts.command("show")
def show_account(
    account: NameArgument, config: ConfigOption = None, json: JsonOption = False
) -> None:
    """One account: its plan, and what it has used of it this month."""
    with reported():

        async def work(control: Control) -> tuple[Account, Usage]:
            found = await account_service.get(control, OPERATOR, account)
            actor = msgspec.structs.replace(OPERATOR, account_id=found.id)
            return found, await call_service.usage(control, actor)

        found, used = with_control(config, work)
        if json:
            return print_json({**msgspec.structs.asdict(found), "usage": used})
        _show_account(found, json=False)
        return console.print(
            facts(
                [
                    ("numbers in use", used.numbers),
                    ("calls this month", used.calls),
                    ("minutes this month", f"{used.minutes:g}"),
                ]
            )
        )


@accounts.command("update")
def update_account(
    account: NameArgument,
    name: Annotated[str | None, typer.Option("--name", help="Its new name.")] = None,
    numbers: NumbersOption = None,
    calls: CallsOption = None,
    minutes: MinutesOption = None,
    shared: SharedOption = None,
    worker: WorkerOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Change what is given; numbers that are above a new limit stay."""
    with reported():

        async def work(control: Control) -> Account:
            before = await account_service.get(control, OPERATOR, account)
            plan = _plan(before.plan, numbers, calls, minutes, shared)
            return await account_service.update(
                control, OPERATOR, before.id, plan=plan, worker=worker, name=name
            )

        _show_account(with_control(config, work, changes=True), json=json)


def trail(
    account: Annotated[
        str | None, typer.Option("--account", metavar="ACCOUNT", help="Only of this account.")
    ] = None,
    thing: Annotated[
        str,
        typer.Option(
            "--object", metavar="ID", help="Only of the agent, number, token … with this id."
        ),
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Changes to show.")] = 50,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Who changed what, newest first."""
    with reported():

        async def work(control: Control) -> list[AuditRow]:
            actor = OPERATOR
            if account is not None:
                owner = await account_service.get(control, OPERATOR, account)
                actor = msgspec.structs.replace(OPERATOR, account_id=owner.id)
            page = await audit_service.list_(
                control, actor, everybody=account is None, object_id=thing, limit=limit
            )
            return list(page.items)

        found = with_control(config, work)
        if json:
            return print_json(found)
        rows = [
            (date_time(each.created_at), each.actor, each.action, each.object_id, _change(each))
            for each in found
        ]
        return print_table(("when (UTC)", "who", "what", "of", "change"), rows)


def _plan(
    before: Plan,
    numbers: str | None,
    calls: str | None,
    minutes: str | None,
    shared: bool | None,
) -> Plan:
    """The plan with what was given. Raises typer.BadParameter, which names the option."""
    given = {"numbers": numbers, "calls": calls, "minutes": minutes}
    changes: dict[str, Any] = {
        name: _limit_of(f"--{name}", text) for name, text in given.items() if text is not None
    }
    if shared is not None:
        changes["shared_carriers"] = shared
    return msgspec.structs.replace(before, **changes)


def _limit_of(option: str, text: str) -> int | None:
    if text == "none":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 11):
        raise typer.BadParameter(
            f"{text!r} is neither a whole number from 0 on nor none", param_hint=option
        )
    return int(text)


def _show_account(account: Account, *, json: bool) -> None:
    if json:
        return print_json(account)
    plan = account.plan
    return console.print(
        facts(
            [
                ("account", account.name),
                ("id", account.id),
                ("numbers", _limit(plan.numbers)),
                ("calls at once", _limit(plan.calls)),
                ("minutes a month", _limit(plan.minutes)),
                ("carriers", "the operator's too" if plan.shared_carriers else "its own alone"),
                ("worker", account.worker or "each agent's own name"),
                ("changed (UTC)", date_time(account.updated_at or None)),
            ]
        )
    )


def _limit(limit: int | None) -> str:
    return "no limit" if limit is None else str(limit)


def _change(row: AuditRow) -> str:
    """What differs, `name: before → after`."""
    before, after = row.before or {}, row.after or {}
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if not before:
        return ", ".join(f"{name}: {_word(after[name])}" for name in names)
    return ", ".join(
        f"{name}: {_word(before.get(name))} → {_word(after.get(name))}" for name in names
    )


def _word(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
