"""Whether Kafka is there and has our topics, for `doctor`."""

import asyncio
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from config.settings import KafkaSettings
from router.errors import LogUnavailable
from router.eventlog.kafka_client import brokers, connection, start
from router.eventlog.kafka_errors import why
from router.events.types import CALLS_TOPIC, NUMBERS_TOPIC, ROUTES_TOPIC

_TIMEOUT: Final = 6.0  # seconds


async def probe_kafka(settings: KafkaSettings) -> str:
    """What was found, in words.

    Raises:
        LogUnavailable: no broker answers; says what to look at.
    """
    admin = AIOKafkaAdminClient(**connection(settings))
    try:
        async with asyncio.timeout(_TIMEOUT):
            await start(admin)
            there = (await admin.describe_cluster())["brokers"]
            missing = {CALLS_TOPIC, NUMBERS_TOPIC, ROUTES_TOPIC} - set(await admin.list_topics())
    except (KafkaError, OSError, TimeoutError) as error:
        raise LogUnavailable(
            f"{brokers(settings)} can't be used: {why(error)}; start it, or correct these "
            "settings. Until then events wait in the journal"
        ) from error
    finally:
        await admin.close()
    made = "all topics there" if not missing else f"{len(missing)} topics are made at the start"
    return f"{len(there)} broker{'s' if len(there) > 1 else ''}, {made}"
