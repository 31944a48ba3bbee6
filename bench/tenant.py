"""An account with agents and many numbers, for the benchmarks of the control API.

As a child process: the whole node, or its role `api` alone, over such an account.
"""

import asyncio
from pathlib import Path
from typing import Any, Final

from bench.child import run_child, say
from bench.ingress import settings as ingress_settings
from bench.mapping import wanted
from bench.routes import numbers
from config import Settings, load
from router.api.operation import ApiRequest
from router.api.vocode import inline
from router.clock import SYSTEM
from router.control import accounts, agents, tokens
from router.control import numbers as control_numbers
from router.control.context import Control, control_of
from router.control.model import Actor, Plan, Scope
from router.events.ids import DEFAULT_ACCOUNT
from router.files import make_data_folder
from router.observability import log
from router.secrets import load_keys
from router.storage import mapping
from router.storage.engine import open_database
from router.storage.migrate import prepare
from tests.support.nodes import running
from tests.support.settings import merged

SCOPES: Final[tuple[Scope, ...]] = ("numbers:write", "agents:write", "calls:write")
CONFIG: Final = {
    "prompt": "You are a friendly receptionist. " * 20,
    "greeting": "Hello, how can I help?",
    "tts_params": {"voice_id": "anna", "temperature": 0.7},
}
"""Of the agent in voice.ai's shape, which has the first number."""
VOCODE: Final = {
    "name": "receptionist",
    "prompt": {"content": CONFIG["prompt"]},
    "voice": {"type": "voice_azure", "voice_name": "en-US-AriaNeural"},
    "initial_message": "Hello, how can I help?",
}
"""Inline parameters of the agent in Vocode's shape, which has the second number."""


def settings(folder: Path, *, roles: list[str], url: str = "", bootstrap: str = "") -> Settings:
    """Of a node whose API sets no limits; `url` of PostgreSQL, else it is SQLite in `folder`."""
    own = {
        "roles": roles,
        "database": {"url": url},
        "api": {"requests_per_minute": 1_000_000, "burst": 1_000_000},
    }
    return load(overrides=merged(ingress_settings(folder, bootstrap), own))


async def fill(of: Settings, count: int) -> dict[str, Any]:
    """Make the account with `count` numbers: its token, and what can be asked for."""
    make_data_folder(of.data_dir)
    await prepare(of)
    keys = load_keys(of.secret_key.get_secret_value(), [], of.data_dir)
    async with open_database(of) as database:
        control = control_of(of, database, keys, SYSTEM)
        admin = Actor(account_id=DEFAULT_ACCOUNT)
        plan = Plan(numbers=count + 100)
        account = await accounts.create(control, admin, name=f"acme-{count}", plan=plan)
        _, token = await tokens.create(control, admin, account=account.id, scopes=SCOPES)
        await mapping.apply_mapping(database, account.id, wanted(count))
        found = await _agents(control, Actor(account_id=account.id, scopes=frozenset(SCOPES)))
        found["ids"] = await mapping.agent_ids(database, account.id)
    return found | {"token": token, "account": account.id}


async def _agents(control: Control, actor: Actor) -> dict[str, Any]:
    """One agent of each dialect, each with a number of its own."""
    first, second = numbers(2)
    made = await agents.create(control, actor, label="Anna", origin="voiceai", config=CONFIG)
    request = ApiRequest(control=control, actor=actor)
    inbound = await inline.create(request, VOCODE, ("body", "inbound_agent"))
    await control_numbers.link(control, actor, first, made.id)
    await control_numbers.link(control, actor, second, inbound.id)
    return {"agent": made.id, "number": first, "vocode_number": second}


async def main(spec: dict[str, Any], stop: asyncio.Event) -> None:
    """`spec`: folder, roles, count (of numbers); url, bootstrap."""
    of = settings(
        Path(spec["folder"]), roles=spec["roles"], url=spec["url"], bootstrap=spec["bootstrap"]
    )
    log.configure(of.log)
    facts = await fill(of, spec["count"])
    async with running(of, routes=None) as node:
        say(facts | {"port": node.api_port})
        await stop.wait()


if __name__ == "__main__":
    run_child(main)
