"""How a change of the mapping looks: a line each on a terminal, one document as JSON."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from router.numbers.strict_yaml import visible
from router.routing.spec import AgentChange, AgentSpec, MappingResult, RouteChange
from router.routing.table import Route, Target

_SHOWN: Final = 30  # lines of a plan; more are counted

Change = AgentChange | RouteChange

_ACTIONS: Final = ("remove", "change", "add")  # what can do harm comes first
_SIGNS: Final = {"add": "+", "change": "~", "remove": "-"}


def action(change: Change) -> str:
    """`add`, `change` or `remove`."""
    if change.before is None:
        return "add"
    return "remove" if change.after is None else "change"


def plan_lines(changes: Sequence[Change]) -> Iterator[str]:
    """What will change: removals first, long plans shortened, and the sum of it."""
    ordered = sorted(changes, key=lambda each: _ACTIONS.index(action(each)))
    yield from map(line, ordered[:_SHOWN])
    if len(ordered) > _SHOWN:
        yield f"… and {len(ordered) - _SHOWN} more; --json shows all"
    yield f"Plan: {summary(changes)}."


def summary(changes: Sequence[Change]) -> str:
    """`2 numbers to remove, 1 agent to add`."""
    counted: dict[tuple[str, str], int] = {}
    for each in changes:
        key = (action(each), "agent" if isinstance(each, AgentChange) else "number")
        counted[key] = counted.get(key, 0) + 1
    return ", ".join(
        f"{counted[what, kind]} {kind}{'' if counted[what, kind] == 1 else 's'} to {what}"
        for what in _ACTIONS
        for kind in ("number", "agent")
        if (what, kind) in counted
    )


def line(change: Change) -> str:
    """One change: its sign, whose it is, and what becomes different."""
    sign = _SIGNS[action(change)]
    if isinstance(change, AgentChange):
        return f"{sign} agent  {visible(change.name)}{_of_agent(change)}"
    return f"{sign} number {change.number}: {_of_route(change)}"


def _of_agent(change: AgentChange) -> str:
    before, after = change.before, change.after
    if before is None or after is None:
        return ""
    return f": {'; '.join(_differences(before, after))}"


def _differences(before: AgentSpec, after: AgentSpec) -> Iterator[str]:
    if before.status != after.status:
        yield f"status {before.status} → {after.status}"
    yield from _of_worker(before, after)


def _of_worker(before: AgentSpec | Target, after: AgentSpec | Target) -> Iterator[str]:
    """What a LiveKit job would get differently."""
    if before.livekit_agent_name != after.livekit_agent_name:
        names = (visible(before.livekit_agent_name), visible(after.livekit_agent_name))
        yield "worker {} → {}".format(*names)
    for key in sorted(before.metadata.keys() | after.metadata.keys()):
        old, new = _value(before.metadata, key), _value(after.metadata, key)
        if old != new:
            yield f"metadata {visible(key)} {visible(old)} → {visible(new)}"


def _value(metadata: Any, key: str) -> str:
    return msgspec.json.encode(metadata[key]).decode() if key in metadata else "nothing"


def _of_route(change: RouteChange) -> str:
    before, after = change.before, change.after
    if before is None or after is None:
        return f"{_to(before)} → {_to(after)}"
    words = [f"{_to(before)} → {_to(after)}"] if _to(before) != _to(after) else []
    if before.provider != after.provider:
        words.append(f"provider {before.provider} → {after.provider}")
    for old, new in zip(before.targets, after.targets, strict=False):
        if old.agent == new.agent:
            words += _of_worker(old, new)
    return "; ".join(words) or "leads where it led; published anew"


def _to(route: Route | None) -> str:
    if route is None:
        return "nothing"
    first = visible(route.targets[0].agent) if route.targets else "no agent"
    return f"{first}, else {route.fallback}" if route.fallback else first


def print_result(result: MappingResult, **more: object) -> None:
    """One JSON document, a change a line: a hundred thousand of them need no second copy.

    A change has `kind` (agent, number), `action` (add, change, remove), `id` (its name or number),
    and how it was `before` and is `after`.
    """
    head = {"version": result.version, **more}
    fields = ", ".join(f'"{key}": {_json(value)}' for key, value in head.items())
    sys.stdout.write(f'{{{fields}, "changes": [')
    for index, change in enumerate(result.changes):
        kind = "agent" if isinstance(change, AgentChange) else "number"
        told = {
            "kind": kind,
            "action": action(change),
            "id": change.name if isinstance(change, AgentChange) else change.number,
        }
        told |= {name: getattr(change, name) for name in change.__struct_fields__}
        sys.stdout.write(f"{',' if index else ''}\n  {_json(told)}")
    sys.stdout.write("\n]}\n" if result.changes else "]}\n")


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
