"""An example of each operation of each dialect: what the tests of all dialects ask.

One module a dialect, named as its folder in `router/api`, exports

- `async def things(client) -> dict[str, str]`: makes one of each thing in the client's account, by
  requests of the dialect itself where it can; their ids by a name: `{"agent": "5f…", "number": …}`
- `EXAMPLES: dict[str, Example]`: by the operation's id, for each operation of the dialect

A text `$name` anywhere in `path`, `query` or `body` stands for the id of that thing; a variable of
a path that is an id must be one. The tests send every example

- as an account with things of its own: it is answered with `status`, in the documented shape;
- as another account, once for each `$name`, with that one thing of the first account and the rest
  of its own: it is answered 404, nothing of the first account is told, and nothing is changed;
- without a token, with a bad one, without the scope, with a malformed body, and so on.
"""

import importlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from router.api.operation import Dialect, Operation
from tests.support.api import Client


@dataclass(frozen=True, kw_only=True)
class Example:
    """A request that succeeds in an account that has `things`."""

    path: Mapping[str, str] = field(default_factory=dict)  # variable → value
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    status: int = 200
    admin: bool = False  # only a token with the scope admin may ask; never sent as another account
    foreign: Mapping[str, int] = field(default_factory=dict)
    """Thing → status where the dialect's document wants another than 404 for one of another's."""
    open: frozenset[str] = frozenset()
    """Things that another account may name as well: a number that is for sale."""


@dataclass(frozen=True)
class Request:
    """An example, filled in."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any
    variables: Mapping[str, str]


def cases(dialect: Dialect) -> list[tuple[Operation, Example]]:
    """Every operation with its example. AssertionError: see `examples_of`."""
    examples = examples_of(dialect)
    return [(operation, examples[operation.id]) for operation in dialect.operations]


@dataclass
class Problems:
    """What is wrong with which operations: a test looks at all of them before it fails."""

    found: list[str] = field(default_factory=list)

    @contextmanager
    def of(self, operation: Operation) -> Iterator[None]:
        """Note an AssertionError of the block, and go on."""
        try:
            yield
        except AssertionError as error:
            self.found.append(f"{operation.method} {operation.path} ({operation.id}): {error}")

    def none(self) -> None:
        assert not self.found, "\n".join(self.found)


Things = Callable[[Client], Awaitable[dict[str, str]]]


def examples_of(dialect: Dialect) -> Mapping[str, Example]:
    """Of every operation. AssertionError: one has none, or one is left over."""
    found: Mapping[str, Example] = _module(dialect).EXAMPLES
    operations = {operation.id for operation in dialect.operations}
    assert operations == set(found), (
        f"tests/api/examples/{dialect.name}.py: no example of {sorted(operations - set(found))}, "
        f"no operation for {sorted(set(found) - operations)}"
    )
    return found


def things_of(dialect: Dialect) -> Things:
    """Who makes the things of a dialect."""
    things: Things = _module(dialect).things
    return things


def named(example: Example) -> set[str]:
    """The things that an example names."""
    found: set[str] = set()

    def note(text: str) -> str:
        found.add(text)
        return text

    _filled([dict(example.path), dict(example.query), example.body], note)
    return found


def fill(operation: Operation, example: Example, things: Mapping[str, str]) -> Request:
    """The request with these things."""
    filled = replace(
        example,
        path=_filled(dict(example.path), things.__getitem__),
        query=_filled(dict(example.query), things.__getitem__),
        body=_filled(example.body, things.__getitem__),
    )
    path = operation.path.format(**filled.path)
    return Request(operation.method, path, filled.query, filled.body, filled.path)


def _module(dialect: Dialect) -> Any:
    return importlib.import_module(f"tests.api.examples.{dialect.name}")


def _filled(value: Any, thing: Callable[[str], str]) -> Any:
    match value:
        case str() if value.startswith("$"):
            return thing(value[1:])
        case Mapping():
            return {key: _filled(each, thing) for key, each in value.items()}
        case list():
            return [_filled(each, thing) for each in value]
        case _:
            return value
