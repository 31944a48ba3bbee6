"""Brings the right agent into every call's room, once, and sees that it stays.

`plan` decides (pure), `effect` acts on LiveKit and the log, `pending` brings one call's agent,
`supervision` looks after connected calls, `active` runs both, `cleanup` closes the rooms that are
left over, `handler` takes the events, `commands` tells carriers what to do with callers whom they
hold, `store` keeps the claims.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from random import SystemRandom
from typing import Final
from uuid import uuid4

from config.check import ring_window
from consumers.consumer import Consumer, ConsumerSpec
from consumers.dispatch.active import ActiveCalls
from consumers.dispatch.cleanup import LEASE, RoomCleanup
from consumers.dispatch.effect import Effects
from consumers.dispatch.handler import Dispatcher
from consumers.dispatch.pending import Context
from consumers.dispatch.store import StoredClaims
from consumers.dispatch.supervision import Silences
from consumers.throttled_log import ThrottledLog
from router.events.types import CALLS_TOPIC
from router.resources import Resources
from router.storage import claims
from router.storage.leader import leader


@asynccontextmanager
async def _open(resources: Resources) -> AsyncIterator[Consumer]:
    random = SystemRandom()
    effects = Effects(resources.livekit, resources.log, resources.carriers, resources.clock, random)
    context = Context(
        claims=StoredClaims(resources.database),
        effects=effects,
        problems=ThrottledLog(resources.clock),
        clock=resources.clock,
        random=random,
        settings=resources.settings.dispatch.model_copy(
            update={"ring_window": ring_window(resources.settings)}
        ),
        poll_interval=resources.settings.livekit.poll_interval,
        silences=Silences(resources.clock),
        health=resources.dispatch_health,
    )
    seat = resources.log.seat
    active = ActiveCalls(context, owner=f"{seat}/{uuid4().hex}", seat=seat)
    rooms = RoomCleanup(
        resources.livekit,
        resources.clock,
        random,
        lead=partial(leader, resources.database, LEASE),
        states=partial(claims.states, resources.database),
        tell=effects.tell,
    )
    try:
        yield Dispatcher(context, active, rooms, resources.carriers)
    finally:
        await active.release()


CONSUMER: Final = ConsumerSpec(
    name="dispatch",
    role="dispatch",
    topics=(CALLS_TOPIC,),
    takeover=True,
    retry_for=60.0,
    open=_open,
)
