"""The sandbox: Twilio, Telnyx and LiveKit as stand-ins in this process, agents and numbers."""

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import select

from config import ConfigProblem, Settings, check, load
from config.settings import ALL_ROLES
from router.cli.accounts import opened_control
from router.cli.context import environment_fingerprint, installation_named
from router.cli.instance import StandIns, sandbox_folder
from router.control import accounts, agents, tokens
from router.control.context import Control
from router.control.model import Actor, Plan, Scope
from router.errors import NotFound
from router.events.ids import DEFAULT_ACCOUNT
from router.node import Node
from router.numbers.file import read_mapping
from router.sandbox.livekit.standin import LiveKitStandIn
from router.sandbox.livekit.workers import Behaviour
from router.sandbox.telnyx.standin import TelnyxStandIn
from router.sandbox.twilio.standin import TwilioStandIn
from router.storage.mapping import apply_mapping, fingerprint
from router.storage.schema import numbers

_PATIENCE: Final = 10.0  # seconds until the node must be ready
_LOOK: Final = 0.02
_ACCOUNT: Final = "AC" + "5" * 32
_AGENTS: Final = {
    "anna": Behaviour(join_delay=0.12, publish_delay=0.08),
    "bob": Behaviour(join_delay=0.2, publish_delay=0.1),
    "carla": Behaviour(join_delay=0.15, publish_delay=0.1),
}
_TENANT: Final = "demo"
_TENANTS_AGENT: Final = "carla"
_LABEL: Final = "first screen"
_SCOPES: Final[Sequence[Scope]] = (
    "numbers:write",
    "agents:write",
    "calls:write",
    "webhooks:write",
)


class Tenant(NamedTuple):
    """An account to try the API with."""

    name: str
    token: str
    agent_id: str


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A started sandbox."""

    settings: Settings
    stand_ins: StandIns
    routes: int  # the fingerprint of its mapping
    unheeded: tuple[str, ...]  # what would lead other commands away from it
    tenant: Tenant

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
            f"  LiveKit stand-in   {node.settings.livekit.url}, agents anna, bob and carla",
            "  Numbers            +14155550100 → anna (fallback +14155550199), +14155550101 → bob",
            "                     +14155550102 → bob, at Telnyx",
            "",
            "Now, in a second terminal:",
            "  [bold]make call TO=+14155550100[/bold]       places a call and shows what happens",
            "  .venv/bin/switchboard explain +14155550100   why it goes where it goes",
            "  .venv/bin/switchboard calls list             what became of the calls",
            "",
            f"The control API, for clients of voice.ai, Vocode and Resemble too: {where}/docs",
            f"Buy a number for agent {_TENANTS_AGENT} of account {self.tenant.name}, then call it:",
            self._purchase(where),
            *self._hint(),
            "Ctrl-C stops it.",
        ]

    def _purchase(self, where: str) -> str:
        """One line, however long: whoever copies it by the line has all of it."""
        wanted = json.dumps({"area_code": "415", "agent_id": self.tenant.agent_id})
        header = f'"Authorization: Bearer {self.tenant.token}"'
        return f"  curl -H {header} {where}/api/switchboard/v1/numbers -d '{wanted}'"

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
        routes, tenant = await _fill(own, twilio, telnyx)
        carriers = {"twilio": twilio.url, "telnyx": telnyx.control_url}
        stand_ins = StandIns(overrides, carriers, control, environment_fingerprint())
        yield Sandbox(own, stand_ins, routes, tuple(installation_named(config)), tenant)


async def _fill(
    settings: Settings, twilio: TwilioStandIn, telnyx: TelnyxStandIn
) -> tuple[int, Tenant]:
    """The example mapping and the tenant, in the sandbox's database; its routes' fingerprint.

    The stand-ins then have every number that the database has.
    """
    with as_file(files("config") / "examples" / "sandbox.yaml") as path:
        mapping = read_mapping(path)
    async with opened_control(settings, changes=True) as control:
        await apply_mapping(control.database, DEFAULT_ACCOUNT, mapping)
        tenant = await _tenant(control)
        await _hold(control, twilio, telnyx)
        return await fingerprint(control.database), tenant


async def _tenant(control: Control) -> Tenant:
    """The account of the first screen. Its token is kept nowhere, so every start makes it anew."""
    operator = Actor(account_id=DEFAULT_ACCOUNT)
    try:
        account = await accounts.get(control, operator, _TENANT)
    except NotFound:
        plan = Plan(numbers=5, calls=10)
        account = await accounts.create(control, operator, name=_TENANT, plan=plan)
    for former in (await tokens.list_(control, operator, account=account.id)).items:
        if former.label == _LABEL and former.revoked_at is None:
            await tokens.revoke(control, operator, former.id)
    _, token = await tokens.create(
        control, operator, account=account.id, scopes=_SCOPES, label=_LABEL
    )
    actor = Actor(account_id=account.id)
    try:
        agent = await agents.find(control, actor, _TENANTS_AGENT)
    except NotFound:
        agent = await agents.create(
            control, actor, label=_TENANTS_AGENT, origin="native", config={}, exact_name=True
        )
    return Tenant(account.name, token, agent.id)


async def _hold(control: Control, twilio: TwilioStandIn, telnyx: TelnyxStandIn) -> None:
    columns = (numbers.c.number, numbers.c.provider, numbers.c.connection_id)
    query = select(*columns, numbers.c.provider_number_id)
    carriers: dict[str, TwilioStandIn | TelnyxStandIn] = {"twilio": twilio, "telnyx": telnyx}
    async with control.database.read() as connection:
        held = (await connection.execute(query)).all()
    for number, provider, connection_id, number_id in held:
        carrier = carriers.get(provider)
        if carrier is None:
            continue
        if connection_id is None:
            carrier.hold(number, number_id=number_id)
        else:  # of a tenant's account, which ended with the last sandbox
            carrier.forget(number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
