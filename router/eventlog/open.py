"""The one way to get a log: the journal alone, or journal, relay and Kafka."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from config.settings import Settings
from router.clock import SYSTEM, Clock
from router.eventlog.base import OpenLog
from router.eventlog.journal import open_journal
from router.eventlog.journal_log import JournalLog
from router.eventlog.journal_writer import GROUP, RELAY
from router.eventlog.kafka_log import KafkaLog, connector
from router.eventlog.orphans import drain_orphans
from router.eventlog.relay import open_relay
from router.eventlog.slots import seat_of, take_slot
from router.supervisor import Supervisor


@asynccontextmanager
async def open_log(
    settings: Settings, *, clock: Clock = SYSTEM, supervisor: Supervisor | None = None
) -> AsyncIterator[OpenLog]:
    """The log that `settings` asks for, until the block is left; leaving is bounded.

    A broker that is away is no error: the journal takes the events, relay and readers keep trying.

    Raises:
        ConfigError: another process has the data folder and there is no Kafka.
        LogFailed, LogUnavailable: the journal can't be opened.
    """
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        folder = stack.enter_context(take_slot(settings.data_dir, shared=settings.has_kafka))
        pinned_by = RELAY if settings.has_kafka else GROUP
        journal = await enter(
            open_journal(folder, settings.journal, pinned_by=pinned_by, clock=clock)
        )
        if not settings.has_kafka:
            yield JournalLog(journal, seat_of(folder))
            return
        connect = connector(settings.kafka)
        supervisor = supervisor or Supervisor()
        relay = await enter(open_relay(journal, connect, settings.kafka, supervisor, clock=clock))
        await enter(drain_orphans(settings, folder, connect, clock, supervisor))
        yield KafkaLog(
            journal,
            relay,
            settings.kafka,
            wait_for_kafka=settings.replicated,
            clock=clock,
            seat=seat_of(folder),
        )
