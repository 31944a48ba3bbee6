"""The table takes changes in any order, and the decision follows from it alone."""

from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.events.ids import DEFAULT_ACCOUNT
from router.events.model import Decision, Direction, Disposition, Event, Stage
from router.events.types import EventType
from router.routing.decide import decide, decide_call, mapping_behind
from router.routing.explain import explain
from router.routing.spec import AgentSpec, NumberSpec, route_of
from router.routing.table import Route, RouteTable, Target, Version, mark
from tests.support.fake_events import initiated, new_call

NUMBER = "+14155550100"


def route(rev: int, agent: str = "anna", *, number: str = NUMBER, **more: Any) -> Route:
    targets = (Target(agent=agent, livekit_agent_name=f"lk-{agent}", metadata={"a": 1}),)
    return Route(number=number, provider="twilio", rev=rev, targets=targets, **more)


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
    assert table.remove(NUMBER, Version(1, 5))
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


def test_a_number_leads_to_its_agent_while_that_is_deployed() -> None:
    agent = AgentSpec(name="anna", livekit_agent_name="lk-anna", metadata={"a": 1})
    number = NumberSpec(number=NUMBER, provider="twilio", agent="anna", fallback="+14155550199")
    assert route_of(number, agent, Version(1, 3)) == route(3, fallback="+14155550199")
    nowhere = msgspec.structs.replace(route(4, fallback="+14155550199"), targets=())
    stopped = msgspec.structs.replace(agent, status="paused")
    assert (
        route_of(number, None, Version(1, 4)) == route_of(number, stopped, Version(1, 4)) == nowhere
    )


def test_equal_targets_are_kept_once() -> None:
    table = RouteTable()
    for index in range(3):
        number = f"+1415555010{index}"
        target = Target(agent="anna", livekit_agent_name="anna", metadata={"a": [1, {"b": 2}]})
        table.put(Route(number=number, provider="twilio", rev=index + 1, targets=(target,)))
    targets = {id(one.targets) for one in table}
    assert len(targets) == 1


def test_a_call_to_a_number_of_ours_is_ours_whatever_carrier_brings_it() -> None:
    table = RouteTable()
    table.put(route(1))
    decision = decide_call(NUMBER, "telnyx", table)
    assert (decision.action, decision.agent) == ("dispatch", "anna")
    assert "mapped at twilio, but the call came from telnyx" in decision.reason


def test_that_the_mapping_is_behind_is_told_once_per_call() -> None:
    table = RouteTable()
    table.put(route(1))
    call = msgspec.structs.replace(
        incoming(OTHER, NUMBER, direction="inbound"), source="telnyx", id="any"
    )
    decided = decide(call, table)
    told, again = mapping_behind(decided, table), mapping_behind(decided, table)
    assert told is not None
    assert told == again
    assert (told.type, told.key) == (EventType.NUMBER_MISMATCHED, NUMBER)
    assert "mapped at twilio" in told.data.reason
    at_home = decide(incoming(OTHER, NUMBER, direction="inbound"), table)
    assert mapping_behind(at_home, table) is None
    vocode = msgspec.structs.replace(decided.data, media="provider")
    assert mapping_behind(msgspec.structs.replace(decided, data=vocode), table) is None


OTHER = "+12125550123"
THIRD = "+14155550101"
TABLE = RouteTable()
TABLE.put(route(5, fallback=OTHER))
TABLE.put(msgspec.structs.replace(route(6, fallback=OTHER), number=THIRD, targets=()))
TABLE.put(msgspec.structs.replace(route(7), number="+14155550102", targets=()))


@pytest.mark.parametrize(
    ("number", "provider", "decision"),
    [
        (
            NUMBER,
            "twilio",
            Decision(
                action="dispatch",
                reason="number is mapped to agent anna",
                table_version=7,
                agent="anna",
                livekit_agent_name="lk-anna",
                metadata={"a": 1},
                fallback=OTHER,
            ),
        ),
        (
            THIRD,
            "twilio",
            Decision(
                action="forward",
                reason="no agent of this number takes calls now: to its fallback",
                table_version=7,
                fallback=OTHER,
            ),
        ),
        (
            "+14155550102",
            "twilio",
            Decision(
                action="reject",
                reason="no agent of this number takes calls now, and it has no fallback",
                table_version=7,
            ),
        ),
        (
            NUMBER,
            "telnyx",
            Decision(
                action="dispatch",
                reason=(
                    "number is mapped to agent anna (mapped at twilio, but the call came from "
                    "telnyx)"
                ),
                table_version=7,
                agent="anna",
                livekit_agent_name="lk-anna",
                metadata={"a": 1},
                fallback=OTHER,
            ),
        ),
        (
            "+14155550103",
            "twilio",
            Decision(action="reject", reason="number is not mapped", table_version=7),
        ),
        (
            "",
            "twilio",
            Decision(action="reject", reason="twilio named no number", table_version=7),
        ),
    ],
)
def test_the_whole_decision(number: str, provider: str, decision: Decision) -> None:
    assert decide_call(number, provider, TABLE) == decision


