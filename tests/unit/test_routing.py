"""The table takes changes in any order, and the decision follows from it alone."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from router.routing.decide import decide_call
from router.routing.explain import explain
from router.routing.table import Route, RouteTable, Target

NUMBER = "+14155550100"


def route(rev: int, agent: str = "anna", **more: str) -> Route:
    targets = (Target(agent=agent, livekit_agent_name=f"lk-{agent}", metadata={"a": 1}),)
    return Route(number=NUMBER, provider="twilio", rev=rev, targets=targets, **more)


def test_an_older_change_never_wins() -> None:
    table = RouteTable()
    assert table.put(route(2, "bob"))
    assert not table.put(route(1, "anna"))
    assert not table.put(route(2, "anna"))
    assert not table.remove(NUMBER, 2)
    found = table.get(NUMBER)
    assert found is not None
    assert found.targets[0].agent == "bob"
    assert table.version == 2


def test_a_late_route_does_not_resurrect_a_removed_number() -> None:
    table = RouteTable()
    table.remove(NUMBER, 5)
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
            table.remove(NUMBER, rev)
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
