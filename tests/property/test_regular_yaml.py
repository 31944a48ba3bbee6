"""The list that is read without the parser says what the parser says of it, however it is cut."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from router.numbers import regular_yaml, strict_yaml

FIELDS = ("number", "provider", "agent", "fallback")
HEAD = "agents:\n  - name: anna\n    metadata: {a: [1, b]}\n"

words = st.sampled_from(
    [
        "anna",
        "no",
        "~",
        "0155",
        "12:30",
        "+14155550100",
        "a b",
        "1.5",
        "a#b",
        "é",
        "-a",
        "null",
        "=",
    ]
)
quoted = st.sampled_from(
    [
        '"+14155550100"',
        "'+14155550101'",
        '""',
        "'it''s'",
        r'"\u0041"',
        '"a: {b}, #c"',
        "' a '",
        '"é"',
    ]
)
values = st.one_of(words, quoted)
pairs = st.tuples(st.sampled_from((*FIELDS, "numbers", "no")), values).map(": ".join)
indents = st.sampled_from(["", "  ", "    "])


@st.composite
def entries(draw: st.DrawFn) -> str:
    some = draw(st.lists(pairs, min_size=1, max_size=5))
    indent = draw(indents)
    if draw(st.booleans()):
        return f"{indent}- {{{', '.join(some)}}}\n"
    return (
        f"{indent}- "
        + f"\n{indent}  ".join(some)
        + draw(st.sampled_from(["\n", "", "\n\n", " \n"]))
    )


@st.composite
def regular(draw: st.DrawFn) -> str:
    """Entries as a program writes them: all in one way."""
    indent, flow, mark = draw(indents), draw(st.booleans()), draw(st.sampled_from("\"'"))
    between, ends = (", ", ("{", "}")) if flow else (f"\n{indent}  ", ("", ""))
    text = ""
    for index in range(draw(st.integers(1, 4))):
        some = [f"number: {mark}+1415555010{index}{mark}", "provider: twilio", "agent: null"]
        taken = draw(st.permutations(some[: draw(st.integers(1, 3))]))
        text += f"{indent}- {ends[0]}{between.join(taken)}{ends[1]}\n"
    return text


heads = st.sampled_from(
    [
        "",
        HEAD,
        "\n# a\n",
        "---\n",
        "agents: |\n",
        'agents: "',
        "agents: [\n",
        "numbers: 1\n",
        " a: 1\n",
        "agents: >\n  x\n",
        "? a\n",
        "{a: 1}\n",
        "a\n",
        "...\n",
        "%YAML 1.1\n",
        "agents: 'x\n",
        "- a\n",
    ]
)
tails = st.sampled_from(
    [
        "",
        HEAD,
        "# a\n",
        "...\n",
        "---\na: 1\n",
        '"\n',
        "]\n",
        "numbers:\n",
        "\n\n",
        "a\n",
        "'\n",
        "\t\n",
    ]
)


def same(text: str) -> None:
    assert regular_yaml.load(text, "numbers", FIELDS) == strict_yaml.load(text)


@given(heads, st.lists(entries(), max_size=4).map("".join), tails)
@example("", '- number: "1"\n- {number: "2"}\n', "")
def test_any_text_means_what_the_parser_says(head: str, middle: str, tail: str) -> None:
    same(f"{head}numbers:\n{middle}{tail}")


@given(heads, regular(), tails)
def test_a_regular_list_means_what_the_parser_says(head: str, middle: str, tail: str) -> None:
    same(f"{head}numbers:\n{middle}{tail}")


@given(regular(), st.data())
def test_so_it_does_with_a_piece_cut_out(middle: str, data: st.DataObject) -> None:
    text = f"{HEAD}numbers:\n{middle}"
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    same(text[:start] + text[end:])


@given(st.sampled_from(["", HEAD]), regular(), st.sampled_from(["", HEAD.replace("ag", "Ag")]))
def test_a_regular_list_needs_no_parser(head: str, middle: str, tail: str) -> None:
    document = regular_yaml.by_form(f"{head}numbers:\n{middle}{tail}", "numbers", FIELDS)
    assert document is not None
    assert [each["number"][:4] for each in document.data["numbers"] if "number" in each]


@pytest.mark.parametrize("size", [100_000])
def test_no_text_takes_long(size: int) -> None:
    for text in (" " * size, "- " * size, "- number: " * size, "  - number: a\n" + " " * size):
        assert regular_yaml.by_form(f"numbers:\n{text}", "numbers", FIELDS) is None