@pytest.mark.parametrize(
    ("stage", "number", "decision"),
    [
        (
            "agent",
            NUMBER,
            Decision(
                action="forward",
                reason="the agent's dial was not answered: to the fallback",
                table_version=7,
                fallback=OTHER,
            ),
        ),
        (
            "agent",
            "+14155550102",
            Decision(
                action="reject",
                reason="the agent's dial was not answered, and there is nothing after it",
                table_version=7,
            ),
        ),
        (
            "fallback",
            NUMBER,
            Decision(
                action="reject",
                reason="the fallback's dial was not answered, and there is nothing after it",
                table_version=7,
            ),
        ),
    ],
)
def test_the_whole_decision_after_a_dial(stage: Stage, number: str, decision: Decision) -> None:
    event = incoming(OTHER, number, direction="inbound", disposition="no_answer")
    data = msgspec.structs.replace(event.data, stage=stage)
    assert decide(msgspec.structs.replace(event, data=data), TABLE).data.decision == decision


def test_an_empty_table_knows_nothing() -> None:
    decision = Decision(action="reject", reason="number is not mapped", table_version=0)
    assert decide_call(NUMBER, "twilio", RouteTable()) == decision


def test_a_fingerprint_fits_a_signed_column_and_uses_it() -> None:
    marks = [mark(NUMBER, Version(1, rev)) for rev in range(1, 100)]
    assert all(0 < one < 1 << 63 for one in marks)
    assert any(one >= 1 << 62 for one in marks)


def test_explain_says_what_was_ruled_out() -> None:
    table = RouteTable()
    table.put(route(3, fallback="+14155550199"))
    told = explain(NUMBER, "twilio", table)
    assert (told.decision.action, told.decision.agent) == ("dispatch", "anna")
    assert told.ruled_out == (("the fallback number", "it is dialled only when no agent answers"),)
    assert told.route is not None
    assert told.route.rev == 3
    unmapped = explain("+14155550101", "twilio", table)
    assert unmapped.ruled_out == (("the route table", "it has no route for this number"),)
    assert unmapped.route is None


def test_explain_names_every_agent_that_a_call_does_not_get() -> None:
    targets = tuple(Target(agent=name, livekit_agent_name=name) for name in ("a", "b", "c"))
    table = RouteTable()
    table.put(Route(number=NUMBER, provider="twilio", rev=1, targets=targets))
    behind = "it is behind the first target in the route's order"
    told = explain(NUMBER, "twilio", table)
    assert told.ruled_out == (("agent b", behind), ("agent c", behind))
    elsewhere = explain(NUMBER, "telnyx", table)
    assert elsewhere.ruled_out == told.ruled_out


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


@pytest.mark.parametrize(
    ("fallback", "action", "why"),
    [(OTHER, "forward", "could not reach LiveKit"), ("", "dispatch", "mapped to agent anna")],
)
def test_where_livekit_could_not_be_reached_a_person_comes_first(
    fallback: str, action: str, why: str
) -> None:
    table = RouteTable()
    table.put(route(7, fallback=fallback))
    event = incoming(OTHER, NUMBER, direction="inbound", disposition="failed")
    decision = decide(event, table).data.decision
    assert decision is not None
    assert (decision.action, decision.fallback) == (action, fallback)
    assert why in decision.reason
    assert decision.table_version == 7


STALLED = "the database gives no answer"


def test_while_nobody_dispatches_a_caller_goes_to_the_fallback_at_once() -> None:
    table = RouteTable()
    table.put(route(1, fallback="+14155550199"))
    call = incoming("+12125550123", NUMBER, direction="inbound")
    decided = decide(call, table, stalled=STALLED).data.decision
    assert decided is not None
    assert (decided.action, decided.fallback, decided.agent) == ("forward", "+14155550199", "")
    assert "nobody dispatches at the moment: the database gives no answer" in decided.reason
    assert decide(call, table) == decide(call, table, stalled="")


def test_without_a_fallback_an_agent_is_tried_although_nobody_dispatches() -> None:
    table = RouteTable()
    table.put(route(1))
    call = incoming("+12125550123", NUMBER, direction="inbound")
    assert decide(call, table, stalled=STALLED) == decide(call, table)


ACME, RIVAL = "ac3e0000-0000-4000-8000-000000000001", "ac3e0000-0000-4000-8000-000000000002"
OWN = "c0ffee00-0000-4000-8000-000000000001"


