"""Agent workers: who takes a job, how long it takes to be heard, and what may go wrong.

A job goes to the worker registered under the dispatch's agent name. Nobody there: nothing happens,
now or later, and nobody is told (the open-source server neither queues nor retries). An agent that
joined stays until its dispatch or the room is deleted, whoever else leaves.

The server lists a job with its dispatch at once in a room that was there before, and some seconds
late where the dispatch made the room (seen on livekit-server 1.13.5).
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

from livekit.protocol import agent as proto
from livekit.protocol.agent_dispatch import AgentDispatch
from livekit.protocol.models import DisconnectReason, ParticipantInfo

from router.clock import Clock
from router.sandbox.livekit import ids
from router.sandbox.livekit.rooms import LiveRoom, Rooms
from router.sandbox.tasks import Tasks

_HISTORY: Final = 10_000
LINGERS: Final = 21.0  # seconds that LiveKit shows an agent whose process was killed
_LISTED_AFTER: Final = 5.0  # seconds, in a new room


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How the agents of one worker behave; delays in seconds."""

    join_delay: float = 0.0
    publish_delay: float = 0.0
    never_joins: bool = False
    never_publishes: bool = False
    stubborn: bool = False  # joins although its dispatch was withdrawn, as agents in threads do
    drop_first: int = 0  # dispatches that get lost on their way to the worker, silently
    dies_after: float | None = None  # its process, so long after it was heard
    answers_rpc: bool = True  # agents' SDKs do, since there are RPCs


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What an agent was given."""

    id: str
    dispatch_id: str
    agent_name: str
    room: str
    metadata: str
    received_at: float  # monotonic seconds


@dataclass(slots=True)
class _Worker:
    behaviour: Behaviour
    to_drop: int


class Workers:
    """The registered workers and the jobs they got."""

    def __init__(self, rooms: Rooms, clock: Clock, tasks: Tasks) -> None:
        self.jobs: deque[Job] = deque(maxlen=_HISTORY)
        self._rooms, self._clock, self._tasks = rooms, clock, tasks
        self._workers: dict[str, _Worker] = {}
        self._mute: set[str] = set()  # identities of agents that answer no RPC

    def register(self, agent_name: str, behaviour: Behaviour) -> None:
        """From now on jobs for `agent_name` go here; one registered before is replaced."""
        self._workers[agent_name] = _Worker(behaviour, behaviour.drop_first)

    def unregister(self, agent_name: str) -> None:
        """The worker is gone; its agents stay in their rooms."""
        self._workers.pop(agent_name, None)

    def kill(self, agent_name: str = "", *, room: str = "", lingers: float = LINGERS) -> int:
        """End the processes of agents that are in a room; how many there were.

        The worker takes further jobs. LiveKit shows the participants, publishing, for `lingers`
        seconds more: then it has noticed (21 s, seen on livekit-server 1.13.5).
        """
        killed = self._agents(agent_name, room)
        for where, agent in killed:
            self._mute.add(agent.identity)
            self._tasks.spawn(self._notice(where, agent, lingers))
        return len(killed)

    def dismiss(self, agent_name: str = "", *, room: str = "") -> int:
        """Agents leave of their own accord, as at the end of a conversation or a deployment."""
        leaving = self._agents(agent_name, room)
        for where, agent in leaving:
            self._rooms.leave(where, agent.identity)
        return len(leaving)

    def answers(self, identity: str) -> bool:
        """Whether the agent's process answers an RPC."""
        return identity not in self._mute

    def _agents(self, agent_name: str, room: str) -> list[tuple[LiveRoom, ParticipantInfo]]:
        return [
            (where, agent)
            for where in self._rooms
            if room in ("", where.name)
            for agent in list(where.participants.values())
            if agent.kind == ParticipantInfo.Kind.AGENT
            and agent_name in ("", agent.attributes["lk.agent_name"])
        ]

    async def _notice(self, room: LiveRoom, agent: ParticipantInfo, after: float) -> None:
        await self._clock.sleep(after)
        if room.has(agent.identity, agent.sid):
            self._rooms.leave(room, agent.identity, DisconnectReason.CONNECTION_TIMEOUT)

    def launch(self, room: LiveRoom, dispatch: AgentDispatch, *, is_new: bool) -> None:
        """Hand the dispatch to its worker, if there is one; `is_new`: it made the room."""
        worker = self._workers.get(dispatch.agent_name)
        if worker is None:
            return
        if worker.to_drop > 0:
            worker.to_drop -= 1
            return
        job = Job(
            id=ids.new_id(ids.JOB),
            dispatch_id=dispatch.id,
            agent_name=dispatch.agent_name,
            room=room.name,
            metadata=dispatch.metadata,
            received_at=self._clock.monotonic(),
        )
        self.jobs.append(job)
        self._tasks.spawn(self._list(dispatch, job, _LISTED_AFTER if is_new else 0.0))
        self._tasks.spawn(self._work(room, job, worker.behaviour))

    async def _list(self, dispatch: AgentDispatch, job: Job, after: float) -> None:
        await self._clock.sleep(after)
        state = proto.JobState(participant_identity=f"agent-{job.id}")
        dispatch.state.jobs.append(proto.Job(id=job.id, dispatch_id=dispatch.id, state=state))

    async def _work(self, room: LiveRoom, job: Job, behaviour: Behaviour) -> None:
        await self._clock.sleep(behaviour.join_delay)
        is_withdrawn = job.dispatch_id not in room.dispatches and not behaviour.stubborn
        if behaviour.never_joins or room.is_closed or is_withdrawn:
            return
        agent = ParticipantInfo(
            identity=f"agent-{job.id}",
            kind=ParticipantInfo.Kind.AGENT,
            attributes={"lk.agent_name": job.agent_name},
        )
        self._rooms.join(room, agent)
        if not behaviour.answers_rpc:
            self._mute.add(agent.identity)
        room.agents[agent.identity] = job.dispatch_id
        await self._clock.sleep(behaviour.publish_delay)
        if not behaviour.never_publishes and room.has(agent.identity, agent.sid):
            self._rooms.publish_audio(room, agent)
        if behaviour.dies_after is not None:
            await self._clock.sleep(behaviour.dies_after)
            if room.has(agent.identity, agent.sid):
                self._mute.add(agent.identity)
                await self._notice(room, agent, LINGERS)
