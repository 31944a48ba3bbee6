"""What the server does around the handlers of all dialects: a dialect of our own is behind it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import update
from typing_extensions import override

from router.api.operation import Answer, ApiRequest, Dialect, Operation
from router.clock import SystemClock
from router.errors import (
    Ambiguous,
    Conflict,
    Permanent,
    RequestError,
    StorageUnavailable,
    Transient,
    Unavailable,
)
from router.storage import idempotency
from router.storage.schema import idempotency_keys
from tests.support.api import RunningApi, running_api
from tests.support.ingress import logged
from tests.support.nodes import eventually

THINGS = "/t/v1/things"


class Thing(BaseModel):
    name: str = ""


class Refusal(BaseModel):
    status: int
    code: str
    words: str


@dataclass
class Handlers:
    """What the handlers of the dialect do."""

    made: int = 0
    error: Exception | None = None
    go: asyncio.Event | None = None
    ids: list[str] = field(default_factory=list)

    async def make(self, request: ApiRequest) -> Answer:
        self.ids.append(request.actor.request_id)
        self.made += 1
        if self.go is not None:
            await self.go.wait()
        if self.error is not None:
            raise self.error
        body = {"number": self.made, "name": request.body.name if request.body else ""}
        return Answer(status=201, body=body, headers={"Location": f"{THINGS}/{self.made}"})

    def dialect(self) -> Dialect:
        def refuse(error: RequestError) -> Answer:
            body = Refusal(status=error.status, code=error.code, words=str(error))
            return Answer(status=error.status, body=body)

        def operation(method: Any, id_: str, **more: Any) -> Operation:
            return Operation(
                method=method,
                path=THINGS,
                id=id_,
                summary="x",
                tag="x",
                handle=self.make,
                scope=None,
                answers={201: Thing},
                **more,
            )

        return Dialect(
            name="test",
            base="/t/v1",
            title="Test",
            version="1",
            description="",
            operations=[
                operation("GET", "list"),
                operation("POST", "make", body=Thing, body_required=False, creates=True),
            ],
            refuse=refuse,
            errors=dict.fromkeys((401, 429), Refusal),
        )


@asynccontextmanager
async def serving(
    folder: Path, handlers: Handlers | None = None, **more: Any
) -> AsyncIterator[tuple[RunningApi, Handlers]]:
    handlers = handlers or Handlers()
    async with running_api(folder, only=[handlers.dialect()], **more) as api:
        yield api, handlers


class ByHand(SystemClock):
    """A clock that goes on when it is told to."""

    seconds = 1000.0

    @override
    def monotonic(self) -> float:
        return self.seconds


def key(text: str) -> dict[str, str]:
    return {"Idempotency-Key": text}


# --- request ids, logs


async def test_a_sane_request_id_is_taken_and_told_everywhere(tmp_path: Path) -> None:
    async with serving(tmp_path) as (api, handlers):
        client = await api.account("acme")
        with logged() as lines:
            reply = await client.post(THINGS, {}, headers={"X-Request-Id": "mine-1"})
            assert reply.headers["X-Request-Id"] == "mine-1"
            for odd in ("", "x" * 200, "a b", "é", '"'):
                reply = await client.post(THINGS, {}, headers={"X-Request-Id": odd})
                assert reply.headers["X-Request-Id"].startswith("req_")
        assert handlers.ids[0] == "mine-1"
        assert lines.of("api.answered")[0]["request_id"] == "mine-1"
        assert lines.of("api.answered")[0]["operation"] == "make"


async def test_what_fails_unforeseen_is_logged_and_tells_nothing(tmp_path: Path) -> None:
    handlers = Handlers(error=RuntimeError("the secret +14155550100 sb_x"))
    async with serving(tmp_path, handlers) as (api, _):
        client = await api.account("acme")
        with logged() as lines:
            reply = await client.post(THINGS, {})
        assert reply.status == 500
        assert reply.json["code"] == "internal_error"
        assert "secret" not in reply.text
        assert reply.headers["X-Request-Id"] in reply.text
        line = lines.of("api.failed")[0]
        assert "RuntimeError" in line["exception"]
        assert line["request_id"] == reply.headers["X-Request-Id"]
        assert "+14155550100" not in lines.text


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StorageUnavailable("the file /data/x is locked"), 503, "unavailable"),
        (Transient("the carrier is away", retry_after=7.2), 503, "provider_unavailable"),
        (Ambiguous("no answer"), 503, "outcome_unknown"),
        (Permanent("the carrier refuses: forbidden"), 422, "provider_refused"),
        (TimeoutError(), 503, "timeout"),
        (Conflict("it is taken", code="taken"), 409, "taken"),
        (Unavailable("later", retry_after=3, code="later"), 503, "later"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else "",
)
async def test_each_error_has_its_status(
    tmp_path: Path, error: Exception, status: int, code: str
) -> None:
    async with serving(tmp_path, Handlers(error=error)) as (api, _):
        reply = await (await api.account("acme")).post(THINGS, {})
        assert (reply.status, reply.json["code"]) == (status, code)
        assert "/data/x" not in reply.text
        assert ("Retry-After" in reply.headers) == (status == 503)
        if code == "provider_unavailable":
            assert reply.headers["Retry-After"] == "8"


# --- limits


async def test_a_token_may_ask_so_often_and_no_oftener(tmp_path: Path) -> None:
    clock = ByHand()
    limits = {"requests_per_minute": 60, "burst": 3}
    async with serving(tmp_path, clock=clock, api=limits) as (api, _):
        one, other = await api.account("acme"), await api.account("acme")
        left = []
        for _ in range(3):
            reply = await one.get(THINGS)
            left.append((reply.status, reply.headers["RateLimit-Remaining"]))
        assert left == [(201, "2"), (201, "1"), (201, "0")]
        reply = await one.get(THINGS)
        assert (reply.status, reply.json["status"]) == (429, 429)
        assert reply.headers["Retry-After"] == "1"
        assert reply.headers["RateLimit-Limit"] == "3"
        assert reply.headers["RateLimit-Policy"] == "3;w=3"
        assert reply.headers["RateLimit-Reset"] == "3"
        assert (await other.get(THINGS)).status == 201
        clock.seconds += 1
        assert (await one.get(THINGS)).status == 201
        assert (await one.get(THINGS)).status == 429
        clock.seconds += 100
        assert (await one.get(THINGS)).headers["RateLimit-Remaining"] == "2"


async def test_who_fails_too_often_is_not_asked_any_more(tmp_path: Path) -> None:
    """And whoever is let in from the same address still is."""
    clock = ByHand()
    async with serving(tmp_path, clock=clock, api={"failures_per_minute": 5}) as (api, _):
        client, late = await api.account("acme"), await api.account("acme")
        assert (await client.get(THINGS)).status == 201
        statuses = [(await api.request("GET", THINGS)).status for _ in range(7)]
        assert statuses == [401] * 5 + [429] * 2
        assert (await client.get(THINGS)).status == 201
        assert (await late.get(THINGS)).status == 429
        clock.seconds += 12
        assert (await late.get(THINGS)).status == 201


async def test_behind_a_proxy_its_own_word_for_the_address_counts(tmp_path: Path) -> None:
    more: dict[str, Any] = {"api": {"failures_per_minute": 2}, "http": {"behind_proxy": True}}
    async with serving(tmp_path, clock=ByHand(), **more) as (api, _):

        async def ask(address: str) -> int:
            headers = {"X-Forwarded-For": address}
            return (await api.request("GET", THINGS, headers=headers)).status

        assert [await ask("203.0.113.1") for _ in range(3)] == [401, 401, 429]
        assert await ask("203.0.113.1, 203.0.113.2") == 401
        assert [await ask("2001:db8::1"), await ask("2001:db8::2")] == [401, 401]
        assert await ask("2001:db8::3") == 429  # the same network
        assert await ask("nonsense") == 401


async def test_one_request_too_many_at_once_is_503(tmp_path: Path) -> None:
    handlers = Handlers(go=asyncio.Event())
    assert handlers.go is not None
    async with serving(tmp_path, handlers, api={"max_in_flight": 2}) as (api, _):
        client = await api.account("acme")
        waiting = [asyncio.create_task(client.get(THINGS)) for _ in range(2)]
        await eventually(lambda: handlers.made == 2)
        reply = await client.get(THINGS)
        assert (reply.status, reply.json["code"]) == (503, "overloaded")
        assert "Retry-After" in reply.headers
        assert (await api.request("GET", "/healthz")).status == 200
        handlers.go.set()
        assert [each.status for each in await asyncio.gather(*waiting)] == [201, 201]


async def test_a_request_that_takes_too_long_is_503(tmp_path: Path) -> None:
    handlers = Handlers(go=asyncio.Event())
    async with serving(tmp_path, handlers, api={"request_timeout": 0.2}) as (api, _):
        reply = await (await api.account("acme")).get(THINGS)
        assert (reply.status, reply.json["code"]) == (503, "timeout")


async def test_a_stop_lets_requests_in_flight_finish(tmp_path: Path) -> None:
    handlers = Handlers(go=asyncio.Event())
    assert handlers.go is not None
    async with serving(tmp_path, handlers) as (api, _):
        client = await api.account("acme")
        asked = asyncio.create_task(client.get(THINGS))
        await eventually(lambda: handlers.made == 1)
        asyncio.get_running_loop().call_later(0.3, handlers.go.set)
        answered = asked
        answered.add_done_callback(lambda _: None)
        reply = await asked
    assert reply.status == 201


# --- Idempotency-Key


async def test_the_same_key_is_carried_out_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as (api, handlers):
        client, other = await api.account("acme"), await api.account("other")
        first = await client.post(THINGS, {"name": "a"}, headers=key("k1"))
        again = await client.post(THINGS, {"name": "a"}, headers=key("k1"))
        assert (first.status, first.body) == (again.status, again.body) == (201, first.body)
        assert again.headers["Location"] == first.headers["Location"]
        assert again.headers["Idempotent-Replayed"] == "true"
        assert "Idempotent-Replayed" not in first.headers
        assert handlers.made == 1
        assert (await other.post(THINGS, {"name": "a"}, headers=key("k1"))).json["number"] == 2
        assert (await client.post(THINGS, {"name": "a"}, headers=key("k2"))).json["number"] == 3
        assert (await client.post(THINGS, {"name": "a"})).json["number"] == 4


async def test_a_key_is_for_one_request(tmp_path: Path) -> None:
    async with serving(tmp_path) as (api, handlers):
        client = await api.account("acme")
        assert (await client.post(THINGS, {"name": "a"}, headers=key("k"))).status == 201
        for body, query in (({"name": "b"}, {}), ({"name": "a"}, {"x": "1"})):
            reply = await client.request("POST", THINGS, body, query=query, headers=key("k"))
            assert (reply.status, reply.json["code"]) == (422, "idempotency_key_reused")
        for odd in ("", " ", "x" * 256, "a b"):
            reply = await client.post(THINGS, {"name": "a"}, headers=key(odd))
            assert (reply.status, reply.json["code"]) == (422, "idempotency_key_invalid")
        assert handlers.made == 1


async def test_while_it_is_carried_out_its_repetition_waits(tmp_path: Path) -> None:
    handlers = Handlers(go=asyncio.Event())
    assert handlers.go is not None
    async with serving(tmp_path, handlers) as (api, _):
        client = await api.account("acme")
        first = asyncio.create_task(client.post(THINGS, {}, headers=key("k")))
        await eventually(lambda: handlers.made == 1)
        reply = await client.post(THINGS, {}, headers=key("k"))
        assert (reply.status, reply.json["code"]) == (409, "idempotency_key_in_flight")
        handlers.go.set()
        assert (await first).status == 201
        assert (await client.post(THINGS, {}, headers=key("k"))).json["number"] == 1


async def test_of_many_at_once_one_is_carried_out(tmp_path: Path) -> None:
    async with serving(tmp_path) as (api, handlers):
        client = await api.account("acme")
        asked = [client.post(THINGS, {}, headers=key("k")) for _ in range(20)]
        statuses = {reply.status for reply in await asyncio.gather(*asked)}
        assert statuses <= {201, 409}
        assert handlers.made == 1


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (Conflict("taken"), True),
        (Permanent("refused"), False),
        (StorageUnavailable("away"), False),
        (Transient("away"), False),
        (RuntimeError("x"), False),
    ],
    ids=lambda each: type(each).__name__,
)
async def test_refusals_are_kept_and_faults_are_not(
    tmp_path: Path, error: Exception, kept: bool
) -> None:
    handlers = Handlers(error=error)
    async with serving(tmp_path, handlers) as (api, _):
        client = await api.account("acme")
        first = await client.post(THINGS, {}, headers=key("k"))
        handlers.error = None
        again = await client.post(THINGS, {}, headers=key("k"))
        assert again.status == (first.status if kept else 201)
        assert handlers.made == (1 if kept else 2)


async def test_what_is_wrong_before_it_begins_leaves_the_key_free(tmp_path: Path) -> None:
    async with serving(tmp_path) as (api, _):
        client = await api.account("acme")
        assert (await client.post(THINGS, {"name": 1}, headers=key("k"))).status == 422
        assert (await client.post(THINGS, {"name": "a"}, headers=key("k"))).status == 201


async def test_a_crash_blocks_its_key_for_a_lease_alone(tmp_path: Path) -> None:
    async with serving(tmp_path, api={"request_timeout": 30}) as (api, handlers):
        client = await api.account("acme")
        assert (await client.post(THINGS, {}, headers=key("k"))).status == 201
        await _age(api, seconds=1, status=None)  # as a process that died has left it
        assert (await client.post(THINGS, {}, headers=key("k"))).status == 409
        await _age(api, seconds=61, status=None)
        assert (await client.post(THINGS, {}, headers=key("k"))).status == 201
        assert handlers.made == 2


async def test_keys_are_kept_for_a_day(tmp_path: Path) -> None:
    async with serving(tmp_path) as (api, handlers):
        client = await api.account("acme")
        assert (await client.post(THINGS, {}, headers=key("k"))).status == 201
        await _age(api, seconds=86_390)
        assert await idempotency.prune(api.control.database) == 0
        assert (await client.post(THINGS, {}, headers=key("k"))).json["number"] == 1
        await _age(api, seconds=86_401)
        assert (await client.post(THINGS, {"name": "b"}, headers=key("k"))).json["number"] == 2
        await _age(api, seconds=86_401)
        assert await idempotency.prune(api.control.database) == 1
        assert handlers.made == 2


async def test_a_kept_answer_is_sealed(tmp_path: Path) -> None:
    async with serving(tmp_path) as (api, _):
        client = await api.account("acme")
        await client.post(THINGS, {"name": "a-secret-name"}, headers=key("k"))
        assert "a-secret-name" not in repr(await api.dump())


async def _age(api: RunningApi, *, seconds: float, **values: Any) -> None:
    then = api.control.clock.now() - round(seconds * 1_000_000)
    async with api.control.database.write() as connection:
        await connection.execute(update(idempotency_keys).values(created_at=then, **values))


# --- CORS


async def test_browsers_are_told_nothing_unless_an_origin_is_set(tmp_path: Path) -> None:
    page = {"Origin": "https://app.example.com"}
    asks = {**page, "Access-Control-Request-Method": "POST"}
    async with serving(tmp_path / "off") as (api, _):
        reply = await (await api.account("acme")).get(THINGS)
        assert not [each for each in reply.headers if each.startswith("Access-Control")]
        assert (await api.request("OPTIONS", THINGS, headers=asks)).status == 405
    origins = {"cors_origins": ["https://app.example.com"]}
    async with serving(tmp_path / "on", api=origins) as (api, _):
        reply = await api.request("OPTIONS", THINGS, headers=asks)
        assert (reply.status, reply.body) == (204, b"")
        assert reply.headers["Access-Control-Allow-Origin"] == page["Origin"]
        assert "POST" in reply.headers["Access-Control-Allow-Methods"]
        assert "Authorization" in reply.headers["Access-Control-Allow-Headers"]
        client = await api.account("acme")
        reply = await client.request("GET", THINGS, headers=page)
        assert reply.headers["Access-Control-Allow-Origin"] == page["Origin"]
        assert reply.headers["Vary"] == "Origin"
        other = {**asks, "Origin": "https://evil.example.com"}
        reply = await api.request("OPTIONS", THINGS, headers=other)
        assert reply.status == 405
        assert "Access-Control-Allow-Origin" not in reply.headers
        # A refusal is readable for the page, too.
        reply = await api.request("GET", THINGS, headers=page)
        assert (reply.status, reply.headers["Access-Control-Allow-Origin"]) == (401, page["Origin"])


# --- metrics


async def test_requests_are_counted_by_operation_and_status(tmp_path: Path) -> None:
    async with serving(tmp_path) as (api, _):
        client = await api.account("acme")
        await client.get(THINGS)
        await client.get("/t/v1/none")
        text = (await api.request("GET", "/metrics")).text
    counted = 'switchboard_api_requests_total{dialect="test",operation="%s",status="%s"}'
    assert counted % ("list", "201") in text
    assert counted % ("unknown", "404") in text
    assert 'switchboard_api_request_seconds_count{dialect="test",operation="list"}' in text
