"""Journals that processes of this host left behind, with events that Kafka does not have.

A process that is killed and not started again leaves its folder unlocked. Every other process on
the same data folder looks for such folders at its start and every minute, takes the lock, and lets
a relay drain them.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from config.settings import Settings
from router.errors import SwitchboardError
from router.eventlog.base import Clock
from router.eventlog.journal import open_journal
from router.eventlog.journal_db import FILE_NAME, JournalReader
from router.eventlog.journal_writer import RELAY
from router.eventlog.relay import open_relay
from router.eventlog.shipment import Connect
from router.eventlog.slots import foreign_names, locked, slot_folders
from router.observability import log

_EVERY: Final = 60.0  # seconds between looks

logger = log.get(__name__)


@asynccontextmanager
async def drain_orphans(
    settings: Settings, own: Path, connect: Connect, clock: Clock
) -> AsyncIterator[None]:
    """Drain what others left, in the background, until the block is left."""

    async def look() -> None:
        if ignored := foreign_names(settings.data_dir):
            logger.warning("journal.ignored", names=ignored, why="not a journal's folder")
        while True:
            for folder in slot_folders(settings.data_dir):
                if folder.name != own.name:
                    await _drain(folder, settings, connect, clock)
            await asyncio.sleep(_EVERY)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _drain(folder: Path, settings: Settings, connect: Connect, clock: Clock) -> None:
    try:
        with locked(folder) as mine:
            waiting = await asyncio.to_thread(_waiting, folder) if mine else 0
            if not waiting:
                return
            logger.warning("relay.drains_orphan", journal=folder.name, waiting=waiting)
            async with (
                open_journal(folder, settings.journal, pinned_by=RELAY, clock=clock) as journal,
                open_relay(journal, connect, settings.kafka, clock=clock) as relay,
            ):
                await _first_of(relay.drained(), journal.failed.wait())
    except (SwitchboardError, OSError) as error:  # one bad folder must not stop the others
        logger.warning("relay.orphan_failed", journal=folder.name, why=str(error))
    except Exception:  # nor may a bug: nobody waits for this task, so nobody would see it die
        logger.exception("relay.orphan_failed", journal=folder.name)


async def _first_of(*conditions: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.create_task(condition) for condition in conditions]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _waiting(folder: Path) -> int:
    """How many seqs the relay of this journal had not moved."""
    if not (folder / FILE_NAME).exists():
        return 0
    reader = JournalReader(folder)
    try:
        return max(0, reader.ends()[1] - reader.position(RELAY))
    finally:
        reader.close()
