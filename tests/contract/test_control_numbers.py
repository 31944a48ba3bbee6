"""Numbers on both databases: bought once, held by one account, linked to one agent, released."""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest
from sqlalchemy import update

from router.control import accounts, agents, audit, connections, numbers, orders
from router.control.context import Control
from router.control.model import Actor, Agent, Number, Plan
from router.control.number_rows import HELD
from router.errors import (
    Ambiguous,
    Conflict,
    Forbidden,
    Invalid,
    LimitReached,
    NotFound,
    Permanent,
    StorageUnavailable,
    Transient,
)
from router.events.ids import DEFAULT_ACCOUNT
from router.provider import NumberQuery
from router.routing.spec import AgentSpec, AgentStatus, MappingSpec, NumberSpec
from router.routing.table import RouteTable
from router.storage import mapping
from router.storage.schema import numbers as rows
from router.storage.schema import orders as order_rows
from tests.contract.conftest import OPERATOR, tenant
from tests.support.control import all_of, follow, later, ordered, with_carrier
from tests.support.fake_inventory import OPERATOR as OPERATORS
from tests.support.fake_inventory import FakeCarrier, Held

ONE, TWO, THREE = "+14155550100", "+14155550101", "+14155550102"
TENANTS = "AC" + "7e" * 16  # at the carrier
UNKNOWN = "00000000-0000-4000-8000-000000000000"
AGES = 3600.0


@pytest.fixture
def carrier() -> FakeCarrier:
    return FakeCarrier(offers=[ONE, TWO, THREE])


@pytest.fixture
def control(control: Control, carrier: FakeCarrier) -> Control:
    return with_carrier(control, carrier)


async def buy(control: Control, actor: Actor, number: str = ONE, **more: Any) -> Number:
    return await numbers.buy(control, actor, provider="twilio", number=number, **more)


async def agent(control: Control, actor: Actor, label: str = "Anna", **more: Any) -> Agent:
    return await agents.create(control, actor, label=label, origin="native", config={}, **more)


async def limited(control: Control, limit: int) -> Actor:
    return await tenant(control, f"limited-{limit}", Plan(numbers=limit))


def fails(step: str, error: Exception | type[Exception]) -> Callable[[str], None]:
    """A fate: this step, each time."""

    def fate(at: str) -> None:
        if at == step:
            raise error

    return fate


def well(_step: str) -> None:
    pass


