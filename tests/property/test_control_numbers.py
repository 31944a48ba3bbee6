"""Any sequence of what two accounts do, at a carrier that fails in any way, in processes that die.

After every step the routes that the log tells of, the database and the carrier agree, no number has
two owners or two agents, and no limit is exceeded. In the end nothing is under way, nothing that
was bought is lost, and nothing was bought twice.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Final, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import RowMapping, select

from config import Settings, load
from router.clock import SYSTEM
from router.control import accounts, agents, connections, numbers
from router.control.context import Control
from router.control.model import Actor, Agent, Plan
from router.errors import Ambiguous, ConfigError, EffectError, Permanent, RequestError, Transient
from router.events.ids import DEFAULT_ACCOUNT
from router.provider import NumberQuery
from router.routing.spec import MappingSpec, NumberSpec, targets_of
from router.routing.table import RouteTable
from router.storage import batch, mapping, schema
from router.storage.engine import open_database
from router.storage.migrate import migrate
from router.vault import Vault
from tests.support.control import all_of, follow, later, ordered, with_carrier
from tests.support.fake_inventory import FakeCarrier, Held, nothing_happens

T = TypeVar("T")

OFFERS: Final = [f"+1415555010{last}" for last in range(6)]
LIMITS: Final[Mapping[str, int | None]] = {"acme": 2, "rival": None}
AGES: Final = 3600.0
SID: Final = "AC" + "7e" * 16  # at the carrier, of both


class Killed(BaseException):
    """The process is no more."""


# A step at the carrier, and what comes of it: before its effect it may not have happened, after it
# nobody can know.
BEFORE: Final = ("search", "find", "buy", "configure", "release")
AFTER: Final = ("bought", "configured", "released")
FATES: Final[st.SearchStrategy[dict[str, type[BaseException]]]] = st.one_of(
    st.just({}),
    st.dictionaries(
        st.sampled_from(BEFORE),
        st.sampled_from([Transient, Ambiguous, Permanent, Killed]),
        min_size=1,
        max_size=2,
    ),
    st.dictionaries(
        st.sampled_from(AFTER), st.sampled_from([Ambiguous, Killed]), min_size=1, max_size=2
    ),
    st.just({"bought": Ambiguous, "find": Transient}),  # nobody knows that it was bought
)
NOTHING: Final[Mapping[str, type[BaseException]]] = {}
ACCOUNTS: Final = st.sampled_from(list(LIMITS))
NUMBERS: Final = st.sampled_from(OFFERS)
CHOICES: Final = st.integers(0, len(OFFERS) - 1)
AGENTS: Final = st.sampled_from([None, "anna", "berta"])


class World:
    """Two accounts, a carrier, an ingress that reads the log."""

    template: ClassVar[Path]  # a migrated database

    def __init__(self) -> None:
        self.root = TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.carrier = FakeCarrier(offers=list(OFFERS))
        self.abandoned: set[str] = set()  # what a person chose to leave at the carrier
        self.table = RouteTable()
        self.actors: dict[str, Actor] = {}
        self.limits = dict(LIMITS)

    def run(self, work: Awaitable[T]) -> T:
        async def main() -> T:
            async with asyncio.timeout(30):
                return await work

        return self.loop.run_until_complete(main())

    def begin(self) -> None:
        folder = Path(self.root.name) / "data"
        shutil.copytree(self.template, folder)
        own = load(overrides={"data_dir": str(folder)})
        self.run(self.open(own))

    async def open(self, own: Settings) -> None:
        db = await self.stack.enter_async_context(open_database(own))
        self.control = with_carrier(
            Control(own, db, Vault([b"k" * 32]), self.carrier.open, SYSTEM), self.carrier
        )
        operator = Actor(account_id=DEFAULT_ACCOUNT)
        for name, limit in self.limits.items():
            made = await accounts.create(
                self.control, operator, name=name, plan=Plan(numbers=limit)
            )
            self.actors[name] = Actor(account_id=made.id, name=f"token of {name}")
            await connections.create(
                self.control,
                self.actors[name],
                provider="twilio",
                provider_account=SID,
                secrets={"auth_token": "an auth token"},
            )
            anna, _ = await self.make(name, "anna"), await self.make(name, "berta")
            await numbers.buy(
                self.control,
                self.actors[name],
                provider="twilio",
                number=OFFERS[len(self.carrier.held)],
                agent_id=anna.id,
            )

    async def make(self, account: str, agent: str) -> Agent:
        actor = self.actors[account]
        return await agents.create(self.control, actor, label=agent, origin="native", config={})

    def end(self) -> None:
        self.run(self.stack.aclose())
        self.loop.close()
        self.root.cleanup()

    # --- what happens

    def attempt(
        self, work: Awaitable[Any], fate: Mapping[str, type[BaseException]] = NOTHING
    ) -> Any:
        """Let it be tried; a refusal is an answer, a failure needs a fate."""
        self.carrier.fate = lambda step: _raise(fate, step)
        try:
            return self.run(work)
        except (RequestError, ConfigError) as error:
            return error
        except (EffectError, Killed) as error:
            if not fate and self.carrier.delivers_at_once:
                raise
            return error
        finally:
            self.carrier.fate = nothing_happens

    def one_of(self, account: str, choice: int) -> str:
        """A number of the account, or any where it has none."""
        own = self.run(all_of(self.control, self.actors[account]))
        return own[choice % len(own)].number if own else OFFERS[choice]

    async def agent(self, account: str, name: str | None) -> str | None:
        if name is None:
            return None
        try:
            return (await agents.find(self.control, self.actors[account], name)).id
        except RequestError:
            return None

    def buy(self, account: str, number: str, agent: str | None, fate: Any) -> None:
        async def work() -> Any:
            return await numbers.buy(
                self.control,
                self.actors[account],
                provider="twilio",
                number=number,
                agent_id=await self.agent(account, agent),
                details={"password": "of some length"},
            )

        self.attempt(work(), fate)

    def buy_any(self, account: str, fate: Any) -> None:
        query = NumberQuery(area_code="415")
        work = numbers.buy(self.control, self.actors[account], provider="twilio", query=query)
        self.attempt(work, fate)

    def adopt(self, account: str, number: str, fate: Any) -> None:
        work = numbers.adopt(
            self.control,
            self.actors[account],
            number=number,
            provider="twilio",
            connection_id=None,
        )
        self.attempt(work, fate)

    def release(self, account: str, choice: int, from_deployed: bool, fate: Any) -> None:
        number = self.one_of(account, choice)
        work = numbers.release(
            self.control, self.actors[account], number, from_deployed=from_deployed
        )
        self.attempt(work, fate)

    def force_delete(self, account: str, choice: int) -> None:
        number = self.one_of(account, choice)
        if not isinstance(
            self.attempt(numbers.force_delete(self.control, self.actors[account], number)),
            Exception,
        ):
            self.abandoned.add(number)

    def link(self, account: str, choice: int, agent: str | None, move: bool) -> None:
        number = self.one_of(account, choice)

        async def work() -> Any:
            agent_id = await self.agent(account, agent)
            actor = self.actors[account]
            return await numbers.link(self.control, actor, number, agent_id, move=move)

        self.attempt(work())

    def update(self, account: str, choice: int, fallback: str) -> None:
        number = self.one_of(account, choice)
        work = numbers.update(self.control, self.actors[account], number, fallback=fallback)
        self.attempt(work)

    def change_agent(self, account: str, agent: str, status: Any) -> None:
        async def work() -> Any:
            agent_id = await self.agent(account, agent)
            if agent_id is None:
                return await self.make(account, agent)
            return await agents.update(self.control, self.actors[account], agent_id, status=status)

        self.attempt(work())

    def delete_agent(self, account: str, agent: str) -> None:
        async def work() -> Any:
            agent_id = await self.agent(account, agent) or ""
            return await agents.delete(self.control, self.actors[account], agent_id)

        self.attempt(work())

    def apply_file(self, number: str, removed: bool) -> None:
        """The file of the account that has no limit."""
        db, account_id = self.control.database, self.actors["rival"].account_id

        async def work() -> Any:
            if not removed:
                spec = NumberSpec(number=number, provider="twilio")
                return await mapping.apply_mapping(db, account_id, MappingSpec(numbers=(spec,)))
            for row in await self.rows():
                if (row["number"], row["account_id"]) == (number, account_id) and row["bought"]:
                    return None  # who bought it releases it
            return await mapping.delete_numbers(db, account_id, [number])

        self.attempt(work())

    def a_stranger_comes_or_goes(self, number: str) -> None:
        held = self.carrier.held.get(number)
        if held is None:
            self.carrier.held[number] = Held("a stranger")
        elif held.account == "a stranger":
            del self.carrier.held[number]

    def somebody_buys_it_in_the_console(self, number: str) -> None:
        self.carrier.held.setdefault(number, Held(SID, "in the console"))

    def deliver(self, at_once: bool) -> None:
        """The carrier takes its time from now on, or has taken it."""
        self.carrier.delivers_at_once = at_once
        for held in self.carrier.held.values():
            held.active = True

    def recover(self, seconds: float, fate: Any) -> None:
        self.run(later(self.control.database, seconds))
        self.attempt(numbers.recover(self.control), fate)

    # --- what holds

    async def rows(self) -> list[RowMapping]:
        async with self.control.database.read() as connection:
            return list((await connection.execute(select(schema.numbers))).mappings())

    async def agrees(self) -> None:
        rows = await self.rows()
        await follow(self.control.database, self.table)
        stored = [route async for route in mapping.all_routes(self.control.database)]
        assert sorted(self.table, key=lambda route: route.number) == stored
        active = {row["number"]: row for row in rows if row["state"] == "active"}
        assert [route.number for route in stored] == sorted(active)
        async with self.control.database.read() as connection:
            of_agents = (await connection.execute(select(schema.agents))).all()
            under_way = (await connection.execute(select(schema.orders))).all()
        by_id = {row.id: row for row in of_agents}
        for route in stored:
            row = active[route.number]
            agent = by_id.get(row["agent_id"])
            assert route.account_id == row["account_id"]
            assert agent is None or agent.account_id == row["account_id"]
            expected = () if agent is None else targets_of(batch.agent_of(agent), agent.id)
            assert route.targets == expected
        for name, limit in self.limits.items():
            held = await numbers.held(self.control, self.actors[name])
            assert limit is None or held <= limit
        # What is paid for is somebody's, or somebody is at it.
        known = {row["number"] for row in rows if row["bought"]}
        known |= {order.number for order in under_way} | self.abandoned
        assert self.ours() <= known
        for row in rows:
            if row["bought"] and row["state"] == "active":
                assert self.carrier.held[row["number"]].tag == row["id"]

    def ours(self) -> set[str]:
        """The numbers at the carrier that were bought by us."""
        return {
            number
            for number, held in self.carrier.held.items()
            if held.account == SID and held.tag != "in the console"
        }

    async def settle(self) -> None:
        """In the end the carrier is well, and everything is done."""
        for held in self.carrier.held.values():
            held.active = True
        for _ in range(3):
            await later(self.control.database, AGES)
            await numbers.recover(self.control)
        rows = await self.rows()
        bought = {row["number"] for row in rows if row["bought"]}
        taken = {row["number"] for row in rows if not row["bought"]}
        # An order for a number that another account's file names waits for a person.
        assert set(await ordered(self.control.database)) <= taken
        assert self.ours() - self.abandoned - taken == bought - self.abandoned
        assert {row["state"] for row in rows} <= {"active", "corrupted"}
        for number in OFFERS:
            paid = self.carrier.bought.count(number) - self.carrier.released.count(number)
            assert paid == (number in self.ours())
        await self.agrees()


def step(name: str, **how: Any) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """A method of World, and what it is called with."""
    return st.tuples(st.just(name), st.fixed_dictionaries(how))


BUY: Final = step("buy", account=ACCOUNTS, number=NUMBERS, agent=AGENTS, fate=FATES)
RELEASE: Final = step(
    "release", account=ACCOUNTS, choice=CHOICES, from_deployed=st.booleans(), fate=FATES
)
LINK: Final = step("link", account=ACCOUNTS, choice=CHOICES, agent=AGENTS, move=st.booleans())
RECOVER: Final = step("recover", seconds=st.sampled_from([10.0, AGES]), fate=FATES)
STEPS: Final = st.one_of(
    *[BUY, RELEASE, LINK, RECOVER] * 2,
    step("buy_any", account=ACCOUNTS, fate=FATES),
    step("adopt", account=ACCOUNTS, number=NUMBERS, fate=FATES),
    step("force_delete", account=ACCOUNTS, choice=CHOICES),
    step("update", account=ACCOUNTS, choice=CHOICES, fallback=st.sampled_from(["", *OFFERS])),
    step(
        "change_agent",
        account=ACCOUNTS,
        agent=st.sampled_from(["anna", "berta"]),
        status=st.sampled_from(["deployed", "paused", "disabled"]),
    ),
    step("delete_agent", account=ACCOUNTS, agent=st.sampled_from(["anna", "berta"])),
    step("apply_file", number=NUMBERS, removed=st.booleans()),
    step("a_stranger_comes_or_goes", number=NUMBERS),
    step("somebody_buys_it_in_the_console", number=NUMBERS),
    step("deliver", at_once=st.booleans()),
)


def _raise(fate: Mapping[str, type[BaseException]], step: str) -> None:
    if step in fate:
        raise fate[step]("it fails")


@pytest.fixture(scope="module", autouse=True)
def template(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A migrated database, which every example has a copy of."""
    folder = tmp_path_factory.mktemp("template")
    asyncio.run(migrate(load(overrides={"data_dir": str(folder)})))
    World.template = folder


@given(steps=st.lists(STEPS, min_size=10, max_size=30))
@settings(deadline=None, max_examples=max(1, settings().max_examples // 10))
def test_all_agree_whatever_is_done(steps: list[tuple[str, dict[str, Any]]]) -> None:
    world = World()
    try:
        world.begin()
        for name, how in steps:
            getattr(world, name)(**how)
            world.run(world.agrees())
        world.run(world.settle())
    finally:
        world.end()
