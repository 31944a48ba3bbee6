"""Changes that touch many numbers or agents: short transactions, finished whatever happens.

And lists as long as that: what an index does not have is never read for what is not on the page.
"""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import event, func, select, update

from router.clock import SYSTEM
from router.control import (
    accounts,
    agents,
    audit,
    calls,
    connections,
    documents,
    number_rows,
    numbers,
    refresh,
    tokens,
)
from router.control.context import Control
from router.control.model import Actor, Agent, Plan
from router.errors import Invalid, LimitReached
from router.numbers import publish
from router.routing.spec import METADATA_LIMIT, MappingSpec, NumberSpec
from router.routing.table import RouteTable
from router.storage import mapping
from router.storage.engine import Database
from router.storage.schema import agents as agent_rows
from router.storage.schema import refreshes
from tests.contract.conftest import OPERATOR, tenant
from tests.support.control import follow

MANY = 1200
ADMIN = Actor(account_id=OPERATOR.account_id, scopes=frozenset({"admin"}))


class Cut(BaseException):
    """The process ends."""


def number(n: int) -> str:
    return f"+1415{5550000 + n}"


async def agent(control: Control, actor: Actor, count: int = 0, **more: Any) -> Agent:
    """An agent that so many numbers lead to."""
    values = {"label": "anna", "origin": "native", "config": {}, **more}
    made = await agents.create(control, actor, **values)
    await lead(control, actor, {number(n): made.name for n in range(count)})
    return made


async def lead(control: Control, actor: Actor, names: Mapping[str, str]) -> None:
    """Numbers, each to the agent of this name."""
    theirs = tuple(
        NumberSpec(number=number, provider="twilio", agent=name) for number, name in names.items()
    )
    await mapping.apply_mapping(control.database, actor.account_id, MappingSpec(numbers=theirs))


@contextmanager
def watched(db: Database) -> Iterator[list[int]]:
    """How many records of the log each transaction decided that commits meanwhile."""
    written: list[int] = []
    engine, rows = db._engine.sync_engine, {"now": 0}

    def begin(_connection: Any) -> None:
        rows["now"] = 0

    def execute(*args: Any) -> None:
        if "INSERT INTO outbox" in args[2]:
            rows["now"] += len(args[3]) if args[5] else 1

    def commit(_connection: Any) -> None:
        if rows["now"]:
            written.append(rows["now"])

    hooks: list[tuple[str, Callable[..., None]]] = [
        ("begin", begin),
        ("before_cursor_execute", execute),
        ("commit", commit),
    ]
    for name, hook in hooks:
        event.listen(engine, name, hook)
    try:
        yield written
    finally:
        for name, hook in hooks:
            event.remove(engine, name, hook)


def cut_at(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, call: int) -> None:
    """From its `call`th call on, a function is where the process ends."""
    real, calls_ = getattr(where, name), [0]

    async def cut(*args: Any, **more: Any) -> Any:
        calls_[0] += 1
        if calls_[0] >= call:
            raise Cut
        return await real(*args, **more)

    monkeypatch.setattr(where, name, cut)


async def idle(db: Database) -> None:
    """As if the agents were changed, and refreshes were worked at, long ago."""
    async with db.write() as connection:
        await connection.execute(update(agent_rows).values(updated_at=0))
        await connection.execute(update(refreshes).values(due_at=0))


async def targets(control: Control, table: RouteTable) -> set[int]:
    """How many targets the routes have that an ingress knows."""
    await follow(control.database, table)
    return {len(route.targets) for route in table}


