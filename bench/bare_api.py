"""A bare API: a token looked up, the statement, JSON. No limits, models, scopes, audit or outbox.

It has Switchboard's tables and rows, and answers the same with as few statements as that takes:
one transaction per update, none around reads.
"""

import asyncio
import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiosqlite
import msgspec
from aiohttp import web
from psycopg_pool import AsyncConnectionPool
from typing_extensions import override

from bench.bare import listen
from bench.child import run_child, say
from bench.tenant import fill, settings

_TOKEN: Final = "SELECT account_id, scopes, expires_at, revoked_at FROM tokens WHERE hash = ?"
_NUMBERS: Final = (
    "SELECT n.number, n.state, n.agent_id, a.label FROM numbers n LEFT JOIN agents a"
    " ON n.agent_id = a.id WHERE n.account_id = ? AND n.state <> 'deleting'"
    " ORDER BY n.short_id LIMIT 20"
)
_COUNT: Final = "SELECT count(*) FROM numbers WHERE account_id = ? AND state <> 'deleting'"
_NUMBER: Final = (
    "SELECT n.id, n.number, n.state, n.label, n.provider, n.details, a.id, a.label, a.config"
    " FROM numbers n LEFT JOIN agents a ON n.agent_id = a.id"
    " WHERE n.account_id = ? AND n.number = ?"
)
_DOCUMENTS: Final = "SELECT id, body FROM documents WHERE account_id = ? AND id IN (?, ?)"
_AGENT: Final = "SELECT config FROM agents WHERE account_id = ? AND id = ?"
_SET_AGENT: Final = (
    "UPDATE agents SET config = ?, updated_at = ? WHERE account_id = ? AND id = ?"
    " RETURNING id, label, status, config, created_at, updated_at"
)
_SET_NUMBER: Final = (
    "UPDATE numbers SET label = ?, updated_at = ? WHERE account_id = ? AND number = ?"
    " RETURNING id, number, state, label, provider, agent_id"
)

Rows = Sequence[Any]


class Store(ABC):
    """The driver that Switchboard uses, without SQLAlchemy."""

    @abstractmethod
    async def read(self, sql: str, values: Sequence[Any]) -> Rows: ...

    @abstractmethod
    async def write(self, sql: str, values: Sequence[Any]) -> Rows: ...


class Sqlite(Store):
    """One connection, as Switchboard has for its API; commits are as durable."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._one = asyncio.Lock()

    @override
    async def read(self, sql: str, values: Sequence[Any]) -> Rows:
        return list(await self._connection.execute_fetchall(sql, values))

    @override
    async def write(self, sql: str, values: Sequence[Any]) -> Rows:
        async with self._one:
            return list(await self._connection.execute_fetchall(sql, values))


class Postgresql(Store):
    """A pool of as many connections as Switchboard's."""

    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    @override
    async def read(self, sql: str, values: Sequence[Any]) -> Rows:
        async with self._pool.connection() as connection:
            found = await connection.execute(sql.replace("?", "%s").encode(), values)
            return await found.fetchall()

    write = read


@asynccontextmanager
async def _store(folder: Path, url: str) -> AsyncIterator[Store]:
    if not url:
        async with aiosqlite.connect(folder / "switchboard.db", isolation_level=None) as opened:
            await opened.execute("PRAGMA synchronous=FULL")
            yield Sqlite(opened)
        return
    plain = url.replace("+psycopg", "")
    autocommit = {"autocommit": True}
    async with AsyncConnectionPool(plain, min_size=8, max_size=8, kwargs=autocommit) as pool:
        yield Postgresql(pool)


class Handlers:
    """Of what is measured, and nothing else."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def _account(self, request: web.Request) -> str:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        digest = hashlib.sha256(token.encode()).hexdigest()
        for account, scopes, expires, revoked in await self._store.read(_TOKEN, [digest]):
            current = expires is None or expires > time.time() * 1e6
            if current and revoked is None and "numbers:write" in json.loads(scopes):
                return str(account)
        raise web.HTTPUnauthorized

    async def list_numbers(self, request: web.Request) -> web.Response:
        account = await self._account(request)
        rows = await self._store.read(_NUMBERS, [account])
        total = (await self._store.read(_COUNT, [account]))[0][0]
        items = [
            {
                "phone_number": number,
                "status": state if agent is None else "assigned",
                "assigned_to_agent_id": agent,
                "assigned_to_agent_name": label,
            }
            for number, state, agent, label in rows
        ]
        return _answer({"items": items, "pagination": {"current_page": 1, "total_items": total}})

    async def get_number(self, request: web.Request) -> web.Response:
        account = await self._account(request)
        asked = request.query["phone_number"]
        rows = await self._store.read(_NUMBER, [account, asked])
        id_, number, state, label, provider, details, agent, name, config = rows[0]
        parts = msgspec.json.decode(config)
        ids = [parts.get("prompt", ""), parts.get("voice", "")]
        documents = dict(await self._store.read(_DOCUMENTS, [account, *ids]))
        parts["prompt"], parts["voice"] = (msgspec.json.decode(documents[each]) for each in ids)
        return _answer(
            {
                "id": id_,
                "number": number,
                "active": state == "active",
                "label": label,
                "telephony_provider": provider,
                **msgspec.json.decode(details),
                "inbound_agent": {"id": agent, "name": name, **parts},
            }
        )

    async def update_agent(self, request: web.Request) -> web.Response:
        account, sent = await self._account(request), await request.json()
        id_ = request.match_info["agent_id"]
        stored = (await self._store.read(_AGENT, [account, id_]))[0][0]
        config = msgspec.json.encode({**msgspec.json.decode(stored), **sent["config"]}).decode()
        now = int(time.time() * 1e6)
        row = (await self._store.write(_SET_AGENT, [config, now, account, id_]))[0]
        names = ("agent_id", "name", "status", "config", "created_at", "updated_at")
        answer = dict(zip(names, row, strict=True))
        return _answer(answer | {"config": msgspec.json.decode(answer["config"])})

    async def update_number(self, request: web.Request) -> web.Response:
        account, sent = await self._account(request), await request.json()
        values = [sent["label"], int(time.time() * 1e6), account, request.query["phone_number"]]
        row = (await self._store.write(_SET_NUMBER, values))[0]
        names = ("id", "number", "state", "label", "telephony_provider", "inbound_agent")
        return _answer(dict(zip(names, row, strict=True)))


def _answer(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


async def main(spec: dict[str, Any], stop: asyncio.Event) -> None:
    """`spec`: folder, count (of numbers), url."""
    folder = Path(spec["folder"])
    facts = await fill(settings(folder, roles=["api"], url=spec["url"]), spec["count"])
    async with _store(folder, spec["url"]) as store:
        handlers = Handlers(store)
        app = web.Application()
        app.router.add_get("/api/v1/agent/phone-numbers", handlers.list_numbers)
        app.router.add_put("/api/v1/agent/{agent_id}", handlers.update_agent)
        app.router.add_get("/v1/numbers", handlers.get_number)
        app.router.add_post("/v1/numbers/update", handlers.update_number)
        runner, port = await listen(app)
        say(facts | {"port": port})
        await stop.wait()
        await runner.cleanup()


if __name__ == "__main__":
    run_child(main)
