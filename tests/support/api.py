"""A running API: the real listener and control plane over SQLite, with carriers that sell anything.

async with running_api(tmp_path) as api:
    client = await api.account("acme")          # an account, a token with every scope but admin
    reply = await client.post("/api/v1/agent/search-phone-numbers", {"area_code": "415"})
    assert reply.status == 200, reply.text
"""

import json
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from sqlalchemy import insert, select, update
from yarl import URL

from config.settings import Settings
from router.api.app import Api, dialects
from router.api.operation import Dialect
from router.clock import Clock, SystemClock
from router.control import accounts, tokens
from router.control.context import Control
from router.control.model import Account, Actor, Plan, Scope, Token
from router.errors import Ambiguous, NotFound, Permanent, Transient
from router.events.ids import DEFAULT_ACCOUNT
from router.events.model import EventData
from router.events.types import EventType
from router.files import make_data_folder
from router.http.server import base_app, listening
from router.provider import (
    AvailableNumber,
    Credentials,
    NotAvailable,
    NumberInventory,
    NumberQuery,
    OwnedNumber,
)
from router.storage import schema
from router.storage.engine import open_database
from router.storage.migrate import prepare
from router.vault import Vault
from tests.support.nodes import free_port, node_settings

ADMIN = Actor(account_id=DEFAULT_ACCOUNT)
EVERY: tuple[Scope, ...] = ("numbers:write", "agents:write", "calls:write", "webhooks:write")