class TestBuying:
    async def test_a_number_is_bought_and_held(
        self, control: Control, carrier: FakeCarrier, acme: Actor
    ) -> None:
        anna = await agent(control, acme)
        made = await buy(control, acme, agent_id=anna.id, label=" front ", details={"a": 1})
        assert (made.number, made.state, made.bought, made.mode) == (ONE, "active", True, "webhook")
        assert (made.agent_id, made.agent_name) == (anna.id, "anna")
        assert (made.label, made.details, made.connection_id) == ("front", {"a": 1}, None)
        assert carrier.held[ONE] == Held(OPERATORS, made.id, ours=True)
        for key in (ONE, ONE[1:], made.id, made.id.upper(), str(made.short_id), "+1 415 555-0100"):
            assert await numbers.get(control, acme, key) == made
        table = await follow(control.database, RouteTable())
        route = table.get(ONE)
        assert route is not None
        assert (route.account_id, route.targets[0].agent_id) == (acme.account_id, anna.id)
        assert await ordered(control.database) == []

    async def test_twice_is_refused(
        self, control: Control, carrier: FakeCarrier, acme: Actor, rival: Actor
    ) -> None:
        await buy(control, acme)
        with pytest.raises(Conflict) as error:
            await buy(control, acme)
        assert error.value.code == HELD
        with pytest.raises(NotFound) as missing:
            await buy(control, rival)
        with pytest.raises(NotFound) as unsold:
            await buy(control, rival, "+14155550199")
        assert str(missing.value) == str(unsold.value)
        assert carrier.bought == [ONE]

    async def test_any_that_answers_a_query(
        self, control: Control, carrier: FakeCarrier, acme: Actor
    ) -> None:
        query = NumberQuery(area_code="415")
        carrier.held[ONE] = Held("a stranger")
        others = [TWO]

        def fate(step: str) -> None:
            if step == "buy" and others:  # sold between search and purchase
                carrier.held[others.pop()] = Held("another stranger")

        carrier.fate = fate
        made = await numbers.buy(control, acme, provider="twilio", query=query)
        assert made.number == THREE
        with pytest.raises(NotFound):
            await numbers.buy(control, acme, provider="twilio", query=query)
        assert await ordered(control.database) == []

    async def test_what_can_not_be(self, control: Control, acme: Actor, rival: Actor) -> None:
        theirs = await agent(control, rival)
        for wrong in ("", "hello", "+1", "415555", "+14155550100x7", "\0", "٣" * 9):
            with pytest.raises(Invalid) as error:
                await buy(control, acme, wrong)
            assert error.value.problems[0][0] == ("body", "phone_number")
        for wrong in (theirs.id, UNKNOWN, "anna", ""):
            with pytest.raises(NotFound):
                await buy(control, acme, agent_id=wrong)
        with pytest.raises(NotFound):
            await buy(control, acme, connection_id=UNKNOWN)
        with pytest.raises(Invalid):
            await buy(control, acme, label="a\nb")
        assert await ordered(control.database) == []

    async def test_the_plans_limit(self, control: Control, carrier: FakeCarrier) -> None:
        actor = await limited(control, 1)
        await buy(control, actor)
        with pytest.raises(LimitReached):
            await buy(control, actor, TWO)
        await numbers.release(control, actor, ONE)
        await buy(control, actor, TWO)
        assert await numbers.held(control, actor) == 1
        assert carrier.bought == [ONE, TWO]

    async def test_through_an_own_connection(
        self, control: Control, carrier: FakeCarrier, acme: Actor
    ) -> None:
        sid = "AC" + "a1" * 16
        own = await connections.create(
            control,
            acme,
            provider="twilio",
            provider_account=sid,
            secrets={"auth_token": "a token of some length"},
        )
        made = await buy(control, acme)
        assert (made.connection_id, carrier.held[ONE].account) == (own.id, sid)
        carrier.fate = fails("buy", Ambiguous("lost"))
        with pytest.raises(Ambiguous):
            await buy(control, acme, TWO)
        carrier.fate = well
        with pytest.raises(Conflict):
            await connections.delete(control, acme, own.id)
        await later(control.database, AGES)
        assert await numbers.recover(control) == 1
        await numbers.release(control, acme, ONE)
        assert carrier.held == {}
        await connections.delete(control, acme, own.id)

    async def test_an_operator_without_an_account(
        self, control: Control, carrier: FakeCarrier, acme: Actor
    ) -> None:
        carrier.has_operator = False
        with pytest.raises(NotFound, match="connection"):
            await buy(control, acme)
        with pytest.raises(NotFound):
            await numbers.search(control, acme, NumberQuery(), provider="twilio")
        assert await ordered(control.database) == []

    async def test_a_search(self, control: Control, carrier: FakeCarrier, acme: Actor) -> None:
        query = NumberQuery(area_code="415", limit=2)
        found = await numbers.search(control, acme, query, provider="twilio")
        assert [each.number for each in found] == [ONE, TWO]
        carrier.fate = fails("search", Permanent("no such country", code="1"))
        with pytest.raises(Invalid, match="no such country"):
            await numbers.search(control, acme, query, provider="twilio")
        with pytest.raises(Invalid, match="provider"):
            await numbers.search(control, acme, query, provider="vonage")

    async def test_a_carrier_that_is_away_or_refuses(
        self, control: Control, carrier: FakeCarrier
    ) -> None:
        actor = await limited(control, 1)
        carrier.fate = fails("buy", Transient("no connection"))
        with pytest.raises(Transient):
            await buy(control, actor)
        assert await numbers.held(control, actor) == 0
        carrier.fate = fails("buy", Permanent("needs an address", code="21631"))
        with pytest.raises(Conflict, match="needs an address") as error:
            await buy(control, actor)
        assert error.value.code == orders.REFUSED
        carrier.fate = well
        await buy(control, actor)

    async def test_a_lost_answer_is_looked_for_at_once(
        self, control: Control, carrier: FakeCarrier, acme: Actor
    ) -> None:
        carrier.fate = fails("bought", Ambiguous("timed out"))
        made = await buy(control, acme)
        assert (made.number, carrier.bought) == (ONE, [ONE])

    async def test_nobody_knows(self, control: Control, carrier: FakeCarrier, rival: Actor) -> None:
        """The request is lost: its slot is taken until it can't be on its way any more."""
        actor = await limited(control, 1)
        carrier.fate = fails("buy", Ambiguous("timed out"))
        with pytest.raises(Ambiguous):
            await buy(control, actor)
        carrier.fate = well
        with pytest.raises(Conflict) as error:
            await buy(control, actor)
        assert error.value.code == HELD
        with pytest.raises(LimitReached):
            await buy(control, actor, TWO)
        with pytest.raises(NotFound):
            await buy(control, rival)
        await later(control.database, 10)
        assert await numbers.recover(control) == 0
        await later(control.database, AGES)
        assert await numbers.recover(control) == 1
        assert await numbers.held(control, actor) == 0
        await buy(control, rival)
        assert carrier.bought == [ONE]

    async def test_it_comes_after_all(self, control: Control, carrier: FakeCarrier) -> None:
        actor = await limited(control, 1)
        anna = await agent(control, actor)
        carrier.fate = fails("buy", Ambiguous("timed out"))
        with pytest.raises(Ambiguous):
            await buy(control, actor, agent_id=anna.id, details={"api_key": "of some length"})
        async with control.database.read() as connection:
            tag = (await connection.execute(order_rows.select())).one().id
        carrier.fate = well
        carrier.held[ONE] = Held(OPERATORS, tag, ours=False)
        await later(control.database, 10)
        assert await numbers.recover(control) == 1
        made = await numbers.get(control, actor, ONE)
        assert (made.agent_id, made.details, made.bought) == (anna.id, {"api_key": "…ngth"}, True)
        assert carrier.held[ONE].ours
        assert await numbers.held(control, actor) == 1
        rows = (await audit.list_(control, actor, object_id=made.id)).items
        assert [(row.action, row.actor) for row in rows] == [("number.bought", actor.name)]

    async def test_a_carrier_that_takes_its_time(
        self, control: Control, carrier: FakeCarrier, acme: Actor
    ) -> None:
        carrier.delivers_at_once = False
        with pytest.raises(Ambiguous, match="still at it"):
            await buy(control, acme)
        await later(control.database, AGES)
        assert await numbers.recover(control) == 0
        assert (await all_of(control, acme), await numbers.held(control, acme)) == ([], 1)
        carrier.held[ONE].active = True
        await later(control.database, AGES)
        assert await numbers.recover(control) == 1
        assert [each.number for each in await all_of(control, acme)] == [ONE]
        assert carrier.bought == [ONE]

    async def test_the_agent_went_meanwhile(
        self, control: Control, carrier: FakeCarrier, acme: Actor
    ) -> None:
        anna = await agent(control, acme)
        carrier.delivers_at_once = False
        with pytest.raises(Ambiguous):
            await buy(control, acme, agent_id=anna.id)
        await agents.delete(control, acme, anna.id)
        carrier.held[ONE].active = True
        await later(control.database, AGES)
        await numbers.recover(control)
        assert (await numbers.get(control, acme, ONE)).agent_id is None

    async def test_an_order_that_was_forgotten_too_soon(
        self, control: Control, carrier: FakeCarrier
    ) -> None:
        """Its process slept; whoever got the slot meanwhile keeps it, and nothing is lost."""
        actor = await limited(control, 1)
        wanted: dict[str, Any] = {"provider": "twilio", "connection_id": None, "agent_id": None}
        order = await orders.place(control, actor, number=ONE, label="", details={}, **wanted)
        await later(control.database, AGES)
        assert await numbers.recover(control) == 1
        assert (await orders.purchase(control, order)).number == ONE
        await numbers.release(control, actor, ONE)
        order = await orders.place(control, actor, number=ONE, label="", details={}, **wanted)
        await later(control.database, AGES)
        assert await numbers.recover(control) == 1
        await buy(control, actor, TWO)
        with pytest.raises(LimitReached):
            await orders.purchase(control, order)
        assert list(carrier.held) == [TWO]

    async def test_the_file_was_faster(
        self, control: Control, carrier: FakeCarrier, acme: Actor, rival: Actor
    ) -> None:
        carrier.fate = fails("buy", Ambiguous("timed out"))
        for number in (ONE, TWO):
            with pytest.raises(Ambiguous):
                await buy(control, acme, number, details={"api_key": "of some length"})
        carrier.fate = well
        async with control.database.read() as connection:
            for row in await connection.execute(order_rows.select()):
                carrier.held[row.number] = Held(OPERATORS, row.id, ours=True)
        spec = MappingSpec(numbers=(NumberSpec(number=ONE, provider="twilio", fallback=THREE),))
        await mapping.apply_mapping(control.database, acme.account_id, spec)
        spec = MappingSpec(numbers=(NumberSpec(number=TWO, provider="twilio"),))
        await mapping.apply_mapping(control.database, rival.account_id, spec)
        await later(control.database, 10)
        assert await numbers.recover(control) == 1
        made = await numbers.get(control, acme, ONE)
        assert (made.bought, made.fallback, made.details) == (True, THREE, {"api_key": "…ngth"})
        assert await ordered(control.database) == [TWO]  # theirs to be settled, never lost
        await mapping.delete_numbers(control.database, rival.account_id, [TWO])
        await later(control.database, AGES)
        assert await numbers.recover(control) == 1
        assert (await numbers.get(control, acme, TWO)).bought


