"""Keeps a record of every call (CDR): `plan` folds its events (pure), `handler` stores it, `sweep`
asks carriers about calls whose end nobody told.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from consumers.calls.handler import Recorder
from consumers.calls.sweep import Sweeper
from consumers.consumer import Consumer, ConsumerSpec
from router.events.types import CALLS_TOPIC
from router.resources import Resources


@asynccontextmanager
async def _open(resources: Resources) -> AsyncIterator[Consumer]:
    sweeper = Sweeper(
        resources.database,
        resources.log,
        resources.carriers,
        resources.settings.calls,
        resources.clock,
    )
    yield Recorder(resources.database, resources.clock, sweeper)


CONSUMER: Final = ConsumerSpec(
    name="calls",
    role="calls",
    topics=(CALLS_TOPIC,),
    takeover=False,  # a record may be late
    retry_for=3600.0,  # the database's outages are waited out: records can't be made up for
    open=_open,
)
