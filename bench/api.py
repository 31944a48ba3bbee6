"""The control API: reads and updates of two dialects against a bare handler, on both databases."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from bench.child import Child
from bench.ingress import Round
from bench.load import closed_loop
from bench.report import Part, table
from bench.stats import Spread, ratio, spread
from tests.support.servers.postgres import postgres_server

_NUMBERS = 1000  # of the account
_CONNECTIONS = (1, 32)
_ROUNDS = 3
_FASTEST = 4000  # requests a second that are prepared for

Facts = Mapping[str, Any]
"""What a child said of its account (`bench.tenant.fill`), and its port."""


def request(facts: Facts, method: str, path: str, body: Any = None) -> bytes:
    """One request with the account's token."""
    content = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n"
        f"Authorization: Bearer {facts['token']}\r\n"
        + ("" if body is None else "Content-Type: application/json\r\n")
        + f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def _list(facts: Facts, _: int) -> bytes:
    return request(facts, "GET", "/api/v1/agent/phone-numbers?page=1&limit=20")


def _get(facts: Facts, _: int) -> bytes:
    return request(facts, "GET", f"/v1/numbers?phone_number={quote(facts['vocode_number'])}")


def _put(facts: Facts, n: int) -> bytes:
    config = {"greeting": f"Hello, this is answer {n}"}
    return request(facts, "PUT", f"/api/v1/agent/{facts['agent']}", {"config": config})


def _post(facts: Facts, n: int) -> bytes:
    path = f"/v1/numbers/update?phone_number={quote(facts['vocode_number'])}"
    return request(facts, "POST", path, {"label": f"number {n}"})


OPERATIONS: Mapping[str, Callable[[Facts, int], bytes]] = {
    "voice.ai GET agent/phone-numbers": _list,
    "Vocode GET numbers": _get,
    "voice.ai PUT agent/{id}": _put,
    "Vocode POST numbers/update": _post,
}

Rounds = dict[tuple[str, int], dict[str, list[Round]]]


def run(seconds: float, cores: tuple[int, int]) -> Part:
    """`seconds` per round."""
    with TemporaryDirectory(prefix="switchboard-bench-") as folder:
        lines = _told("On SQLite", Path(folder), cores[0], ("", ""), seconds)
    with TemporaryDirectory(prefix="switchboard-bench-") as folder, postgres_server() as server:
        urls = (server.create_database("ours"), server.create_database("bare"))
        lines += _told("On PostgreSQL", Path(folder), cores[0], urls, seconds)
    lines.append(
        f"The role `api` alone, an account with {_NUMBERS:,} numbers. The bare handler looks the "
        "token up and answers from the same tables, with the driver's own statements. What it does "
        "not do: limits, models, request ids, audit, outbox, one transaction around its reads; "
        "its updates write one row, Switchboard's also the audit's, and where a route changes the "
        "outbox's. Requests per CPU second count all threads of the server process; PostgreSQL and "
        "the load generator have the other core.\n"
    )
    return Part("api", "Control API: reads and updates against a bare handler", lines)


@contextmanager
def _contenders(folder: Path, core: int, urls: tuple[str, str]) -> Iterator[dict[str, Child]]:
    spec = {"count": _NUMBERS, "roles": ["api"], "bootstrap": ""}
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                Child(module, spec | {"folder": str(folder / name), "url": url}, core=core)
            )
            for (name, module), url in zip(
                {"Switchboard": "bench.tenant", "bare": "bench.bare_api"}.items(), urls, strict=True
            )
        }


def _measure(child: Child, operation: str, connections: int, seconds: float) -> Round:
    make = OPERATIONS[operation]
    requests = [make(child.ready, n) for n in range(int(_FASTEST * seconds))]
    before = child.cpu_seconds
    load = asyncio.run(
        closed_loop(child.ready["port"], requests, connections=connections, seconds=seconds)
    )
    return Round(load, child.cpu_seconds - before)


def _told(title: str, folder: Path, core: int, urls: tuple[str, str], seconds: float) -> list[str]:
    rounds: Rounds = {
        (operation, count): defaultdict(list) for operation in OPERATIONS for count in _CONNECTIONS
    }
    with _contenders(folder, core, urls) as programs:
        for operation in OPERATIONS:
            for child in programs.values():
                _measure(child, operation, 8, 0.5)  # warm
        for _ in range(_ROUNDS):
            for (operation, connections), both in rounds.items():
                for name, child in programs.items():
                    both[name].append(_measure(child, operation, connections, seconds))
    return [
        f"### {title}\n",
        *table(_HEAD, [row for which, both in rounds.items() for row in _rows(which, both)]),
        "Ratio of requests per second: "
        + ", ".join(
            f"{_ratio(both, 'rate').show(2)} {which[0]} at {which[1]}"
            for which, both in rounds.items()
        )
        + ".\n",
    ]


_HEAD = ("operation", "connections", "program", "per s", "per CPU s", "p50 ms", "p99 ms",
         "ratio per CPU s")  # fmt: skip


def _rows(which: tuple[str, int], both: dict[str, list[Round]]) -> Iterator[list[str]]:
    for name, several in both.items():
        yield [
            which[0],
            str(which[1]),
            name,
            spread([r.rate for r in several]).show(),
            spread([r.per_cpu for r in several]).show(),
            *(spread([r.millis(p) for r in several]).show(2) for p in (50, 99)),
            _ratio(both, "per_cpu").show(2) if name == "Switchboard" else "",
        ]


def _ratio(both: dict[str, list[Round]], what: str) -> Spread:
    ours, bare = ([getattr(r, what) for r in both[name]] for name in ("Switchboard", "bare"))
    return ratio(ours, bare)
