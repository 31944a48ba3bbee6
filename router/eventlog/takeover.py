"""What this process appended and nobody handled in time, for the consumer that must not wait.

It is read from the journal, whoever has it meanwhile: that Kafka took an event says nothing about
whether a consumer can read it. An event is due `takeover_after` seconds after it was appended. Then

 - one that a consumer of this process handled, or has in hand, is left to it: nothing is asked;
 - one that is in Kafka is left alone where the group has committed past it (another process did
   it): one question for all that are due, at most every `_ASK_EVERY` seconds;
 - every other one is handed out, once. It comes again through Kafka; its claim makes it once.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple, Protocol

from router.clock import Clock
from router.eventlog.base import Behind, Position, Reader, Record, RelayState
from router.eventlog.journal import Journal
from router.observability.metrics import TAKEN_OVER

_ASK_EVERY: Final = 0.25  # seconds
_ASK_AGAIN: Final = 5.0  # seconds after a question without an answer
_LOOK_AGAIN: Final = 0.1  # seconds until what is in hand is looked at again
_LOOKAHEAD: Final = 5000  # records read and not decided
_REMEMBERED: Final = 50_000  # ids that were handled


class Offsets(Protocol):
    """How far the group has come (`kafka_client.GroupOffsets`)."""

    async def ask(self) -> Mapping[tuple[str, int], int] | None:
        """(topic, partition) → the offset that it handles next; None: Kafka gives no answer."""

    async def close(self) -> None:
        """Until it is asked again."""


class _Waiting(NamedTuple):
    due: float  # monotonic
    record: Record


class KafkaTakeover:
    """See `base.Takeover`."""

    def __init__(
        self,
        journal: Journal,
        relay: RelayState,
        topics: Sequence[str],
        *,
        after_seconds: float,
        offsets: Offsets,
        clock: Clock,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._journal = journal
        self._relay = relay
        self._topics = frozenset(topics)
        self._after = after_seconds
        self._group = offsets
        self._clock = clock
        self._cursor = relay.acked_seq
        self._waiting: deque[_Waiting] = deque()
        self._handled: OrderedDict[str, None] = OrderedDict()  # the newest ids
        self._in_hand: Counter[str] = Counter()  # keys
        self._asked_at = float("-inf")
        self._next_ask = float("-inf")
        self._offsets: Mapping[tuple[str, int], int] = {}

    def begun(self, record: Record) -> None:
        """See `base.Takeover`."""
        self._in_hand[record.key] += 1

    def ended(self, record: Record, *, done: bool) -> None:
        """See `base.Takeover`."""
        self._in_hand[record.key] -= 1
        if not self._in_hand[record.key]:
            del self._in_hand[record.key]
        if done:
            self._handled[record.headers.get("ce_id", "")] = None
            if len(self._handled) > _REMEMBERED:
                self._handled.popitem(last=False)

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[Reader]:
        """See `base.Takeover`."""
        try:
            yield self
        finally:
            await self._group.close()

    @property
    def behind(self) -> Behind:
        """Nothing of its own: what waits here is the group's."""
        return Behind(0, 0.0)

    async def fetch(self, *, limit: int, wait: float) -> Sequence[Record]:
        """See `base.Reader`."""
        deadline = self._loop.time() + wait
        while limit > 0:
            await self._read_on()
            if found := await self._take_due(limit):
                TAKEN_OVER.inc(len(found))
                return found
            now = self._loop.time()
            if now >= deadline:
                break
            if self._waiting:
                pause = max(self._waiting[0].due - now, _LOOK_AGAIN)
                await asyncio.sleep(min(deadline - now, pause))
            else:
                await self._journal.wait(self._cursor, deadline - now)
        return ()

    async def _read_on(self) -> None:
        room = _LOOKAHEAD - len(self._waiting)
        if room <= 0 or self._journal.last_seq <= self._cursor:
            return
        records, self._cursor = await self._journal.read(
            self._cursor, limit=room, topics=self._topics
        )
        now, wall = self._loop.time(), self._clock.now()
        for record in records:
            # Whatever the wall clock did meanwhile: not before now, not after a whole patience.
            left = (record.time - wall) / 1_000_000 + self._after
            self._waiting.append(_Waiting(now + min(max(left, 0.0), self._after), record))

    async def _take_due(self, limit: int) -> list[Record]:
        now = self._loop.time()
        due: list[_Waiting] = []
        while self._waiting and self._waiting[0].due <= now and len(due) < _LOOKAHEAD:
            due.append(self._waiting.popleft())
        kept: list[_Waiting] = []
        found: list[Record] = []
        if any(self._is_open(each.record) and self._must_ask(each) for each in due):
            await self._ask()
        for each in due:
            if not self._is_open(each.record) or self._was_committed(each.record):
                continue
            if self._in_hand[each.record.key] or self._must_ask(each) or len(found) == limit:
                kept.append(each)
            else:
                found.append(each.record)
        self._waiting.extendleft(reversed(kept))
        return found

    def _is_open(self, record: Record) -> bool:
        return record.headers.get("ce_id", "") not in self._handled

    def _was_committed(self, record: Record) -> bool:
        place = self._relay.place(record.position.offset)
        if place is None:
            return False
        return place.offset < self._offsets.get((place.topic, place.partition), 0)

    def _must_ask(self, each: _Waiting) -> bool:
        """Whether only the group can tell, and was not asked since the record is due."""
        if self._asked_at >= each.due or self._in_hand[each.record.key]:
            return False
        return self._relay.place(each.record.position.offset) is not None

    async def _ask(self) -> None:
        now = self._loop.time()
        if now < self._next_ask:
            return
        answer = await self._group.ask()
        self._asked_at = self._loop.time()
        self._offsets = answer or {}
        if answer is None:
            # Kafka is away: what is due until the next question is nobody's but ours.
            self._asked_at = self._next_ask = self._asked_at + _ASK_AGAIN
        else:
            self._next_ask = self._asked_at + _ASK_EVERY

    async def commit(self, positions: Sequence[Position]) -> None:
        """Nothing: the records' own positions are committed when they come through Kafka."""
        del positions