class TestAtOnce:
    async def test_two_accounts_want_the_same(
        self, control: Control, carrier: FakeCarrier, acme: Actor, rival: Actor
    ) -> None:
        buying = [buy(control, actor) for actor in (acme, rival, acme, rival)]
        done = await asyncio.gather(*buying, return_exceptions=True)
        assert sum(isinstance(each, Number) for each in done) == 1
        assert all(isinstance(each, Number | Conflict | NotFound) for each in done)
        assert carrier.bought == [ONE]
        held = [each.number for actor in (acme, rival) for each in await all_of(control, actor)]
        assert held == [ONE]

    async def test_of_two_with_one_slot_left_one_is_refused(
        self, control: Control, carrier: FakeCarrier
    ) -> None:
        actor = await limited(control, 1)
        buying = [buy(control, actor, number) for number in (ONE, TWO, THREE)]
        done = await asyncio.gather(*buying, return_exceptions=True)
        assert sum(isinstance(each, LimitReached) for each in done) == 2
        assert len(carrier.bought) == await numbers.held(control, actor) == 1

    async def test_two_links_at_once(self, control: Control, acme: Actor) -> None:
        both = [await agent(control, acme, name) for name in ("Anna", "Berta")]
        await buy(control, acme)
        linking = [numbers.link(control, acme, ONE, each.id, move=False) for each in both]
        done = await asyncio.gather(*linking, return_exceptions=True)
        assert sum(isinstance(each, Conflict) for each in done) == 1

    async def test_links_and_pauses(self, control: Control, acme: Actor) -> None:
        """A route never says that an agent is there which was paused before."""
        both = [await agent(control, acme, name) for name in ("Anna", "Berta")]
        for number in (ONE, TWO):
            await buy(control, acme, number)
        table = RouteTable()
        for turn in range(6):
            status: AgentStatus = "paused" if turn % 2 else "deployed"
            await asyncio.gather(
                *(agents.update(control, acme, each.id, status=status) for each in both),
                *(numbers.link(control, acme, ONE, each.id) for each in both),
                numbers.update(control, acme, TWO, fallback=THREE if turn % 2 else ""),
                numbers.link(control, acme, TWO, both[turn % 2].id),
            )
            await follow(control.database, table)
            for number in (ONE, TWO):
                assert table.get(number) == await mapping.get_route(
                    control.database, acme.account_id, number
                )

    async def test_orders_are_recovered_once(
        self, control: Control, carrier: FakeCarrier, acme: Actor
    ) -> None:
        carrier.delivers_at_once = False
        for number in (ONE, TWO, THREE):
            with pytest.raises(Ambiguous):
                await buy(control, acme, number)
            carrier.held[number].active = True
        await later(control.database, AGES)
        finished = await asyncio.gather(*(numbers.recover(control) for _ in range(3)))
        assert sum(finished) == 3
        assert len(await all_of(control, acme)) == 3


