"""An account's calls: its history in parts, and what of its plan they used."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import insert
from typing_extensions import override

from router.clock import SystemClock
from router.control import accounts, calls
from router.control.agents import create as make_agent
from router.control.calls import CallQuery
from router.control.context import Control
from router.control.model import Actor, Plan
from router.errors import NotFound
from router.events.ids import call_id
from router.events.types import EventType
from router.storage.schema import agents, call_events
from router.storage.schema import calls as rows
from tests.contract.conftest import OPERATOR

SECOND = 10**6
NOVEMBER = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()) * SECOND


class StandingClock(SystemClock):
    """A clock that shows what it is set to."""

    shows = 0

    @override
    def now(self) -> int:
        return self.shows


async def called(control: Control, actor: Actor, name: str, **more: Any) -> str:
    """A call's row, as the consumer writes it; its id."""
    found = call_id("twilio", "AC1", name)
    values: dict[str, Any] = {
        "call_id": found,
        "provider": "twilio",
        "provider_call_id": name,
        "account": "AC1",
        "account_id": actor.account_id,
        "direction": "inbound",
        "from_number": "+14155550199",
        "to_number": "+14155550100",
        "state": "ended",
        "agent": "anna",
        "agent_id": "a1",
        "agent_ready": True,
        "reason": "",
        "initiated_at": NOVEMBER,
    }
    async with control.database.write() as connection:
        await connection.execute(insert(rows).values(values | more))
    return found


async def names(control: Control, actor: Actor, **query: Any) -> list[str]:
    page = await calls.list_(control, actor, CallQuery(**query))
    assert page.total >= len(page.items)
    return [each.provider_call_id for each in page.items]


async def test_calls_are_found_by_what_they_are(control: Control, acme: Actor) -> None:
    await called(control, acme, "one", initiated_at=1)
    await called(control, acme, "two", initiated_at=2, agent="Bob_the 100%", agent_id="b1")
    await called(control, acme, "three", initiated_at=3, agent="", agent_id="")
    assert await names(control, acme) == ["three", "two", "one"]
    assert await names(control, acme, newest_first=False) == ["one", "two", "three"]
    assert await names(control, acme, since=2) == ["three", "two"]
    assert await names(control, acme, until=2) == ["one"]
    assert await names(control, acme, since=-(2**70), until=2**70, limit=2**70) != []
    assert await names(control, acme, agent_ids=("b1", "x")) == ["two"]
    for part in ("bob", "_the", "0%"):
        assert await names(control, acme, agent_name=part) == ["two"]
    for odd in ("%", "a_n", "a\0", "\ud800"):
        assert await names(control, acme, agent_name=odd) == (["two"] if odd == "%" else [])
    assert await names(control, acme, with_agent=True) == ["two", "one"]
    page = await calls.list_(control, acme, CallQuery(offset=1, limit=1))
    assert ([each.provider_call_id for each in page.items], page.total) == (["two"], 3)


async def test_an_agents_calls_from_before_agents_had_ids(control: Control, acme: Actor) -> None:
    await called(control, acme, "old", agent_id="")
    await called(control, acme, "other's", agent_id="", agent="bob")
    async with control.database.write() as connection:
        await connection.execute(
            insert(agents).values(
                id="a1",
                account_id=acme.account_id,
                name="anna",
                label="anna",
                livekit_agent_name="anna",
                metadata="{}",
                status="deployed",
                origin="file",
                config="{}",
                rev=1,
                created_at=1,
                updated_at=1,
            )
        )
    assert await names(control, acme, agent_ids=("a1",)) == ["old"]


async def test_another_accounts_call_looks_as_if_it_never_was(
    control: Control, acme: Actor, rival: Actor
) -> None:
    theirs = await called(control, rival, "one")
    mine = await called(control, acme, "two")
    assert (await calls.get(control, acme, mine)).provider_call_id == "two"
    assert list(await calls.events(control, acme, mine)) == []
    words = set()
    for key in (theirs, "one", "a\0", "\ud800", "", "é"):
        for work in (calls.get, calls.events):
            with pytest.raises(NotFound) as refused:
                await work(control, acme, key)
            words.add(str(refused.value))
    assert words == {"the account has no call with this id"}
    assert await names(control, acme) == ["two"]


async def test_the_months_use(control: Control, acme: Actor, rival: Actor) -> None:
    await called(control, acme, "last month", initiated_at=NOVEMBER - 1, duration=600.0)
    await called(control, acme, "first", initiated_at=NOVEMBER, duration=90.0)
    await called(control, acme, "second", initiated_at=NOVEMBER + 9, duration=45.0)
    await called(control, acme, "not answered", initiated_at=NOVEMBER + 9, duration=None)
    await called(control, rival, "theirs", duration=60.0)
    plan = Plan(numbers=5, minutes=100)
    await accounts.update(control, OPERATOR, acme.account_id, plan=plan)
    clock = StandingClock()
    clock.shows = NOVEMBER + 20 * 86400 * SECOND
    in_november = Control(
        control.settings, control.database, control.vault, control.open_inventory, clock
    )
    used = await calls.usage(in_november, acme)
    assert used == calls.Usage(minutes=2.25, minutes_limit=100, calls=3, numbers=0, numbers_limit=5)
    clock.shows = NOVEMBER - 1
    assert (await calls.usage(in_november, acme)).calls == 4
    clock.shows = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp()) * SECOND
    assert (await calls.usage(in_november, acme)).minutes == 0


async def test_calls_in_the_order_of_their_durations(control: Control, acme: Actor) -> None:
    await called(control, acme, "short", initiated_at=1, duration=2.0)
    await called(control, acme, "none", initiated_at=2)
    await called(control, acme, "long", initiated_at=3, duration=9.5)
    assert await names(control, acme, by_duration=True) == ["long", "short", "none"]
    assert await names(control, acme, by_duration=True, newest_first=False) == [
        "none",
        "short",
        "long",
    ]


async def test_calls_are_found_by_what_people_call_the_agent(
    control: Control, acme: Actor, rival: Actor
) -> None:
    for actor, name in ((acme, "mine"), (rival, "theirs")):
        made = await make_agent(
            control, actor, label="Customer Support", origin="native", config={}
        )
        await called(control, actor, name, agent=made.name, agent_id=made.id)
    assert await names(control, acme, agent_name="customer sup") == ["mine"]
    assert await names(control, acme, agent_name="customer-sup") == ["mine"]
    assert await names(control, acme, agent_name="%") == []


async def test_which_calls_are_written_down(control: Control, acme: Actor, rival: Actor) -> None:
    kinds = {
        "heard": EventType.TRANSCRIPT_ADDED,
        "spoken": EventType.MESSAGE_SPOKEN,
        "silent": EventType.CALL_ANSWERED,
    }
    ids = {name: await called(control, acme, name) for name in kinds}
    ids["theirs"] = await called(control, rival, "theirs")
    async with control.database.write() as connection:
        for name, kind in {**kinds, "theirs": EventType.TRANSCRIPT_ADDED}.items():
            event = {"event_id": name, "call_id": ids[name], "type": kind.value, "time": 1}
            values = {**event, "source": "twilio", "data": b"{}"}
            await connection.execute(insert(call_events).values(values))
    found = await calls.transcribed(control, acme, list(ids.values()))
    assert found == {ids["heard"], ids["spoken"]}
    assert await calls.transcribed(control, acme, []) == set()
