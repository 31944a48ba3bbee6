"""`tokens`: who may speak to the control API, and for whom."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
import typer

from router.cli.accounts import OPERATOR, PAGE, all_of, print_table, with_control
from router.cli.context import (
    DEFAULT_NAME,
    AccountOption,
    ConfigOption,
    JsonOption,
    print_json,
    reported,
)
from router.cli.render import console, date_time, facts, problems
from router.clock import SYSTEM
from router.control import accounts as account_service
from router.control import tokens as token_service
from router.control.context import Control
from router.control.model import Token

_DAY: Final = 86400.0  # seconds

tokens = typer.Typer(
    no_args_is_help=True, help="Tokens: who may use the control API, and for what."
)


@tokens.command("create")
def create_token(
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            metavar="SCOPE",
            help=f"What it may do; give it once for each: {', '.join(token_service.SCOPES)}.",
        ),
    ] = None,
    account: AccountOption = DEFAULT_NAME,
    label: Annotated[str, typer.Option("--label", help="What it is for.")] = "",
    days: Annotated[
        float | None,
        typer.Option(
            "--days",
            min=0.001,
            max=36500,
            help="Days that it is valid; without it, until it is revoked.",
        ),
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Make a token. It is shown only now: keep it."""
    with reported():
        scopes: Sequence[Any] = scope or ()

        async def work(control: Control) -> tuple[Token, str]:
            return await token_service.create(
                control,
                OPERATOR,
                account=account,
                scopes=scopes,
                label=label,
                lifetime=None if days is None else days * _DAY,
            )

        token, secret = with_control(config, work, changes=True)
        if json:
            found = msgspec.structs.asdict(token)
            return print_json({"id": found.pop("id"), "token": secret, **found})
        print(secret)
        problems.print(
            f"Keep it: it is shown only now. Revoke: switchboard tokens revoke {token.id}"
        )
        return None


@tokens.command("list")
def list_tokens(
    account: Annotated[
        str | None, typer.Option("--account", metavar="ACCOUNT", help="Only of this account.")
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """All tokens, newest first; of each its last four characters."""
    with reported():

        async def work(control: Control) -> tuple[list[Token], dict[str, str]]:
            found = await all_of(
                lambda offset: token_service.list_(
                    control, OPERATOR, account=account, offset=offset, limit=PAGE
                )
            )
            owners = {token.account_id for token in found}
            names = [await account_service.get(control, OPERATOR, owner) for owner in owners]
            return found, {each.id: each.name for each in names}

        found, names = with_control(config, work)
        if json:
            return print_json(found)
        rows = [
            (
                f"…{each.hint}",
                names[each.account_id],
                each.label or "-",
                " ".join(each.scopes),
                _state(each),
                date_time(each.last_used_at),
                each.id,
            )
            for each in found
        ]
        columns = ("token", "account", "label", "scopes", "state", "last used (UTC)", "id")
        return print_table(columns, rows)


@tokens.command("show")
def show_token(
    token: Annotated[str, typer.Argument(metavar="ID", help="The token's id.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """One token: its scopes, state and last use."""
    with reported():

        async def work(control: Control) -> Token:
            return await token_service.get(control, OPERATOR, token)

        _show_token(with_control(config, work), json=json)


@tokens.command("revoke")
def revoke_token(
    token: Annotated[str, typer.Argument(metavar="ID", help="The token's id.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Refuse a token from now on, at every instance."""
    with reported():

        async def work(control: Control) -> Token:
            return await token_service.revoke(control, OPERATOR, token)

        _show_token(with_control(config, work, changes=True), json=json)


def _show_token(token: Token, *, json: bool) -> None:
    if json:
        return print_json(token)
    return console.print(
        facts(
            [
                ("token", f"…{token.hint}"),
                ("id", token.id),
                ("account", token.account_id),
                ("label", token.label),
                ("scopes", " ".join(token.scopes)),
                ("state", _state(token)),
                ("made (UTC)", date_time(token.created_at)),
                ("last used (UTC)", date_time(token.last_used_at)),
            ]
        )
    )


def _state(token: Token) -> str:
    if token.revoked_at is not None:
        return f"revoked {date_time(token.revoked_at)}"
    if token.expires_at is None:
        return "valid"
    past = token.expires_at <= SYSTEM.now()
    return f"{'expired' if past else 'valid until'} {date_time(token.expires_at)}"
