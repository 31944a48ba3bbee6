"""Runs the consumers of this process: every folder here whose role is asked for."""

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from config.settings import Settings
from consumers.consumer import Consumer, ConsumerSpec
from consumers.runner import Limits, OpenReader, Runner
from router import registry
from router.eventlog.base import OnRevoke, Reader, Takeover
from router.observability.metrics import HANDLED, OPEN_SECONDS, SILENT_SECONDS, UNREAD
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
        for gauge in (UNREAD, SILENT_SECONDS, OPEN_SECONDS):
            gauge.labels(spec.group)


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
        keep = resources.supervisor.keep
        async with asyncio.TaskGroup() as background:
            own = [
                background.create_task(keep(f"{spec.name}_background", consumer.run))
                for spec, consumer in consumers
            ]
            async with asyncio.TaskGroup() as readers:
                for spec, consumer in consumers:
                    start(spec, consumer, resources, stop, readers)
            for task in own:
                task.cancel()


def start(
    spec: ConsumerSpec,
    consumer: Consumer,
    resources: Resources,
    stop: asyncio.Event,
    tasks: asyncio.TaskGroup,
) -> None:
    """Read for one consumer, in `tasks`, until `stop` is set."""
    log, supervisor = resources.log, resources.supervisor
    takeover = log.takeover(spec.topics, group=spec.group) if spec.takeover else None

    def group(on_revoke: OnRevoke) -> AbstractAsyncContextManager[Reader]:
        return log.reader(spec.topics, group=spec.group, on_revoke=on_revoke)

    def left_over(_: OnRevoke) -> AbstractAsyncContextManager[Reader]:
        if takeover is None:
            raise RuntimeError("there is nothing to take over from")
        return takeover.reader()

    def made(open_reader: OpenReader, told: Takeover | None) -> Runner:
        limits = Limits.of(resources.settings)
        return Runner(spec, consumer, open_reader, log, resources.clock, limits, takeover=told)

    async def read() -> None:  # a new one each time: nothing of one that broke is used again
        runner = made(group, takeover)
        supervisor.groups[spec.name] = runner.state
        await runner.run(stop)

    async def take_over() -> None:
        await made(left_over, None).run(stop)

    tasks.create_task(supervisor.keep(f"{spec.name}_reader", read, stop=stop))
    if takeover is not None:
        tasks.create_task(supervisor.keep(f"{spec.name}_takeover", take_over, stop=stop))
