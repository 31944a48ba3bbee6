"""What the two consumers have in common: records, and an end that is one."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer

from router.eventlog.base import Position, Record

_STOP: Final = 3.0  # seconds for leaving the group politely


def to_record(message: Any) -> Record:
    """The record of an aiokafka message.

    A header without a value, which Kafka allows, is as if it were not there.
    """
    return Record(
        position=Position(message.topic, message.partition, message.offset),
        key=(message.key or b"").decode(errors="replace"),
        value=message.value,
        headers={
            name: value.decode(errors="replace")
            for name, value in message.headers
            if value is not None
        },
        time=message.timestamp * 1000,
    )


async def end_consumer(consumer: AIOKafkaConsumer) -> None:
    """Leave the group and end every task of the consumer, with the broker away too.

    `stop()` waits for a broker that may not be there. Only cancelled, it would leave heartbeats
    behind that keep the partitions for a member which no longer reads. And it can raise the
    CancelledError of its own fetch tasks, which would end whoever awaits it: so it gets a task.
    """
    stopping = asyncio.create_task(consumer.stop())
    if await _ended([stopping], _STOP) and not stopping.cancelled() and not stopping.exception():
        return
    tasks = [stopping, *_tasks_of(consumer)]
    for task in tasks:
        task.cancel()
    await _ended(tasks, _STOP)
    await _ended([asyncio.create_task(consumer._client.close())], _STOP)  # noqa: SLF001 as below


async def _ended(tasks: Sequence["asyncio.Task[object]"], seconds: float) -> bool:
    """Wait for tasks whatever becomes of them; whether all ended."""
    done, pending = await asyncio.wait(tasks, timeout=seconds)
    for task in done:
        if not task.cancelled():
            task.exception()  # seen
    return not pending


def _tasks_of(consumer: AIOKafkaConsumer) -> "list[asyncio.Task[object]]":
    owners = (consumer._coordinator, consumer._fetcher)  # noqa: SLF001 there is no public way
    found = [getattr(owner, name, None) for owner in owners for name in _TASKS]
    pending = list(getattr(consumer._fetcher, "_pending_tasks", ()))  # noqa: SLF001 as above
    return [task for task in (*found, *pending) if isinstance(task, asyncio.Task)]


_TASKS: Final = (
    "_coordination_task",
    "_heartbeat_task",
    "_commit_refresh_task",
    "_reset_committed_task",
    "_fetch_task",
)