class TestRepeating:
    """A request that is sent again with its Idempotency-Key, its first answer lost."""

    async def test_what_it_bought_is_not_bought_again(
        self, control: Control, carrier: FakeCarrier, acme: Actor, rival: Actor
    ) -> None:
        again = msgspec.structs.replace(acme, request_key="of one request")
        any_one: dict[str, Any] = {"provider": "twilio", "query": NumberQuery(area_code="415")}
        carrier.fate = fails("bought", RuntimeError("the process dies"))
        with pytest.raises(RuntimeError):
            await numbers.buy(control, again, **any_one)
        carrier.fate = well
        with pytest.raises(Ambiguous, match="still under way"):
            await numbers.buy(control, again, **any_one)
        await later(control.database, AGES)
        assert await numbers.recover(control) == 1
        bought = await numbers.buy(control, again, **any_one)
        assert carrier.bought == [bought.number]
        other = await numbers.buy(control, acme, **any_one)
        theirs = await numbers.buy(
            control, msgspec.structs.replace(rival, request_key="of one request"), **any_one
        )
        assert carrier.bought == [bought.number, other.number, theirs.number]

    async def test_what_it_did_not_buy_is_bought(
        self, control: Control, carrier: FakeCarrier, acme: Actor
    ) -> None:
        again = msgspec.structs.replace(acme, request_key="of one request")
        carrier.fate = fails("buy", RuntimeError("the process dies"))
        with pytest.raises(RuntimeError):
            await buy(control, again)
        carrier.fate = well
        await later(control.database, AGES)
        assert await numbers.recover(control) == 1
        assert (await buy(control, again)).number == ONE
        assert (await buy(control, again)).number == ONE
        assert carrier.bought == [ONE]


