"""No account reaches another's things: generated from every operation's example.

Each is sent as account B, once for each thing that it names, with that thing of account A and the
rest of B's own: 404, no id of A's in the answer, and the database and the carriers as before. And
with things of B's own it succeeds, so that the 404 was for the right reason.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import TypeAdapter

from router.api.operation import Dialect, Operation
from tests.api.examples import Example, Problems, cases, fill, named, things_of
from tests.support.api import Client, Reply, RunningApi, running_api


@dataclass
class World:
    """Two accounts with things in one dialect."""

    api: RunningApi
    a: Client
    b: Client
    of_a: dict[str, str]
    of_b: dict[str, str]

    def told(self, reply: Reply) -> set[str]:
        """What of A's stands in an answer."""
        theirs = {each for each in self.of_a.values() if len(each) > 8}
        return {each for each in theirs - set(self.of_b.values()) if each in reply.text}


@pytest.fixture
async def world(tmp_path: Path, dialect: Dialect) -> AsyncIterator[World]:
    async with running_api(tmp_path, only=[dialect]) as api:
        a, b = await api.account("a"), await api.account("b")
        things = things_of(dialect)
        yield World(api, a, b, await things(a), await things(b))


async def test_an_example_succeeds_in_the_documented_shape(
    tmp_path: Path, dialect: Dialect
) -> None:
    problems, things = Problems(), things_of(dialect)
    async with running_api(tmp_path, only=[dialect]) as api:
        for number, (operation, example) in enumerate(cases(dialect)):
            client = await api.account(f"account-{number}")
            own = await things(client)
            if example.admin:
                client = await api.account(f"account-{number}", scopes=("admin",))
            with problems.of(operation):
                _check_shape(operation, example, await _send(client, operation, example, own))
    problems.none()


def _check_shape(operation: Operation, example: Example, reply: Reply) -> None:
    assert reply.status == example.status, reply.text
    assert example.status in operation.answers
    model = operation.answers[example.status]
    if model is None:
        assert reply.body == b""
    elif model is not bytes:
        schema = TypeAdapter(model).json_schema(mode="serialization")
        found = jsonschema.Draft202012Validator(schema).iter_errors(reply.json)
        assert [error.message for error in found] == []


async def test_another_accounts_things_are_not_there(world: World, dialect: Dialect) -> None:
    problems = Problems()
    for operation, example in cases(dialect):
        with problems.of(operation):
            await _check_isolated(world, operation, example)
    problems.none()


async def _check_isolated(world: World, operation: Operation, example: Example) -> None:
    if example.admin:  # whoever has that scope reaches every account
        reply = await _send(world.b, operation, example, world.of_a)
        assert reply.status == 403, reply.text
        return
    names = sorted(named(example) - example.open)
    variables = {name for name, value in example.path.items() if not value.startswith("$")}
    assert not variables, f"a variable of the path is no thing of the example: {variables}"
    if not names:
        if operation.method == "GET":  # a list
            reply = await _send(world.b, operation, example, world.of_b)
            assert reply.status == example.status, reply.text
            assert not world.told(reply)
        return
    before, owned = await world.api.dump(), _owned(world.api)
    for name in names:
        theirs = world.of_a[name]
        reply = await _send(world.b, operation, example, {**world.of_b, name: theirs})
        expected = example.foreign.get(name, 404)
        assert reply.status == expected, f"${name}: {reply.status} {reply.text}"
        assert not world.told(reply) - {theirs}, f"${name}: {reply.text}"
        assert await world.api.dump() == before, f"${name}: something was changed"
        assert _owned(world.api) == owned, f"${name}: a carrier was changed"
        never = _never(theirs)
        missing = await _send(world.b, operation, example, {**world.of_b, name: never})
        assert (reply.status, _words(reply, theirs)) == (missing.status, _words(missing, never)), (
            f"${name}: the answer tells that it exists"
        )


async def _send(
    client: Client, operation: Operation, example: Example, things: dict[str, str]
) -> Reply:
    request = fill(operation, example, things)
    return await client.request(request.method, request.path, request.body, query=request.query)


def _never(like: str) -> str:
    """An id of the same form that nobody has."""
    if like.startswith("+"):
        return "+14155559999"
    if like.isdigit():
        return "987654"
    return "".join("0" if each.isdigit() else each for each in like[:-4]) + "0000"


def _words(reply: Reply, thing: str) -> str:
    return reply.text.replace(json.dumps(thing)[1:-1], "…")


def _owned(api: RunningApi) -> Any:
    return {account: dict(held) for account, held in api.carriers.owned.items()}


async def test_what_the_operator_holds_is_not_to_be_taken(tmp_path: Path) -> None:
    """It is no matter of the token's scopes, so no other token is asked for (RFC 6750 §3.1)."""
    async with running_api(tmp_path) as api:
        tenant = await api.account("tenant")
        number = api.carriers.give("twilio", "operator")
        before = dict(api.carriers.owned["twilio", "operator"])
        wanted = {"provider": "twilio", "number": number}
        for connection in ({}, {"connection_id": "default"}):
            reply = await tenant.post("/api/switchboard/v1/numbers/adopt", {**wanted, **connection})
            assert (reply.status, reply.json["code"]) == (403, "connection_needed")
            assert "WWW-Authenticate" not in reply.headers
        assert api.carriers.owned["twilio", "operator"] == before
