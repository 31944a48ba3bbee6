"""Switchboard itself as a child process: the real runtime with the settings of the spec."""

import asyncio
from typing import Any

from bench.child import run_child, say
from bench.twilio import NUMBERS
from config import Settings, load
from router.eventlog.open import open_log
from router.events.types import ROUTES_TOPIC
from router.observability import log
from router.routing.table import Route, Target, Version, fingerprint
from router.storage.records import route_record
from tests.support.nodes import apply_text, running

_TARGET = Target(agent="anna", livekit_agent_name="anna", metadata={"greeting": "Hello"})


def mapping() -> str:
    """The mapping file: every number leads to the agent anna."""
    lines = ["agents:", "  - {name: anna, metadata: {greeting: Hello}}", "numbers:"]
    lines += [f'  - {{number: "{number}", provider: twilio, agent: anna}}' for number in NUMBERS]
    return "\n".join(lines)


async def fill_routes(settings: Settings, provider: str) -> int:
    """Put the route of every number, at `provider`, onto the log; their fingerprint.

    An ingress alone has no database, so the records that the relay role would publish come from
    here.
    """
    async with open_log(settings) as events, asyncio.TaskGroup() as tasks:
        for rev, number in enumerate(NUMBERS, 1):
            route = Route(number=number, provider=provider, rev=rev, targets=(_TARGET,))
            headers, value = route_record(number, route, version=route.version, time=rev)
            tasks.create_task(_append(events, number, value, headers))
    return fingerprint((number, Version(1, rev)) for rev, number in enumerate(NUMBERS, 1))


async def _append(events: Any, number: str, value: bytes | None, headers: dict[str, str]) -> None:
    await events.append(ROUTES_TOPIC, number, value, headers)


async def main(spec: dict[str, Any], stop: asyncio.Event) -> None:
    """`spec`: settings (overrides of the defaults), provider (of the numbers, of an ingress)."""
    settings = load(overrides=spec["settings"])
    log.configure(settings.log)
    alone = settings.roles == ("ingress",)
    if alone:
        routes = await fill_routes(settings, spec.get("provider", "twilio"))
    else:
        routes = await apply_text(settings, mapping())
    async with running(settings, routes=routes) as node:
        say({"port": node.http_port})
        await stop.wait()


if __name__ == "__main__":
    run_child(main)
