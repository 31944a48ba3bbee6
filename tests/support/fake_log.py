"""The event log in memory, typed against the port, with the faults that its consumers must survive.

Partitions by CRC of the key, groups whose members share the partitions, ids that are written once.
Faults: `unavailable` (every call raises LogUnavailable), `rebalance()` (members get other
partitions), `rewind()` (a reader that was rebuilt reads from the last commit again),
`commit_takes` (a slow coordinator: beyond `COMMIT` seconds the commit is not taken).

It keeps the deadlines of the Kafka reader: a revoke is cut off, and the partitions go.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from zlib import crc32

from router.errors import LogUnavailable, PartitionLost
from router.eventlog.base import Appended, Behind, OnRevoke, Position, Record
from router.events.codec import decode, encode
from router.events.model import Event

Pair = tuple[str, int]

COMMIT = 5.0  # seconds, as `kafka_reader` gives the coordinator


@dataclass
class FakeLog:
    """`router.eventlog.base.EventLog` in memory."""

    partitions: int = 2
    gap: int = 1  # the distance of offsets: more than 1 is a log with gaps
    unavailable: bool = False
    revoke_within: float = 10.0  # seconds that a member has, half of Kafka's rebalance time-out
    commit_takes: float = 0.0  # seconds
    before_commit: Callable[[Position], None] = lambda position: None
    taken_at: Callable[[], int] = lambda: 0  # µs since epoch: the time of a record
    records: dict[Pair, list[Record]] = field(default_factory=dict)
    groups: dict[str, "_Group"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ids: dict[tuple[str, str], Record] = {}
        self._grown = asyncio.Event()

    async def append(
        self, topic: str, key: str, value: bytes | None, headers: Mapping[str, str]
    ) -> Appended:
        await asyncio.sleep(0)
        if self.unavailable:
            raise LogUnavailable("the fake log is switched off")
        known = self._ids.get((topic, headers["ce_id"]))
        if known is not None:
            return Appended(known.position, known)
        pair = (topic, crc32(key.encode()) % self.partitions)
        entries = self.records.setdefault(pair, [])
        offset = entries[-1].position.offset + self.gap if entries else 0
        record = Record(Position(*pair, offset), key, value, dict(headers), self.taken_at())
        entries.append(record)
        self._ids[topic, headers["ce_id"]] = record
        self._grown.set()
        return Appended(record.position, None)

    @asynccontextmanager
    async def reader(
        self, topics: Sequence[str], *, group: str, on_revoke: OnRevoke | None = None
    ) -> AsyncIterator["FakeReader"]:
        state = self.groups.setdefault(group, _Group())
        reader = FakeReader(self, state, topics, on_revoke)
        state.members.append(reader)
        try:
            await self.rebalance(group)
            yield reader
        finally:
            state.members.remove(reader)
            reader.owned.clear()
            await self.rebalance(group)

    @asynccontextmanager
    async def follow(
        self, topics: Sequence[str], *, after: Mapping[Pair, int]
    ) -> AsyncIterator["FakeFollower"]:
        pairs = [(topic, number) for topic in topics for number in range(self.partitions)]
        yield FakeFollower(self, {pair: after.get(pair, -1) for pair in pairs})

    async def rebalance(self, group: str, *, turn: int = 0) -> None:
        """Deal the group's partitions to its members; another `turn` deals them otherwise."""
        state = self.groups[group]
        members = list(state.members)  # who joins or leaves meanwhile begins another rebalance
        topics = {topic for member in members for topic in member.topics}
        pairs = [(topic, number) for topic in sorted(topics) for number in range(self.partitions)]
        deal: dict[int, set[Pair]] = {id(member): set() for member in members}
        for index, pair in enumerate(pairs):
            deal[id(members[(index + turn) % len(members)])].add(pair)
        for member in members:
            await member.give_up(set(member.owned) - deal[id(member)])
        if members != state.members:
            return
        for member in members:
            for pair in deal[id(member)] - set(member.owned):
                member.owned[pair] = state.committed.get(pair, -1)

    async def revoke(self, group: str) -> None:
        """Take everything from the group's members, and give it back to nobody."""
        for member in list(self.groups[group].members):
            await member.give_up(set(member.owned))

    def rewind(self, group: str) -> None:
        """As after the rebuild of a client: read again from the last commit, without a revoke."""
        state = self.groups[group]
        for member in state.members:
            for pair in member.owned:
                member.owned[pair] = state.committed.get(pair, -1)

    async def add(self, topic: str, event: Event) -> Appended:
        """Append an event."""
        headers, value = encode(event)
        return await self.append(topic, event.key, value, headers)

    def events(self, topic: str) -> list[Event]:
        """What a topic holds, decoded."""
        return [decode(r.key, r.headers, r.value) for r in self.all(topic)]

    def all(self, topic: str) -> list[Record]:
        """A topic's records, partition by partition."""
        return [r for pair in sorted(self.records) if pair[0] == topic for r in self.records[pair]]

    def after(self, places: dict[Pair, int], limit: int) -> list[Record]:
        """Up to `limit` records beyond `places`, which move on."""
        found: list[Record] = []
        for pair, last in places.items():
            fresh = [r for r in self.records.get(pair, ()) if r.position.offset > last]
            fresh = fresh[: limit - len(found)]
            if fresh:
                places[pair] = fresh[-1].position.offset
                found += fresh
        return found

    async def read(self, places: dict[Pair, int], limit: int, wait: float) -> Sequence[Record]:
        """`after`, waiting at most `wait` seconds for the first."""
        await asyncio.sleep(0)
        if self.unavailable:
            raise LogUnavailable("the fake log is switched off")
        found = self.after(places, limit)
        if not found and wait:
            await self.grown(wait)
            found = self.after(places, limit)
        return found

    async def grown(self, seconds: float) -> None:
        """Wait for the next append, at most so long."""
        self._grown.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._grown.wait()


