"""The table takes changes in any order, and the decision follows from it alone."""

from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.events.model import Direction, Disposition, Event
from router.routing.decide import decide, decide_call
from router.routing.explain import explain
from router.routing.table import Route, RouteTable, Target, Version
from tests.support.fake_events import initiated, new_call

NUMBER = "+14155550100"


def route(rev: int, agent: str = "anna", **more: Any) -> Route:
    targets = (Target(agent=agent, livekit_agent_name=f"lk-{agent}", metadata={"a": 1}),)
    return Route(number=NUMBER, provider="twilio", rev=rev, targets=targets, **more)


def test_an_older_change_never_wins() -> None:
    table = RouteTable()
    assert table.put(route(2, "bob"))
    assert not table.put(route(1, "anna"))
    assert not table.put(route(2, "anna"))
    assert not table.remove(NUMBER, Version(1, 2))
    found = table.get(NUMBER)
    assert found is not None
    assert found.targets[0].agent == "bob"
    assert table.version == 2


def test_a_late_route_does_not_resurrect_a_removed_number() -> None:
    table = RouteTable()
    table.remove(NUMBER, Version(1, 5))
    assert not table.put(route(4))
    assert table.get(NUMBER) is None
    assert table.put(route(6))
    assert table.removed() == {}


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=12), st.randoms())
def test_any_order_and_repetition_ends_the_same(
    changes: list[tuple[int, bool]],
    random: Random,
) -> None:
    once = dict(changes)
    shuffled = [*once.items(), *once.items()]
    random.shuffle(shuffled)
    table = RouteTable()
    for rev, there in shuffled:
        if there:
            table.put(route(rev))
        else:
            table.remove(NUMBER, Version(1, rev))
    found = table.get(NUMBER)
    if once and once[max(once)]:
        assert found is not None
        assert found.rev == max(once)
    else:
        assert found is None


def test_equal_targets_are_kept_once() -> None:
    table = RouteTable()
    for index in range(3):
        number = f"+1415555010{index}"
        target = Target(agent="anna", livekit_agent_name="anna", metadata={"a": [1, {"b": 2}]})
        table.put(Route(number=number, provider="twilio", rev=index + 1, targets=(target,)))
    targets = {id(one.targets) for one in table}
    assert len(targets) == 1


def test_a_call_through_another_provider_is_rejected() -> None:
    table = RouteTable()
    table.put(route(1))
    decision = decide_call(NUMBER, "telnyx", table)
    assert decision.action == "reject"
    assert "mapped at twilio" in decision.reason


def test_explain_says_what_was_ruled_out() -> None:
    table = RouteTable()
    table.put(route(3, fallback="+14155550199"))
    told = explain(NUMBER, "twilio", table)
    assert (told.decision.action, told.decision.agent) == ("dispatch", "anna")
    assert told.ruled_out == (("the fallback number", "it is dialled only when no agent answers"),)
    assert explain("+14155550101", "twilio", table).ruled_out[0][0] == "the route table"


OTHER = "+12125550123"


def incoming(
    from_: str, to: str, *, direction: Direction | None, disposition: Disposition | None = None
) -> Event:
    event = initiated(new_call("routed"))
    data = msgspec.structs.replace(
        event.data,
        from_number=from_,
        to_number=to,
        direction=direction,
        disposition=disposition,
        stage="route",
        decision=None,
    )
    return msgspec.structs.replace(event, data=data)


@pytest.mark.parametrize(
    ("from_", "to", "told", "found", "action"),
    [
        (OTHER, NUMBER, None, "inbound", "dispatch"),
        (NUMBER, OTHER, None, "outbound", "dispatch"),
        (OTHER, OTHER, None, None, "reject"),
        (NUMBER, OTHER, "inbound", "inbound", "reject"),
    ],
)
def test_either_end_may_be_ours_where_the_provider_does_not_say(
    from_: str, to: str, told: Direction | None, found: Direction | None, action: str
) -> None:
    table = RouteTable()
    table.put(route(1))
    data = decide(incoming(from_, to, direction=told), table).data
    assert data.decision is not None
    assert (data.direction, data.decision.action) == (found, action)


@pytest.mark.parametrize(("fallback", "action"), [(OTHER, "forward"), ("", "dispatch")])
def test_where_livekit_could_not_be_reached_a_person_comes_first(
    fallback: str, action: str
) -> None:
    table = RouteTable()
    table.put(route(1, fallback=fallback))
    event = incoming(OTHER, NUMBER, direction="inbound", disposition="failed")
    decision = decide(event, table).data.decision
    assert decision is not None
    assert (decision.action, decision.fallback) == (action, fallback)
