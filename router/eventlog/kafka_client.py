"""What every Kafka client of ours shares: how to connect, and the topics that must be there.

A new client is also the only way out of most of aiokafka's troubles (reference: aiokafka issues
459, 1017, 1037), so clients are cheap to make here and are never mended.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ssl import SSLContext
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError
from aiokafka.helpers import create_ssl_context

from config.settings import KafkaSettings
from router.errors import LogUnavailable
from router.eventlog.dead_letter import MAX_DEAD_RECORD
from router.eventlog.kafka_errors import CLIENT_ERRORS, why
from router.eventlog.topics import cleanup
from router.events.types import DEAD_SUFFIX

REQUEST_TIMEOUT: Final = 15.0  # seconds; longer than an election of a leader takes

_ANSWER: Final = 1.0  # seconds for a question that a caller waits for
_BOOTSTRAP: Final = 1.0  # seconds; a broker that lives answers in milliseconds

_WEEK: Final = str(7 * 24 * 3600 * 1000)
_DELETE: Final = {
    "cleanup.policy": "delete",
    "retention.ms": _WEEK,
    # Not the sender's: one whose clock runs ahead would be refused (`after.max.ms`, an hour), and
    # what one that runs behind sends would be deleted at once. The event has its own time.
    "message.timestamp.type": "LogAppendTime",
}
_COMPACT: Final = {
    "cleanup.policy": "compact",
    "message.timestamp.type": "LogAppendTime",
    "segment.ms": str(10 * 60 * 1000),
    "segment.bytes": str(16 << 20),
    "min.cleanable.dirty.ratio": "0.1",
    "max.compaction.lag.ms": str(3600 * 1000),
    "delete.retention.ms": _WEEK,  # a follower may be away this long and still see a removal
}


def connection(settings: KafkaSettings) -> dict[str, Any]:
    """Arguments that producer, consumer and admin client have in common."""
    return {
        "bootstrap_servers": list(settings.bootstrap_servers),
        "client_id": "switchboard",
        "request_timeout_ms": int(REQUEST_TIMEOUT * 1000),
        "retry_backoff_ms": 100,
        "metadata_max_age_ms": 60_000,
        "security_protocol": settings.security_protocol,
        "ssl_context": _ssl(settings),
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_username or None,
        "sasl_plain_password": settings.sasl_password.get_secret_value() or None,
    }


async def start(client: Any) -> None:
    """Start an aiokafka client; one that is cancelled meanwhile gets a moment to be whole first.

    Cut off while it asks its first broker for metadata, `AIOKafkaClient.bootstrap` (0.14) forgets
    that connection: nobody closes it.
    """
    starting = asyncio.create_task(client.start())
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait((starting,), timeout=_BOOTSTRAP)
        starting.cancel()
        await asyncio.wait((starting,), timeout=_BOOTSTRAP)
        if starting.done() and not starting.cancelled():
            starting.exception()  # seen
        raise


def _ssl(settings: KafkaSettings) -> SSLContext | None:
    if settings.security_protocol in ("SSL", "SASL_SSL"):
        context: SSLContext = create_ssl_context(cafile=settings.ssl_cafile or None)
        return context
    return None


async def ensure_topics(settings: KafkaSettings, topics: Sequence[str]) -> None:
    """Create those of `topics` that are missing; one that exists is left as it is.

    Raises:
        LogUnavailable: no broker, or it refused; try again.
    """
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT), _admin(settings) as admin:
            present = set(await admin.list_topics())
            missing = [_new_topic(settings, name) for name in topics if name not in present]
            if missing:
                answer = await admin.create_topics(missing)
                refused = [
                    code for _, code, *_ in answer.topic_errors if code not in _CREATED_OR_THERE
                ]
                if refused:
                    raise LogUnavailable(
                        f"{brokers(settings)} refused to create topics (error {refused[0]}): "
                        "create them yourself, or let Switchboard's user do it"
                    )
    except CLIENT_ERRORS as error:
        raise LogUnavailable(
            f"{brokers(settings)} can't be asked for its topics: {why(error)}"
        ) from error


class GroupOffsets:
    """How far a group has come, asked of Kafka over one connection, made anew when it fails."""

    def __init__(self, settings: KafkaSettings, group: str) -> None:
        self._settings = settings
        self._group = group
        self._admin: AIOKafkaAdminClient | None = None

    async def ask(self) -> dict[tuple[str, int], int] | None:
        """(topic, partition) → the offset that it handles next; None when Kafka does not say."""
        try:
            async with asyncio.timeout(_ANSWER):
                if self._admin is None:
                    self._admin = AIOKafkaAdminClient(**connection(self._settings))
                    await start(self._admin)
                found = await self._admin.list_consumer_group_offsets(self._group)
        except CLIENT_ERRORS:
            await self.close()
            return None
        return {(tp.topic, tp.partition): offsets.offset for tp, offsets in found.items()}

    async def close(self) -> None:
        """Disconnect; it may be asked again."""
        admin, self._admin = self._admin, None
        if admin is not None:
            await admin.close()


_CREATED_OR_THERE: Final = (0, TopicAlreadyExistsError.errno)


@asynccontextmanager
async def _admin(settings: KafkaSettings) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(**connection(settings))
    try:
        await start(admin)
        yield admin
    finally:
        await admin.close()


def _new_topic(settings: KafkaSettings, name: str) -> Any:
    configs = dict(_COMPACT if cleanup(name) == "compact" else _DELETE)
    if settings.replication_factor >= 3:
        configs["min.insync.replicas"] = "2"
    if name.endswith(DEAD_SUFFIX):
        configs["max.message.bytes"] = str(MAX_DEAD_RECORD + 100_000)
    return NewTopic(name, settings.partitions, settings.replication_factor, topic_configs=configs)


def brokers(settings: KafkaSettings) -> str:
    """For messages: whom we asked."""
    return f"Kafka at {', '.join(settings.bootstrap_servers)} (kafka.bootstrap_servers)"
