"""Brings the right agent into every call's room, once.

`plan` decides (pure), `effect` acts on LiveKit and the log, `connect` is one call's way to its
agent, `watch` runs all of them, `follow` looks after connected calls, `rooms` closes what is left
over, `handler` takes the events.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from random import SystemRandom
from typing import Final
from uuid import uuid4

from consumers.complaints import Complaints
from consumers.consumer import Consumer, ConsumerSpec
from consumers.dispatch.connect import Means
from consumers.dispatch.effect import Effects
from consumers.dispatch.handler import Dispatcher
from consumers.dispatch.rooms import LEASE, Rooms
from consumers.dispatch.store import StoredClaims
from consumers.dispatch.watch import Watch
from router.events.types import CALLS_TOPIC
from router.resources import Resources
from router.storage import claims
from router.storage.leader import leader


@asynccontextmanager
async def _open(resources: Resources) -> AsyncIterator[Consumer]:
    random = SystemRandom()
    effects = Effects(resources.livekit, resources.log, resources.clock, random)
    means = Means(
        claims=StoredClaims(resources.database),
        effects=effects,
        complaints=Complaints(resources.clock),
        clock=resources.clock,
        random=random,
        settings=resources.settings.dispatch,
        poll_interval=resources.settings.livekit.poll_interval,
    )
    watch = Watch(means, owner=uuid4().hex)
    rooms = Rooms(
        resources.livekit,
        resources.clock,
        random,
        lead=partial(leader, resources.database, LEASE),
        states=partial(claims.states, resources.database),
        tell=effects.tell,
    )
    try:
        yield Dispatcher(means, watch, rooms, resources.carriers)
    finally:
        await watch.release()


CONSUMER: Final = ConsumerSpec(
    name="dispatch",
    role="dispatch",
    topics=(CALLS_TOPIC,),
    takeover=True,
    retry_for=60.0,  # the ring window: after it nobody is on the line
    open=_open,
)
