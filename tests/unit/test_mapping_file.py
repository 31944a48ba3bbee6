"""The mapping file: what it takes, and errors that name line and field."""

from pathlib import Path

import pytest

from router.errors import ConfigError
from router.numbers.file import read_mapping
from router.routing.spec import AgentSpec, MappingSpec, NumberSpec


def read(tmp_path: Path, text: str) -> MappingSpec:
    file = tmp_path / "m.yaml"
    file.write_text(text)
    return read_mapping(file)


def test_the_readmes_file(tmp_path: Path) -> None:
    mapping = read(
        tmp_path,
        """
agents:
  - name: anna
    livekit_agent_name: anna-prod
    metadata: {greeting: Hello}
  - name: bob
numbers:
  - number: "+1 415 555 0100"
    provider: twilio
    agent: anna
    fallback: "+14155550199"
""",
    )
    assert mapping == MappingSpec(
        agents=(
            AgentSpec(name="anna", livekit_agent_name="anna-prod", metadata={"greeting": "Hello"}),
            AgentSpec(name="bob", livekit_agent_name="bob"),
        ),
        numbers=(
            NumberSpec(
                number="+14155550100", provider="twilio", agent="anna", fallback="+14155550199"
            ),
        ),
    )


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        ("agents:\n  - nam: x\n", ":2: agents[0].name", "required"),
        ("agents:\n  - name: x\n    colour: red\n", ":3: agents[0].colour", "no such field"),
        ("agents:\n  - name: x\n    status: odd\n", ":3: agents[0].status", "deployed"),
        ("agents:\n  - name: x\n  - name: x\n", ":3: agents[1].name", "twice"),
        ("numbers:\n  - number: 14155550100\n    provider: twilio\n", ":2:", "quotes"),
        ('numbers:\n  - number: "0155"\n    provider: twilio\n', ":2:", "country code"),
        ('numbers:\n  - number: "+14155550100"\n    provider: twilo\n', ":3:", "twilio"),
        (
            'numbers:\n  - number: "+14155550100"\n    provider: twilio\n'
            '    fallback: "+14155550100"\n',
            ":4: numbers[0].fallback",
            "itself",
        ),
        ("agents: {", "not YAML", ""),
        ("", "empty", ""),
        ("- a\n", ":1: file", ""),
        ("agents:\n  - !!python/object:os.system {}\n", "not YAML", ""),
        ("agents: &a [*a]\n", "", ""),
        ("agents: [{name: x, metadata: {since: 2026-16-28}}]", "date or number", "quotes"),
        ("agents: [{name: x, metadata: {id: " + "9" * 5000 + "}}]", "date or number", "quotes"),
        ('agents: [{name: x, metadata: {id: !!int ""}}]', "date or number", "quotes"),
        ("agents: [{name: x, metadata: {at: !!timestamp x}}]", "date or number", "quotes"),
    ],
)
def test_mistakes_name_line_and_field(tmp_path: Path, text: str, where: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert where in str(caught.value)
    assert why in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        read_mapping(tmp_path / "no.yaml")
