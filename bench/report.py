"""`RESULTS.md`: one part per benchmark, each replaced when that benchmark is run again."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import machine

RESULTS = Path(__file__).with_name("RESULTS.md")

_INTRODUCTION = """# Results

Ratios of Switchboard against bare programs, each pair measured in one run on one machine, taking
turns; figures are `median (least–greatest)` of the rounds. The figures themselves say more about
the machine than about the program: compare ratios. `make bench` writes this file.
"""
_PART = re.compile(r"<!-- (\w+) -->\n.*?<!-- end -->\n", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Part:
    """What one benchmark found. `name` orders the parts; `lines` are Markdown."""

    name: str
    title: str
    lines: Sequence[str]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, the first column to the left, figures to the right."""
    return [
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def verdict(aim: str, *, met: bool, found: str) -> str:
    """One line: the aim, and whether it was met."""
    return f"**Aim: {aim}. {'Met' if met else 'Not met'}**: {found}.\n"


def write(part: Part, command: str, *, order: Sequence[str]) -> None:
    """Put `part` into the file, in place of its older self."""
    moment = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = "\n".join(
        [
            f"<!-- {part.name} -->",
            f"## {part.title}",
            "",
            f"`{command}`, {moment}, load average at its end {machine.load_average():.1f}:",
            *machine.facts(),
            "",
            *part.lines,
            "<!-- end -->\n",
        ]
    )
    old = RESULTS.read_text() if RESULTS.exists() else ""
    parts = {found[1]: found[0] for found in _PART.finditer(old)} | {part.name: text}
    RESULTS.write_text(
        "\n".join([_INTRODUCTION, *(parts[name] for name in order if name in parts)])
    )
