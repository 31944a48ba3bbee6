"""The golden corpus: one record of each event type, as each version of the schema wrote it.

`events/v<version>/<type>.json` holds the record's key, headers and value byte for byte, and the
event that every reader must make of it; `routes/v<version>/` the same of routes, whose topic keeps
its records for ever. What once was written never changes: a reader that fails on one of these files
would fail on the topics of those who upgrade.

`python -m tests.golden.write` adds what the current version has and the corpus lacks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from router.contract.messages import EXAMPLE_ROUTE, NO_ROUTE, ROUTE
from router.events import codec, schema
from router.events.examples import EXAMPLES
from router.events.model import Event
from router.events.types import EventType
from router.routing.table import Route
from router.storage.records import ROUTE_SCHEMA, route_record

FOLDER: Final = Path(__file__).parent
VERSION: Final = codec.SCHEMA.rpartition("/")[2]
ROUTE_VERSION: Final = ROUTE_SCHEMA.rpartition("/")[2]


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the corpus."""

    key: str
    headers: Mapping[str, str]
    value: str  # UTF-8
    event: Event


class GoldenRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the routes' corpus; a tombstone has no value and no route."""

    key: str
    headers: Mapping[str, str]
    value: str | None  # UTF-8
    route: Route | None


def paths() -> list[Path]:
    """All events' records of all versions."""
    return sorted(FOLDER.glob("events/v*/*.json"))


def route_paths() -> list[Path]:
    """All routes' records of all versions."""
    return sorted(FOLDER.glob("routes/v*/*.json"))


def load(path: Path) -> Golden:
    return msgspec.json.decode(path.read_bytes(), type=Golden)


def load_route(path: Path) -> GoldenRoute:
    return msgspec.json.decode(path.read_bytes(), type=GoldenRoute)


def schema_path(name: str) -> Path:
    """The JSON Schema `event-2`, `route-1` and so on, as it was published first."""
    return FOLDER / "schemas" / f"{name}.json"


def current() -> dict[Path, Golden]:
    """What the code of today writes of events."""
    return {
        FOLDER / "events" / f"v{VERSION}" / f"{kind.value}.json": _golden(event)
        for kind, event in EXAMPLES.items()
    }


def current_routes() -> dict[Path, GoldenRoute]:
    """What the code of today writes of routes."""
    folder = FOLDER / "routes" / f"v{ROUTE_VERSION}"
    return {
        folder / f"{name}.json": _golden_route(route)
        for name, route in ((ROUTE, EXAMPLE_ROUTE), (NO_ROUTE, None))
    }


def current_schemas() -> dict[Path, dict[str, Any]]:
    """The schemas of today, by where their first form is kept."""
    _, found = msgspec.json.schema_components((Route,), ref_template="#/$defs/{name}")
    routes = msgspec.json.encode({"$id": ROUTE_SCHEMA, "$defs": found})
    return {
        schema_path(f"event-{VERSION}"): msgspec.json.decode(schema.document()),
        schema_path(f"route-{ROUTE_VERSION}"): msgspec.json.decode(routes),
    }


def _golden(event: Event) -> Golden:
    headers, value = codec.encode(event)
    return Golden(key=event.key, headers=headers, value=value.decode(), event=event)


def _golden_route(route: Route | None) -> GoldenRoute:
    number, time = EXAMPLE_ROUTE.number, EXAMPLES[EventType.NUMBER_MAPPED].time
    headers, value = route_record(number, route, version=EXAMPLE_ROUTE.version, time=time)
    text = None if value is None else value.decode()
    return GoldenRoute(key=number, headers=headers, value=text, route=route)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