class Own(NamedTuple):
    """A tenant's connection with a carrier account of its own."""

    id: str
    at_carrier: str


async def own_connection(control: Control, actor: Actor) -> Own:
    at_carrier = "AC" + actor.account_id.replace("-", "")
    made = await connections.create(
        control,
        actor,
        provider="twilio",
        provider_account=at_carrier,
        secrets={"auth_token": "of some length"},
    )
    return Own(made.id, at_carrier)


class TestAdopting:
    async def test_a_number_that_is_there(
        self, control: Control, carrier: FakeCarrier, acme: Actor
    ) -> None:
        actor = await limited(control, 1)
        theirs = await own_connection(control, actor)
        carrier.held[ONE] = Held(theirs.at_carrier, "of long ago")
        made = await self.adopt(
            control, actor, theirs.id, label="front", details={"password": "of length"}
        )
        assert (made.bought, made.label, carrier.held[ONE].ours) == (False, "front", True)
        assert made.details == {"password": "…ngth"}
        with pytest.raises(LimitReached):
            await self.adopt(control, actor, theirs.id, TWO)
        released = await numbers.release(control, actor, ONE)
        assert (released.state, list(carrier.held)) == ("released", [ONE])
        with pytest.raises(NotFound):
            await numbers.get(control, actor, ONE)
        acmes = await own_connection(control, acme)
        carrier.held[ONE] = Held(acmes.at_carrier)
        again = await self.adopt(control, acme, acmes.id)
        assert again.short_id > made.short_id

    async def test_one_that_is_not_to_be_had(
        self, control: Control, carrier: FakeCarrier, acme: Actor, rival: Actor
    ) -> None:
        acmes, rivals = [await own_connection(control, each) for each in (acme, rival)]
        with pytest.raises(NotFound):
            await self.adopt(control, acme, acmes.id)
        carrier.held[ONE] = Held(acmes.at_carrier)
        await self.adopt(control, acme, acmes.id)
        with pytest.raises(Conflict):
            await self.adopt(control, acme, acmes.id)
        with pytest.raises(NotFound):
            await self.adopt(control, rival, rivals.id)
        carrier.held[TWO] = Held(acmes.at_carrier)
        carrier.fate = fails("configure", Permanent("a locked number"))
        with pytest.raises(Conflict, match="locked"):
            await self.adopt(control, acme, acmes.id, TWO)
        made = await self.adopt(control, acme, acmes.id, TWO, mode="trunk")
        assert (made.mode, carrier.held[TWO].ours) == ("trunk", False)

    @pytest.mark.parametrize("connection", [None, "default"])
    async def test_the_operators_are_the_operators(
        self, control: Control, carrier: FakeCarrier, acme: Actor, connection: str | None
    ) -> None:
        """A tenant that may buy there can't tell whether the operator has a number, nor take it."""
        carrier.held[ONE] = Held(OPERATORS)
        said = set()
        for number in (ONE, TWO):
            with pytest.raises(Forbidden, match="connection of your own") as error:
                await self.adopt(control, acme, connection, number)
            said.add((str(error.value), error.value.code))
        assert len(said) == 1
        assert not carrier.held[ONE].ours
        await self.adopt(control, OPERATOR, connection)
        assert carrier.held[ONE].ours

    async def test_at_once(self, control: Control, carrier: FakeCarrier, acme: Actor) -> None:
        acmes = await own_connection(control, acme)
        carrier.held[ONE] = Held(acmes.at_carrier)
        adopting = [self.adopt(control, acme, acmes.id) for _ in range(4)]
        done = await asyncio.gather(*adopting, return_exceptions=True)
        assert sum(isinstance(each, Number) for each in done) == 1

    async def adopt(
        self,
        control: Control,
        actor: Actor,
        connection: str | None,
        number: str = ONE,
        **more: Any,
    ) -> Number:
        return await numbers.adopt(
            control, actor, number=number, provider="twilio", connection_id=connection, **more
        )


