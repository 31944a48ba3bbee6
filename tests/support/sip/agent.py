"""A real agent as a child process: starts `worker.py`, and reads what it did.

with agent_worker("anna", tone=440, livekit=livekit) as anna:
    ...
    job = await anna.wait_for("job", room=call_id)
    assert json.loads(job.metadata) == {...}
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from typing_extensions import override

from tests.support.servers.livekit import LiveKit
from tests.support.servers.process import Server, server_folder

_ROOT: Final = Path(__file__).parents[3]
_POLL: Final = 0.02  # seconds

EventName = Literal["registered", "job", "joined", "published", "left"]


@dataclass(frozen=True)
class AgentEvent:
    """One thing that the worker did; `registered` has no room."""

    event: EventName
    at: int  # µs since the epoch
    pid: int
    worker_id: str = ""
    room: str = ""
    job_id: str = ""
    metadata: str = ""


class AgentWorker(Server):
    """A worker of livekit-agents. It serves when LiveKit has registered it.

    `kill()` is a crash: LiveKit notices, and tells nobody.
    """

    name = "agent"
    patience: ClassVar[float] = 60.0  # 2 to 5 s on an idle machine, most of it imports

    def __init__(
        self, folder: Path, agent_name: str, livekit: LiveKit, options: Sequence[str]
    ) -> None:
        super().__init__(folder)
        self.agent_name = agent_name
        self._livekit = livekit
        self._options = options
        self._events = folder / "events.jsonl"
        self._events.touch()

    @override
    def command(self) -> Sequence[str]:
        return [
            *(sys.executable, "-m", "tests.support.sip.worker", "--agent-name", self.agent_name),
            *("--events", str(self._events), *self._options),
        ]

    @override
    def environment(self) -> Mapping[str, str]:
        # Nothing of the user's own LiveKit account or proxy may reach a test's agent.
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("LIVEKIT_") and not name.upper().endswith("_PROXY")
        }
        return {
            **kept,
            "PYTHONPATH": str(_ROOT),
            "LIVEKIT_URL": self._livekit.ws_url,
            "LIVEKIT_API_KEY": self._livekit.api_key,
            "LIVEKIT_API_SECRET": self._livekit.api_secret,
        }

    @override
    def serves(self) -> bool:
        return any(each.event == "registered" and each.pid == self.pid for each in self.events())

    def events(
        self, event: EventName | None = None, *, room: str | None = None
    ) -> list[AgentEvent]:
        """What it did so far, oldest first, of this kind and in this room where given."""
        seen = [AgentEvent(**json.loads(line)) for line in self._events.read_text().splitlines()]
        return [
            each
            for each in seen
            if (event is None or each.event == event) and (room is None or each.room == room)
        ]

    async def wait_for(self, event: EventName, *, room: str, timeout: float = 10.0) -> AgentEvent:
        """The first such event, waiting at most `timeout` seconds.

        Raises:
            TimeoutError: it did not happen; the message has what did.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if found := self.events(event, room=room):
                return found[0]
            await asyncio.sleep(_POLL)
        seen = [each.event for each in self.events(room=room)]
        raise TimeoutError(f"{self.agent_name}: no {event} in {timeout:g} s, only {seen}")


@contextmanager
def agent_worker(
    agent_name: str,
    *,
    tone: float,
    livekit: LiveKit,
    never_publish: bool = False,
    delay_join: float = 0.0,
) -> Iterator[AgentWorker]:
    """A registered agent that plays `tone` (Hz, a multiple of 10).

    `never_publish`: it joins the room and stays mute. `delay_join`: seconds from job to joining.
    """
    options = ["--tone", str(tone), "--delay-join", str(delay_join)]
    if never_publish:
        options.append("--never-publish")
    with (
        server_folder("agent") as folder,
        AgentWorker(folder, agent_name, livekit, options) as worker,
    ):
        yield worker
