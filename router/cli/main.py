"""The command line: `switchboard --help`."""

import typer

from router.cli.apply import ApplyCommand, apply, export
from router.cli.call import call
from router.cli.catchup import command as catch_up
from router.cli.context import ConfigOption, reported, run, settings_of
from router.cli.data import agents, calls, explain, numbers
from router.cli.doctor import doctor
from router.cli.render import console
from router.cli.tail import tail
from router.cli.up import up
from router.storage.migrate import migrate as migrate_schema

_EPILOG = (
    "Exit codes: 0 done · 1 the answer is no · 2 the command, the settings or a file is wrong · "
    "3 something needed can't be reached · 4 the journal's disk failed"
)

app = typer.Typer(
    name="switchboard",
    help="Puts every phone call through to the right voice agent.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def migrate(config: ConfigOption = None) -> None:
    """Bring the database's schema up to date."""
    with reported():
        settings = settings_of(config)
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        done = run(migrate_schema(settings))
        same = done.from_rev == done.to_rev
        console.print(
            f"Up to date ({done.to_rev})."
            if same
            else f"Migrated: {done.from_rev or 'empty'} → {done.to_rev}."
        )


app.command()(up)
app.command()(call)
app.command()(explain)
app.command()(tail)
app.command(cls=ApplyCommand)(apply)
app.command()(export)
app.command("catch-up")(catch_up)
app.command()(doctor)
app.add_typer(calls, name="calls")
app.add_typer(agents, name="agents")
app.add_typer(numbers, name="numbers")


def main() -> None:
    """The entry point."""
    app()
