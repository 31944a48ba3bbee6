"""The log on the journal alone: no Kafka, one process, one partition per topic.

A group has one active member; further ones stand by until it leaves. Its position per topic is
stored in the journal, under `group/<group>/<topic>`, and holds retention back.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from router.errors import PartitionLost
from router.eventlog.base import (
    Appended,
    Behind,
    Follower,
    OnRevoke,
    Position,
    Reader,
    Record,
    RelayState,
    Takeover,
)
from router.eventlog.journal import Journal
from router.eventlog.journal_writer import GROUP


async def next_records(
    journal: Journal, after: int, topics: Sequence[str], *, limit: int, wait: float
) -> tuple[list[Record], int]:
    """What comes after `after`, waiting up to `wait` seconds for it, and where to go on."""
    deadline = asyncio.get_running_loop().time() + wait
    while True:
        records, after = await journal.read(after, limit=limit, topics=topics)
        left = deadline - asyncio.get_running_loop().time()
        if records or left <= 0:
            return records, after
        if journal.failed.is_set():
            # Readers ask again at once: without a pause they would keep the loop from ending.
            await asyncio.sleep(left)
            return records, after
        await journal.wait(after, left)


class JournalMember:
    """One member. `turn` is the group's lock: who holds it is the active member."""

    def __init__(
        self, journal: Journal, topics: Sequence[str], group: str, turn: asyncio.Lock
    ) -> None:
        self._journal = journal
        self._names = {topic: f"{GROUP}{group}/{topic}" for topic in topics}
        self._turn = turn
        self._after: dict[str, int] = {}  # per topic, what was committed when our turn began
        self._cursor = 0
        self._active = False

    async def join(self) -> None:
        """Register the group, so that retention keeps what it has not seen."""
        for name in self._names.values():
            if self._journal.position(name) is None:
                await self._journal.move({name: 0})

    @property
    def behind(self) -> Behind:
        """As `Reader.behind`; an upper bound: other topics' records count too."""
        return Behind(max(0, self._journal.last_seq - self._cursor) if self._active else 0, 0.0)

    async def fetch(self, *, limit: int, wait: float) -> Sequence[Record]:
        """As `Reader.fetch`; empty while another member of the group is active."""
        if limit == 0 or not await self._take_turn(wait):
            return ()
        records, self._cursor = await next_records(
            self._journal, self._cursor, list(self._names), limit=limit, wait=wait
        )
        return [record for record in records if self._is_new(record.position)]

    def _is_new(self, position: Position) -> bool:
        return position.offset > self._after[position.topic]

    async def _take_turn(self, wait: float) -> bool:
        if self._active:
            return True
        try:
            async with asyncio.timeout(wait):
                await self._turn.acquire()
        except TimeoutError:
            return False
        self._active = True
        self._after = {t: self._journal.position(name) or 0 for t, name in self._names.items()}
        self._cursor = min(self._after.values())
        return True

    async def commit(self, positions: Sequence[Position]) -> None:
        """As `Reader.commit`."""
        ours = [p for p in positions if self._active and p.topic in self._names]
        await self._journal.move({self._names[p.topic]: p.offset for p in ours})
        lost = [(p.topic, p.partition) for p in positions if p not in ours]
        if lost:
            raise PartitionLost("this member has no part of the topic now", partitions=lost)

    def leave(self) -> None:
        """Let the next member go on from what was committed."""
        if self._active:
            self._active = False
            self._turn.release()


class JournalFollower:
    """Reads on from a seq, for itself."""

    def __init__(
        self, journal: Journal, topics: Sequence[str], after: Mapping[tuple[str, int], int]
    ) -> None:
        self._journal = journal
        self._topics = list(topics)
        self._goal = journal.last_seq
        self._after = {topic: after.get((topic, 0), 0) for topic in topics}
        for topic, offset in self._after.items():
            if offset > journal.last_seq:  # another journal than the one `after` speaks of
                self._after[topic] = 0
        self._cursor = min(self._after.values())

    @property
    def caught_up(self) -> bool:
        """As `Follower.caught_up`."""
        return self._cursor >= self._goal

    async def fetch(self, *, limit: int, wait: float) -> Sequence[Record]:
        """As `Follower.fetch`."""
        records, self._cursor = await next_records(
            self._journal, self._cursor, self._topics, limit=limit, wait=wait
        )
        return [record for record in records if self._is_new(record.position)]

    def _is_new(self, position: Position) -> bool:
        return position.offset > self._after[position.topic]


class JournalLog:
    """`OpenLog` on one journal."""

    relay: RelayState | None = None

    def __init__(self, journal: Journal, seat: str = "") -> None:
        self.seat = seat
        self._journal = journal
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.failed = journal.failed

    async def append(
        self, topic: str, key: str, value: bytes | None, headers: Mapping[str, str]
    ) -> Appended:
        """As `EventLog.append`."""
        return await self._journal.append(topic, key, value, headers)

    @asynccontextmanager
    async def reader(
        self, topics: Sequence[str], *, group: str, on_revoke: OnRevoke | None = None
    ) -> AsyncIterator[Reader]:
        """As `EventLog.reader`."""
        del on_revoke  # an active member stays active until it leaves
        member = JournalMember(self._journal, topics, group, self._turns[group])
        await member.join()
        try:
            yield member
        finally:
            member.leave()

    @asynccontextmanager
    async def follow(
        self, topics: Sequence[str], *, after: Mapping[tuple[str, int], int]
    ) -> AsyncIterator[Follower]:
        """As `EventLog.follow`."""
        yield JournalFollower(self._journal, topics, after)

    def takeover(self, topics: Sequence[str], *, group: str) -> Takeover | None:
        """None: there is no Kafka to take over from."""
        del topics, group
        return None
