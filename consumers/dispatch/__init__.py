"""Brings the right agent into every call's room, once.

`plan` decides (pure), `effect` acts on LiveKit and the log, `connect` is one call's way to its
agent, `watch` runs all of them, `follow` looks after connected calls, `handler` takes the events.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import SystemRandom
from typing import Final
from uuid import uuid4

from consumers.consumer import Consumer, ConsumerSpec
from consumers.dispatch.connect import Means
from consumers.dispatch.effect import Complaints, Effects
from consumers.dispatch.handler import Dispatcher
from consumers.dispatch.ports import nothing_more
from consumers.dispatch.store import StoredClaims
from consumers.dispatch.watch import Watch
from router.events.types import CALLS_TOPIC
from router.resources import Resources


@asynccontextmanager
async def _open(resources: Resources) -> AsyncIterator[Consumer]:
    random = SystemRandom()
    means = Means(
        claims=StoredClaims(resources.database),
        effects=Effects(resources.livekit, resources.log, resources.clock, random),
        complaints=Complaints(resources.clock),
        clock=resources.clock,
        random=random,
        settings=resources.settings.dispatch,
        poll_interval=resources.settings.livekit.poll_interval,
        on_missing=nothing_more,
    )
    watch = Watch(means, owner=uuid4().hex)
    try:
        yield Dispatcher(means, watch, resources.carriers)
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
