"""The sandbox: Twilio, Telnyx and LiveKit as stand-ins in this process, agents and numbers."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select

from config import ConfigProblem, Settings, check, load
from config.settings import ALL_ROLES
from router.cli.context import environment_fingerprint, installation_named
from router.cli.instance import StandIns, sandbox_folder
from router.events.ids import DEFAULT_ACCOUNT
from router.files import make_data_folder
from router.node import Node
from router.numbers.file import read_mapping
from router.sandbox.livekit.standin import LiveKitStandIn
from router.sandbox.livekit.workers import Behaviour
from router.sandbox.telnyx.standin import TelnyxStandIn
from router.sandbox.twilio.standin import TwilioStandIn
from router.storage.engine import open_database
from router.storage.mapping import apply_mapping, fingerprint
from router.storage.migrate import prepare
from router.storage.schema import numbers

_PATIENCE: Final = 10.0  # seconds until the node must be ready
_LOOK: Final = 0.02
_ACCOUNT: Final = "AC" + "5" * 32
_AGENTS: Final = {
    "anna": Behaviour(join_delay=0.12, publish_delay=0.08),
    "bob": Behaviour(join_delay=0.2, publish_delay=0.1),
}


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A started sandbox."""

    settings: Settings
    stand_ins: StandIns
    routes: int  # the fingerprint of its mapping
    unheeded: tuple[str, ...]  # what would lead other commands away from it

    async def ready(self, node: Node, stop: asyncio.Event) -> None:
        """Wait until the node decides by the mapping, and its SIP trunk is there; or for `stop`."""
        with suppress(
            TimeoutError
        ):  # the banner comes all the same, and /readyz says what is wrong
            async with asyncio.timeout(_PATIENCE):
                # What is waited for has no event.
                while not (self._is_ready(node) or stop.is_set()):  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK)

    def _is_ready(self, node: Node) -> bool:
        routes, livekit = node.routes, node.livekit_setup
        has_routes = routes is not None and routes.table.fingerprint == self.routes
        return has_routes and livekit is not None and livekit.status == "ok"

    def banner(self, node: Node) -> list[str]:
        """The first screen."""
        where = f"http://{node.settings.http.host}:{node.http_port}"
        return [
            f"[bold]Switchboard[/bold] sandbox is up on {where}  (no account, nothing leaves this "
            "machine)",
            f"  Twilio stand-in    calls {node.settings.public_url}/webhooks/twilio/voice",
            f"  Telnyx stand-in    calls {node.settings.public_url}/webhooks/telnyx",
            f"  LiveKit stand-in   {node.settings.livekit.url}, agents anna and bob",
            "  Numbers            +14155550100 → anna (fallback +14155550199), +14155550101 → bob",
            "                     +14155550102 → bob, at Telnyx",
            "",
            "Now, in a second terminal:",
            "  [bold]make call TO=+14155550100[/bold]       places a call and shows what happens",
            "  .venv/bin/switchboard explain +14155550100   why it goes where it goes",
            "  .venv/bin/switchboard calls list             what became of the calls",
            *self._hint(),
            "Ctrl-C stops it.",
        ]

    def _hint(self) -> list[str]:
        if not self.unheeded:
            return []
        folder = self.settings.data_dir.parent.resolve()
        return [
            f"They speak to it without {', '.join(self.unheeded)}: those name an installation.",
            f"  SWITCHBOARD_DATA_DIR={folder} switchboard call +14155550100",
        ]


@asynccontextmanager
async def open_sandbox(
    settings: Settings, given: Mapping[str, Any], config: Path | None
) -> AsyncIterator[Sandbox]:
    """Start the stand-ins, and have the example mapping in the sandbox's own database.

    Raises:
        ConfigProblem: the sandbox would be reachable from outside this machine; or the settings
            can't be used even here.
    """
    if settings.http.host not in ("127.0.0.1", "localhost", "::1"):
        raise ConfigProblem("http.host: the sandbox listens on loopback only; set 127.0.0.1")
    port = settings.http.port or _free_port()
    public_url = f"http://127.0.0.1:{port}"
    token, telnyx_key, key, secret, control = (secrets.token_hex(16) for _ in range(5))
    async with (
        LiveKitStandIn(
            api_key=key,
            api_secret=secret,
            webhook_url=f"{public_url}/webhooks/livekit",
            control_token=control,
        ) as livekit,
        TwilioStandIn(
            account_sid=_ACCOUNT,
            auth_token=token,
            webhook_base=public_url,
            dial_sip=livekit.invite,
            control_token=control,
        ) as twilio,
        TelnyxStandIn(
            api_key=telnyx_key,
            seed=secrets.token_bytes(32),
            webhook_base=public_url,
            dial_sip=livekit.invite,
            control_token=control,
        ) as telnyx,
    ):
        for name, behaviour in _AGENTS.items():
            livekit.register_worker(name, behaviour)
        # Whatever the settings say, a trial never touches a real database, broker or account.
        overrides = {
            **given,
            "public_url": public_url,
            "data_dir": str(sandbox_folder(settings.data_dir)),
            "secret_key": "",
            "durability": "auto",
            "roles": list(ALL_ROLES),
            "http": {"port": port},
            "database": {"url": ""},
            "kafka": {"bootstrap_servers": []},
            "livekit": {
                "url": livekit.url,
                "api_key": key,
                "api_secret": secret,
                "sip_host": "127.0.0.1",
            },
            "providers": {
                "twilio": {
                    "account_sid": _ACCOUNT,
                    "auth_tokens": [token],
                    "api_url": twilio.url,
                },
                "telnyx": {
                    "api_key": telnyx_key,
                    "public_keys": [telnyx.public_key],
                    "api_url": telnyx.url,
                },
            },
        }
        own = load(config, overrides)
        check(own)
        routes = await _apply_example(own, twilio, telnyx)
        carriers = {"twilio": twilio.url, "telnyx": telnyx.control_url}
        stand_ins = StandIns(overrides, carriers, control, environment_fingerprint())
        yield Sandbox(own, stand_ins, routes, tuple(installation_named(config)))


async def _apply_example(settings: Settings, twilio: TwilioStandIn, telnyx: TelnyxStandIn) -> int:
    """Apply the example; the stand-ins then have every number that the database has."""
    make_data_folder(settings.data_dir)
    await prepare(settings)
    with as_file(files("config") / "examples" / "sandbox.yaml") as path:
        mapping = read_mapping(path)
    async with open_database(settings) as database:
        await apply_mapping(database, DEFAULT_ACCOUNT, mapping)
        async with database.read() as connection:
            held = await connection.execute(
                select(
                    numbers.c.number,
                    numbers.c.provider,
                    numbers.c.connection_id,
                    numbers.c.provider_number_id,
                )
            )
            for number, provider, connection_id, number_id in held:
                if provider not in ("twilio", "telnyx"):
                    continue
                carrier = twilio if provider == "twilio" else telnyx
                if connection_id is None:
                    carrier.hold(number, number_id=number_id)
                else:  # of a tenant's account, which ended with the last sandbox
                    carrier.forget(number)
        return await fingerprint(database)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
