"""Signed webhooks of every provider: Switchboard's ingress against a bare handler of the same.

Both verify as the provider says and answer when the webhook is on disk; Switchboard makes an event
of it, decides where the call goes and appends that to its journal, the bare handler the body.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import ingress, webhooks
from bench.child import Child
from bench.ingress import PUBLIC_URL, Round
from bench.load import closed_loop
from bench.report import Part, table, verdict
from bench.stats import ratio, spread
from bench.webhooks import Webhook

_CONNECTIONS = 32
_ROUNDS = 3
_FASTEST = 12_000  # requests a second that are prepared for
_AIM = 0.9
_HEAD = ("webhook", "program", "requests/s", "per CPU s", "p50 ms", "p99 ms", "ratio per CPU s")

Rounds = Mapping[str, list[Round]]


def run(seconds: float, cores: tuple[int, int]) -> Part:
    """`seconds` per round."""
    found: dict[str, Rounds] = {}
    for provider, several in groupby(webhooks.webhooks(), key=lambda each: each.provider):
        with _contender(provider, cores[0]) as programs:
            for webhook in several:
                found[f"{provider} {webhook.name}"] = _measured(webhook, programs, seconds)
    ratios = {name: ratio(*_per_cpu(rounds)) for name, rounds in found.items()}
    rows = [row for name, rounds in found.items() for row in _rows(name, rounds)]
    told = ", ".join(f"{each.show(2)} {name}" for name, each in ratios.items())
    met = all(each.middle >= _AIM for each in ratios.values())
    aim = f"≥ {_AIM} of the bare requests per CPU second"
    lines = [
        *table(_HEAD, rows),
        verdict(aim, met=met, found=told),
        f"{_CONNECTIONS} connections. Requests per CPU second count all threads of the server "
        "process, which has one core; the load generator has the other. Vocode's `connected` "
        "becomes two events.\n",
    ]
    return Part("providers", "Providers: their webhooks against bare handlers", lines)


@contextmanager
def _contender(provider: str, core: int) -> Iterator[dict[str, Child]]:
    """Both servers, running on `core`; every number of the route table is at `provider`."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="switchboard-bench-")))
        settings = ingress.settings(folder / "ours", "") | {"providers": webhooks.settings()}
        bare = {
            "public_url": PUBLIC_URL,
            "data_dir": str(folder),
            "telnyx_key": webhooks.telnyx_public_key(),
        }
        ours = {"settings": settings, "provider": provider}
        yield {
            "Switchboard": stack.enter_context(Child("bench.ours", ours, core=core)),
            "bare": stack.enter_context(Child("bench.bare_providers", bare, core=core)),
        }


def _measured(webhook: Webhook, programs: Mapping[str, Child], seconds: float) -> Rounds:
    rounds: dict[str, list[Round]] = defaultdict(list)
    for child in programs.values():
        _round(webhook, child, min(seconds, 1.0))  # warm
    for _ in range(_ROUNDS):
        for name, child in programs.items():
            rounds[name].append(_round(webhook, child, seconds))
    return rounds


def _round(webhook: Webhook, child: Child, seconds: float) -> Round:
    requests = [webhook.make() for _ in range(int(_FASTEST * seconds))]
    before, port = child.cpu_seconds, child.ready["port"]
    load = asyncio.run(closed_loop(port, requests, connections=_CONNECTIONS, seconds=seconds))
    return Round(load, child.cpu_seconds - before)


def _per_cpu(rounds: Rounds) -> tuple[list[float], list[float]]:
    ours, bare = ([each.per_cpu for each in rounds[name]] for name in ("Switchboard", "bare"))
    return ours, bare


def _rows(webhook: str, rounds: Rounds) -> Iterator[list[str]]:
    for name, several in rounds.items():
        yield [
            webhook,
            name,
            spread([each.rate for each in several]).show(),
            spread([each.per_cpu for each in several]).show(),
            spread([each.millis(50) for each in several]).show(2),
            spread([each.millis(99) for each in several]).show(2),
            ratio(*_per_cpu(rounds)).show(2) if name == "Switchboard" else "",
        ]
