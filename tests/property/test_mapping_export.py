"""What is exported is read back as the very same mapping, whatever is in it."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from router.numbers.export import written_agents, written_numbers
from router.numbers.file import read_mapping
from router.routing.spec import AgentSpec, MappingSpec, NumberSpec

# Text as a prompt may have it: everything but controls other than tab and line breaks.
_CONTROLS = [chr(c) for c in (*range(32), 127) if chr(c) not in "\t\n\r"]
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=_CONTROLS), max_size=40)
odd = st.sampled_from(
    [
        "no",
        "~",
        "0155",
        "2026-03-01",
        "1e3",
        "12:30",
        "<<",
        "=",
        "\u0085",
        "\u2028",
        "\ufeffa",
        "'\"\\",
    ]
)
keys = texts | odd
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | odd
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)
)
names = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=20) | (
    st.sampled_from(["no", "null", "5", "0x1f", "2026-03-01", "anna: #1", "- a", "{a}", "'"])
)


@st.composite
def mappings(draw: st.DrawFn) -> MappingSpec:
    agents = tuple(
        AgentSpec(
            name=name,
            livekit_agent_name=draw(names),
            metadata=draw(st.dictionaries(keys, values, max_size=3)),
            status=draw(st.sampled_from(["deployed", "paused", "disabled"])),
        )
        for name in draw(st.lists(names, unique=True, max_size=3))
    )
    ends = draw(st.lists(st.integers(0, 999), unique=True, max_size=4))
    numbers = tuple(
        NumberSpec(
            number=f"+14155550{end:03}",
            provider=draw(st.sampled_from(["twilio", "telnyx", "vocode"])),
            agent=draw(st.none() | st.sampled_from([a.name for a in agents])) if agents else None,
            fallback=draw(st.sampled_from(["", "+442079460018"])),
        )
        for end in sorted(ends)
    )
    return MappingSpec(agents=agents, numbers=numbers)


@given(mappings())
def test_a_round_trip_changes_nothing(mapping: MappingSpec) -> None:
    numbers = f"numbers:\n{written_numbers(mapping.numbers)}" if mapping.numbers else "numbers: []"
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".yaml", newline="") as file:
        file.write("".join(written_agents(mapping.agents)) + numbers)
        file.flush()
        assert read_mapping(Path(file.name)) == mapping