class TestLinking:
    async def test_a_number_moves(self, control: Control, acme: Actor) -> None:
        anna, berta = await agent(control, acme), await agent(control, acme, "Berta")
        await buy(control, acme)
        table = RouteTable()

        async def leads_to() -> list[str]:
            await follow(control.database, table)
            route = table.get(ONE)
            assert route is not None
            return [target.agent_id for target in route.targets]

        assert await leads_to() == []
        linked = await numbers.link(control, acme, ONE, anna.id)
        assert (linked.agent_name, await leads_to()) == ("anna", [anna.id])
        with pytest.raises(Conflict) as error:
            await numbers.link(control, acme, ONE, berta.id, move=False)
        assert error.value.code == "number_linked"
        assert await numbers.link(control, acme, ONE, anna.id, move=False) == linked
        await numbers.link(control, acme, linked.id, berta.id)
        assert await agents.numbers_of(control, acme, anna.id) == []
        assert await leads_to() == [berta.id]
        await numbers.link(control, acme, ONE, None)
        assert await leads_to() == []

    async def test_nobody_elses(self, control: Control, acme: Actor, rival: Actor) -> None:
        mine, theirs = await agent(control, acme), await agent(control, rival)
        made = await buy(control, acme)
        for wrong in (theirs.id, UNKNOWN, "anna", "\0"):
            with pytest.raises(NotFound):
                await numbers.link(control, acme, ONE, wrong)
        asked: list[Callable[[str], Any]] = [
            lambda key: numbers.get(control, rival, key),
            lambda key: numbers.link(control, rival, key, theirs.id),
            lambda key: numbers.link(control, rival, key, mine.id),
            lambda key: numbers.update(control, rival, key, label="stolen"),
            lambda key: numbers.release(control, rival, key),
            lambda key: numbers.force_delete(control, rival, key),
        ]
        for key in (ONE, made.id, str(made.short_id), TWO, UNKNOWN, "", "-1", "9" * 30, "\0"):
            for ask in asked:
                with pytest.raises(NotFound):
                    await ask(key)
        assert await numbers.get(control, acme, ONE) == made

    async def test_what_the_file_made_the_api_may_change(
        self, control: Control, acme: Actor
    ) -> None:
        operator = Actor(account_id=DEFAULT_ACCOUNT)
        spec = MappingSpec(
            agents=(AgentSpec(name="anna", livekit_agent_name="lk"),),
            numbers=(NumberSpec(number=ONE, provider="twilio", agent="anna", fallback=TWO),),
        )
        await mapping.apply_mapping(control.database, DEFAULT_ACCOUNT, spec)
        found = await numbers.get(control, operator, ONE)
        assert (found.agent_name, found.bought) == ("anna", False)
        await numbers.update(control, operator, ONE, fallback="")
        plan = await mapping.plan_mapping(control.database, DEFAULT_ACCOUNT, spec)
        assert len(plan.changes) == 1
        assert (await numbers.release(control, operator, ONE)).state == "released"


class TestUpdating:
    async def test_what_is_given(self, control: Control, acme: Actor) -> None:
        made = await buy(control, acme, details={"a": 1, "b": {"password": "of some length"}})
        assert made.details == {"a": 1, "b": {"password": "…ngth"}}
        changed = await numbers.update(
            control, acme, ONE, label="desk", fallback="1 415 555 0101", details={"c": 2}
        )
        assert (changed.label, changed.fallback) == ("desk", TWO)
        assert changed.details == {**made.details, "c": 2}
        changed = await numbers.update(
            control, acme, ONE, details={"a": None, "b": {"password": "…ngth", "d": 1}}
        )
        assert changed.details == {"b": {"password": "…ngth", "d": 1}, "c": 2}
        assert await numbers.update(control, acme, ONE) == changed
        changed = await numbers.update(control, acme, ONE, fallback="")
        assert (changed.fallback, changed.label) == ("", "desk")

    async def test_what_can_not_be(self, control: Control, acme: Actor) -> None:
        for number in (ONE, TWO, THREE):
            await buy(control, acme, number)
        for wrong in ("hello", "+1", ONE):
            with pytest.raises(Invalid, match="fallback"):
                await numbers.update(control, acme, ONE, fallback=wrong)
        await numbers.update(control, acme, ONE, fallback=TWO)
        await numbers.update(control, acme, TWO, fallback=THREE)
        with pytest.raises(Invalid, match="loop"):
            await numbers.update(control, acme, THREE, fallback=ONE)
        with pytest.raises(Invalid, match="masked"):
            await numbers.update(control, acme, ONE, details={"password": "…abcd"})
        with pytest.raises(Invalid):
            await numbers.update(control, acme, ONE, label="a" * 300)


