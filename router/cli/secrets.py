"""`secrets` and `connections`: what Switchboard keeps sealed, without a word of it on the screen.

Credentials are typed at a prompt, or read as JSON from stdin: an argument is in the shell's history
and in the list of processes.
"""

import sys
from typing import Annotated, Any

import msgspec
import typer

from config import Settings
from router.cli.accounts import OPERATOR, PAGE, all_of, opened_control, print_table, with_control
from router.cli.context import (
    DEFAULT_NAME,
    NO,
    AccountOption,
    ConfigOption,
    JsonOption,
    fail,
    print_json,
    reported,
    run,
    settings_of,
)
from router.cli.render import console, problems
from router.control import accounts as account_service
from router.control import connections as connection_service
from router.control.context import Control
from router.control.model import Actor, Connection
from router.control.rotation import Rotated, seal_anew
from router.errors import Invalid
from router.secrets import replace_key

_RESTART = (
    "Restart every running instance: the SIP credentials follow from the key, and LiveKit's trunk "
    "gets the new ones at the start."
)

secrets = typer.Typer(
    no_args_is_help=True, help="The key that stored credentials are encrypted with."
)
connections = typer.Typer(
    no_args_is_help=True, help="Connections: an account's own credentials at a carrier."
)


@secrets.callback()
def _secrets() -> None:
    """One command for now; it keeps its name."""


@secrets.command("rotate")
def rotate(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Encrypt all stored credentials with a new key: of the data folder, or that of the settings.

    It works beside a running instance, and may be stopped and run again. Where secret_key is set:
    first put the new key there and the old one into previous_secret_keys, on every node.
    """
    with reported():
        settings = settings_of(config)
        key, done = run(_rotate(settings))
        if json:
            print_json({"key": key, "sealed": done.sealed, "unreadable": done.unreadable})
        else:
            _tell(key, done)
        if done.unreadable:
            raise fail(
                f"{len(done.unreadable)} could not be opened: {', '.join(done.unreadable[:5])}",
                NO,
                remedy="Put the key that sealed them into previous_secret_keys and run it again, "
                "or set their secrets anew",
            )


async def _rotate(settings: Settings) -> tuple[str, Rotated]:
    """Which key it is now sealed with: `settings`, a `new` one, or the one `kept`."""
    async with opened_control(settings, changes=True) as control:
        done = await seal_anew(control, OPERATOR)
    if settings.secret_key.get_secret_value():
        return "settings", done
    if done.total:  # one that was stopped half-way is finished first
        return "kept", done
    replace_key(settings.data_dir)
    async with opened_control(settings, changes=True) as control:
        return "new", await seal_anew(control, OPERATOR)


def _tell(key: str, done: Rotated) -> None:
    what = ", ".join(f"{table} {count}" for table, count in done.sealed.items() if count)
    if key == "new":
        console.print(
            "A new key was made; the former one is kept, to read what is encrypted with it."
        )
    if key == "kept":
        console.print(
            "The rotation that was stopped is finished. For another new key, run it again."
        )
    console.print(f"Encrypted anew: {what or 'nothing'}.")
    if key == "new":
        problems.print(_RESTART)


@connections.command("list")
def list_connections(
    account: AccountOption = DEFAULT_NAME, config: ConfigOption = None, json: JsonOption = False
) -> None:
    """An account's connections, oldest first; credentials by their last four characters."""
    with reported():

        async def work(control: Control) -> list[Connection]:
            actor = await _actor(control, account)
            return await all_of(
                lambda offset: connection_service.list_(control, actor, offset=offset, limit=PAGE)
            )

        found = with_control(config, work)
        if json:
            return print_json(found)
        rows = [
            (
                each.provider,
                each.label or "-",
                each.provider_account or "-",
                " ".join(f"{name} {shown}" for name, shown in each.masked.items()),
                "default" if each.is_default else "",
                each.id,
            )
            for each in found
        ]
        columns = ("provider", "label", "provider's account", "credentials", "", "id")
        return print_table(columns, rows)


@connections.command("create")
def create_connection(
    provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="twilio or telnyx.")],
    provider_account: Annotated[
        str, typer.Option("--provider-account", metavar="SID", help="Twilio's Account SID.")
    ] = "",
    label: Annotated[str, typer.Option("--label", help="What it is for.")] = "",
    account: AccountOption = DEFAULT_NAME,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Store an account's credentials, typed at a prompt or as a JSON object on stdin."""
    with reported():
        given = _credentials(provider)

        async def work(control: Control) -> Connection:
            return await connection_service.create(
                control,
                await _actor(control, account),
                provider=provider,
                provider_account=provider_account,
                label=label,
                secrets=given,
            )

        made = with_control(config, work, changes=True)
        if json:
            return print_json(made)
        console.print(f"Made: {made.id}")
        if provider == "telnyx":
            problems.print(f"Its webhooks go to <public_url>/webhooks/telnyx/c/{made.id}")
        return None


@connections.command("delete")
def delete_connection(
    connection: Annotated[str, typer.Argument(metavar="ID", help="The connection's id.")],
    account: AccountOption = DEFAULT_NAME,
    config: ConfigOption = None,
) -> None:
    """Delete a connection; refused while numbers are held through it."""
    with reported():

        async def work(control: Control) -> None:
            await connection_service.delete(control, await _actor(control, account), connection)

        with_control(config, work, changes=True)
        console.print("Deleted.")


async def _actor(control: Control, account: str) -> Actor:
    found = await account_service.get(control, OPERATOR, account)
    return Actor(account_id=found.id)


def _credentials(provider: str) -> dict[str, str]:
    """Raises Invalid."""
    if sys.stdin.isatty():
        names = connection_service.NEEDED.get(provider, {"api_key": ""})
        return {name: typer.prompt(name, hide_input=True, err=True) for name in names}
    where = ("stdin",)
    try:
        found: Any = msgspec.json.decode(sys.stdin.read(100_000))
    except ValueError:
        raise Invalid((where, 'must be a JSON object such as {"auth_token": "…"}')) from None
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise Invalid((where, "must be a JSON object of texts"))
    return found
