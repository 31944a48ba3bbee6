"""Whole nodes for tests: the real runtime over a temporary data folder, on free ports."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from config import Settings, check, load
from router.clock import Clock
from router.events.ids import DEFAULT_ACCOUNT
from router.node import Node
from router.numbers.file import read_mapping
from router.runtime import run
from router.storage.engine import open_database
from router.storage.mapping import apply_mapping, fingerprint
from router.storage.migrate import prepare
from tests.support.settings import merged

ACCOUNT = "AC" + "a1" * 16
TOKEN = "a-test-auth-token"
KEY, SECRET = "devkey", "a-secret-of-thirty-two-characters"

MAPPING = """
agents:
  - {name: anna, livekit_agent_name: anna, metadata: {greeting: Hello}}
  - {name: bob, livekit_agent_name: bob}
  - {name: nobody, livekit_agent_name: nobody-is-registered-for-this}
numbers:
  - {number: "+14155550100", provider: twilio, agent: anna, fallback: "+14155550199"}
  - {number: "+14155550101", provider: twilio, agent: bob}
  - {number: "+14155550102", provider: twilio, agent: nobody, fallback: "+14155550199"}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def node_settings(data_dir: Path, *, port: int, livekit_url: str, **more: Any) -> Settings:
    """Settings of a node that listens on `port`; `more` are sections, merged over these."""
    own: dict[str, Any] = {
        "public_url": f"http://127.0.0.1:{port}",
        "data_dir": str(data_dir),
        "http": {"port": port, "shutdown_grace": 3.0},
        "livekit": {
            "url": livekit_url,
            "api_key": KEY,
            "api_secret": SECRET,
            "sip_host": "127.0.0.1",
            "sip_transport": "udp",
            "poll_interval": 0.1,
        },
        "providers": {"twilio": {"account_sid": ACCOUNT, "auth_tokens": [TOKEN]}},
    }
    settings = load(overrides=merged(own, more))
    check(settings)
    return settings


async def apply_text(settings: Settings, text: str = MAPPING) -> int:
    """What `switchboard apply` does; the fingerprint of the routes that hold then."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    file = settings.data_dir / "mapping.yaml"
    file.write_text(text)
    await prepare(settings)
    async with open_database(settings) as database:
        await apply_mapping(database, DEFAULT_ACCOUNT, read_mapping(file))
        return await fingerprint(database)


@asynccontextmanager
async def running(
    settings: Settings, *, routes: int | None = 0, clock: Clock | None = None
) -> AsyncIterator[Node]:
    """A node, ready and with these routes (a fingerprint; None: whatever it has)."""
    stop = asyncio.Event()
    started: asyncio.Future[Node] = asyncio.get_running_loop().create_future()

    async def on_started(node: Node) -> None:
        started.set_result(node)

    async with asyncio.TaskGroup() as tasks:
        life = tasks.create_task(run(settings, stop=stop, started=on_started, clock=clock))
        life.add_done_callback(lambda _: started.done() or started.cancel())
        node = await started  # cancelled when the node died first; the group tells why
        try:
            await eventually(lambda: node.health()[0] and _has(node, routes))
            yield node
        finally:
            stop.set()


async def eventually(condition: Any, *, within: float = 15.0) -> None:
    """Wait until `condition()` holds; an AssertionError after `within` seconds."""
    try:
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"did not come true within {within} s") from None


def _has(node: Node, routes: int | None) -> bool:
    if node.routes is None:
        return True
    return node.has_connections() and routes in (None, node.routes.table.fingerprint)
