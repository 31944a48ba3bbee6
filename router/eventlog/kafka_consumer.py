"""What the two consumers have in common: records, and an end that is one."""

import asyncio
from contextlib import suppress
from typing import Any, Final

from aiokafka import AIOKafkaConsumer

from router.eventlog.base import Position, Record

_STOP: Final = 3.0  # seconds for leaving the group politely


def to_record(message: Any) -> Record:
    """The record of an aiokafka message."""
    return Record(
        position=Position(message.topic, message.partition, message.offset),
        key=(message.key or b"").decode(errors="replace"),
        value=message.value,
        headers={name: value.decode(errors="replace") for name, value in message.headers},
        time=message.timestamp * 1000,
    )


async def end_consumer(consumer: AIOKafkaConsumer) -> None:
    """Leave the group and end every task of the consumer, with the broker away too.

    `stop()` waits for a broker that may not be there. Only cancelled, it would leave heartbeats
    behind that keep the partitions for a member which no longer reads.
    """
    with suppress(Exception):
        async with asyncio.timeout(_STOP):
            await consumer.stop()
            return
    tasks = [
        task
        for owner, names in (
            (consumer._coordinator, ("_coordination_task", "_heartbeat_task", *_REFRESH)),  # noqa: SLF001
            (consumer._fetcher, ("_fetch_task",)),  # noqa: SLF001 there is no public way
        )
        for name in names
        if (task := getattr(owner, name, None)) is not None
    ]
    for task in tasks:
        task.cancel()
    with suppress(Exception):
        async with asyncio.timeout(_STOP):
            await asyncio.gather(*tasks, return_exceptions=True)
            await consumer._client.close()  # noqa: SLF001 as above


_REFRESH: Final = ("_commit_refresh_task", "_reset_committed_task")
