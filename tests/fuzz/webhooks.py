"""Targets for each webhook of each provider: signed by the case's key, and wholly the fuzzer's."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby, islice

from router.errors import WebhookError
from router.routing.table import Route, RouteTable
from router.routing.table import Target as Agent
from tests.fuzz.chain import take
from tests.fuzz.target import Target, joined, text
from tests.fuzz.words import nasty
from tests.providers.case import Raw
from tests.providers.found import Payload, Unrouted, payloads
from tests.providers.mutations import shifted

_AGENT = Agent(agent="anna", livekit_agent_name="anna")
_SHIFTED = 100  # seeds
# Beside the signed ones; a diagnosis reads what a proxy says of the URL that it was asked for.
_HEADERS = ("Content-Type", "Host", *(f"X-Forwarded-{it}" for it in ("Host", "Proto", "Port")))
_NAMES = (*_HEADERS, "X-Forwarded-Prefix")


def targets() -> Iterator[Target]:
    ordered = sorted(payloads(), key=_place)
    for (provider, kind, method), group in groupby(ordered, key=_place):
        name = f"{provider}-{kind}" if kind else provider
        if method == "GET":
            name += "-get"
        found = list(group)
        yield _signed(name, found)
        yield _unsigned(f"{name}-unsigned", found)


def _place(payload: Payload) -> tuple[str, str, str]:
    return payload.provider, payload.endpoint.kind, payload.raw.method


def _signed(name: str, group: Sequence[Payload]) -> Target:
    """The first byte says which payload's head the rest is put into, as its body or query."""
    routes = _routes(group)

    def run(data: bytes) -> None:
        payload = group[data[0] % len(group)] if data else group[0]
        raw = payload.case.resign(_filled(payload.raw, data[1:]))
        _take(payload, raw, routes)

    whole = [b"%c%b" % (index, _content(p.raw)) for index, p in enumerate(group)]
    return Target(name, run, [*whole, *(b"\0" + value for value in nasty())])


def _unsigned(name: str, group: Sequence[Payload]) -> Target:
    """Target, headers and body of the first payload, all of them the fuzzer's."""
    payload, routes = group[0], _routes(group)
    names = (*payload.case.signed_headers, *_NAMES)

    def run(data: bytes) -> None:
        target, *values = data.split(b"\0", len(names) + 1)
        raw = replace(payload.raw, target=text(target))
        for header, value in zip((*names, ""), values, strict=False):
            raw = raw.with_header(header, text(value)) if header else replace(raw, body=value)
        _take(payload, raw, routes)

    def seed(one: Raw) -> bytes:
        return joined(one.target, *map(one.header, names), one.body)

    # Signatures can be right of what was moved: the boundaries of a form are not signed.
    moved = chain.from_iterable(shifted(one.raw) for one in group)
    found = [*(one.raw for one in group), *islice(moved, _SHIFTED)]
    return Target(name, run, [seed(raw) for raw in found])


def _take(payload: Payload, raw: Raw, routes: RouteTable) -> None:
    try:
        take(payload.source, raw, payload.case.received_at, routes)
    except (WebhookError, Unrouted):
        return


def _routes(group: Sequence[Payload]) -> RouteTable:
    """With a route for every number that is called."""
    table = RouteTable()
    called = {event["data"].get("to_number", "") for one in group for event in one.golden["events"]}
    for rev, number in enumerate(sorted(called), 1):
        table.put(Route(number=number, provider=group[0].provider, rev=rev, targets=(_AGENT,)))
    return table


def _content(raw: Raw) -> bytes:
    return raw.body or raw.target.partition("?")[2].encode()


def _filled(raw: Raw, content: bytes) -> Raw:
    if raw.body:
        return replace(raw, body=content)
    return replace(raw, target=f"{raw.target.partition('?')[0]}?{text(content)}")
