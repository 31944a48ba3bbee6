"""`agents`, `numbers`, `calls`, `explain`: what is there, what happened, and why."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from config import Settings
from router.cli.apply import account_of, remove
from router.cli.context import (
    DEFAULT_NAME,
    NO,
    AccountOption,
    ConfigOption,
    JsonOption,
    e164,
    fail,
    print_json,
    reported,
    run,
    settings_of,
)
from router.cli.render import call_table, console, date_time, facts, leg_table, plain, timeline
from router.events.call import CallRecord
from router.events.model import Event
from router.routing.explain import Explanation
from router.routing.explain import explain as explain_call
from router.routing.table import RouteTable
from router.storage import calls as call_store
from router.storage import mapping, migrate
from router.storage.engine import Database, open_database

agents = typer.Typer(no_args_is_help=True, help="The agents that answer.")
numbers = typer.Typer(no_args_is_help=True, help="The numbers and where they lead.")
calls = typer.Typer(no_args_is_help=True, help="What became of the calls.")


@agents.command("list")
def list_agents(
    account: AccountOption = DEFAULT_NAME, config: ConfigOption = None, json: JsonOption = False
) -> None:
    """All agents."""
    with reported():
        found = run(_agents(settings_of(config), account))
        if json:
            return print_json(found)
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("agent", "LiveKit agent_name", "status", "metadata"):
            table.add_column(name)
        for agent in found:
            metadata = msgspec.json.encode(agent["metadata"]).decode()
            cells = (agent["name"], agent["livekit_agent_name"], agent["status"], metadata)
            table.add_row(*map(plain, cells))
        console.print(table)
        return None


@numbers.command("list")
def list_numbers(
    account: AccountOption = DEFAULT_NAME, config: ConfigOption = None, json: JsonOption = False
) -> None:
    """All numbers."""
    with reported():
        found = run(_numbers(settings_of(config), account))
        if json:
            return print_json(found)
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("number", "provider", "agent", "fallback"):
            table.add_column(name)
        for number in found:
            cells = (number["number"], number["provider"], number["agent"], number["fallback"])
            table.add_row(*(plain(cell or "-") for cell in cells))
        console.print(table)
        return None


numbers.command("remove")(remove)


@numbers.command("release")
def release_number(
    number: Annotated[str, typer.Argument(help="A number of the account.")],
    account: AccountOption = DEFAULT_NAME,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Route a number nowhere, and give it back to its carrier if Switchboard bought it."""
    # It knows the carriers, which the other commands here do without.
    from router.cli.accounts import released

    with reported():
        found = released(config, account, e164(number))
        if json:
            return print_json(found)
        console.print(f"{found.number} is {found.state}.")
        return None


@calls.command("list")
def list_calls(
    account: AccountOption = DEFAULT_NAME,
    config: ConfigOption = None,
    json: JsonOption = False,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
) -> None:
    """The newest calls."""
    with reported():
        found = run(_calls(settings_of(config), account, limit))
        return print_json(found) if json else console.print(call_table(found))


