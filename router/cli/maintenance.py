"""`switchboard migrate` and `catch-up`: what an operator has done beside a running instance."""

import time
from collections.abc import Mapping
from typing import Annotated

import typer

from config import Settings
from router.catchup import catch_up as fetch_missed
from router.cli.context import ConfigOption, JsonOption, print_json, reported, run, settings_of
from router.cli.render import console
from router.clock import SystemClock
from router.connections import ConnectionTable
from router.files import make_data_folder
from router.providers import context_of, open_carriers
from router.secrets import load_key, sip_credentials
from router.storage.connections import published
from router.storage.engine import open_database
from router.storage.migrate import migrate as migrate_schema
from router.storage.migrate import prepare
from router.vault import open_vault

_HOUR = 3600.0


def migrate(config: ConfigOption = None) -> None:
    """Bring the database's schema up to date."""
    with reported():
        settings = settings_of(config)
        make_data_folder(settings.data_dir)
        done = run(migrate_schema(settings))
        same = done.from_rev == done.to_rev
        console.print(
            f"Up to date ({done.to_rev})."
            if same
            else f"Migrated: {done.from_rev or 'empty'} → {done.to_rev}."
        )


def catch_up(
    hours: Annotated[float, typer.Option(help="How far back.", min=0.01, max=720)] = 24.0,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Fetch events that a provider could not deliver; works beside a running instance.

    They go onto the log of the instance that runs, as soon as one does. What is there already
    changes nothing.
    """
    with reported():
        settings = settings_of(config)
        found = run(_catch_up(settings, hours))
        if json:
            print_json(found)
            return
        for name, count in found.items():
            console.print(f"{name}: {count} events")
        if not found:
            console.print("None of the configured providers keeps what it could not deliver.")


async def _catch_up(settings: Settings, hours: float) -> Mapping[str, int]:
    make_data_folder(settings.data_dir)
    credentials = sip_credentials(
        load_key(settings.secret_key.get_secret_value(), settings.data_dir)
    )
    table = ConnectionTable(open_vault(settings))
    since = int((time.time() - hours * _HOUR) * 1_000_000)
    await prepare(settings)
    context = context_of(settings, credentials, SystemClock(), table)
    async with open_database(settings) as database, open_carriers(context) as carriers:
        async for connection in published(database, frozenset(carriers)):
            table.put(connection)
        return {
            name: await fetch_missed(database, carrier, since)
            for name, carrier in carriers.items()
            if carrier.missed is not None
        }
