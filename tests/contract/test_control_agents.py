"""Agents on both databases: names, documents, what their numbers are told, deletion."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from router.control import accounts, agents, audit, connections, documents, numbers, refresh
from router.control.context import Control
from router.control.model import Actor, Agent
from router.errors import Conflict, Invalid, NotFound
from router.routing.spec import METADATA_LIMIT
from router.routing.table import RouteTable
from router.storage import mapping
from tests.contract.conftest import OPERATOR
from tests.support.control import follow, with_carrier
from tests.support.fake_inventory import FakeCarrier, Held

ONE, TWO = "+14155550100", "+14155550101"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


async def agent(control: Control, actor: Actor, label: str = "Anna", **more: Any) -> Agent:
    config: Mapping[str, Any] = more.pop("config", {})
    return await agents.create(control, actor, label=label, origin="native", config=config, **more)


@pytest.fixture
def carrier() -> FakeCarrier:
    return FakeCarrier(offers=[ONE, TWO])


@pytest.fixture
def carried(control: Control, carrier: FakeCarrier) -> Control:
    return with_carrier(control, carrier)


class TestNames:
    @pytest.mark.parametrize(
        ("label", "name"),
        [
            ("Anna", "anna"),
            ("Dr. Müller's Büro (2)", "dr-mullers-buro-2"),
            ("  a  b  ", "a-b"),
            ("日本語", "agent"),
            ("", "agent"),
            ("x" * 200, "x" * 60),
        ],
    )
    async def test_a_name_is_made_from_the_label(
        self, control: Control, acme: Actor, label: str, name: str
    ) -> None:
        made = await agent(control, acme, label)
        assert (made.name, made.label) == (name, label.strip())

    async def test_names_are_unique_in_their_account(
        self, control: Control, acme: Actor, rival: Actor
    ) -> None:
        assert [(await agent(control, acme)).name for _ in range(3)] == ["anna", "anna-2", "anna-3"]
        assert (await agent(control, rival)).name == "anna"
        assert (await agents.find(control, acme, "anna-2")).label == "Anna"
        with pytest.raises(NotFound):
            await agents.find(control, rival, "anna-2")

    async def test_a_hundred_of_one_label(self, control: Control, acme: Actor) -> None:
        names = [(await agent(control, acme)).name for _ in range(30)]
        assert len(set(names)) == 30

    async def test_at_once_each_gets_its_own(self, control: Control, acme: Actor) -> None:
        made = await asyncio.gather(*(agent(control, acme) for _ in range(8)))
        assert len({each.name for each in made}) == 8
        assert (await agents.list_(control, acme)).total == 8

    async def test_an_exact_name_is_taken_once(self, control: Control, acme: Actor) -> None:
        made = await agent(control, acme, "Front Desk", exact_name=True)
        assert made.name == "Front Desk"
        with pytest.raises(Conflict) as error:
            await agent(control, acme, "Front Desk", exact_name=True)
        assert error.value.code == "agent_name_taken"
        for wrong in ("", "  ", "a\nb", "a" * 201):
            with pytest.raises(Invalid):
                await agent(control, acme, wrong, exact_name=True)

    async def test_who_serves_it(self, control: Control, acme: Actor) -> None:
        own = await agent(control, acme)
        assert own.livekit_agent_name == "anna"
        await accounts.update(control, OPERATOR, acme.account_id, worker="workers")
        assert (await agent(control, acme)).livekit_agent_name == "workers"
        named = await agent(control, acme, livekit_agent_name="mine")
        assert named.livekit_agent_name == "mine"
        again = await agents.update(control, acme, named.id, livekit_agent_name="")
        assert again.livekit_agent_name == "workers"

    async def test_the_label_changes_and_the_name_stays(
        self, control: Control, acme: Actor
    ) -> None:
        made = await agent(control, acme)
        changed = await agents.update(control, acme, made.id, label="Berta")
        assert (changed.name, changed.label) == ("anna", "Berta")


class TestDocuments:
    async def test_secrets_are_masked_and_kept(self, control: Control, acme: Actor) -> None:
        config = {"voice": {"api_key": "a key of some length"}, "prompt": "hello"}
        made = await agent(control, acme, config=config)
        assert made.config == {"voice": {"api_key": "…ngth"}, "prompt": "hello"}
        assert made.metadata == {"config": {"voice": {}, "prompt": "hello"}}
        shown = {**made.config, "prompt": "bye"}
        changed = await agents.update(control, acme, made.id, config=shown)
        assert changed.config == {"voice": {"api_key": "…ngth"}, "prompt": "bye"}
        assert changed.metadata == {"config": {"voice": {}, "prompt": "bye"}}
        real = await agents.get(control, acme, made.id, secrets=True)
        assert real.config == {**config, "prompt": "bye"}

    async def test_a_masked_secret_that_nobody_has(self, control: Control, acme: Actor) -> None:
        with pytest.raises(Invalid, match="masked"):
            await agent(control, acme, config={"api_key": "…abcd"})

    async def test_metadata_that_were_given_stay(self, control: Control, acme: Actor) -> None:
        made = await agent(control, acme, metadata={"a": 1})
        changed = await agents.update(control, acme, made.id, config={"b": 2})
        assert (changed.metadata, changed.config) == ({"a": 1}, {"b": 2})
        changed = await agents.update(control, acme, made.id, metadata={"c": 3})
        assert changed.metadata == {"c": 3}

    async def test_too_large_for_a_job(self, control: Control, acme: Actor) -> None:
        large = {"prompt": "x" * METADATA_LIMIT}
        with pytest.raises(Invalid) as error:
            await agent(control, acme, config=large)
        assert error.value.problems[0][0] == ("body", "config")
        made = await agent(control, acme)
        with pytest.raises(Invalid):
            await agents.update(control, acme, made.id, config=large)
        assert await agents.get(control, acme, made.id) == made

    async def test_a_jobs_documents_follow(
        self, carried: Control, acme: Actor, rival: Actor
    ) -> None:
        body = {"content": "hello", "api_key": "a key of some length"}
        prompt = await documents.create(carried, acme, "prompt", body)
        other = await documents.create(carried, rival, "prompt", {"content": "of the rival"})
        config = {"prompt": prompt.id, "actions": [other.id, UNKNOWN]}
        made = await agent(carried, acme, config=config)
        given = await agent(carried, acme, config=config, metadata={"own": 1})
        said = {prompt.id: {"content": "hello", "kind": "prompt"}}
        assert made.metadata == {"config": config, "documents": said}
        number = await numbers.buy(carried, acme, provider="twilio", number=ONE, agent_id=made.id)
        await documents.update(carried, acme, "prompt", prompt.id, {"content": "bye"})
        assert await refresh.recover(carried) == 0
        table = await follow(carried.database, RouteTable())
        said = {prompt.id: {"content": "bye", "kind": "prompt"}}
        route = table.get(number.number)
        assert route is not None
        assert route.targets[0].metadata == {"config": config, "documents": said}
        assert (await agents.get(carried, acme, given.id)).metadata == {"own": 1}
        await documents.delete(carried, acme, "prompt", prompt.id)
        assert await refresh.recover(carried) == 0
        assert (await agents.get(carried, acme, made.id)).metadata == {"config": config}


class TestChanges:
    async def test_its_numbers_are_told_at_once(self, carried: Control, acme: Actor) -> None:
        made = await agent(carried, acme, status="paused")
        for each in (ONE, TWO):
            await numbers.buy(carried, acme, provider="twilio", number=each, agent_id=made.id)
        table = await follow(carried.database, RouteTable())
        assert [route.targets for route in table] == [(), ()]
        await agents.update(carried, acme, made.id, status="deployed")
        await follow(carried.database, table)
        assert [route.targets[0].agent_id for route in table] == [made.id, made.id]
        await agents.update(carried, acme, made.id, livekit_agent_name="other", config={"a": 1})
        await follow(carried.database, table)
        assert [route.targets[0].livekit_agent_name for route in table] == ["other", "other"]
        assert table.newest.rev == 4
        await agents.update(carried, acme, made.id, label="no route has it")
        await agents.update(carried, acme, made.id, status="deployed")
        await follow(carried.database, table)
        assert table.newest.rev == 4

    async def test_more_numbers_than_one_transaction_takes(
        self, carried: Control, carrier: FakeCarrier, acme: Actor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(agents, "AT_ONCE", 3)
        made = await agent(carried, acme)
        for count in range(8):
            number = f"+1415555020{count}"
            carrier.offers.append(number)
            await numbers.buy(carried, acme, provider="twilio", number=number, agent_id=made.id)
        table = await follow(carried.database, RouteTable())
        await agents.update(carried, acme, made.id, status="disabled")
        await follow(carried.database, table)
        assert [route.targets for route in table] == [()] * 8

    async def test_the_list(self, control: Control, acme: Actor, rival: Actor) -> None:
        for status in ("deployed", "paused", "disabled"):
            await agent(control, acme, status, status=status)
        await agent(control, rival)
        page = await agents.list_(control, acme)
        assert ([each.name for each in page.items], page.total) == (["deployed", "paused"], 2)
        page = await agents.list_(control, acme, newest_first=True, limit=1)
        assert ([each.name for each in page.items], page.total) == (["paused"], 2)
        page = await agents.list_(control, acme, statuses=("disabled",))
        assert [each.name for each in page.items] == ["disabled"]

    async def test_one_with_numbers_stays(
        self, carried: Control, acme: Actor, rival: Actor
    ) -> None:
        made = await agent(carried, acme)
        await numbers.buy(carried, acme, provider="twilio", number=ONE, agent_id=made.id)
        with pytest.raises(Conflict, match=f"\\{ONE}") as error:
            await agents.delete(carried, acme, made.id)
        assert error.value.code == "agent_in_use"
        with pytest.raises(NotFound):
            await agents.delete(carried, rival, made.id)
        assert [each.number for each in await agents.numbers_of(carried, acme, made.id)] == [ONE]
        assert await agents.numbers_of(carried, rival, made.id) == []
        each = await agents.numbers_of_each(carried, acme, [made.id, UNKNOWN])
        assert {key: [held.number for held in found] for key, found in each.items()} == {
            made.id: [ONE]
        }
        assert await agents.numbers_of_each(carried, rival, [made.id]) == {}
        await numbers.link(carried, acme, ONE, None)
        await agents.delete(carried, acme, made.id)
        with pytest.raises(NotFound):
            await agents.get(carried, acme, made.id)

    async def test_nobody_elses(self, control: Control, acme: Actor, rival: Actor) -> None:
        made = await agent(control, acme)
        for wrong in (made.id, UNKNOWN, "", "anna", "\0", "1" * 400):
            for asked in (agents.get, agents.update, agents.delete):
                with pytest.raises(NotFound) as error:
                    await asked(control, rival, wrong)
                assert str(error.value) == "the account has no such agent"
        assert await agents.get(control, acme, made.id) == made

    async def test_the_audit(self, control: Control, acme: Actor) -> None:
        made = await agent(control, acme, config={"api_key": "a key of some length"})
        await agents.update(control, acme, made.id, status="paused")
        await agents.update(control, acme, made.id, status="paused")
        await agents.delete(control, acme, made.id)
        rows = (await audit.list_(control, acme, object_id=made.id)).items
        actions = ["agent.deleted", "agent.updated", "agent.created"]
        assert [row.action for row in rows] == actions
        assert rows[1].before is not None
        assert rows[1].after is not None
        assert (rows[1].before["status"], rows[1].after["status"]) == ("deployed", "paused")
        assert "a key" not in str(rows)


async def test_an_adopted_number_may_have_an_agent(
    carried: Control, carrier: FakeCarrier, acme: Actor
) -> None:
    sid = "AC" + "7e" * 16
    carrier.held[ONE] = Held(sid)
    made = await agent(carried, acme)
    own = await connections.create(
        carried, acme, provider="twilio", provider_account=sid, secrets={"auth_token": "a token"}
    )
    held = await numbers.adopt(
        carried, acme, number=ONE, provider="twilio", connection_id=own.id, agent_id=made.id
    )
    assert (held.agent_id, held.agent_name, held.agent_label) == (made.id, "anna", "Anna")


class TestNumber:
    """The number of an agent, in the agent's own transaction."""

    async def _routes(self, control: Control) -> Mapping[str, list[str]]:
        found = [await mapping.find_route(control.database, number) for number in (ONE, TWO)]
        return {
            route.number: [target.agent for target in route.targets]
            for route in found
            if route is not None
        }

    async def _bought(self, control: Control, acme: Actor) -> None:
        for number in (ONE, TWO):
            await numbers.buy(control, acme, provider="twilio", number=number)

    async def test_one_alone_leads_to_the_agent(self, carried: Control, acme: Actor) -> None:
        await self._bought(carried, acme)
        anna = await agent(carried, acme, number=ONE)
        bob = await agent(carried, acme, "Bob", number=TWO)
        assert await self._routes(carried) == {ONE: ["anna"], TWO: ["bob"]}
        await agents.update(carried, acme, bob.id, number=ONE[1:])
        assert await self._routes(carried) == {ONE: ["bob"], TWO: []}
        await agents.update(carried, acme, anna.id, number=TWO, status="paused")
        assert await self._routes(carried) == {ONE: ["bob"], TWO: []}
        await agents.update(carried, acme, anna.id, number=ONE, status="deployed", move=True)
        assert await self._routes(carried) == {ONE: ["anna"], TWO: []}
        await agents.update(carried, acme, anna.id, number=None)
        assert await self._routes(carried) == {ONE: [], TWO: []}
        rows = [each.action for each in (await audit.list_(carried, acme, limit=20)).items]
        assert {"number.linked", "number.unlinked", "agent.updated"} <= set(rows)

    async def test_all_or_nothing(self, carried: Control, acme: Actor, rival: Actor) -> None:
        await self._bought(carried, acme)
        anna = await agent(carried, acme, number=ONE)
        bob = await agent(carried, acme, "Bob", number=TWO)
        for number, error in ((UNKNOWN, NotFound), (ONE, Conflict)):
            with pytest.raises(error):
                await agent(carried, acme, "Eve", number=number, move=False)
            change: Any = {"number": number, "move": False, "label": "Eve", "config": {"a": 1}}
            with pytest.raises(error):
                await agents.update(carried, acme, bob.id, **change)
        with pytest.raises(NotFound):
            await agent(carried, rival, "Eve", number=ONE)
        found = (await agents.list_(carried, acme)).items
        assert [each.label for each in found] == [anna.label, bob.label]
        assert [each.config for each in found] == [{}, {}]
        assert await self._routes(carried) == {ONE: ["anna"], TWO: ["bob"]}

    async def test_numbers_change_hands_at_once(self, carried: Control, acme: Actor) -> None:
        await self._bought(carried, acme)
        both, table = [await agent(carried, acme, label) for label in ("Anna", "Bob")], RouteTable()
        for _ in range(5):
            await asyncio.gather(
                *(
                    agents.update(carried, acme, each.id, number=number)
                    for each in both
                    for number in (ONE, TWO)
                )
            )
            held = (await numbers.list_(carried, acme)).items
            linked = [each.agent_name for each in held if each.agent_name]
            assert len(set(linked)) == len(linked)
            named = {each.number: [each.agent_name] if each.agent_name else [] for each in held}
            assert await self._routes(carried) == named
            await follow(carried.database, table)
