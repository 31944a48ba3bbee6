"""What no client may bring about, asked of every operation of every dialect."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import TypeAdapter

from router.api.operation import Dialect, Operation
from router.errors import NotFound
from tests.api.examples import Example, Problems, Request, cases, fill, things_of
from tests.support.api import EVERY, Client, Reply, RunningApi, running_api

TOKEN = "sb_" + "0" * 49

NOT_JSON: dict[str, bytes] = {
    "cut": b'{"a":',
    "text": b"hello",
    "form": b"a=1&b=2",
    "two": b"{} {}",
    "NaN": b'{"a": NaN}',
    "infinite": b'{"a": 1e999}',
    "twice": b'{"a": 1, "a": 2}',
    "not UTF-8": b'{"a": "\xff"}',
    "a byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "half a character": rb'{"a": "\ud800"}',
    "half a character as a key": rb'{"\udfff": 1}',
    "NUL": rb'{"a": "\u0000"}',
    "NUL as a key": rb'{"\u0000": 1}',
    "a huge number": b'{"a": ' + b"9" * 5000 + b"}",
    "a large number": b'{"a": 18446744073709551616}',
    "deep": b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deeper than the parser": b"[" * 100_000,
}
WRONG: tuple[Any, ...] = (
    None, True, 0, -1, 2**63 - 1, 1.5, "", "x", "\u202e", "x" * 5000, [], [[]], {}, {"": ""},
)  # fmt: skip


@dataclass
class Place:
    """A dialect's API and an account with things in it."""

    api: RunningApi
    client: Client
    admin: Client
    things: dict[str, str]
    dialect: Dialect

    def request(self, operation: Operation, example: Example) -> Request:
        return fill(operation, example, self.things)

    async def ask(
        self, operation: Operation, example: Example, *, client: Client | None = None, **more: Any
    ) -> Reply:
        """Its example, with `more` in the place of what it has."""
        asked = self.request(operation, example)
        by = client or (self.admin if example.admin else self.client)
        own: dict[str, Any] = {"body": asked.body, "query": asked.query, **more}
        return await by.request(asked.method, asked.path, **own)

    def refused(self, reply: Reply, *statuses: int) -> None:
        """The answer is a refusal in the dialect's shape."""
        assert reply.status in statuses, f"{reply.status}: {reply.text[:300]}"
        own = self.dialect.refuse(NotFound("x")).content_type
        assert reply.headers["Content-Type"].split(";")[0] == own
        model = (
            self.dialect.errors.get(reply.status) or self.dialect.errors[404]
        )  # as unknown paths
        schema = TypeAdapter(model).json_schema(mode="serialization")
        found = jsonschema.Draft202012Validator(schema).iter_errors(reply.json)
        assert [error.message for error in found] == []


@pytest.fixture
async def place(tmp_path: Path, dialect: Dialect) -> AsyncIterator[Place]:
    api_settings = {"max_body_bytes": 120_000}
    async with running_api(tmp_path, only=[dialect], api=api_settings) as api:
        client = await api.account("acme")
        admin = await api.account("acme", scopes=("admin",))
        yield Place(api, client, admin, await things_of(dialect)(client), dialect)


async def test_without_a_token_nobody_gets_in(place: Place, dialect: Dialect) -> None:
    problems, revoked = Problems(), await place.api.account("acme")
    await place.api.revoke(revoked)
    before = await place.api.dump()
    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic c2I6eA=="},
        {"Authorization": place.client.token},
        {"Authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"Bearer {place.client.token[:-1]}"},
        {"Authorization": f"Bearer {place.client.token} x"},
        {"Authorization": f"Bearer {revoked.token}"},
        {"Authorization": "Bearer " + "x" * 7000},
        {"Authorization": "Bearer é"},
    ]
    for operation, example in cases(dialect):
        if operation.open:
            continue
        asked = place.request(operation, example)
        with problems.of(operation):
            for headers in wrong:
                reply = await place.api.request(
                    asked.method, asked.path, asked.body, query=asked.query, headers=headers
                )
                place.refused(reply, 401)
                assert reply.headers["WWW-Authenticate"].startswith("Bearer ")
    problems.none()
    assert await place.api.dump() == before


async def test_without_the_scope_it_is_forbidden(place: Place, dialect: Dialect) -> None:
    problems = Problems()
    for operation, example in cases(dialect):
        if operation.scope is None:
            continue
        area, _, access = operation.scope.partition(":")
        has = [each for each in EVERY if not each.startswith(f"{area}:")]
        if access == "write":
            has.append(f"{area}:read")  # type: ignore[arg-type]
        client = await place.api.account("acme", scopes=has)
        before = await place.api.dump()
        with problems.of(operation):
            reply = await place.ask(operation, example, client=client)
            place.refused(reply, 403)
            assert operation.scope in reply.text
            assert operation.scope in reply.headers["WWW-Authenticate"]
            assert await place.api.dump() == before
    problems.none()


async def test_what_is_not_json_is_refused(place: Place, dialect: Dialect) -> None:
    before, problems = await place.api.dump(), Problems()
    for operation, example in cases(dialect):
        if operation.body is None:
            continue
        for name, raw in NOT_JSON.items():
            with problems.of(operation):
                reply = await place.ask(operation, example, raw=raw)
                assert reply.status == 422, f"{name}: {reply.status} {reply.text[:200]}"
                place.refused(reply, 422)
    problems.none()
    assert await place.api.dump() == before


