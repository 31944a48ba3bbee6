"""The mapping file: what it takes, and mistakes that name line, column, field and value."""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from consumers.dispatch.job import job_metadata
from router.errors import ConfigError
from router.events.model import Decision, Event, EventData
from router.events.types import EventType
from router.numbers.file import Existing, MappingFile, read_mapping
from router.routing.spec import (
    FACTS_LIMIT,
    JOB_LIMIT,
    METADATA_LIMIT,
    AgentSpec,
    MappingSpec,
    NumberSpec,
    fallback_loops,
    metadata_size,
)
from router.storage.claims import Claim

A, B, C, D = (f"+1415555010{digit}" for digit in range(4))


def read(tmp_path: Path, text: str, existing: Existing | None = None) -> MappingSpec:
    file = tmp_path / "m.yaml"
    file.write_text(text)
    return MappingFile(file).spec(existing)


def mistakes(tmp_path: Path, text: str, existing: Existing | None = None) -> list[str]:
    """Each without the file's name: `LINE:COLUMN: FIELD: …`."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, existing)
    return [line.removeprefix(f"{tmp_path}/m.yaml:") for line in str(caught.value).splitlines()]


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


def test_all_mistakes_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        f"""\
agents:
  - {{name: anna, colour: red}}
  - name: anna
  - {{name: bob, status: deploy, metadata: {{since: 2026-03-01, vip: yes, a: 1, a: 2}}}}
numbers:
  - {{number: "{A}", provider: twilio, agent: ana}}
  - {{number: 14155550101, provider: twilo}}
  - {{number: "+1 (415) 555-0100", provider: telnyx}}
numbers:
  - {{number: "{B}", provider: telnyx, fallback: "{B}"}}
  - {{provider: telnyx, agnt: bob}}