def tenants() -> RouteTable:
    """NUMBER is acme's at a connection of its own, THIRD is rival's at the operator's."""
    table = RouteTable()
    target = Target(agent="anna", livekit_agent_name="lk-anna", agent_id="a1")
    table.put(
        Route(
            number=NUMBER,
            provider="twilio",
            rev=1,
            targets=(target,),
            fallback=OTHER,
            account_id=ACME,
            connection_id=OWN,
        )
    )
    table.put(route(2, number=THIRD, fallback=OTHER, account_id=RIVAL))
    return table


def proven_by(event: Event, account_id: str, connection_id: str, **more: Any) -> Event:
    data = msgspec.structs.replace(
        event.data, account_id=account_id, connection_id=connection_id, **more
    )
    return msgspec.structs.replace(event, data=data)


def test_a_decided_call_says_whose_it_is_and_which_agents() -> None:
    data = decide(incoming(OTHER, NUMBER, direction="inbound"), tenants()).data
    assert data.decision is not None
    assert (data.account_id, data.connection_id) == (ACME, OWN)
    assert data.agent_id == data.decision.agent_id == "a1"
    data = decide(incoming(OTHER, THIRD, direction="inbound"), tenants()).data
    assert (data.account_id, data.connection_id) == (RIVAL, "")
    table = RouteTable()
    table.put(route(1))  # of account default, whose id is left out of JSON
    assert decide(incoming(OTHER, NUMBER, direction="inbound"), table).data.account_id == (
        DEFAULT_ACCOUNT
    )


def test_a_key_of_one_account_lets_in_no_call_to_another_ones_number() -> None:
    for direction in ("inbound", None):
        call = incoming(OTHER, THIRD, direction=direction)
        theirs = proven_by(call, ACME, OWN)
        data = decide(theirs, tenants()).data
        assert data.decision is not None
        assert data.decision.action == "reject"
        assert not data.decision.fallback
        assert (data.account_id, data.connection_id, data.agent_id) == (ACME, OWN, "")
    mine = decide(proven_by(incoming(OTHER, NUMBER, direction="inbound"), ACME, OWN), tenants())
    assert mine.data.decision is not None
    assert mine.data.decision.action == "dispatch"


def test_nor_does_it_learn_the_other_ones_fallback_after_a_dial() -> None:
    call = incoming(OTHER, THIRD, direction="inbound", disposition="no_answer")
    data = decide(proven_by(call, ACME, OWN, stage="agent"), tenants()).data
    assert data.decision is not None
    assert (data.decision.action, data.decision.fallback) == ("reject", "")
    operators = msgspec.structs.replace(call.data, stage="agent")
    data = decide(msgspec.structs.replace(call, data=operators), tenants()).data
    assert data.decision is not None
    assert (data.decision.fallback, data.account_id) == (OTHER, RIVAL)


@pytest.mark.parametrize(
    ("wanted", "goes_to"), [(THIRD, "+12125550199"), ("+14155550103", "+14155550103")]
)
def test_an_agent_transfers_to_the_numbers_of_its_own_account(wanted: str, goes_to: str) -> None:
    table = tenants()
    spare = "+12125550199"
    table.put(route(3, number="+14155550102", fallback=spare, account_id=ACME))
    table.put(route(4, number="+14155550103", account_id=ACME))
    call = incoming(OTHER, "+14155550102", direction="inbound")
    data = msgspec.structs.replace(call.data, number=wanted, stage="agent")
    event = msgspec.structs.replace(call, type=EventType.TRANSFER_STARTED, data=data)
    decision = decide(event, table).data.decision
    assert decision is not None
    assert (decision.action, decision.fallback) == ("forward", goes_to)


def test_that_a_mapping_is_behind_is_told_to_whom_it_belongs() -> None:
    call = msgspec.structs.replace(incoming(OTHER, NUMBER, direction="inbound"), source="telnyx")
    told = mapping_behind(decide(call, tenants()), tenants())
    assert told is not None
    assert told.data.account_id == ACME
    strangers = decide(proven_by(call, RIVAL, OWN), tenants())
    assert mapping_behind(strangers, tenants()) is None


def test_a_route_from_before_accounts_is_the_default_accounts() -> None:
    old = (
        b'{"number":"+14155550100","provider":"twilio","rev":3,'
        b'"targets":[{"agent":"anna","livekit_agent_name":"lk"}]}'
    )
    read = msgspec.json.decode(old, type=Route)
    assert (read.account_id, read.connection_id) == (DEFAULT_ACCOUNT, "")
    assert read.targets[0].agent_id == ""
    table = RouteTable()
    table.put(read)
    assert msgspec.json.encode(table.get(NUMBER)) == old
    now = route_of(
        NumberSpec(number=NUMBER, provider="twilio"),
        None,
        Version(1, 3),
        account_id=str(bytes(DEFAULT_ACCOUNT, "ascii"), "ascii"),  # another object, as a row has it
    )
    assert b"account_id" not in msgspec.json.encode(now)
