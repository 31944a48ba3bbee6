"""`switchboard up`: run this node; with --sandbox, amid stand-ins for the carriers and LiveKit."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Final

import typer

from config import ConfigProblem, Settings, check, load
from router.cli import instance
from router.cli.context import ConfigOption, local_url, reported, run, version
from router.cli.instance import Instance
from router.cli.render import console
from router.cli.sandbox import Sandbox, open_sandbox
from router.errors import ConfigError
from router.node import Node
from router.observability import log
from router.providers import carriers, configured
from router.runtime import run as run_node

_WEBHOOKS: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "twilio": (
        ("Twilio's voice webhook", "twilio/voice"),
        ("Twilio's fallback", "twilio/fallback"),
        ("Twilio's status callback", "twilio/status"),
    ),
    "telnyx": (("Telnyx's webhooks", "telnyx"), ("Telnyx's TeXML", "telnyx/texml/voice")),
    "livekit": (("LiveKit's webhooks", "livekit"),),
}
"""What to enter at each provider; of others (Vocode's URL ends with a secret) how it begins."""


def up(
    config: ConfigOption = None,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="With stand-ins on loopback; no account needed.")
    ] = False,
    roles: Annotated[
        str | None,
        typer.Option(help="Comma-separated: ingress, dispatch, calls, relay, api. Default: all."),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Instead of http.port.")] = None,
    forget_routes: Annotated[
        bool,
        typer.Option(
            "--forget-routes", help="Routes in use that the database does not have may go."
        ),
    ] = False,
) -> None:
    """Run Switchboard: take webhooks, dispatch agents, record calls."""
    with reported():
        if sandbox and roles:
            raise ConfigError("--roles: a sandbox plays all of them; leave it out")
        overrides: dict[str, object] = {
            **({"roles": roles} if roles is not None else {}),
            **({"http": {"port": port}} if port is not None else {}),
        }
        try:
            settings = load(config, overrides)
        except ConfigProblem as problem:
            if port is None:
                raise
            words = str(problem).replace("http.port: ", "--port, http.port: ")
            raise ConfigProblem(words) from problem
        log.configure(settings.log)
        if not sandbox:
            check(settings)
        run(_up(settings, overrides, config, sandbox=sandbox, forget_routes=forget_routes))


async def _up(
    settings: Settings,
    overrides: dict[str, object],
    config: Path | None,
    *,
    sandbox: bool,
    forget_routes: bool,
) -> None:
    stop = asyncio.Event()
    _on_signals(stop)
    async with AsyncExitStack() as stack:
        claim = stack.enter_context(instance.claimed(settings.data_dir, sandbox=sandbox))
        own: Sandbox | None = None
        if sandbox:
            own = await stack.enter_async_context(open_sandbox(settings, overrides, config))
            settings = own.settings

        async def on_started(node: Node) -> None:
            if own is not None:
                await own.ready(node, stop)
            if stop.is_set():
                return
            claim.publish(_instance(node, own))
            for line in _banner(node) if own is None else own.banner(node):
                console.print(line)

        await run_node(settings, stop=stop, started=on_started, forget_routes=forget_routes)
    console.print("Stopped.")


def _instance(node: Node, own: Sandbox | None) -> Instance:
    return Instance(
        os.getpid(),
        node.settings.http.host,
        node.http_port,
        version(),
        node.settings.roles,
        own.stand_ins if own is not None else None,
    )


def _banner(node: Node) -> list[str]:
    settings = node.settings
    kafka = ", ".join(settings.kafka.bootstrap_servers) or "none: the journal alone"
    where = local_url(settings, node.http_port)
    webhooks = [line for each in configured(settings) for line in _webhooks(each.name)]
    of_operator = any(each.name in carriers() for each in configured(settings))
    return [
        f"[bold]Switchboard[/bold] is up: {', '.join(settings.roles)} on {where}",
        *(f"  {what:24} {settings.public_url}/webhooks/{path}" for what, path in webhooks),
        *(
            []
            if of_operator
            else ["  no carrier in the settings: calls come to accounts' own alone"]
        ),
        f"  data {settings.data_dir} · Kafka {kafka} · health {where}/readyz",
        "Ctrl-C stops it. Is everything in place?  switchboard doctor",
    ]


def _webhooks(provider: str) -> Sequence[tuple[str, str]]:
    return _WEBHOOKS.get(provider, ((f"{provider.title()}'s webhooks", f"{provider}/…"),))


def _on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():  # the second time: now
            sys.stderr.flush()
            os._exit(130)
        console.print("Stopping: finishing what is under way (once more: at once) …")
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
