"""Schemathesis over every operation of every dialect, all checks: `make api-fuzz EXAMPLES=1000`.

It reads /openapi.json of a running API and sends what the document allows, and what it does not.
A short run is in the tests, with a fixed seed; the long one takes a seed from the clock, and both
print it. Left out are the operation that would end the run's own token, and those that are
documented to answer 501.
"""

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from config.settings import LogSettings
from router.api.operation import Dialect
from router.observability import log as logs
from tests.api.examples import things_of
from tests.support.api import EVERY, running_api

_LEFT_OUT: Final = "revoke_token"
_NOT_DONE: Final = 501


# What a schema can't say (a number that can be dialled, a plan that is used up, an agent of the
# same account) is refused with these; what it can say is left to the check.
_CONFIG: Final = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 401, 402, 403, 404, 409, 422, 429, "5xx"]

# Where an operation documents it; anywhere else another check finds it.
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 501]
"""


class Outcome(NamedTuple):
    """What a run found."""

    code: int
    text: str

    @property
    def passed(self) -> bool:
        return self.code == 0


async def fuzz(
    folder: Path,
    *,
    seed: int,
    examples: int,
    phases: str = "examples,coverage,fuzzing,stateful",
    only: Sequence[Dialect] | None = None,
    more: Sequence[str] = (),
) -> Outcome:
    """One run; `examples` for each operation, `more` options of schemathesis."""
    logs.configure(LogSettings(format="json", level="error"))
    async with running_api(folder, only=only) as api:
        client = await api.account("fuzzed", scopes=(*EVERY, "admin"))
        for dialect in api.dialects:
            await things_of(dialect)(client)
        config = folder / "schemathesis.toml"
        config.write_text(_CONFIG)
        command = [
            str(Path(sys.executable).with_name("st")),
            f"--config-file={config}",
            "run",
            f"{api.url}/openapi.json",
            f"--url={api.url}",
            f"--header=Authorization: Bearer {client.token}",
            "--checks=all",
            f"--phases={phases}",
            f"--max-examples={examples}",
            f"--seed={seed}",
            f"--exclude-operation-id-regex={_left_out(api.dialects)}",
            "--continue-on-failure",
            "--suppress-health-check=all",
            "--request-timeout=30",
            *more,
        ]
        environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "160"}
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            told, _ = await process.communicate()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
        text = re.sub(r"Bearer sb_\w+", "Bearer …", told.decode(errors="replace"))
        return Outcome(process.returncode or 0, f"seed {seed}, {examples} examples\n{text}")


def _left_out(dialects: Sequence[Dialect]) -> str:
    ids = {_LEFT_OUT} | {
        each.id for one in dialects for each in one.operations if _NOT_DONE in each.answers
    }
    return rf"(^|\.)({'|'.join(sorted(map(re.escape, ids)))})$"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("more", nargs="*")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = asyncio.run(
            fuzz(Path(folder), seed=given.seed, examples=given.examples, more=given.more)
        )
    print(outcome.text)
    raise SystemExit(outcome.code)


if __name__ == "__main__":
    main()