@dataclass(frozen=True)
class Reply:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Somebody with a token."""

    api: "RunningApi"
    token: str
    account: Account
    row: Token

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Reply:
        """`body` is sent as JSON, `raw` as it is."""
        own = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        return await self.api.request(method, path, body, query=query, headers=own, raw=raw)

    async def get(self, path: str, query: Mapping[str, Any] | None = None) -> Reply:
        return await self.request("GET", path, query=query)

    async def post(self, path: str, body: Any = None, **more: Any) -> Reply:
        return await self.request("POST", path, body, **more)

    async def patch(self, path: str, body: Any = None, **more: Any) -> Reply:
        return await self.request("PATCH", path, body, **more)

    async def put(self, path: str, body: Any = None, **more: Any) -> Reply:
        return await self.request("PUT", path, body, **more)

    async def delete(self, path: str, **more: Any) -> Reply:
        return await self.request("DELETE", path, **more)


@dataclass
class RunningApi:
    """What a test needs of it."""

    url: str
    port: int
    settings: Settings
    control: Control
    dialects: Sequence[Dialect]
    session: aiohttp.ClientSession
    carriers: "FakeCarriers"

    async def account(
        self, name: str, *, scopes: Iterable[Scope] = EVERY, plan: Plan | None = None, **more: Any
    ) -> Client:
        """An account (made unless it is there) and a token of it; `more`: of `tokens.create`."""
        try:
            account = await accounts.get(self.control, ADMIN, name)
        except NotFound:
            account = await accounts.create(self.control, ADMIN, name=name, plan=plan or Plan())
        row, token = await tokens.create(
            self.control, ADMIN, account=account.id, scopes=tuple(scopes), **more
        )
        return Client(self, token, account, row)

    async def call(self, account: Account, agent_id: str) -> str:
        """A call of the account, with one event; its id."""
        call_id, now = str(uuid.uuid4()), self.control.clock.now()
        data = EventData(call_id=call_id, account_id=account.id, from_number="+12125550123")
        record = {
            "call_id": call_id,
            "provider": "twilio",
            "provider_call_id": f"CA{uuid.uuid4().hex}",
            "account": "",
            "account_id": account.id,
            "agent_id": agent_id,
            "direction": "inbound",
            "from_number": "+12125550123",
            "to_number": "+14155550100",
            "state": "ended",
            "disposition": "answered",
            "agent": "anna",
            "agent_ready": True,
            "reason": "number is mapped to agent anna",
            "initiated_at": now,
            "answered_at": now,
            "ended_at": now + 60_000_000,
            "duration": 60.0,
        }
        event = {
            "event_id": str(uuid.uuid4()),
            "call_id": call_id,
            "type": EventType.CALL_INITIATED.value,
            "time": now,
            "source": "twilio",
            "data": msgspec.json.encode(data),
        }
        async with self.control.database.write() as connection:
            await connection.execute(insert(schema.calls).values(record))
            await connection.execute(insert(schema.call_events).values(event))
        return call_id

    async def revoke(self, client: Client) -> None:
        """From now on its token is none."""
        await tokens.revoke(self.control, ADMIN, client.row.id)

    async def corrupt(self, number_id: str) -> None:
        """As a release leaves a number that its carrier refuses for good."""
        numbers = schema.numbers
        async with self.control.database.write() as connection:
            await connection.execute(
                update(numbers).where(numbers.c.id == number_id).values(state="corrupted")
            )

    async def dump(self) -> dict[str, list[Any]]:
        """All that the database holds, but for when tokens were used."""
        found: dict[str, list[Any]] = {}
        async with self.control.database.read() as connection:
            for table in schema.metadata.sorted_tables:
                columns = [each for each in table.c if each.name != "last_used_at"]
                rows = await connection.execute(select(*columns))
                found[table.name] = sorted(map(repr, rows.all()))
        return found

    async def admin(self) -> Client:
        """A token with the scope admin, of the account `default`."""
        return await self.account("default", scopes=("admin",))

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Reply:
        """Without a token, unless `headers` have one."""
        data, own = raw, dict(headers or {})
        if data is None and body is not None:
            data = json.dumps(body).encode()
            own.setdefault("Content-Type", "application/json")
        async with self.session.request(
            method,
            URL(self.url + path, encoded=True),
            data=data,
            params=query,
            headers=own,
            allow_redirects=False,
        ) as answer:
            return Reply(answer.status, answer.headers, await answer.read())


@dataclass
class FakeCarriers:
    """Carriers whose numbers are in memory, by account: strict about what is owned and sold."""

    available: dict[str, list[str]] = field(
        default_factory=lambda: {
            "twilio": [f"+1415555{number:04d}" for number in range(3000, 3200)],
            "telnyx": [f"+1212555{number:04d}" for number in range(3000, 3200)],
        }
    )
    owned: dict[tuple[str, str], dict[str, OwnedNumber]] = field(default_factory=dict)
    away: bool = False  # nothing answers
    refuses: bool = False  # for good, whatever it is asked
    lost: bool = False  # what is done, is done; the answer is lost
    dies: bool = False  # the same, and then it is away

    @asynccontextmanager
    async def open(
        self, provider: str, credentials: Credentials | None
    ) -> AsyncIterator[NumberInventory]:
        account = credentials.provider_account if credentials else "operator"
        yield _FakeInventory(self, provider, self.owned.setdefault((provider, account), {}))

    def give(self, provider: str, account: str, number: str = "") -> str:
        """Let an account hold a number (this one, or any) that was not bought by us; the number."""
        own = self.owned.setdefault((provider, account), {})
        number = number or self.available[provider].pop()
        own[number] = OwnedNumber(number, f"PN{len(own):032x}")
        return number


@dataclass
class _FakeInventory:
    carriers: FakeCarriers
    provider: str
    mine: dict[str, OwnedNumber]

    def _ask(self) -> None:
        if self.carriers.away:
            raise Transient("the carrier is away")
        if self.carriers.refuses:
            raise Permanent("the carrier refuses it", code="20003")

    def _done(self) -> None:
        if self.carriers.dies:
            self.carriers.dies, self.carriers.away = False, True
            raise Ambiguous("the carrier's answer was lost")
        if self.carriers.lost:
            raise Ambiguous("the carrier's answer was lost")

    async def search(self, query: NumberQuery) -> Sequence[AvailableNumber]:
        self._ask()
        prefix = f"+1{query.area_code}" if query.country == "US" else "none"
        found = [
            each
            for each in self.carriers.available[self.provider]
            if each.startswith(prefix) and query.contains.strip("*") in each
        ]
        return [
            AvailableNumber(each, self.provider, "US", "CA", "San Francisco")
            for each in found[: query.limit]
        ]

    async def buy(self, number: str, *, tag: str) -> OwnedNumber:
        self._ask()
        if number not in self.carriers.available[self.provider]:
            raise NotAvailable("nobody sells it", code="21422")
        self.carriers.available[self.provider].remove(number)
        self.mine[number] = OwnedNumber(number, f"PN{len(self.mine):032x}", tag, ours=True)
        self._done()
        return self.mine[number]

    async def find(self, number: str, *, tag: str = "") -> OwnedNumber | None:
        self._ask()
        found = self.mine.get(number)
        return found if found is not None and tag in ("", found.tag) else None

    async def owned(self, *, limit: int = 1000) -> Sequence[OwnedNumber]:
        self._ask()
        return list(self.mine.values())[:limit]

    async def configure(self, owned: OwnedNumber) -> OwnedNumber:
        self._ask()
        self.mine[owned.number] = owned._replace(ours=True)
        self._done()
        return self.mine[owned.number]

    async def release(self, owned: OwnedNumber) -> None:
        self._ask()
        if self.mine.pop(owned.number, None) is not None:
            self.carriers.available[self.provider].append(owned.number)
        self._done()


@asynccontextmanager
async def running_api(
    folder: Path,
    *,
    only: Sequence[Dialect] | None = None,
    clock: Clock | None = None,
    **more: Any,
) -> AsyncIterator[RunningApi]:
    """An API on a free port. `only`: these dialects, else all; `more`: sections of settings.

    Limits of requests are wide unless `more` says otherwise: `api={"burst": 2}`.
    """
    port = free_port()
    wide = {"requests_per_minute": 1_000_000, "burst": 1_000_000, "failures_per_minute": 1_000_000}
    more["api"] = wide | more.get("api", {})
    settings = node_settings(folder, port=port, livekit_url="http://127.0.0.1:1", **more)
    make_data_folder(settings.data_dir)
    await prepare(settings)
    carriers = FakeCarriers()
    async with open_database(settings) as database:
        control = Control(
            settings, database, Vault([b"k" * 32]), carriers.open, clock or SystemClock()
        )
        found = dialects() if only is None else only
        app = base_app(settings.http, health=lambda: (True, {}))
        Api(control, found).mount(app)
        connector = aiohttp.TCPConnector(force_close=True)
        async with (
            listening(app, settings.http),
            aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
        ):
            url = f"http://127.0.0.1:{port}"
            yield RunningApi(url, port, settings, control, found, session, carriers)