class TestReleasing:
    async def test_it_routes_nowhere_and_is_given_back(
        self, control: Control, carrier: FakeCarrier, acme: Actor
    ) -> None:
        anna = await agent(control, acme)
        made = await buy(control, acme, agent_id=anna.id)
        table = await follow(control.database, RouteTable())
        assert table.get(ONE) is not None
        released = await numbers.release(control, acme, made.id)
        assert (released.state, released.agent_id) == ("released", None)
        await follow(control.database, table)
        assert (table.get(ONE), len(table)) == (None, 0)
        assert (carrier.released, await all_of(control, acme)) == ([ONE], [])
        assert await agents.numbers_of(control, acme, anna.id) == []
        with pytest.raises(NotFound):
            await numbers.release(control, acme, made.id)
        actions = [row.action for row in (await audit.list_(control, acme)).items]
        assert actions[:3] == ["number.released", "number.releasing", "number.bought"]

    async def test_a_deployed_agent_keeps_it(self, control: Control, acme: Actor) -> None:
        anna = await agent(control, acme)
        await buy(control, acme, agent_id=anna.id)
        with pytest.raises(Conflict, match="pause") as error:
            await numbers.release(control, acme, ONE, from_deployed=False)
        assert error.value.code == "agent_deployed"
        await agents.update(control, acme, anna.id, status="paused")
        await numbers.release(control, acme, ONE, from_deployed=False)

    @pytest.mark.parametrize("step", ["find", "release", "released"])
    @pytest.mark.parametrize("error", [Transient("away"), Ambiguous("timed out")])
    async def test_a_carrier_that_is_away(
        self, control: Control, carrier: FakeCarrier, rival: Actor, step: str, error: Exception
    ) -> None:
        actor = await limited(control, 1)
        made = await buy(control, actor)
        carrier.fate = fails(step, error)
        assert (await numbers.release(control, actor, ONE)).state == "deleting"
        table = await follow(control.database, RouteTable())
        assert (len(table), await numbers.held(control, actor)) == (0, 0)
        assert (await numbers.release(control, actor, ONE)).state == "deleting"
        assert (await numbers.get(control, actor, made.id)).state == "deleting"
        assert (await numbers.list_(control, actor)).total == 0
        assert [each.state for each in await all_of(control, actor)] == ["deleting"]
        for change in (numbers.link(control, actor, ONE, None), buy(control, actor)):
            with pytest.raises(Conflict):
                await change
        with pytest.raises(NotFound):
            await buy(control, rival)
        await later(control.database, 10)
        done_unseen = step == "released"  # the next look finds that nothing is left to be done
        assert await numbers.recover(control) == done_unseen
        carrier.fate = well
        await later(control.database, AGES)
        assert await numbers.recover(control) == (not done_unseen)
        assert (await all_of(control, actor), carrier.released) == ([], [ONE])
        await buy(control, actor)

    async def test_a_carrier_that_refuses(
        self, control: Control, carrier: FakeCarrier, acme: Actor
    ) -> None:
        actor = await limited(control, 1)
        await buy(control, actor)
        carrier.fate = fails("release", Permanent("it is locked"))
        assert (await numbers.release(control, actor, ONE)).state == "corrupted"
        assert [each.state for each in (await numbers.list_(control, actor)).items] == ["corrupted"]
        assert (await numbers.held(control, actor), await ordered(control.database)) == (0, [])
        with pytest.raises(Conflict) as error:
            await numbers.update(control, actor, ONE, label="x")
        assert error.value.code == "number_corrupted"
        assert (await numbers.release(control, actor, ONE)).state == "corrupted"
        await numbers.force_delete(control, actor, ONE)
        assert (await all_of(control, actor), list(carrier.held)) == ([], [ONE])
        carrier.fate = well
        await buy(control, acme, TWO)
        with pytest.raises(Conflict) as error:
            await numbers.force_delete(control, acme, TWO)
        assert error.value.code == "number_not_corrupted"

    async def test_a_reason_that_went_away(
        self, control: Control, carrier: FakeCarrier, acme: Actor
    ) -> None:
        await buy(control, acme)
        carrier.fate = fails("release", Permanent("it is locked"))
        await numbers.release(control, acme, ONE)
        carrier.fate = well
        assert (await numbers.release(control, acme, ONE)).state == "released"
        assert carrier.held == {}

    async def test_one_that_somebody_bought_anew(
        self, control: Control, carrier: FakeCarrier, acme: Actor
    ) -> None:
        """Its release was done, the answer lost: the next one is not ours to give back."""
        await buy(control, acme)
        carrier.fate = fails("released", Ambiguous("timed out"))
        assert (await numbers.release(control, acme, ONE)).state == "deleting"
        carrier.fate = well
        carrier.held[ONE] = Held(OPERATORS, "in the console")
        await later(control.database, AGES)
        assert await numbers.recover(control) == 1
        assert (await all_of(control, acme), list(carrier.held)) == ([], [ONE])

    async def test_one_whose_tag_was_changed(
        self, control: Control, carrier: FakeCarrier, acme: Actor
    ) -> None:
        await buy(control, acme)
        carrier.held[ONE].tag = "renamed in the console"
        assert (await numbers.release(control, acme, ONE)).state == "released"
        assert carrier.held == {}

    async def test_one_that_the_carrier_does_not_have_any_more(
        self, control: Control, carrier: FakeCarrier, acme: Actor
    ) -> None:
        await buy(control, acme)
        carrier.held.clear()
        assert (await numbers.release(control, acme, ONE)).state == "released"

    async def test_the_file_can_not_take_one_that_is_leaving(
        self, control: Control, carrier: FakeCarrier, acme: Actor
    ) -> None:
        await buy(control, acme)
        carrier.fate = fails("release", Transient("away"))
        await numbers.release(control, acme, ONE)
        spec = MappingSpec(numbers=(NumberSpec(number=ONE, provider="twilio"),))
        with pytest.raises(Exception, match="being released"):
            await mapping.apply_mapping(control.database, acme.account_id, spec)
        await mapping.apply_mapping(control.database, acme.account_id, MappingSpec(), prune=True)
        assert [each.state for each in await all_of(control, acme)] == ["deleting"]


