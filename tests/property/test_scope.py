"""What a tenant's key has signed never meets what another's has, nor the operator's."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from router.events.ids import call_id, event_id
from router.events.model import Event, EventData
from router.events.types import EventType
from router.routing.scope import OPERATOR, Proof, is_foreign, scoped
from router.routing.table import Route, RouteTable

NUMBERS = ("", "+14155550100", "+14155550101")
SCOPES = ("c1", "c2", "c3")
texts = st.sampled_from(("", "a", "b", call_id("twilio", "AC", "CA1"), event_id("x")))


@st.composite
def events(draw: st.DrawFn) -> Event:
    call = draw(texts)
    number = draw(st.sampled_from(NUMBERS))
    return Event(
        id=event_id(draw(texts)),
        type=draw(st.sampled_from(list(EventType))),
        source="twilio",
        time=1,
        key=draw(st.sampled_from([call, number, "a", "b"])),
        data=EventData(
            call_id=call,
            number=number,
            to_number=draw(st.sampled_from(NUMBERS)),
            stage=draw(st.sampled_from(("", "route", "agent", "fallback"))),
        ),
    )


def proofs() -> st.SearchStrategy[Proof]:
    return st.sets(st.sampled_from(SCOPES), min_size=1).map(
        lambda ids: Proof(frozenset(ids), min(ids), f"account of {min(ids)}")
    )


def routes(owners: dict[str, str]) -> RouteTable:
    table = RouteTable()
    for number, owner in owners.items():
        table.put(Route(number=number, provider="twilio", rev=1, connection_id=owner))
    return table


mapped = st.dictionaries(st.sampled_from(NUMBERS[1:]), st.sampled_from(("", *SCOPES))).map(routes)


@given(one=events(), two=events(), first=proofs(), second=proofs(), table=mapped)
def test_ids_meet_only_under_one_key(
    one: Event, two: Event, first: Proof, second: Proof, table: RouteTable
) -> None:
    mine, theirs = scoped(one, first, table), scoped(two, second, table)
    same = first.scope == second.scope
    assert (mine.id == theirs.id) == (same and one.id == two.id)
    if one.call_id and two.call_id:
        assert (mine.call_id == theirs.call_id) == (same and one.call_id == two.call_id)
    for plain in (one, two):
        assert mine.id != plain.id
        assert not mine.call_id or mine.call_id != plain.call_id
    assert bool(mine.call_id) == bool(one.call_id)
    if one.call_id and one.key == one.call_id:
        assert mine.key == mine.call_id
    elif mine.key != one.data.number:
        assert mine.key not in (one.key, two.key, theirs.call_id)


@given(event=events(), proof=proofs(), table=mapped)
def test_a_number_of_somebody_else_is_never_spoken_about(
    event: Event, proof: Proof, table: RouteTable
) -> None:
    if is_foreign(event, proof, table):
        return
    found: Any = scoped(event, proof, table)
    assert found.data.connection_id in proof.connections
    if event.data.stage and event.data.to_number and event.data.number == "":
        route = table.get(event.data.to_number)
        assert route is None or route.connection_id == found.data.connection_id


@given(event=events(), table=mapped)
def test_what_the_operators_key_signs_is_as_it_is(event: Event, table: RouteTable) -> None:
    assert scoped(event, OPERATOR, table) == event
    if not event.data.stage:
        assert not is_foreign(event, OPERATOR, table)
