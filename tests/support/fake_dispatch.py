"""Processes that run the dispatch consumer over one log, one database and one LiveKit, all fake."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

from config.settings import DispatchSettings
from consumers.consumer import ConsumerSpec
from consumers.dispatch import CONSUMER
from consumers.dispatch.active import ActiveCalls
from consumers.dispatch.cleanup import RoomCleanup
from consumers.dispatch.effect import Effects
from consumers.dispatch.handler import Dispatcher
from consumers.dispatch.pending import Context
from consumers.dispatch.store import ClaimStore
from consumers.dispatch.supervision import Silences
from consumers.runner import Limits, Runner
from consumers.throttled_log import ThrottledLog
from router.dispatch_health import DispatchHealth
from router.events.model import Event
from router.events.types import CALLS_TOPIC, EventType
from router.provider import Carrier
from router.providers.livekit.client import Participant
from router.providers.livekit.events import participant_event
from router.storage.claims import Claim
from tests.support.fake_claims import FakeClaims
from tests.support.fake_log import FakeLog
from tests.support.fake_rooms import FakeRooms
from tests.support.fake_time import FakeClock

SETTINGS = DispatchSettings(deadline=4.0, ring_window=60.0, concurrency=32, lease=15.0)
LIMITS = Limits(in_flight=32, time_limit=15.0, grace=5.0, in_hand=5000)
POLL = 0.5


class World:
    """What the processes share. `settled` collects the claims that became final, in order."""

    def __init__(
        self, rooms: FakeRooms | None = None, settings: DispatchSettings = SETTINGS
    ) -> None:
        self.clock = FakeClock()
        self.log = FakeLog()
        self.rooms = rooms or FakeRooms()
        self.settings = settings
        self.settled: list[tuple[Claim, int]] = []  # with the count of its agents just then
        self.claims = FakeClaims(self.clock, latency=0.004, seen=self._seen)
        self.store: ClaimStore = self.claims  # what the processes use
        self.carriers: dict[str, Carrier] = {}
        self.silences = Silences(self.clock)
        self._deliveries: set[asyncio.Task[None]] = set()

    def _seen(self, claim: Claim) -> None:
        if claim.final:
            self.settled.append((claim, self.rooms.agents(claim.call_id)))

    async def tell(self, *events: Event) -> None:
        for event in events:
            await self.log.add(CALLS_TOPIC, event)

    def webhooks(self) -> None:
        """From now on LiveKit tells of every agent that joins."""
        self.rooms.on_join = lambda room, agent: self._deliver(
            participant_event(EventType.AGENT_JOINED, room, agent, time=self.clock.now())
        )

    def all_webhooks(self) -> None:
        """From now on LiveKit tells of every agent that joins, speaks and leaves."""

        def tell(kind: EventType) -> Callable[[str, Participant], None]:
            return lambda room, who: self._deliver(
                participant_event(kind, room, who, time=self.clock.now(), raw={"event": "x"})
            )

        self.rooms.on_join = tell(EventType.AGENT_JOINED)
        self.rooms.on_speak = tell(EventType.AGENT_READY)
        self.rooms.on_left = tell(EventType.AGENT_LEFT)

    def _deliver(self, event: Event) -> None:
        task = asyncio.create_task(self.tell(event))
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)

    def told(self, call_id: str) -> list[EventType]:
        """Types of the call's events, in order."""
        return [event.type for event in self.log.events(CALLS_TOPIC) if event.key == call_id]

    def state(self, call_id: str) -> str:
        row = self.claims.rows.get(call_id)
        return row.state if row is not None else "none"


@asynccontextmanager
async def nobody_leads() -> AsyncIterator[bool]:
    """What `rooms` tidies up is its own tests'."""
    yield False


class Process:
    """One running dispatch consumer."""

    def __init__(
        self, world: World, name: str, seed: int = 7, seat: str = "", *, ingress: bool = False
    ) -> None:
        random = Random(seed)
        self.health = DispatchHealth(world.clock) if ingress else None
        context = Context(
            claims=world.store,
            effects=Effects(world.rooms, world.log, world.carriers, world.clock, random),
            problems=ThrottledLog(world.clock),
            clock=world.clock,
            random=random,
            settings=world.settings,
            poll_interval=POLL,
            silences=world.silences,
            health=self.health,
        )
        self.active = ActiveCalls(context, name, seat)
        self.rooms = RoomCleanup(
            world.rooms,
            world.clock,
            random,
            lead=nobody_leads,
            states=world.claims.states,
            tell=context.effects.tell,
        )
        self.consumer = Dispatcher(context, self.active, self.rooms, world.carriers)
        self._stop = asyncio.Event()
        spec: ConsumerSpec = CONSUMER
        self.runner = Runner(
            spec,
            self.consumer,
            lambda on_revoke: world.log.reader(spec.topics, group=spec.name, on_revoke=on_revoke),
            world.log,
            world.clock,
            LIMITS,
            random,
        )
        self._tasks = [
            asyncio.create_task(self.runner.run(self._stop)),
            asyncio.create_task(self.consumer.run()),
        ]

    async def crash(self) -> None:
        """As by SIGKILL: nothing is drained, committed or released."""
        doomed = [*self._tasks, *(task for _, task in self.active._waiting.values())]
        for task in doomed:
            task.cancel()
        await asyncio.wait(doomed)

    async def stop(self) -> None:
        """In good order."""
        self._stop.set()
        await self._tasks[0]
        self._tasks[1].cancel()
        await asyncio.wait(self._tasks)
        await self.active.release()


@asynccontextmanager
async def process(world: World, name: str = "p1") -> AsyncIterator[Process]:
    """A process, stopped in good order at the end."""
    running = Process(world, name)
    try:
        yield running
    finally:
        await running.stop()
