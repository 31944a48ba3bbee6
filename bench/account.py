"""What a request costs in an account of 100 000 numbers, beside one of 1000."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from urllib.parse import quote

from sqlalchemy.ext.asyncio import AsyncConnection

from bench.api import Facts, request
from bench.child import Child
from bench.load import closed_loop
from bench.report import Part, table, verdict
from bench.routes import numbers
from bench.stats import percentile, spread
from bench.tenant import settings
from router.control import accounts
from router.storage.engine import open_database
from tests.support.servers.postgres import postgres_server

_COUNTS = (1_000, 100_000)
_TIMES = 100  # requests of a round
_SLOTS = 20
_ROUNDS = 3
_PAGE = 100  # numbers
_AIM = 1.5

Make = Callable[[Facts, int, int], bytes]
"""What was said of the account, how many numbers it has, the request's turn → a request."""


def _one(count: int, turn: int) -> str:
    return quote(numbers(count)[-1 - turn * 7])


def _list(facts: Facts, page: int) -> bytes:
    return request(facts, "GET", f"/v1/numbers/list?page={page}&size={_PAGE}")


def _link(facts: Facts, count: int, turn: int) -> bytes:
    body = {"inbound_agent": facts["ids"][f"agent-{turn % 2 + 1}"]}
    return request(facts, "POST", f"/v1/numbers/update?phone_number={_one(count, 0)}", body)


OPERATIONS: Mapping[str, Make] = {
    "list, first page": lambda facts, _, __: _list(facts, 1),
    "list, last page": lambda facts, count, _: _list(facts, count // _PAGE),
    "list those without an agent": lambda facts, _, __: request(
        facts, "GET", "/api/v1/agent/available-phone-numbers?page=1&limit=20"
    ),
    "get one by its number": lambda facts, count, turn: request(
        facts, "GET", f"/v1/numbers?phone_number={_one(count, turn)}"
    ),
    "update one (label)": lambda facts, count, turn: request(
        facts,
        "PATCH",
        f"/api/switchboard/v1/numbers/{_one(count, turn)}",
        {"label": f"number {turn}"},
    ),
    "link one": _link,
}
_SLOT = "take a slot of the plan"

Times = dict[str, dict[int, list[float]]]
"""Operation → numbers of the account → the p50 of each round, in ms."""


def run(cores: tuple[int, int]) -> Part:
    """SQLite, then PostgreSQL."""
    lines: list[str] = []
    with TemporaryDirectory(prefix="switchboard-bench-") as folder:
        lines += _told("On SQLite", Path(folder), cores[0], ("", ""))
    with TemporaryDirectory(prefix="switchboard-bench-") as folder, postgres_server() as server:
        urls = (server.create_database("small"), server.create_database("large"))
        lines += _told("On PostgreSQL", Path(folder), cores[0], urls)
    lines.append(
        f"p50 in ms of {_TIMES} requests one after the other, taking turns; pages of {_PAGE}. "
        f"{_SLOT.capitalize()}: the transaction that a purchase begins with, without the rest of "
        "it. How long `apply` of 100,000 numbers takes: see Mapping.\n"
    )
    return Part("account", "Control API: an account of 100 000 numbers", lines)


def _told(title: str, folder: Path, core: int, urls: Sequence[str]) -> list[str]:
    times: Times = {name: {count: [] for count in _COUNTS} for name in (*OPERATIONS, _SLOT)}
    specs: list[dict[str, Any]] = [
        {"folder": str(folder / str(n)), "roles": ["api"], "bootstrap": "", "url": url, "count": n}
        for n, url in zip(_COUNTS, urls, strict=True)
    ]
    with (
        Child("bench.tenant", specs[0], core=core) as small,
        Child("bench.tenant", specs[1], core=core) as large,
    ):
        pairs = list(zip((small, large), specs, strict=True))
        for turn in range(_ROUNDS + 1):
            for name, make in OPERATIONS.items():
                for child, spec in pairs:
                    found = _asked(child, make, spec["count"])
                    if turn:  # the first is to warm
                        times[name][spec["count"]].append(found)
        for child, spec in pairs:
            slots = asyncio.run(_slots(spec, child.ready["account"]))
            times[_SLOT][spec["count"]] += slots
    growth = {
        name: spread(both[_COUNTS[1]]).middle / spread(both[_COUNTS[0]]).middle
        for name, both in times.items()
    }
    worst = max(growth, key=growth.__getitem__)
    rows = [
        [name, *(spread(both[n]).show(2) for n in _COUNTS), f"{growth[name]:.2f}"]
        for name, both in times.items()
    ]
    return [
        f"### {title}\n",
        *table(("operation", *(f"of {n:,}, ms" for n in _COUNTS), "ratio"), rows),
        verdict(
            f"flat: within {_AIM} times of what an account of {_COUNTS[0]:,} takes",
            met=growth[worst] <= _AIM,
            found=f"{growth[worst]:.2f} at worst ({worst})",
        ),
    ]


def _asked(child: Child, make: Make, count: int) -> float:
    requests = [make(child.ready, count, turn) for turn in range(_TIMES)]
    load = asyncio.run(closed_loop(child.ready["port"], requests, connections=1, seconds=60.0))
    return percentile(load.latencies, 50) * 1000


async def _slots(spec: Mapping[str, Any], account: str) -> list[float]:
    """In this process, over the same database."""
    of = settings(Path(spec["folder"]), roles=["api"], url=spec["url"])

    async def work(connection: AsyncConnection) -> None:
        await accounts.require_slot(connection, account)

    times = []
    async with open_database(of) as database:
        for _ in range(_SLOTS):
            began = perf_counter()
            await database.transact(work)
            times.append((perf_counter() - began) * 1000)
    return times
