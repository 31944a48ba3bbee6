"""LiveKit's stand-in as a child process; at its end it says when each dispatch reached it."""

import asyncio
from typing import Any

from bench.child import run_child, say
from router.sandbox.livekit.standin import LiveKitStandIn
from router.sandbox.livekit.workers import Behaviour

KEY, SECRET = "devkey", "a-secret-of-thirty-two-characters"


async def main(spec: dict[str, Any], stop: asyncio.Event) -> None:
    """`spec`: webhook_url, or None."""
    async with LiveKitStandIn(
        api_key=KEY, api_secret=SECRET, webhook_url=spec["webhook_url"]
    ) as livekit:
        livekit.register_worker("anna", Behaviour(join_delay=0.1, publish_delay=0.05))
        say({"url": livekit.url})
        await stop.wait()
        # A room's first job: the second one would be a repeated dispatch.
        first: dict[str, float] = {}
        for job in livekit.jobs:
            first.setdefault(job.room, job.received_at)
        say({"received": first, "jobs": len(livekit.jobs)})


if __name__ == "__main__":
    run_child(main)
