"""`python -m tests.providers.write NAME`: put the `events` into the records that have none yet.

A record is the `.json` beside a payload file. Its author writes what the provider's code must not
say of itself: `status`, `source`, and `from` and `to` where it tells of a call. Events that are
there are never written again: to have them written anew, take them out first.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.providers.case import read
from tests.providers.found import FOLDER, Payload, builtins, cases, source_of


def fill(provider: str, folder: Path) -> Iterator[Path]:
    """Write the events that the records in `folder` lack; the records that were written."""
    case = cases()[provider]
    source = source_of(provider, case)
    for path in sorted(folder.glob("*.http")):
        record = path.with_suffix(".json")
        golden = json.loads(record.read_text())
        if "events" not in golden:
            payload = Payload(provider, path.stem, case, source, read(path), golden)
            golden["events"] = builtins(payload.events()) if payload.is_readable else []
            record.write_text(json.dumps(golden, indent=2, ensure_ascii=False) + "\n")
            yield record


def main() -> None:
    for provider in sys.argv[1:]:
        for record in fill(provider, FOLDER / provider / "payloads"):
            print("wrote", record.relative_to(FOLDER))


if __name__ == "__main__":
    main()
