"""The difference of two mappings, without a database."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import ConfigError
from router.events.codec import decode
from router.events.types import EventType
from router.routing.spec import AgentSpec, AgentStatus, MappingSpec, NumberSpec, route_of
from router.routing.table import NEVER, Version
from router.storage.changes import State, agent_changes, route_changes, wanted
from router.storage.records import number_event, route_record

NUMBERS = [f"+1415555010{n}" for n in range(4)]
AGENTS = ["anna", "bob", "cleo"]
STATUSES: list[AgentStatus] = ["deployed", "paused", "disabled"]


@st.composite
def mappings(draw: st.DrawFn) -> MappingSpec:
    names = draw(st.lists(st.sampled_from(AGENTS), unique=True))
    listed = draw(st.lists(st.sampled_from(NUMBERS), unique=True))
    return MappingSpec(
        agents=tuple(
            AgentSpec(name=name, livekit_agent_name=name, status=draw(st.sampled_from(STATUSES)))
            for name in names
        ),
        numbers=tuple(
            NumberSpec(
                number=number,
                provider="twilio",
                agent=draw(st.sampled_from([None, *names])),
                fallback=draw(st.sampled_from(["", "+14155550199"])),
            )
            for number in listed
        ),
    )


def state(spec: MappingSpec) -> State:
    return State(
        agents={agent.name: agent for agent in spec.agents},
        numbers={number.number: number for number in spec.numbers},
        versions={number.number: Version(1, 1) for number in spec.numbers},
    )


@given(mappings(), mappings())
def test_pruning_makes_it_what_is_wanted(before: MappingSpec, desired: MappingSpec) -> None:
    after = wanted(state(before), desired, prune=True)
    assert after.agents == state(desired).agents
    assert after.numbers == state(desired).numbers


@given(mappings())
def test_the_same_is_no_change(spec: MappingSpec) -> None:
    before = state(spec)
    after = wanted(before, spec, prune=False)
    assert list(agent_changes(before, after)) == []
    assert list(route_changes(before, after, Version(1, 2))) == []


@given(mappings(), mappings())
def test_a_number_is_told_exactly_when_its_route_changed(
    before: MappingSpec, desired: MappingSpec
) -> None:
    old = state(before)
    new = wanted(old, desired, prune=True)
    told = {change.number: change for change in route_changes(old, new, Version(1, 2))}
    for number in NUMBERS:
        was = old.numbers.get(number)
        now = new.numbers.get(number)
        targets_were = was and route_of(was, old.agents.get(was.agent or ""), NEVER).targets
        targets_are = now and route_of(now, new.agents.get(now.agent or ""), NEVER).targets
        assert (number in told) == (was != now or targets_were != targets_are)
        if number in told:
            after = told[number].after
            assert (after is None) == (now is None)
            assert after is None or after.rev == 2


def test_a_number_of_an_unknown_agent_is_refused_without_its_digits() -> None:
    spec = MappingSpec(numbers=(NumberSpec(number=NUMBERS[0], provider="twilio", agent="anne"),))
    with pytest.raises(ConfigError, match="anne") as caught:
        wanted(State({}, {}), spec, prune=False)
    assert NUMBERS[0] not in str(caught.value)


def test_removed_numbers_are_gone() -> None:
    spec = MappingSpec(numbers=(NumberSpec(number=NUMBERS[0], provider="twilio"),))
    after = wanted(state(spec), MappingSpec(), prune=False, removed=[NUMBERS[0], NUMBERS[1]])
    assert after.numbers == {}


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ({"number": "4155550100", "provider": "twilio"}, "not E.164"),
        ({"number": NUMBERS[0], "provider": "twilio", "fallback": "me"}, "fallback"),
        ({"number": NUMBERS[0], "provider": "twilio", "fallback": NUMBERS[0]}, "loop"),
    ],
)
def test_a_wrong_number_is_refused_without_its_digits(what: dict[str, str], match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        NumberSpec(**what)
    assert what["number"] not in str(caught.value)


def test_what_is_listed_twice_is_refused() -> None:
    number = NumberSpec(number=NUMBERS[0], provider="twilio")
    agent = AgentSpec(name="anna", livekit_agent_name="anna")
    with pytest.raises(ValueError, match="number is listed twice"):
        MappingSpec(numbers=(number, number))
    with pytest.raises(ValueError, match="agent is listed twice"):
        MappingSpec(agents=(agent, agent))


@pytest.mark.parametrize("field", ["name", "livekit_agent_name"])
def test_an_agent_without_a_name_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        AgentSpec(**{"name": "anna", "livekit_agent_name": "anna"} | {field: " "})  # type: ignore[arg-type]


def test_records_of_one_change_have_ids_of_their_own_and_the_same_ones_again() -> None:
    agent = AgentSpec(name="anna", livekit_agent_name="lk")
    number = NumberSpec(number=NUMBERS[0], provider="twilio", agent="anna")
    route = route_of(number, agent, Version(1, 7))
    headers, value = route_record(NUMBERS[0], route, version=Version(1, 7), time=5)
    again, _ = route_record(NUMBERS[0], route, version=Version(1, 7), time=5)
    republished, _ = route_record(NUMBERS[0], route, version=Version(1, 7), time=6)
    event = number_event(NUMBERS[0], route, version=Version(1, 7), time=5)
    assert headers == again
    assert len({headers["ce_id"], republished["ce_id"], event.id}) == 3
    assert headers["rev"] == "7"
    assert value is not None
    assert event.type is EventType.NUMBER_MAPPED


def test_a_tombstone_has_no_value_and_still_its_rev() -> None:
    headers, value = route_record(NUMBERS[0], None, version=Version(1, 8), time=5)
    assert value is None
    assert headers["rev"] == "8"
    assert decode(NUMBERS[0], headers, value).type is EventType.NUMBER_UNMAPPED