class TestAnAgentOfManyNumbers:
    async def test_is_told_in_short_transactions(
        self, control: Control, other: Database, acme: Actor
    ) -> None:
        made = await agent(control, acme, MANY)
        table = await follow(control.database, RouteTable())
        between: list[int] = []

        async def claims(written: list[int]) -> None:
            while True:
                async with other.write() as connection:
                    await connection.execute(select(func.count()).select_from(refreshes))
                between.append(len(written))
                await asyncio.sleep(0)

        with watched(control.database) as written:
            claiming = asyncio.create_task(claims(written))
            while not between:  # noqa: ASYNC110 - it counts what is written
                await asyncio.sleep(0.001)
            await agents.update(control, acme, made.id, status="paused")
            claiming.cancel()
        await asyncio.gather(claiming, return_exceptions=True)
        assert sum(written) == 2 * MANY  # what happened, and what holds
        assert written[0] == 2 * agents.AT_ONCE
        assert max(written[1:]) <= 2 * mapping._LARGEST
        assert len(written) >= 3
        # Others write between the parts: for the one that is being written they wait, and at most
        # for one that was there before them.
        assert len(written) - between[-1] <= 2
        assert max(after - before for before, after in pairwise(between)) <= 2
        assert await targets(control, table) == {0}

    async def test_of_few_in_one(self, control: Control, acme: Actor) -> None:
        made = await agent(control, acme, agents.AT_ONCE)
        with watched(control.database) as written:
            await agents.update(control, acme, made.id, status="paused")
        assert written == [2 * agents.AT_ONCE]

    @pytest.fixture
    async def half_told(
        self, control: Control, acme: Actor, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[Agent]:
        """Paused by a process that ended at the third part."""
        made = await agent(control, acme, MANY)
        with monkeypatch.context() as patch:
            cut_at(patch, mapping, "_tell_page", 2)
            with pytest.raises(Cut):
                await agents.update(control, acme, made.id, status="paused")
        assert [each.agent_id for each in await mapping.outdated(control.database)] == [made.id]
        yield made
        assert await mapping.outdated(control.database) == []
        assert await targets(control, RouteTable()) >= {0}

    async def test_who_asks_again_gets_the_answer_when_all_are_told(
        self, control: Control, acme: Actor, half_told: Agent
    ) -> None:
        again = await agents.update(control, acme, half_told.id, status="paused")
        assert again.status == "paused"
        assert await mapping.tell_outdated(control.database) == 0

    async def test_what_was_cut_short_is_finished_by_the_relay(
        self, control: Control, half_told: Agent
    ) -> None:
        finishing = publish._Finishing(control.database, SYSTEM)
        assert await finishing.some() == 0  # somebody may be at it
        finishing = publish._Finishing(control.database, SYSTEM)
        await idle(control.database)
        parts = []
        while told := await finishing.some():
            parts.append(told)
        assert sum(parts) == MANY - agents.AT_ONCE - mapping._FIRST
        assert len(parts) == 2
        assert half_told.id

    async def test_is_left_by_all_of_them(self, control: Control, acme: Actor) -> None:
        made = await agent(control, acme, 2 * number_rows.FREED + 5)
        with watched(control.database) as written:
            freed = await agents.unlink(control, acme, made.id, but_for=number(7))
        assert written == [2 * number_rows.FREED, 2 * number_rows.FREED, 2 * 4]
        assert len(freed) == 2 * number_rows.FREED + 4
        assert [each.number for each in await agents.numbers_of(control, acme, made.id)] == [
            number(7)
        ]
        history = await audit.list_(control, acme, limit=1000)
        unlinked = [row for row in history.items if row.action == "number.unlinked"]
        assert len(unlinked) == len(freed)
        assert (unlinked[0].before or {})["agent_id"] == made.id
        assert await agents.unlink(control, acme, made.id) == [number(7)]
        await agents.delete(control, acme, made.id)

    async def test_but_one_by_an_update(self, control: Control, acme: Actor) -> None:
        made = await agent(control, acme, 2 * number_rows.FREED + 5)
        with watched(control.database) as written:
            await agents.update(control, acme, made.id, number=number(7), status="paused")
        assert written == [2 * number_rows.FREED, 2 * number_rows.FREED, 2 * 4, 2]
        assert await mapping.outdated(control.database) == []
        left = await agents.numbers_of(control, acme, made.id)
        assert [each.number for each in left] == [number(7)]

    async def test_another_accounts_are_not_left(
        self, control: Control, acme: Actor, rival: Actor
    ) -> None:
        made = await agent(control, acme, 3)
        assert await agents.unlink(control, rival, made.id) == []
        assert len(await agents.numbers_of(control, acme, made.id)) == 3


class TestADocumentOfManyAgents:
    COUNT = 12

    @pytest.fixture(autouse=True)
    def _few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(refresh, "_AGENTS", 5)

    @pytest.fixture
    async def prompt(self, control: Control, acme: Actor) -> str:
        made = await documents.create(control, acme, "prompt", {"content": "hello"})
        for _ in range(self.COUNT):
            await agents.create(
                control, acme, label="anna", origin="vocode", config={"prompt": made.id}
            )
        return made.id

    async def said(self, control: Control, actor: Actor) -> set[str]:
        page = await agents.list_(control, actor, limit=100)
        assert page.total == self.COUNT
        prompts = [each.metadata.get("documents") or {"": {"content": ""}} for each in page.items]
        return {document["content"] for each in prompts for document in each.values()}

    async def marks(self, db: Database) -> int:
        async with db.read() as connection:
            query = select(func.count()).select_from(refreshes)
            return int((await connection.execute(query)).scalar_one())

    async def test_reaches_all(self, control: Control, acme: Actor, prompt: str) -> None:
        await documents.update(control, acme, "prompt", prompt, {"content": "bye"})
        assert await self.said(control, acme) == {"bye"}
        assert await self.marks(control.database) == 0
        await documents.delete(control, acme, "prompt", prompt)
        assert await self.said(control, acme) == {""}
        assert await self.marks(control.database) == 0

    async def test_shares_the_numbers_of_one_transaction(
        self, control: Control, acme: Actor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(agents, "AT_ONCE", 10)
        made = await documents.create(control, acme, "prompt", {"content": "hello"})
        several = [await agent(control, acme, config={"prompt": made.id}) for _ in range(3)]
        await lead(control, acme, {number(n): several[n % 3].name for n in range(24)})
        table = await follow(control.database, RouteTable())
        with watched(control.database) as written:
            await documents.update(control, acme, "prompt", made.id, {"content": "bye"})
        assert written[0] == 2 * 10
        assert sum(written) == 2 * 24
        await follow(control.database, table)
        told = [route.targets[0].metadata["documents"][made.id]["content"] for route in table]
        assert told == ["bye"] * 24

    @pytest.mark.parametrize("deleted", [False, True])
    async def test_one_that_was_cut_short_is_finished(
        self,
        control: Control,
        acme: Actor,
        prompt: str,
        monkeypatch: pytest.MonkeyPatch,
        deleted: bool,
    ) -> None:
        with monkeypatch.context() as patch:
            cut_at(patch, refresh, "_next", 1)
            change: Awaitable[Any] = (
                documents.delete(control, acme, "prompt", prompt)
                if deleted
                else documents.update(control, acme, "prompt", prompt, {"content": "bye"})
            )
            with pytest.raises(Cut):
                await change
        then = "" if deleted else "bye"
        assert await self.said(control, acme) == {"hello", then}
        assert await refresh.recover(control) == 0  # somebody may be at it
        await idle(control.database)
        assert await refresh.recover(control) == 1
        assert await self.said(control, acme) == {then}
        assert await self.marks(control.database) == 0

    async def test_who_asks_again_gets_the_answer_when_all_have_it(
        self, control: Control, acme: Actor, prompt: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            cut_at(patch, refresh, "_next", 2)
            with pytest.raises(Cut):
                await documents.update(control, acme, "prompt", prompt, {"content": "bye"})
        await documents.update(control, acme, "prompt", prompt, {"content": "bye"})
        assert await self.said(control, acme) == {"bye"}
        assert await self.marks(control.database) == 0

    async def test_is_refused_for_the_last_of_them(
        self, control: Control, acme: Actor, prompt: str
    ) -> None:
        """An agent that its own transaction does not see has no room for it."""
        *_, last = sorted((await agents.list_(control, acme)).items, key=lambda each: each.name)
        filler = "x" * (METADATA_LIMIT - 1000)
        await agents.update(control, acme, last.id, config={"prompt": prompt, "filler": filler})
        with pytest.raises(Invalid, match="an agent refers to it"):
            await documents.update(control, acme, "prompt", prompt, {"content": "y" * 2000})
        assert await self.said(control, acme) == {"hello"}
        found = await documents.get(control, acme, "prompt", prompt)
        assert found.body == {"content": "hello"}


class TestSlots:
    @contextmanager
    def counted(self, db: Database) -> Iterator[list[str]]:
        statements: list[str] = []

        def note(*args: Any) -> None:
            if "count(" in args[2]:
                statements.append(args[2])

        engine = db._engine.sync_engine
        event.listen(engine, "before_cursor_execute", note)
        yield statements
        event.remove(engine, "before_cursor_execute", note)

    async def test_no_more_are_counted_than_the_plan_has(self, control: Control) -> None:
        actor = await tenant(control, "limited", Plan(numbers=3))
        await agent(control, actor, 3)
        with self.counted(control.database) as statements:
            async with control.database.write() as connection:
                with pytest.raises(LimitReached, match="3 of the 3"):
                    await accounts.require_slot(connection, actor.account_id)
        assert re.search(r"LIMIT", statements[0])
        free = await tenant(control, "free", Plan())
        with self.counted(control.database) as statements:
            async with control.database.write() as connection:
                await accounts.require_slot(connection, free.account_id)
        assert statements == []


Listed = Callable[[Control, Actor], Awaitable[Any]]


class TestLists:
    """Page and total of each go by the index that has their order and all that they ask for."""

    LISTS: Sequence[tuple[str, str, Listed]] = [
        ("agents", "ix_agents_paged", agents.list_),
        ("documents", "ix_documents_paged", lambda c, a: documents.list_(c, a, "prompt")),
        ("connections", "ix_connections_paged", connections.list_),
        (
            "connections",
            "ix_connections_paged",
            lambda c, a: connections.list_(c, a, providers=["twilio"]),
        ),
        (
            "tokens",
            "ix_tokens_account_id_created_at_id",
            lambda c, a: tokens.list_(c, a, account=a.account_id),
        ),
        ("audit", "ix_audit_account_id_id", audit.list_),
        (
            "audit",
            "ix_audit_object_id_id",
            lambda c, a: audit.list_(c, ADMIN, object_id="x", everybody=True),
        ),
        ("numbers", "ix_numbers_account_id_short_id_state", numbers.list_),
        (
            "numbers",
            "ix_numbers_unlinked",
            lambda c, a: numbers.list_(c, a, unlinked=True),
        ),
        (
            "numbers",
            "ix_numbers_agent_id_short_id_state",
            lambda c, a: numbers.list_(c, a, agent_id=a.account_id),
        ),
        (
            "calls",
            "ix_calls_account_id_initiated_at_call_id",
            lambda c, a: calls.list_(c, a, calls.CallQuery()),
        ),
    ]

    @pytest.mark.parametrize(("table", "index", "list_"), LISTS)
    async def test_an_index_has_it(
        self, control: Control, acme: Actor, table: str, index: str, list_: Listed
    ) -> None:
        asked = await self.asked(control, table, lambda: list_(control, acme))
        assert len(asked) == 2
        for statement, values in asked:
            plan = await self.plan(control.database, statement, values)
            if control.database.dialect == "sqlite":
                assert f"COVERING INDEX {index} (" in plan
                # The page is put in order, not the list.
                assert plan.count("TEMP B-TREE") <= ("IN (SELECT" in statement)
            else:
                assert f"Only Scan using {index} " in plan or f"Backward using {index} " in plan

    @pytest.mark.parametrize("first", [True, False])
    async def test_some_agents_numbers_are_found_by_the_agents(
        self, control: Control, acme: Actor, first: bool
    ) -> None:
        made = [str(uuid.uuid4()) for _ in range(30)]
        plan = await self.asked_of(
            control,
            "numbers",
            lambda: agents.numbers_of_each(control, acme, made, first=first),
        )
        if control.database.dialect == "sqlite":  # PostgreSQL knows how many an account has
            assert "ix_numbers_agent_id_short_id_state (agent_id=?)" in plan
            assert "account_id=?)" not in plan
        assert "Seq Scan" not in plan

    async def test_a_jobs_documents_are_found_by_their_ids(
        self, control: Control, acme: Actor
    ) -> None:
        config = {"actions": [str(uuid.uuid4()) for _ in range(30)]}
        plan = await self.asked_of(
            control, "documents", lambda: agent(control, acme, config=config)
        )
        assert "sqlite_autoindex_documents_1" in plan or "pk_documents" in plan

    async def asked_of(
        self, control: Control, table: str, work: Callable[[], Awaitable[Any]]
    ) -> str:
        """The plan of the first question to a table."""
        statement, values = (await self.asked(control, table, work))[0]
        return await self.plan(control.database, statement, values)

    async def asked(
        self, control: Control, table: str, work: Callable[[], Awaitable[Any]]
    ) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []

        def note(*args: Any) -> None:
            if re.search(rf"FROM {table}\b", args[2]):
                found.append((args[2], args[3]))

        engine = control.database._engine.sync_engine
        event.listen(engine, "before_cursor_execute", note)
        await work()
        event.remove(engine, "before_cursor_execute", note)
        return found

    async def plan(self, db: Database, statement: str, values: Any) -> str:
        async with db.read() as connection:
            if db.dialect == "sqlite":
                explained = f"EXPLAIN QUERY PLAN {statement}"
            else:  # of a tiny table it would read all
                for setting in ("seqscan", "bitmapscan", "sort"):
                    await connection.exec_driver_sql(f"SET LOCAL enable_{setting} = off")
                explained = f"EXPLAIN {statement}"
            rows = await connection.exec_driver_sql(explained, values)
            return "\n".join(str(row) for row in rows)
