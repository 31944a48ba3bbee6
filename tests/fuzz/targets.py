"""The fuzzer's targets. Inputs are split at NUL bytes where they are more than a body."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby

import msgspec

from router.errors import BadPayload, WebhookError
from router.events import cloudevents, codec
from router.routing.table import Route, RouteTable
from router.routing.table import Target as Agent
from tests.fuzz.chain import take
from tests.providers.case import Raw
from tests.providers.found import Payload, Unrouted, payloads

_STRUCTURED, _BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
_AGENT = Agent(agent="anna", livekit_agent_name="anna")


@dataclass(frozen=True, slots=True)
class Target:
    """`run` takes any bytes and raises nothing; `seeds` are the inputs to begin with."""

    name: str
    run: Callable[[bytes], None]
    seeds: Sequence[bytes]


def targets() -> Mapping[str, Target]:
    """All of them by name: two for each webhook of each provider, two for what is on the log."""
    found = [*_of_webhooks(), *_of_the_log()]
    return {target.name: target for target in found}


def _of_webhooks() -> Iterator[Target]:
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

    return Target(name, run, [b"%c%b" % (index, _content(p.raw)) for index, p in enumerate(group)])


def _unsigned(name: str, group: Sequence[Payload]) -> Target:
    """Target, signed headers and body of the first payload, all of them the fuzzer's."""
    payload, routes = group[0], _routes(group)
    names = payload.case.signed_headers

    def run(data: bytes) -> None:
        target, *values = data.split(b"\0", len(names) + 1)
        raw = replace(payload.raw, target=_text(target))
        for name, value in zip((*names, ""), values, strict=False):
            raw = raw.with_header(name, _text(value)) if name else replace(raw, body=value)
        _take(payload, raw, routes)

    def seed(one: Payload) -> bytes:
        values = [one.raw.header(name).encode() for name in names]
        return b"\0".join([one.raw.target.encode(), *values, one.raw.body])

    return Target(name, run, [seed(one) for one in group])


def _of_the_log() -> Iterator[Target]:
    """Records as our consumers read them, and CloudEvents as others write them."""
    events = [event for one in payloads() if one.is_readable for event in one.events()]
    records = [codec.encode(event) for event in events]
    names = list(records[0][0])

    def read(data: bytes) -> None:
        *values, value = data.split(b"\0", len(names))
        headers = {name: _text(text) for name, text in zip(names, values, strict=False)}
        with suppress(BadPayload):
            codec.decode("key", headers, value)

    def read_http(data: bytes) -> None:
        content_type, _, body = data.partition(b"\0")
        with suppress(BadPayload):
            cloudevents.from_http({"Content-Type": _text(content_type)}, body)

    binary = [b"\0".join([*map(str.encode, head.values()), value]) for head, value in records]
    written = [_structured(headers, value) for headers, value in records]
    yield Target("log", read, binary)
    yield Target("cloudevents", read_http, [*written, b"%b\0[]" % _BATCH.encode()])


def _structured(headers: Mapping[str, str], value: bytes) -> bytes:
    members = {name.removeprefix("ce_"): text for name, text in headers.items() if "ce_" in name}
    text = msgspec.json.encode({**members, "data": msgspec.Raw(value)})
    return b"%b\0%b" % (_STRUCTURED.encode(), text)


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
    return replace(raw, target=f"{raw.target.partition('?')[0]}?{_text(content)}")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")  # as aiohttp reads a request's head
