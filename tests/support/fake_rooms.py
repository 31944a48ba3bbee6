"""`consumers.dispatch.effect.AgentRooms` in memory: LiveKit with its habits and its failures.

As the real one: every `create_dispatch` starts one more agent, whatever went before; an accepted
dispatch says nothing about an agent; withdrawing a dispatch takes its agent out of the room, but a
stubborn one that is on its way comes all the same.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from router.errors import Ambiguous, Permanent, Transient
from router.providers.livekit.client import Dispatch, Participant, PollBudget, Room


def _loop_time() -> float:
    """Also before the loop runs, where a test makes its world."""
    with suppress(RuntimeError):
        return asyncio.get_running_loop().time()
    return 0.0


class Fate(Enum):
    """What becomes of a `create_dispatch`."""

    WELL = auto()
    BUSY = auto()  # Transient, nothing done
    LOST = auto()  # done, but the answer never came
    LATE_LOST = auto()  # the answer never came, and it is done seconds after that
    SLOW = auto()  # done, and answered after the lease is over
    SWALLOWED = auto()  # accepted; no agent ever comes
    TARDY = auto()  # accepted; the agent comes after the deadline
    STUBBORN = auto()  # the same, also when its dispatch was withdrawn meanwhile
    REFUSED = auto()  # Permanent


@dataclass
class _Made:
    id: str
    room: str
    agent_name: str
    metadata: str
    joins_at: float | None
    stubborn: bool = False
    deleted: bool = False  # the dispatch
    gone: bool = False  # the agent: it left, or will not come
    killed: bool = False  # its process


@dataclass
class FakeRooms:
    """All rooms. `fate` is asked about each dispatch."""

    fate: Callable[[], Fate] = lambda: Fate.WELL
    join_after: float = 0.6  # seconds from the dispatch to the agent in the room
    speak_after: float = 0.3  # and on to its audio
    tardy: float = 6.0
    latency: float = 0.01
    down: bool = False
    names_jobs: bool = True  # whether a listed dispatch says who its agent is
    silent: bool = False  # connects, and never answers
    made: list[_Made] = field(default_factory=list)
    sip: dict[str, dict[str, Participant]] = field(default_factory=dict)
    people: dict[str, list[Participant]] = field(default_factory=dict)  # in browsers
    closed: list[str] = field(default_factory=list)
    asked: int = 0
    pinged: int = 0
    knows_rpc: bool = True  # whether the agents' SDK answers
    transfers: bool = False  # whether the carrier takes a REFER
    transferred: list[tuple[str, str, str]] = field(default_factory=list)
    polls: PollBudget = field(default_factory=lambda: PollBudget(300.0, _loop_time))
    on_speak: Callable[[str, Participant], None] = lambda room, agent: None  # LiveKit's webhook
    on_left: Callable[[str, Participant], None] = lambda room, agent: None  # LiveKit's webhook
    on_join: Callable[[str, Participant], None] = lambda room, agent: None  # LiveKit's webhook

    async def create_dispatch(self, *, room: str, agent_name: str, metadata: str) -> str:
        await self._network()
        fate = self.fate()
        if fate is Fate.BUSY:
            raise Transient("resource_exhausted")
        if fate is Fate.REFUSED:
            raise Permanent("invalid_argument")
        if fate is Fate.LATE_LOST:
            asyncio.get_running_loop().call_later(3.0, self._make, room, agent_name, metadata, fate)
            raise Ambiguous("timed out")
        if fate is Fate.SLOW:
            await asyncio.sleep(17.0)
        made = self._make(room, agent_name, metadata, fate)
        await asyncio.sleep(self.latency)
        if fate is Fate.LOST:
            raise Ambiguous("timed out")
        return made.id

    def _make(self, room: str, agent_name: str, metadata: str, fate: Fate) -> _Made:
        delay = self.tardy if fate in (Fate.TARDY, Fate.STUBBORN) else self.join_after
        joins_at = None if fate is Fate.SWALLOWED else self._now() + delay
        stubborn = fate is Fate.STUBBORN
        made = _Made(f"AD_{len(self.made)}", room, agent_name, metadata, joins_at, stubborn)
        self.made.append(made)
        if joins_at is not None:
            asyncio.get_running_loop().call_at(joins_at, self._joined, made)
        return made

    def _joined(self, made: _Made) -> None:
        if not made.gone:
            self.on_join(made.room, self._agent(made))
            asyncio.get_running_loop().call_later(self.speak_after, self._speaks, made)

    def _speaks(self, made: _Made) -> None:
        if not made.gone:
            self.on_speak(made.room, self._agent(made))

    async def delete_dispatch(self, *, room: str, dispatch_id: str) -> None:
        await self._network()
        for made in self.made:
            if (made.room, made.id) == (room, dispatch_id):
                made.deleted = True
                made.gone = made.gone or self._is_inside(made) or not made.stubborn

    async def remove_participant(self, *, room: str, identity: str) -> None:
        await self._network()
        for made in self._standing(room):
            if identity == f"agent-{made.id}" and self._is_inside(made):
                made.gone = True
        legs = self.sip.get(room, {})
        for sid in [sid for sid, leg in legs.items() if leg.identity == identity]:
            del legs[sid]

    async def dispatches(self, room: str) -> Sequence[Dispatch]:
        await self._network()
        return [
            Dispatch(made.id, made.agent_name, (f"agent-{made.id}",) if self.names_jobs else ())
            for made in self.made
            if made.room == room and not made.deleted
        ]

    async def rooms(self, names: Sequence[str] = ()) -> Sequence[Room]:
        await self._network()
        return [
            Room(name, f"RM_{name}", 0, len(self.sip.get(name, {})))
            for name in names or {*self.sip, *(made.room for made in self.made)}
            if self.sip.get(name) or self._standing(name)
        ]

    async def participants(self, room: str) -> Sequence[Participant]:
        await self._network()
        agents = [self._agent(made) for made in self._standing(room) if self._is_inside(made)]
        return [*agents, *self.sip.get(room, {}).values(), *self.people.get(room, [])]

    def _agent(self, made: _Made) -> Participant:
        speaks = made.joins_at is not None and self._now() >= made.joins_at + self.speak_after
        return Participant(
            sid=f"PA_{made.id}",
            identity=f"agent-{made.id}",
            kind="AGENT",
            agent_name=made.agent_name,
            publishes_audio=speaks,
            attributes={},
            joined_at=round((made.joins_at or 0) * 1_000_000),
        )

    def _is_inside(self, made: _Made) -> bool:
        return not made.gone and made.joins_at is not None and self._now() >= made.joins_at

    async def answers(self, *, room: str, identity: str, within: float) -> bool | None:
        self.pinged += 1
        made = next((m for m in self._standing(room) if identity == f"agent-{m.id}"), None)
        if made is None or not self._is_inside(made):
            return None
        if made.killed or not self.knows_rpc:
            await asyncio.sleep(within)
            return False
        await asyncio.sleep(self.latency)
        return True

    async def transfer(self, *, room: str, identity: str, to: str) -> None:
        await self._network()
        if not self.transfers:
            raise Permanent("the carrier does not transfer")
        self.transferred.append((room, identity, to))
        for sid in [s for s, leg in self.sip.get(room, {}).items() if leg.identity == identity]:
            del self.sip[room][sid]

    def kill_agents(self, room: str, *, lingers: float = 21.0) -> None:
        """Their processes are gone; LiveKit lists them, publishing, until it notices."""
        for made in self._standing(room):
            if self._is_inside(made):
                made.killed = True
                asyncio.get_running_loop().call_later(
                    lingers, self.agents_leave, room, "CONNECTION_TIMEOUT"
                )

    def agents_leave(self, room: str, reason: str = "CLIENT_INITIATED") -> None:
        """They leave the room, and LiveKit's webhook says so."""
        for made in self._standing(room):
            if self._is_inside(made):
                made.gone = True
                self.on_left(room, replace(self._agent(made), disconnect_reason=reason))

    async def delete_room(self, room: str) -> None:
        await self._network()
        self.closed.append(room)
        self.sip.pop(room, None)
        for made in self._standing(room):
            made.deleted = made.gone = True

    def caller_joins(self, room: str, sid: str = "PA_caller", **attributes: str) -> Participant:
        """The SIP leg is in the room."""
        who = Participant(
            sid, "sip_caller", "SIP", "", publishes_audio=True, attributes=attributes, joined_at=0
        )
        self.sip.setdefault(room, {})[sid] = who
        return who

    def person_joins(self, room: str) -> Participant:
        """Somebody in a browser, who can be heard."""
        who = Participant(
            "PA_person", "carol", "STANDARD", "", publishes_audio=True, attributes={}, joined_at=0
        )
        self.people.setdefault(room, []).append(who)
        return who

    def caller_leaves(self, room: str, sid: str = "PA_caller") -> None:
        """The SIP leg is gone."""
        self.sip.get(room, {}).pop(sid, None)

    def agents(self, room: str) -> int:
        """Agents that are in the room, or may yet come."""
        return len(self._standing(room))

    def inside(self, room: str) -> int:
        """Agents that are in the room now."""
        return sum(self._is_inside(made) for made in self._standing(room))

    def _standing(self, room: str) -> list[_Made]:
        return [made for made in self.made if made.room == room and not made.gone]

    async def _network(self) -> None:
        self.asked += 1
        await asyncio.sleep(self.latency)
        if self.silent:
            await asyncio.sleep(5.0)
            raise Ambiguous("timed out")
        if self.down:
            raise Transient("LiveKit can't be reached")

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
