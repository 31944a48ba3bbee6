"""Runs the consumers of this process: every folder here whose role is asked for."""

import asyncio
from contextlib import AsyncExitStack

from config.settings import Settings
from consumers.consumer import Consumer, ConsumerSpec
from consumers.runner import Limits, Runner
from router import registry
from router.eventlog.base import OnRevoke
from router.observability.metrics import HANDLED
from router.resources import Resources


def specs(settings: Settings) -> list[ConsumerSpec]:
    """Of the consumers that this process runs."""
    found = [
        registry.load("consumers", name, "CONSUMER", ConsumerSpec)
        for name in registry.names("consumers")
    ]
    return [spec for spec in found if spec.role in settings.roles]


def declare_metrics(settings: Settings) -> None:
    """Have the series of this process's consumers begin at 0, also while the database is away."""
    for spec in specs(settings):
        for outcome in ("done", "dead"):
            HANDLED.labels(spec.group, outcome)


async def run(resources: Resources, stop: asyncio.Event) -> None:
    """Run them until `stop` is set, then let each drain and commit.

    Raises:
        ExceptionGroup: of `LogFailed`; the process must end.
    """
    async with AsyncExitStack() as stack:
        consumers = [
            (spec, await stack.enter_async_context(spec.open(resources)))
            for spec in specs(resources.settings)
        ]
        async with asyncio.TaskGroup() as background:
            own = [background.create_task(consumer.run()) for _, consumer in consumers]
            async with asyncio.TaskGroup() as readers:
                for spec, consumer in consumers:
                    _start(spec, consumer, resources, stop, readers)
            for task in own:
                task.cancel()


def _start(
    spec: ConsumerSpec,
    consumer: Consumer,
    resources: Resources,
    stop: asyncio.Event,
    tasks: asyncio.TaskGroup,
) -> None:
    log, limits = resources.log, Limits.of(resources.settings)

    def group(on_revoke: OnRevoke):  # type: ignore[no-untyped-def]
        return log.reader(spec.topics, group=spec.group, on_revoke=on_revoke)

    tasks.create_task(Runner(spec, consumer, group, log, resources.clock, limits).run(stop))
    takeover = log.takeover(spec.topics) if spec.takeover else None
    if takeover is not None:
        runner = Runner(spec, consumer, lambda _: takeover, log, resources.clock, limits)
        tasks.create_task(runner.run(stop))
