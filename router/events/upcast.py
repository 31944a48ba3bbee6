"""Data of an older schema version, made into what the current version would have written.

Versions are additive: whatever is new is absent in old data, and absence already has a meaning. A
new version is needed only where that meaning would be wrong, or where a closed list of words grows
(docs/EVENTS.md). Each row below makes the data of one version into data of the next.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from router.events.ids import DEFAULT_ACCOUNT

Step = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
"""The event's `type` and its data as JSON → data of the next version. Pure; refuses nothing."""


def _from_1(kind: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Version 2 says what version 1 left to the reader.

    That a decision was wanted followed from type and direction, now `stage` says it. A number's
    own event named the number as the called one, now `number` is the field of all such events.
    """
    if kind == "call.initiated" and data.get("direction") == "inbound" and "decision" in data:
        return {"stage": "route", **data}
    if kind in ("number.mapped", "number.unmapped") and "to_number" in data:
        return {"number": data["to_number"], **data}
    return data


def _from_2(_kind: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Version 3 has accounts of ours beside the providers' own.

    `account` was the provider's, now it is `provider_account`. What is older than accounts is the
    account `default`'s.
    """
    renamed = {"provider_account" if name == "account" else name: data[name] for name in data}
    return {"account_id": DEFAULT_ACCOUNT, **renamed}


STEPS: Final[Mapping[str, Step]] = {
    "switchboard/event/1": _from_1,
    "switchboard/event/2": _from_2,
}  # oldest first, the current version has none


def upcast(schema: str, kind: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """`data`, written under `schema` (a key of `STEPS`), as the current version has it."""
    schemas = list(STEPS)
    for name in schemas[schemas.index(schema) :]:
        data = STEPS[name](kind, data)
    return data