class TestLists:
    async def test_pages(self, control: Control, carrier: FakeCarrier, acme: Actor) -> None:
        anna = await agent(control, acme)
        for number in (THREE, ONE, TWO):
            await buy(control, acme, number, agent_id=anna.id if number != ONE else None)

        async def listed(**how: Any) -> tuple[list[str], int]:
            page = await numbers.list_(control, acme, **how)
            return [each.number for each in page.items], page.total

        assert await listed() == ([THREE, ONE, TWO], 3)
        assert await listed(newest_first=True, limit=2) == ([TWO, ONE], 3)
        assert await listed(offset=1, limit=1) == ([ONE], 3)
        assert await listed(offset=2**70, limit=1) == ([], 3)
        assert await listed(agent_id=anna.id) == ([THREE, TWO], 2)
        assert await listed(unlinked=True) == ([ONE], 1)
        assert await listed(agent_id=UNKNOWN) == ([], 0)
        carrier.fate = fails("release", Transient("away"))
        await numbers.release(control, acme, THREE)
        assert await listed() == ([ONE, TWO], 2)
        assert await listed(deleting=True) == ([THREE, ONE, TWO], 3)

    async def test_a_number_of_digits_is_before_a_short_id(
        self, control: Control, carrier: FakeCarrier, acme: Actor
    ) -> None:
        short = "+4930123"
        carrier.offers.append(short)
        first, second = await buy(control, acme), await buy(control, acme, short)
        async with control.database.write() as connection:
            moved = update(rows).where(rows.c.id == first.id).values(short_id=4930123)
            await connection.execute(moved)
        assert (await numbers.get(control, acme, "4930123")).id == second.id
        await numbers.release(control, acme, short)
        assert (await numbers.get(control, acme, "4930123")).id == first.id


async def test_limits_are_of_the_account(control: Control, acme: Actor) -> None:
    await buy(control, acme)
    await accounts.update(control, OPERATOR, acme.account_id, plan=Plan(numbers=0))
    with pytest.raises(LimitReached):
        await buy(control, acme, TWO)
    assert (await numbers.get(control, acme, ONE)).state == "active"


class TestTheLoop:
    async def test_it_outlives_the_database(
        self, control: Control, carrier: FakeCarrier, acme: Actor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        carrier.fate = fails("buy", Ambiguous("timed out"))
        with pytest.raises(Ambiguous):
            await buy(control, acme)
        await later(control.database, AGES)
        recovered, turns = orders.recover, 0

        async def recover(of: Control) -> int:
            nonlocal turns
            turns += 1
            if turns == 1:
                raise StorageUnavailable("away")
            return await recovered(of)

        async def no_pause(_seconds: float) -> None:
            if turns == 3:
                raise asyncio.CancelledError
            await asyncio.sleep(0)

        monkeypatch.setattr(orders, "recover", recover)
        monkeypatch.setattr(type(control.clock), "sleep", staticmethod(no_pause))
        with pytest.raises(asyncio.CancelledError):
            await orders.recover_loop(control)
        assert await ordered(control.database) == []
