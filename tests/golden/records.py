"""The golden corpus: one record of each event type, as each version of the schema wrote it.

`events/v<version>/<type>.json` holds the record's key, headers and value byte for byte, and the
event that every reader must make of it. What once was written never changes: a reader that fails on
one of these files would fail on the topics of those who upgrade.

`python -m tests.golden.write` adds what the current version has and the corpus lacks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from router.events import codec
from router.events.examples import EXAMPLES
from router.events.model import Event

FOLDER: Final = Path(__file__).parent
VERSION: Final = codec.SCHEMA.rpartition("/")[2]


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the corpus."""

    key: str
    headers: Mapping[str, str]
    value: str  # UTF-8
    event: Event


def paths() -> list[Path]:
    """All records of all versions."""
    return sorted(FOLDER.glob("events/v*/*.json"))


def load(path: Path) -> Golden:
    return msgspec.json.decode(path.read_bytes(), type=Golden)


def schema_path(version: str) -> Path:
    """The JSON Schema of a version, as it was published first."""
    return FOLDER / "schemas" / f"event-{version}.json"


def current() -> dict[Path, Golden]:
    """What the code of today writes."""
    return {
        FOLDER / "events" / f"v{VERSION}" / f"{kind.value}.json": _golden(event)
        for kind, event in EXAMPLES.items()
    }


def _golden(event: Event) -> Golden:
    headers, value = codec.encode(event)
    return Golden(key=event.key, headers=headers, value=value.decode(), event=event)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