async def test_a_wrong_type_anywhere_is_no_fault_of_ours(place: Place, dialect: Dialect) -> None:
    problems = Problems()
    for operation, example in cases(dialect):
        asked = place.request(operation, example)
        with problems.of(operation):
            for body in _mutations(asked.body):
                reply = await place.ask(operation, example, body=body)
                assert _is_answer(reply, example), f"{json.dumps(body)[:300]}: {reply.text[:300]}"
                if reply.status >= 400:
                    place.refused(reply, reply.status)
            for query in _queries(operation, asked.query):
                reply = await place.ask(operation, example, query=query)
                assert _is_answer(reply, example), f"{query}: {reply.text[:300]}"
                if reply.status >= 400:
                    place.refused(reply, reply.status)
    problems.none()


def _is_answer(reply: Reply, example: Example) -> bool:
    """No fault of ours; 501 only where that is what the operation documents, and nothing else."""
    if example.status == 501:
        return reply.status in (404, 422, 501)
    return reply.status < 500


def _mutations(body: Any) -> list[Any]:
    if not isinstance(body, dict):
        return [] if body is None else list(WRONG)
    found: list[Any] = list(WRONG)
    for key in body:
        found += [{**body, key: wrong} for wrong in WRONG]
        found.append({name: value for name, value in body.items() if name != key})
        if isinstance(body[key], dict):
            found += [{**body, key: inner} for inner in _mutations(body[key])]
    return found


def _queries(operation: Operation, query: Mapping[str, str]) -> list[dict[str, str]]:
    if operation.query is None:
        return [{"x": "1"}]
    names = [field.alias or name for name, field in operation.query.model_fields.items()]
    wrong = (
        "",
        "x",
        "-1",
        "0",
        "1.5",
        "9" * 30,
        "9007199254740991",
        "null",
        "[]",
        "\x00",
        "é" * 300,
    )
    return [{**query, name: value} for name in names for value in wrong]


async def test_odd_ids_in_paths_are_not_found(place: Place, dialect: Dialect) -> None:
    problems = Problems()
    odd = (
        "x",
        "0",
        "-1",
        "9" * 40,
        "%00",
        "%ff",
        "%2F",
        "%2e%2e",
        "a%0d%0ab",
        "%C3%A9",
        "x" * 3000,
    )
    for operation, example in cases(dialect):
        for name in example.path:
            for value in odd:
                path = operation.path.replace(f"{{{name}}}", value).format(
                    **place.request(operation, example).variables
                )
                with problems.of(operation):
                    client = place.admin if example.admin else place.client
                    reply = await client.request(
                        operation.method, path, place.request(operation, example).body
                    )
                    expected = {400, 404, 405, 422}
                    if operation.open:  # a link is for one path alone
                        expected = {403, 404, 422}
                    assert reply.status in expected, f"{path}: {reply.status}"
                    place.refused(reply, reply.status)
    problems.none()


async def test_a_large_body_is_413(place: Place, dialect: Dialect) -> None:
    problems = Problems()
    for operation, example in cases(dialect):
        with problems.of(operation):
            reply = await place.ask(operation, example, raw=b'{"a": "' + b"x" * 130_000 + b'"}')
            place.refused(reply, 413)
    problems.none()


async def test_a_compressed_body_is_415(place: Place, dialect: Dialect) -> None:
    operation, example = next(each for each in cases(dialect) if each[0].body is not None)
    reply = await place.ask(operation, example, headers={"Content-Encoding": "gzip"})
    place.refused(reply, 415)


async def test_json_is_read_whatever_it_is_called(place: Place, dialect: Dialect) -> None:
    problems = Problems()
    for operation, example in cases(dialect):
        if operation.body is None or operation.method == "DELETE":
            continue
        asked = place.request(operation, example)
        again: tuple[int, ...] = ()
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "x"):
            with problems.of(operation):
                reply = await place.ask(
                    operation,
                    example,
                    raw=json.dumps(asked.body).encode(),
                    headers={"Content-Type": content_type},
                )
                # What was made by the first one may be there already for the next.
                assert reply.status in (example.status, 402, 404, 409, *again), reply.text
                again = (422,)  # of a dialect that says so of what is there
    problems.none()


async def test_unknown_paths_and_methods_are_refused_in_shape(
    place: Place, dialect: Dialect
) -> None:
    for path in ("", "/", "/none", "/a/b/c", "/%00", "/none?x=%ff", "//", "/%C3%A9"):
        place.refused(await place.client.get(dialect.base + path), 404)
        place.refused(await place.api.request("POST", dialect.base + path, {}), 404)
    problems = Problems()
    methods: dict[str, set[str]] = {}
    for operation, _ in cases(dialect):
        methods.setdefault(operation.path, set()).add(operation.method)
    for operation, example in cases(dialect):
        path = place.request(operation, example).path
        known = methods[operation.path] | ({"HEAD"} if "GET" in methods[operation.path] else set())
        for method in {
            "GET",
            "POST",
            "PUT",
            "PATCH",
            "DELETE",
            "OPTIONS",
            "TRACE",
            "PROPFIND",
        } - known:
            with problems.of(operation):
                reply = await place.client.request(method, path)
                place.refused(reply, 405)
                assert set(reply.headers["Allow"].split(", ")) == known
    problems.none()


async def test_head_is_get_without_its_body(place: Place, dialect: Dialect) -> None:
    problems = Problems()
    for operation, example in cases(dialect):
        if operation.method != "GET":
            continue
        asked = place.request(operation, example)
        client = place.admin if example.admin else place.client
        with problems.of(operation):
            reply = await client.request("HEAD", asked.path, query=asked.query)
            assert reply.status == example.status
            assert reply.body == b""
    problems.none()