""",
        Existing(),
    )
    assert [line.split(": ")[:2] for line in found] == [
        ["2:18", "agents[0].colour"],
        ["3:11", "agents[1].name"],
        ["4:25", "agents[2].status"],
        ["4:51", "agents[2].metadata.since"],
        ["4:68", "agents[2].metadata.vip"],
        ["4:79", "agents[2].metadata.a"],
        ["6:55", "numbers[0].agent"],
        ["7:14", "numbers[1].number"],
        ["7:37", "numbers[1].provider"],
        ["8:14", "numbers[2].number"],
        ["9:1", "numbers"],
        ["10:58", "numbers[3].fallback"],
        ["11:5", "numbers[4].number"],
        ["11:24", "numbers[4].agnt"],
    ]
    text = "\n".join(found)
    assert "listed twice, first on line 2 (value anna)" in text
    assert "did you mean deployed? (value deploy)" in text
    assert "is a date to YAML: put it in quotes (value 2026-03-01)" in text
    assert "metadata.a: is there twice, first on line 4" in text
    assert "there is no such agent: did you mean anna? (value ana)" in text
    assert f'write it in quotes: "{B}" (value 14155550101)' in text
    assert "did you mean twilio? (value twilo)" in text
    assert 'listed twice, first on line 6 (value "+1 (415) 555-0100")' in text
    assert "numbers: is there twice, first on line 5" in text
    assert f'is the number itself (value "{B}")' in text
    assert "did you mean agent?" in text
    assert "_Agent" not in text


def test_what_is_named_in_a_doubled_section_is_known(tmp_path: Path) -> None:
    text = f'agents: [{{name: a}}]\nnumbers: [{{number: "{A}", provider: twilio, agent: b}}]\n'
    assert mistakes(tmp_path, text + "agents: [{name: b}]\n", Existing()) == [
        "3:1: agents: is there twice, first on line 1: keep one of them"
    ]


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        ("agents:\n  - nam: x\n", "2:5: agents[0].name", "required"),
        ("agents:\n  - nam: x\n", "2:5: agents[0].nam", "did you mean name?"),
        ("agents: {a: b}\n", "1:9: agents", "must be a list"),
        ("agents: [5]\n", "1:10: agents[0]", "must be fields"),
        ("agents:\n", "1:8: agents", "nothing below it"),
        ("numbers: null\n", "1:10: numbers", "nothing below it (…)"),
        ('agents: [{name: ""}]\n', "1:17: agents[0].name", "is empty"),
        ('agents: [{name: "  "}]\n', "1:17: agents[0].name", "is empty"),
        ('agents: [{name: "anna "}]\n', "1:17: agents[0].name", "space"),
        ('agents: [{name: "an\\u200bna"}]\n', "1:17: agents[0].name", "can't be seen"),
        ('agents: [{name: "an\\0na"}]\n', "1:17: agents[0].name", r"an\u0000na"),
        ("agents: [{name: 5}]\n", "1:17: agents[0].name", "not a number"),
        ("agents: [{name: no}]\n", "1:17: agents[0].name", "true or false"),
        ("agents: [{name: null}]\n", "1:17: agents[0].name", "not nothing"),
        (f"agents: [{{name: {'x' * 257}}}]\n", "1:17: agents[0].name", "longer than 256"),
        ("agents: [{name: x, metadata: hello}]\n", "1:30: agents[0].metadata", "not text"),
        ("agents: [{name: x, metadata: {d: .nan}}]\n", "1:34: agents[0].metadata.d", "no number"),
        ("agents: [{name: x, metadata: {d: -.inf}}]\n", "1:34: agents[0].metadata.d", "no number"),
        ("agents: [{name: x, metadata: {d: NaN}}]\n", "1:34: agents[0].metadata.d", "no number"),
        (
            '{"agents": [{"name": "x", "metadata": {"d": -Infinity}}]}\n',
            "1:45: agents[0].metadata.d",
            "no number",
        ),
        ("agents: [{name: x, metadata: {d: 1e999}}]\n", "1:34: agents[0].metadata.d", "too large"),
        ("agents: [{name: x, metadata: {d: 12:30}}]\n", "1:34: agents[0].metadata.d", "change it"),
        ("agents: [{name: x, metadata: {d: 0155}}]\n", "1:34: agents[0].metadata.d", "change it"),
        ("agents: [{name: x, metadata: {d: 0899}}]\n", "1:34: agents[0].metadata.d", "change it"),
        ("agents: [{name: x, metadata: {d: 0x1F}}]\n", "1:34: agents[0].metadata.d", "change it"),
        ("agents: [{name: x, metadata: {d: 1_000}}]\n", "1:34: agents[0].metadata.d", "change it"),
        (f"agents: [{{name: x, metadata: {{d: {A}}}}}]\n", "1:34: agents[0].metadata.d", "quotes"),
        (
            "agents: [{name: x, metadata: {d: 2026-16-28}}]\n",
            "1:34: agents[0].metadata.d",
            "is a date to YAML",
        ),
        (
            "agents: [{name: x, metadata: {d: 9007199254740993}}]\n",
            "1:34: agents[0].metadata.d",
            "2^53",
        ),
        (
            "agents: [{name: x, metadata: {d: " + "9" * 5000 + "}}]\n",
            "1:34: agents[0].metadata.d",
            "2^53",
        ),
        ("agents: [{name: x, metadata: {1: a}}]\n", "1:31: agents[0].metadata", "key must be text"),
        ("agents: [{name: x, metadata: {on: a}}]\n", "1:31: agents[0].metadata", "true or false"),
        ("agents: [{name: x, metadata: {[a]: a}}]\n", "1:30: agents[0].metadata", "must be text"),
        (
            "agents: [{name: x, metadata: {d: !!binary aGk=}}]\n",
            "1:34: agents[0].metadata.d",
            "a tag (!!binary)",
        ),
        ("agents:\n  - !!python/object:os.system {}\n", "2:5: agents[0]", "a tag (!!python/"),
        ('agents: [{name: x, metadata: {d: !!int ""}}]\n', "1:34: agents[0].metadata.d", "!!int"),
        ("agents: &a [*a]\n", "1:9: agents", "an anchor (&a)"),
        ("agents: &a [*a]\n", "1:13: agents[0]", "an alias (*a)"),
        ("agents: [{<<: {name: x}}]\n", "1:11: agents[0]", "merge key"),
        ('numbers: [{number: "0155", provider: twilio}]\n', "1:20: numbers[0].number", "country"),
        ("numbers: [{number: [1], provider: twilio}]\n", "1:20: numbers[0].number", "not a list"),
        ('numbers: [{number: "", provider: twilio}]\n', "1:20: numbers[0].number", "is empty"),
        ("- a\n", "1:1: file", "must be fields (agents, numbers), not a list"),
        ("text\n", "1:1: file", "not text"),
        ("", "1:1: file", "is empty"),
        ("# only a comment\n", "1:1: file", "is empty"),
        ("agents: {", "2:1: agents", "is not YAML"),
        ("agents:\n\t- name: x\n", "2:1: agents", "not with a tab"),
        ('agents: ["\x01"]\n', "1:11: file", "U+0001"),
        ("agents: []\n---\nagents: []\n", "2:1: file", "a second document"),
        ("agents: " + "[" * 100_000, "1:72: agents[0][0]", "deeper than 64"),
    ],
)
def test_mistakes_name_line_column_and_field(
    tmp_path: Path, text: str, where: str, why: str
) -> None:
    found = [line for line in mistakes(tmp_path, text) if line.startswith(where)]
    assert found
    assert why.removesuffix(" (…)") in found[0]


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, why in (
        (".", "is a folder"),
        ("fifo", "not a regular file"),
        ("no", "can't be read"),
    ):
        with pytest.raises(ConfigError, match=why):
            read_mapping(tmp_path / name)
    (tmp_path / "bytes").write_bytes(b"agents: []\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"bytes:2:6: file: .*is not UTF-8"):
        read_mapping(tmp_path / "bytes")
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbfagents: []\n")
    assert read_mapping(tmp_path / "marked") == MappingSpec()


def test_json_is_taken_as_it_is(tmp_path: Path) -> None:
    value = {"agents": [{"name": "anna", "metadata": {"e": "\U0001f600\\", "n": 1e21, "d": -2.5}}]}
    file = tmp_path / "m.json"
    for text in (msgspec.json.encode(value), b'{"agents": [{"name": "\\ud83d\\ude00 \\\\ud83d"}]}'):
        file.write_bytes(text)
        names = [agent.name for agent in read_mapping(file).agents]
        assert names == [agent["name"] for agent in msgspec.json.decode(text)["agents"]]
    file.write_bytes(msgspec.json.encode(value))
    assert read_mapping(file).agents[0].metadata == value["agents"][0]["metadata"]


def test_many_mistakes_are_counted(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "agents:\n" + "  - {}\n" * 250)
    assert len(found) == 201
    assert found[-1].endswith("and 50 more mistakes")


class TestLoops:
    @pytest.mark.parametrize(
        ("fallbacks", "loops"),
        [
            ({A: B, B: C}, []),
            ({A: B, B: A}, [(A, B)]),
            ({A: A, B: A}, [(A,)]),
            ({A: B, B: C, C: D, D: B}, [(B, C, D)]),
            ({A: B, B: A, C: D, D: C}, [(A, B), (C, D)]),
            ({A: "", B: ""}, []),
        ],
    )
    def test_each_is_found_once(
        self, fallbacks: Mapping[str, str], loops: list[tuple[str, ...]]
    ) -> None:
        assert list(fallback_loops(fallbacks)) == loops

    def test_a_file_names_all_its_numbers_and_lines(self, tmp_path: Path) -> None:
        text = "numbers:\n" + "".join(
            f'  - {{number: "{number}", provider: twilio, fallback: "{fallback}"}}\n'
            for number, fallback in ((A, B), (B, C), (C, A), (D, A))
        )
        assert mistakes(tmp_path, text) == [
            "2:58: numbers[0].fallback: leads back to its own number: "
            f'{A} (line 2) → {B} (line 3) → {C} (line 4) → {A} (value "{B}")'
        ]

    def test_also_through_what_is_mapped_already(self, tmp_path: Path) -> None:
        text = f'numbers: [{{number: "{A}", provider: twilio, fallback: "{B}"}}]'
        found = mistakes(tmp_path, text, Existing((), {B: C, C: A}))
        assert f"{A} (line 1) → {B} (mapped already) → {C} (mapped already) → {A}" in found[0]
        assert read(tmp_path, text, Existing((), {B: C, A: B})).numbers
        assert MappingFile(tmp_path / "m.yaml").outside() == {B}

    def test_a_spec_can_not_hold_one(self) -> None:
        numbers = tuple(
            NumberSpec(number=number, provider="twilio", fallback=fallback)
            for number, fallback in ((A, B), (B, A))
        )
        with pytest.raises(ValueError, match="loop"):
            MappingSpec(numbers=numbers)


class TestMetadata:
    def test_more_than_a_job_can_have_is_refused(self, tmp_path: Path) -> None:
        text = f"agents:\n  - name: x\n    metadata: {{t: {'y' * 70_000}}}\n"
        (found,) = mistakes(tmp_path, text)
        assert found.startswith("3:15: agents[0].metadata: metadata of 70008 bytes")
        with pytest.raises(ValueError, match="too large"):
            MappingSpec(agents=(AgentSpec(name="x", livekit_agent_name="x", metadata=_large(1)),))

    def test_the_largest_fits_into_a_job_with_the_longest_facts(self) -> None:
        metadata = _large(0)
        assert metadata_size(metadata) == METADATA_LIMIT
        MappingSpec(agents=(AgentSpec(name="x", livekit_agent_name="x", metadata=metadata),))
        job = msgspec.json.encode(_largest_job(metadata))
        assert len(job) <= JOB_LIMIT
        assert len(job) - METADATA_LIMIT <= FACTS_LIMIT


def _large(more: int) -> dict[str, str]:
    return {"t": "y" * (METADATA_LIMIT - len('{"t":""}') + more)}


def _largest_job(metadata: Mapping[str, object]) -> object:
    name = "\U0001f600" * 256  # four bytes each
    decision = Decision(
        action="dispatch", reason="", table_version=1, agent=name, metadata=metadata
    )
    initiated = Event(
        id="e",
        type=EventType.CALL_INITIATED,
        source="twilio",
        time=0,
        key="c" * 36,
        data=EventData(
            call_id="c" * 36,
            provider_call_id="p" * 256,
            from_number="f" * 256,
            to_number="t" * 256,
            channel="whatsapp",
            attestation="A",
            forwarded_from="f" * 256,
            caller_name=name * 2,
            sip_headers={f"X-{number}": '"' * 1_000 for number in range(20)},
            decision=decision,
        ),
    )
    claim = Claim(
        call_id="c" * 36,
        state="claimed",
        fence=2**53,
        owner="",
        lease_until=0,
        due_at=None,
        attempt=99,
        agent=name,
        livekit_agent_name=name,
        dispatch_id="",
        initiated=b"",
        created_at=0,
        updated_at=0,
    )
    return job_metadata(claim, initiated, 99)
