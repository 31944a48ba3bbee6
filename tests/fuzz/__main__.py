"""`python -m tests.fuzz [--runs N] [--jobs N] [TARGET …]`: so many runs, shared by the targets.

What was found to be of interest stays in var/fuzz/<target>/corpus, where the next time begins;
inputs that crash a target are kept beside it and shown.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tests.fuzz.target import Target
from tests.fuzz.targets import targets
from tests.fuzz.words import MAX_INPUT, dictionary

_FOLDER = Path("var/fuzz")
_DONE = re.compile(r"Done (\d+) runs in (\d+) second")
_OPTIONS = (f"-max_len={MAX_INPUT}", "-timeout=20", "-rss_limit_mb=1024", "-reload=0")
_TAIL = 30  # lines of a crash's output


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one target."""

    name: str
    runs: int
    seconds: int
    crashes: Sequence[Path]
    output: str

    def told(self) -> str:
        rate = f"{self.runs / max(1, self.seconds):,.0f} a second"
        return f"{self.name:28} {self.runs:>12,} runs  {rate:>16}  {len(self.crashes)} crashes"


def main() -> None:
    known = targets()
    arguments = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    arguments.add_argument("targets", nargs="*", help=f"of {', '.join(known)}; default: all")
    arguments.add_argument("--runs", type=int, default=100_000, help="of all targets together")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count(), help="targets at once")
    given = arguments.parse_args()
    if unknown := set(given.targets) - set(known):
        arguments.error(f"there is no target {', '.join(sorted(unknown))}")
    chosen = [known[name] for name in given.targets or known]
    outcomes = []
    with ThreadPoolExecutor(given.jobs) as pool:
        for outcome in pool.map(lambda one: fuzz(one, given.runs // len(chosen)), chosen):
            print(outcome.told(), flush=True)
            outcomes.append(outcome)
    print(f"{sum(outcome.runs for outcome in outcomes):,} runs of {len(chosen)} targets")
    failed = [outcome for outcome in outcomes if outcome.output]
    for outcome in failed:
        _show(outcome)
    sys.exit(bool(failed))


def fuzz(target: Target, runs: int) -> Outcome:
    """Run one target in a process of its own; it ends at the first crash."""
    folder = _FOLDER / target.name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        (corpus / sha256(seed).hexdigest()[:16]).write_bytes(seed)
    (folder / "words").write_text(dictionary(target.seeds))
    before = _crashes(folder)
    command = [sys.executable, "-m", "tests.fuzz.child", target.name, f"-runs={runs}", *_OPTIONS]
    ended = subprocess.run(
        [*command, f"-artifact_prefix={folder}/", f"-dict={folder}/words", str(corpus)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    done = _DONE.search(ended.stderr)
    count, seconds = (int(done[1]), int(done[2])) if done else (0, 0)
    found = sorted(_crashes(folder) - before)
    output = ended.stdout + _without_progress(ended.stderr) if ended.returncode else ""
    return Outcome(target.name, count, seconds, found, output)


def _crashes(folder: Path) -> set[Path]:
    """The inputs that libFuzzer kept; on a busy machine any may be a slow one."""
    return {path for path in folder.glob("*-*") if not path.name.startswith("slow-unit")}


def _without_progress(told: str) -> str:
    return "\n".join(line for line in told.splitlines() if not line.startswith(("#", "INFO")))


def _show(outcome: Outcome) -> None:
    """Print what a target died of."""
    print(f"\n{outcome.name}:", *outcome.output.splitlines()[-_TAIL:], sep="\n")
    for path in outcome.crashes:
        print(f"{path}: {path.read_bytes()!r}")
        print(f"again: python -m tests.fuzz.child {outcome.name} {path}")


if __name__ == "__main__":
    main()
