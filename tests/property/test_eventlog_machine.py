"""The journal against a model: append, repeat, read, commit, crash, reopen, in any order.

A crash is a copy of the files as they are after the last acknowledgement, opened in another folder,
without the first process having closed anything: what a kill would leave. Nothing is in flight at
that moment; kills with records in flight are in tests/faults.
"""

import asyncio
import shutil
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from typing_extensions import override

from router.eventlog.base import OpenLog, Reader
from router.eventlog.open import open_log
from tests.support.kafka_records import headers
from tests.support.kafka_settings import log_settings

T = TypeVar("T")
TOPICS = ("a", "b")


class JournalMachine(RuleBasedStateMachine):
    """`written` is the model: what the log holds, in order, per topic."""

    def __init__(self) -> None:
        super().__init__()
        self.root = TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.lives = 0
        self.written: dict[str, list[tuple[str, bytes]]] = {topic: [] for topic in TOPICS}
        self.seen: dict[str, int] = dict.fromkeys(TOPICS, 0)  # handed out in this life
        self.committed: dict[str, int] = dict.fromkeys(TOPICS, 0)
        self.stacks: list[AsyncExitStack] = []
        self.open()

    def run(self, work: Awaitable[T]) -> T:
        async def main() -> T:
            async with asyncio.timeout(30):
                return await work

        return self.loop.run_until_complete(main())

    @property
    def folder(self) -> Path:
        return Path(self.root.name) / str(self.lives)

    def open(self) -> None:
        stack = AsyncExitStack()
        self.stacks.append(stack)
        # Small batches and memory of the newest rows alone: all paths of reading are met.
        opened = open_log(log_settings(self.folder, journal={"batch_limit": 3}))
        self.log: OpenLog = self.run(stack.enter_async_context(opened))
        self.readers: dict[str, Reader] = {
            topic: self.run(stack.enter_async_context(self.log.reader([topic], group=topic)))
            for topic in TOPICS
        }
        self.seen = dict(self.committed)

    @rule(
        topic=st.sampled_from(TOPICS),
        values=st.lists(st.binary(max_size=20), min_size=1, max_size=8),
    )
    def append(self, topic: str, values: list[bytes]) -> None:
        start = len(self.written[topic])
        fresh = [(f"id-{start + index}", value) for index, value in enumerate(values)]

        async def together() -> None:
            await asyncio.gather(
                *(self.log.append(topic, "key", value, headers(name)) for name, value in fresh)
            )

        self.run(together())
        self.written[topic] += fresh

    @rule(topic=st.sampled_from(TOPICS), place=st.integers(0, 1000), value=st.binary(max_size=5))
    def repeat(self, topic: str, place: int, value: bytes) -> None:
        if not self.written[topic]:
            return
        identity, first = self.written[topic][place % len(self.written[topic])]
        appended = self.run(self.log.append(topic, "key", value, headers(identity)))
        assert appended.existing is not None
        assert appended.existing.value == first

    @rule(topic=st.sampled_from(TOPICS), limit=st.integers(1, 10), commit=st.booleans())
    def read(self, topic: str, limit: int, commit: bool) -> None:
        records = self.run(self.readers[topic].fetch(limit=limit, wait=0.0))
        place = self.seen[topic]
        expected = self.written[topic][place : place + limit]
        assert [(r.headers["ce_id"], r.value) for r in records] == expected
        self.seen[topic] += len(records)
        if commit and records:
            self.run(self.readers[topic].commit([records[-1].position]))
            self.committed[topic] = self.seen[topic]

    @rule()
    def restart(self) -> None:
        self.run(self.stacks.pop().aclose())
        self.open()

    @rule()
    def crash(self) -> None:
        left = self.folder
        self.lives += 1
        (self.folder / "journal-0").mkdir(parents=True)
        for path in (left / "journal-0").glob("events.db*"):
            if not path.name.endswith("-shm"):  # the memory of the process that died
                shutil.copy(path, self.folder / "journal-0")
        self.open()

    @invariant()
    def everything_is_there(self) -> None:
        async def all_of(topic: str) -> list[tuple[str, bytes | None]]:
            async with self.log.follow([topic], after={}) as follower:
                records = await follower.fetch(limit=10_000, wait=0.0)
            return [(record.headers["ce_id"], record.value) for record in records]

        for topic in TOPICS:
            assert self.run(all_of(topic)) == self.written[topic]

    @override
    def teardown(self) -> None:
        for stack in self.stacks:
            self.run(stack.aclose())
        self.loop.close()
        self.root.cleanup()


JournalMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, print_blob=True
)
TestJournal = JournalMachine.TestCase
