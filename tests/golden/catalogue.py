"""The tables of docs/EVENTS.md, made from the code.

Each stands between `<!-- name -->` and `<!-- /name -->`.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from router.events import schema
from router.events.types import EventType, topic_of

PAGE: Final = Path(__file__).parents[2] / "docs" / "EVENTS.md"


def updated(text: str) -> str:
    """The page with its tables as the code has them."""
    for name, table in TABLES.items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        text = before + begin + table() + end + after
    return text


def _definitions() -> dict[str, Any]:
    definitions: dict[str, Any] = msgspec.json.decode(schema.document())["$defs"]
    return definitions


def _types() -> str:
    definitions = _definitions()
    rows = [
        (
            f"`{kind.value}`",
            f"`{topic_of(kind)}`",
            kind.meaning,
            ", ".join(f"`{name}`" for name in definitions[kind.value]["required"]) or "–",
        )
        for kind in EventType
    ]
    return _table(("type", "topic", "what happened", "always says"), rows)


def _fields(struct: str) -> Callable[[], str]:
    def rows() -> str:
        properties = _definitions()[struct]["properties"]
        return _table(
            ("field", "kind", "what it says"),
            [(f"`{name}`", _kind(what), what["description"]) for name, what in properties.items()],
        )

    return rows


def _kind(what: Mapping[str, Any]) -> str:
    options = [option for option in what.get("anyOf", [what]) if option.get("type") != "null"]
    if "enum" in options[0]:
        return ", ".join(f"`{word}`" for word in options[0]["enum"] if word)
    name = options[0].get("$ref", "").rpartition("/")[2]
    return name or str(options[0]["type"])


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "types": _types,
    "fields": _fields("EventData"),
    "decision": _fields("Decision"),
}
