"""The command line: `switchboard --help`.

A command's module is imported when the command is used, not before: all of them together cost
seconds of CPU, and most commands need neither the stand-ins nor a carrier's library.
"""

import gc
from collections.abc import Iterator, Mapping
from importlib import import_module, metadata
from types import ModuleType
from typing import Annotated, Any, Final, NamedTuple, TypeVar, cast

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.main import get_command, get_group
from typing_extensions import override

_Command = TypeVar("_Command", bound=TyperCommand | TyperGroup)

_EPILOG: Final = (
    "Exit codes: 0 done · 1 the answer is no · 2 the command, the settings or a file is wrong · "
    "3 something needed can't be reached · 4 the journal's disk failed · 130 ended by Ctrl-C"
)


class _Source(NamedTuple):
    """Where a command (a function or a `typer.Typer`) is, and its line in `--help`."""

    where: str
    help: str
    cls: str = ""  # of the command, beside it, where Typer's own does not do


COMMANDS: Final[Mapping[str, _Source]] = {
    "up": _Source("up:up", "Run Switchboard: take webhooks, dispatch agents, record calls."),
    "call": _Source(
        "call:call", "Place a test call at the running instance and print its timeline."
    ),
    "explain": _Source(
        "data:explain",
        "Why a call would go where it goes: the very function that decides real calls.",
    ),
    "tail": _Source("tail:tail", "Follow the events; Ctrl-C ends it."),
    "apply": _Source(
        "apply:apply",
        "Make the mapping as FILE says; works beside a running instance.",
        "ApplyCommand",
    ),
    "export": _Source(
        "apply:export",
        "Write the present mapping as a file that apply takes: applying it changes nothing.",
    ),
    "catch-up": _Source(
        "maintenance:catch_up",
        "Fetch events that a provider could not deliver; works beside a running instance.",
    ),
    "migrate": _Source("maintenance:migrate", "Bring the database's schema up to date."),
    "doctor": _Source(
        "doctor:doctor",
        "Check settings, data folder, clock, database, Kafka, LiveKit and the public URL.",
    ),
    "calls": _Source("data:calls", "What became of the calls."),
    "agents": _Source("data:agents", "The agents that answer."),
    "numbers": _Source("data:numbers", "The numbers and where they lead."),
    "accounts": _Source("accounts:accounts", "Accounts (tenants), and how much their plans allow."),
    "tokens": _Source("tokens:tokens", "Tokens: who may use the control API, and for what."),
    "connections": _Source(
        "secrets:connections", "Connections: an account's own credentials at a carrier."
    ),
    "secrets": _Source("secrets:secrets", "The key that stored credentials are encrypted with."),
    "audit": _Source("accounts:trail", "Who changed what, newest first."),
}


class _Loaded(Mapping[str, TyperCommand | TyperGroup]):
    """The commands by name, each imported when it is asked for."""

    @override
    def __getitem__(self, name: str) -> TyperCommand | TyperGroup:
        where, _, cls = COMMANDS[name]
        module, _, attribute = where.partition(":")
        source = _imported(f"router.cli.{module}")
        found = getattr(source, attribute)
        if isinstance(found, typer.Typer):
            group = get_group(found)
            group.name = name
            return _with_plain_flags(group)
        alone = typer.Typer(add_completion=False)
        alone.command(name, cls=getattr(source, cls) if cls else None)(found)
        return _with_plain_flags(cast("TyperCommand", get_command(alone)))

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    @override
    def __len__(self) -> int:
        return len(COMMANDS)


def _with_plain_flags(command: _Command) -> _Command:
    """In `--help` a flag takes no value; Typer writes `<bool>` behind it."""
    for option in command.get_params(typer.Context(command)):
        if isinstance(option, TyperOption) and option.is_flag:
            option.metavar = ""
    if isinstance(command, TyperGroup) and not isinstance(command, _Group):
        for each in command.commands.values():
            _with_plain_flags(cast("TyperCommand", each))
    return command


def _imported(module: str) -> ModuleType:
    """A module; nothing of an import is garbage, and to look for it takes a third of the time."""
    gc.disable()
    try:
        return import_module(module)
    finally:
        gc.freeze()
        gc.enable()


class _Group(TyperGroup):
    """Lists the commands without importing them."""

    @override
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Loaded()  # type: ignore[assignment]  # nothing is added to it
        _with_plain_flags(self)

    @override
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            cause = error.__cause__
            if cause is not None:  # pydantic's error, in its words
                error.message = _imported("config.load").in_words(cause)
            raise

    @override
    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    @override
    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | TyperGroup | None:
        if cmd_name not in COMMANDS:
            return None
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name].help)  # enough for a list

    @override
    def resolve_command(
        self, ctx: Any, args: list[str]
    ) -> tuple[str | None, TyperCommand | TyperGroup | None, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        return name, self.commands[name] if name is not None else None, rest  # type: ignore[return-value]


app = typer.Typer(
    name="switchboard",
    cls=_Group,
    help="Puts every phone call through to the right voice agent.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _on_version(wanted: bool) -> None:
    if wanted:
        print(f"switchboard {metadata.version('switchboard')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_on_version),
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point of installations that were made before `router.__main__:main` was it."""
    import_module("router.__main__").main()
