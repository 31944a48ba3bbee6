"""The published schema: what is written fits it, and it takes nothing back."""

import copy
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema
import msgspec
import pytest

from router.events import codec, schema
from router.events.examples import EXAMPLES
from router.events.model import Decision, EventData
from router.events.types import EventType
from tests.golden import catalogue, records

Json = dict[str, Any]
PAYLOADS: Final = sorted(Path(__file__).parents[1].glob("providers/*/payloads/*.json"))


@cache
def current() -> Json:
    document: Json = msgspec.json.decode(schema.document())
    return document


@cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**current(), "$ref": f"#/$defs/{kind}"})


def test_it_is_a_json_schema_and_named_as_the_records_say() -> None:
    jsonschema.Draft202012Validator.check_schema(current())
    assert current()["$id"] == codec.SCHEMA


@pytest.mark.parametrize("kind", EventType)
def test_every_type_has_an_example_that_fits_its_schema(kind: EventType) -> None:
    (example,) = current()["$defs"][kind.value]["examples"]
    validator(kind.value).validate(example)
    assert msgspec.json.decode(codec.encode(EXAMPLES[kind])[1]) == example


@pytest.mark.parametrize("path", PAYLOADS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_what_providers_events_say_fits_the_schema_of_their_type(path: Path) -> None:
    for event in msgspec.json.decode(path.read_bytes())["events"]:
        validator(event["type"]).validate(event.get("data", {}))


def test_there_are_events_of_providers_to_look_at() -> None:
    assert len(PAYLOADS) > 20


@pytest.mark.parametrize("struct", [EventData, Decision])
def test_every_field_is_described(struct: type[msgspec.Struct]) -> None:
    properties = current()["$defs"][struct.__name__]["properties"]
    assert list(properties) == list(struct.__struct_fields__)
    for name, what in properties.items():
        assert what.get("description"), f"describe {name} in router/events/schema.py"


def test_the_page_has_the_tables_of_the_code() -> None:
    page = catalogue.PAGE.read_text()
    assert catalogue.updated(page) == page, "run `python -m tests.golden.write`"
    for name in catalogue.TABLES:
        assert f"<!-- {name} -->" in page
    assert page.count("| `call.initiated` |") == 1


def taken_back(old: Json, new: Json) -> Iterator[str]:
    """What readers of `old` could rely on and readers of `new` can't."""
    for name, before in old["$defs"].items():
        after = new["$defs"].get(name)
        if after is None:
            yield f"{name} was removed"
            continue
        for field in set(before["required"]) - set(after["required"]):
            yield f"{name}.{field} is no longer always there"
        for field, kind in before.get("properties", {}).items():
            if field not in after["properties"]:
                yield f"{name}.{field} was removed"
            elif not still_is(kind, after["properties"][field]):
                yield f"{name}.{field} was retyped"


def still_is(before: Json, after: Json) -> bool:
    """Whether a field means what it did; lists of words may have grown."""
    words = [_words(kind) for kind in (before, after)]
    return words[0] <= words[1] and _shape(before) == _shape(after)


def _words(kind: Json) -> set[str]:
    return {word for option in kind.get("anyOf", [kind]) for word in option.get("enum", ())}


def _shape(kind: Json) -> Json:
    told = ("enum", "description", "examples")
    return {
        name: [_shape(option) for option in what] if name == "anyOf" else what
        for name, what in kind.items()
        if name not in told
    }


VERSIONS: Final = {"event": int(records.VERSION), "route": int(records.ROUTE_VERSION)}
NAMES: Final = [f"{kind}-{n}" for kind, newest in VERSIONS.items() for n in range(1, newest + 1)]


def published(name: str) -> Json:
    document: Json = msgspec.json.decode(records.schema_path(name).read_bytes())
    return document


def of_today(name: str) -> Json:
    """The schema of today of the same kind of record."""
    kind = name.partition("-")[0]
    return records.current_schemas()[records.schema_path(f"{kind}-{VERSIONS[kind]}")]


# Version 3 gave the name of the provider's own account away, when no release had been made yet.
_RENAMED = "EventData.account was removed"
RENAMED: Final = {"event-1": {_RENAMED}, "event-2": {_RENAMED}}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_was_published_is_taken_back(name: str) -> None:
    assert published(name)["$id"] == f"switchboard/{name.replace('-', '/')}"
    assert set(taken_back(published(name), of_today(name))) == RENAMED.get(name, set()), (
        "readers rely on it. Keep it, and add a field beside it; or give the schema a new version "
        "with an upcaster (docs/EVENTS.md, Versions)"
    )


def test_the_schema_of_every_version_was_kept() -> None:
    kept = {path.stem for path in (records.FOLDER / "schemas").iterdir()}
    assert kept == set(NAMES)


@pytest.mark.parametrize("path", records.current_schemas(), ids=lambda path: path.stem)
def test_what_needs_a_new_version_has_one(path: Path) -> None:
    found = list(changed(published(path.stem), of_today(path.stem)))
    assert not found, "that needs a new version of the schema (docs/EVENTS.md, Versions)"


def changed(old: Json, new: Json) -> Iterator[str]:
    """What strict readers of `old` would refuse, and what records of `old` lack."""
    for name, before in old["$defs"].items():
        after = new["$defs"][name]
        for field in set(after["required"]) - set(before["required"]):
            yield f"{name}.{field} must be there now"
        for field, kind in before.get("properties", {}).items():
            if _words(kind) != _words(after["properties"][field]):
                yield f"{name}.{field} got a new word"


def _without_field(document: Json) -> None:
    del document["$defs"]["EventData"]["properties"]["digits"]


def _retyped(document: Json) -> None:
    document["$defs"]["EventData"]["properties"]["sip_status"]["type"] = "string"


def _other_default(document: Json) -> None:
    document["$defs"]["EventData"]["properties"]["media"]["default"] = "provider"


def _without_word(document: Json) -> None:
    document["$defs"]["EventData"]["properties"]["disposition"]["anyOf"][0]["enum"].remove("busy")


def _without_type(document: Json) -> None:
    del document["$defs"]["call.ended"]


def _not_always(document: Json) -> None:
    document["$defs"]["call.forwarded"]["required"].remove("decision")


def _demanded(document: Json) -> None:
    document["$defs"]["Decision"]["required"].append("fallback")


def _another_word(document: Json) -> None:
    document["$defs"]["EventData"]["properties"]["disposition"]["anyOf"][0]["enum"].append("bored")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_demanded, "Decision.fallback must be there now"),
        (_another_word, "EventData.disposition got a new word"),
    ],
)
def test_what_needs_a_new_version_is_noticed(spoil: Callable[[Json], None], told: str) -> None:
    spoilt = copy.deepcopy(current())
    spoil(spoilt)
    assert list(changed(current(), spoilt)) == [told]
    assert not list(taken_back(current(), spoilt))
    assert not list(changed(current(), current()))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_without_field, "EventData.digits was removed"),
        (_retyped, "EventData.sip_status was retyped"),
        (_other_default, "EventData.media was retyped"),
        (_without_word, "EventData.disposition was retyped"),
        (_without_type, "call.ended was removed"),
        (_not_always, "call.forwarded.decision is no longer always there"),
    ],
)
def test_what_is_taken_back_is_noticed(spoil: Callable[[Json], None], told: str) -> None:
    spoilt = copy.deepcopy(current())
    spoil(spoilt)
    assert list(taken_back(current(), spoilt)) == [told]
    assert not list(taken_back(current(), current()))