@dataclass
class _Group:
    members: list["FakeReader"] = field(default_factory=list)
    committed: dict[Pair, int] = field(default_factory=dict)
    commits: list[Position] = field(default_factory=list)
    requests: int = 0  # of commits that were answered


class FakeReader:
    """`router.eventlog.base.Reader` in memory."""

    def __init__(
        self, log: FakeLog, group: _Group, topics: Sequence[str], on_revoke: OnRevoke | None
    ) -> None:
        self._log = log
        self._group = group
        self._on_revoke = on_revoke
        self.topics = topics
        self.owned: dict[Pair, int] = {}  # → the last offset handed out
        self.keepalives = 0

    @property
    def behind(self) -> Behind:
        last = {pair: entries[-1].position.offset for pair, entries in self._log.records.items()}
        return Behind(sum(last.get(pair, -1) > at for pair, at in self.owned.items()), 0.0)

    async def fetch(self, *, limit: int, wait: float) -> Sequence[Record]:
        if limit == 0:
            await asyncio.sleep(0)
            self.keepalives += 1
            return ()
        return await self._log.read(self.owned, limit, wait)

    async def commit(self, positions: Sequence[Position]) -> None:
        await asyncio.sleep(min(self._log.commit_takes, COMMIT))
        if self._log.unavailable or self._log.commit_takes > COMMIT:
            raise LogUnavailable("the fake log is switched off")
        self._group.requests += 1
        lost = []
        for position in positions:
            pair = (position.topic, position.partition)
            if pair not in self.owned:
                lost.append(pair)
                continue
            self._log.before_commit(position)
            self._group.committed[pair] = position.offset
            self._group.commits.append(position)
        if lost:
            raise PartitionLost("another member has them", partitions=lost)

    async def give_up(self, pairs: set[Pair]) -> None:
        if pairs and self._on_revoke is not None:
            seconds = self._log.revoke_within
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._on_revoke(sorted(pairs), seconds)
        for pair in pairs:
            self.owned.pop(pair, None)


class FakeFollower:
    """`router.eventlog.base.Follower` in memory."""

    def __init__(self, log: FakeLog, places: dict[Pair, int]) -> None:
        self._log = log
        self._places = places
        self._end = {pair: entries[-1].position.offset for pair, entries in log.records.items()}

    @property
    def caught_up(self) -> bool:
        return all(last >= self._end.get(pair, -1) for pair, last in self._places.items())

    async def fetch(self, *, limit: int, wait: float) -> Sequence[Record]:
        return await self._log.read(self._places, limit, wait)
