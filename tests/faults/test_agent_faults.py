"""Agents that come at the edge of their deadline, and agents that are lost in the middle of a call.

A whole node with LiveKit's and Twilio's stand-ins around it, many calls at once. What counts is
what each caller heard: nobody who was answered may be left in silence. `python -m
tests.faults.test_agent_faults CALLS` runs the same with as many calls and prints the figures.
"""

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from router.sandbox.livekit.standin import LiveKitStandIn
from router.sandbox.livekit.workers import Behaviour
from router.sandbox.twilio.call import Call
from router.sandbox.twilio.standin import TwilioStandIn
from tests.support.nodes import (
    ACCOUNT,
    KEY,
    SECRET,
    TOKEN,
    apply_text,
    eventually,
    free_port,
    node_settings,
    running,
)

OURS, FALLBACK, CALLER = "+14155550100", "+14155550199", "+12125550123"
MAPPING = f"""
agents: [{{name: anna, livekit_agent_name: anna}}]
numbers: [{{number: "{OURS}", provider: twilio, agent: anna, fallback: "{FALLBACK}"}}]
"""
_LOOK = 0.05  # seconds
_PATIENCE = 60.0  # seconds; a busy machine takes its time, and then nobody may be left in silence


@dataclass
class Heard:
    """What one caller heard."""

    call: Call
    answered: bool = False
    agents: int = 0  # those that could be heard at the last look
    silent_for: float = 0.0  # seconds, up to now
    longest: float = 0.0
    lost: int = 0  # agents that could be heard and then not, while the caller was there
    forwarded: bool = False

    @property
    def is_silent(self) -> bool:
        return self.answered and not self.agents and not self.forwarded

    @property
    def is_settled(self) -> bool:
        return self.forwarded or (self.answered and self.agents > 0)


@dataclass
class Figures:
    """Of all calls."""

    calls: int
    to_agent: int
    to_fallback: int
    in_silence: int  # to the end
    recovered_within: float  # seconds; the longest silence of the others

    @classmethod
    def of(cls, heard: list[Heard]) -> "Figures":
        left = [each for each in heard if each.is_silent]
        return cls(
            calls=len(heard),
            to_agent=sum(each.agents > 0 and not each.forwarded for each in heard),
            to_fallback=sum(each.forwarded for each in heard),
            in_silence=len(left),
            recovered_within=max((e.longest for e in heard if e not in left), default=0.0),
        )


@dataclass
class World:
    """A node, Twilio and LiveKit."""

    twilio: TwilioStandIn
    livekit: LiveKitStandIn

    async def watch(self, heard: list[Heard], seconds: float) -> None:
        """Listen for each caller."""
        rounds = round(seconds / _LOOK)
        for _ in range(rounds):
            began = asyncio.get_running_loop().time()
            for each in heard:
                self._look(each)
            await asyncio.sleep(_LOOK)
            passed = asyncio.get_running_loop().time() - began
            for each in heard:
                if each.is_silent:
                    each.silent_for += passed
                    each.longest = max(each.longest, each.silent_for)
                else:
                    each.silent_for = 0.0

    async def watch_until_settled(self, heard: list[Heard]) -> None:
        """Until each caller hears somebody, and a moment more; `_PATIENCE` at most."""
        for _ in range(round(_PATIENCE)):
            await self.watch(heard, 1.0)
            if all(each.is_settled for each in heard):
                await self.watch(heard, 2.0)
                if all(each.is_settled for each in heard):
                    return

    def _look(self, each: Heard) -> None:
        call = each.call
        each.answered = call.status == "in-progress"
        each.forwarded = each.forwarded or any("<Number>" in text for text in call.twiml)
        each.forwarded = each.forwarded or "said" in call.whats()
        room = self.livekit.rooms.get(call.leg.room) if call.leg is not None else None
        now = (
            0
            if room is None
            else sum(
                bool(room.participants[identity].tracks) and self.is_alive(identity)
                for identity in room.agents
            )
        )
        if each.agents and not now and each.answered:
            each.lost += 1
        each.agents = now

    def is_alive(self, identity: str) -> bool:
        answers = getattr(self.livekit.workers, "answers", None)
        return answers is None or bool(answers(identity))