@calls.command("show")
def show_call(
    call: Annotated[str, typer.Argument(help="The call's id, its beginning, or the carrier's.")],
    account: AccountOption = DEFAULT_NAME,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """One call with its legs' ends and its timeline."""
    with reported():
        record, events = run(_call(settings_of(config), account, call))
        if json:
            return print_json({"call": record, "events": events})
        console.print(facts(_record_facts(record)))
        console.print()
        if record.legs:
            console.print(leg_table(record.legs))
            console.print()
        console.print(timeline(events))
        return None


def explain(
    to: Annotated[str, typer.Argument(help="The number that is called.")],
    from_: Annotated[str, typer.Option("--from", help="Who calls.")] = "",
    provider: Annotated[str, typer.Option(help="Where it comes in; default: where it is.")] = "",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Why a call would go where it goes: the very function that decides real calls."""
    with reported():
        number = e164(to)
        told, owner = run(_explain(settings_of(config), number, provider))
        if json:
            return print_json(
                {"to": number, "from": from_, "account": owner, "decision": told.decision,
                 "route": told.route, "ruled_out": told.ruled_out}
            )  # fmt: skip
        console.print(facts(_explanation_facts(number, from_, told, owner)))
        return None


def _record_facts(call: CallRecord) -> list[tuple[str, object]]:
    return [
        ("call", call.call_id),
        ("at the provider", f"{call.provider} {call.provider_call_id}"),
        ("from → to", f"{call.from_number or 'unknown'} → {call.to_number}"),
        ("agent", call.agent),
        ("why", call.reason),
        ("state", f"{call.state}{f', {call.disposition}' if call.disposition else ''}"),
        ("began (UTC)", date_time(call.initiated_at)),
        ("answered (UTC)", date_time(call.answered_at) if call.answered_at else ""),
        ("seconds", f"{call.duration:.1f}" if call.duration is not None else ""),
    ]


def _explanation_facts(
    number: str, from_: str, told: Explanation, owner: str
) -> list[tuple[str, object]]:
    decision, route = told.decision, told.route
    pairs: list[tuple[str, object]] = [
        ("call", f"{from_ or 'anybody'} → {number}"),
        ("account", "" if owner == DEFAULT_NAME else owner),
        ("decision", f"{decision.action} {decision.agent}"),
        ("why", decision.reason),
        ("LiveKit agent", decision.livekit_agent_name),
        ("if no agent comes", decision.fallback or "a spoken apology"),
        ("route", f"revision {route.rev}, at {route.provider}" if route else "none"),
        ("table", f"version {decision.table_version}"),
    ]
    return pairs + [("ruled out", f"{what}: {why}") for what, why in told.ruled_out]


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Database]:
    """The database, which must have our schema. Raises StorageError."""
    await migrate.check(settings)
    async with open_database(settings) as database:
        yield database


async def _agents(settings: Settings, account: str) -> list[dict[str, Any]]:
    async with opened(settings) as database:
        owner = await account_of(database, account)
        found = await mapping.list_agents(database, owner)
        ids = await mapping.agent_ids(database, owner)
    # Between the two looks one may have been removed.
    return [{"id": ids.get(each.name), **msgspec.structs.asdict(each)} for each in found]


async def _numbers(settings: Settings, account: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with opened(settings) as database:
        owner = await account_of(database, account)
        agents = await mapping.agent_ids(database, owner)
        last = ""
        while page := await mapping.list_numbers(database, owner, after=last):
            last = page[-1].number
            ids = await mapping.number_ids(database, owner, [each.number for each in page])
            found += [
                {
                    "id": ids.get(each.number),
                    **msgspec.structs.asdict(each),
                    "agent_id": agents.get(each.agent or ""),
                }
                for each in page
            ]
    return found


async def _calls(settings: Settings, account: str, limit: int) -> list[CallRecord]:
    async with opened(settings) as database:
        owner = await account_of(database, account)
        return list(await call_store.list_calls(database, owner, limit=limit))


async def _call(settings: Settings, account: str, wanted: str) -> tuple[CallRecord, list[Event]]:
    async with opened(settings) as database:
        record = await call_store.find(database, await account_of(database, account), wanted)
        if record is None:
            raise fail(f"there is no call {wanted}; the last ones: switchboard calls list", NO)
        return record, list(await call_store.events(database, record.call_id))


async def _explain(settings: Settings, number: str, provider: str) -> tuple[Explanation, str]:
    """And the name of the account that the number is of."""
    table = RouteTable()
    owner = ""
    async with opened(settings) as database:
        route = await mapping.find_route(database, number)
        newest = await mapping.position(database)
        if route is not None:
            owner = await mapping.account_name(database, route.account_id)
    if route is not None:
        table.put(route)
    table.newest = newest
    at_home = route.provider if route is not None else "twilio"
    return explain_call(number, provider or at_home, table), owner