@asynccontextmanager
async def world(folder: Path, **more: Any) -> AsyncIterator[World]:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    async with (
        LiveKitStandIn(
            api_key=KEY, api_secret=SECRET, webhook_url=f"{base}/webhooks/livekit"
        ) as livekit,
        TwilioStandIn(
            account_sid=ACCOUNT, auth_token=TOKEN, webhook_base=base, dial_sip=livekit.invite
        ) as twilio,
    ):
        more["providers"] = {"twilio": {"api_url": twilio.url}}
        settings = node_settings(folder, port=port, livekit_url=livekit.url, **more)
        routes = await apply_text(settings, MAPPING)
        async with running(settings, routes=routes) as node:
            await eventually(lambda: node.health()[1]["livekit"] == "ok")
            yield World(twilio, livekit)


async def at_the_edge(folder: Path, calls: int, deadline: float) -> tuple[Figures, int]:
    """Agents that are heard shortly before and after their deadline; how many were taken away."""
    chance = random.Random(7)
    async with world(folder, dispatch={"deadline": deadline}) as w:
        heard: list[Heard] = []
        for _ in range(calls):
            w.livekit.register_worker(
                "anna", Behaviour(join_delay=deadline * chance.uniform(0.92, 1.12))
            )
            heard.append(Heard(w.twilio.place_call(OURS, CALLER)))
            await w.watch(heard, 0.06)
        await w.watch(heard, 2.0 * deadline)
        await w.watch_until_settled(heard)
        return Figures.of(heard), sum(each.lost for each in heard)


async def lost(folder: Path, calls: int, *, with_worker: bool) -> Figures:
    """Every agent is lost while its caller talks to it; with a worker, or none, for another."""
    async with world(folder, dispatch={"deadline": 1.0}) as w:
        w.livekit.register_worker("anna")
        heard = [Heard(w.twilio.place_call(OURS, CALLER)) for _ in range(calls)]
        await eventually(lambda: all(each.call.status == "in-progress" for each in heard))
        await w.watch(heard, 1.0)
        if not with_worker:
            w.livekit.workers.unregister("anna")
        for room in w.livekit.rooms:
            for identity in list(room.agents):
                w.livekit.rooms.leave(room, identity)
        await w.watch_until_settled(heard)
        return Figures.of(heard)


async def test_no_agent_that_is_heard_at_the_edge_of_its_deadline_is_taken_away(
    tmp_path: Path,
) -> None:
    figures, taken = await at_the_edge(tmp_path, calls=12, deadline=0.8)
    assert figures.in_silence == 0, figures
    assert figures.to_agent + figures.to_fallback == 12, figures
    assert taken <= 1, figures  # a look and the withdrawal are two requests


async def test_lost_agents_are_replaced(tmp_path: Path) -> None:
    figures = await lost(tmp_path, 8, with_worker=True)
    assert figures.to_agent + figures.to_fallback == 8, figures
    assert figures.in_silence == 0, figures


async def test_where_no_worker_is_left_everybody_reaches_the_fallback(tmp_path: Path) -> None:
    figures = await lost(tmp_path, 8, with_worker=False)
    assert (figures.to_fallback, figures.in_silence) == (8, 0), figures


async def main(calls: int) -> None:
    with TemporaryDirectory() as one, TemporaryDirectory() as two, TemporaryDirectory() as three:
        print("edge", await at_the_edge(Path(one), calls, 4.0))
        print("lost, worker left", await lost(Path(two), calls, with_worker=True))
        print("lost, none left", await lost(Path(three), calls, with_worker=False))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
