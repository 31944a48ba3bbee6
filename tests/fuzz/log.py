"""Targets for what lies on the log: our own records, those of other producers, and the routes."""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from aiokafka.structs import ConsumerRecord

from router.clock import SystemClock
from router.errors import BadPayload
from router.eventlog.base import Record
from router.eventlog.kafka_consumer import to_record
from router.events import cloudevents, codec
from router.ingress.routes import RouteFollower
from router.routing.table import Route, RouteTable, Version
from router.routing.table import Target as Agent
from router.storage.records import REV, route_record
from tests.fuzz.target import Target, joined, text
from tests.fuzz.words import nasty
from tests.providers.found import payloads
from tests.support.fake_log import FakeLog

_STRUCTURED: Final = "application/cloudevents+json"
_BATCH: Final = "application/cloudevents-batch+json"
_NULL: Final = b"null"  # a header or key that is there without a value
_NUMBER: Final = "+14155550100"


def targets() -> Iterator[Target]:
    events = [event for one in payloads() if one.is_readable for event in one.events()]
    records = [codec.encode(event) for event in events]
    yield _record(records)
    yield _cloudevent(records)
    yield _route()


def _record(records: Sequence[tuple[Mapping[str, str], bytes]]) -> Target:
    """A record as aiokafka hands it over: its key, its headers, its value."""
    names = list(records[0][0])

    def run(data: bytes) -> None:
        key, *values = data.split(b"\0", len(names) + 1)
        record = _received(
            key, dict(zip(names, values, strict=False)), values[-1] if values else b""
        )
        with suppress(BadPayload):
            codec.decode(record.key, record.headers, record.value)

    seeds = [joined("key", *headers.values(), value) for headers, value in records]
    headers = list(records[0][0].values())
    nulls = [
        joined("key", *headers[:index], _NULL, *headers[index + 1 :], "{}")
        for index in range(len(headers))
    ]
    structured = [joined("key", *headers[:-1], _STRUCTURED, value) for value in nasty()]
    return Target("log", run, [*seeds, *nulls, *structured])


def _cloudevent(records: Sequence[tuple[Mapping[str, str], bytes]]) -> Target:
    """A request as others would send it, in any mode."""
    names = ("Content-Type", "ce-id", "CE-Source", "ce-type", "ce-specversion", "ce-time", "ce-x")

    def run(data: bytes) -> None:
        *values, body = data.split(b"\0", len(names))
        headers = zip(names, map(text, values), strict=False)
        with suppress(BadPayload):
            for event in cloudevents.from_http(dict(headers), body):
                assert _told_again(event) == event.attributes.items() - {_content_type(event)}

    none = [b""] * (len(names) - 1)
    written = [joined(_STRUCTURED, *none, _structured(*record)) for record in records]
    batch = [joined(_BATCH, *none, value) for value in (b"[]", b"[{}]", *nasty())]
    binary = joined("text/plain", "1", "/x", "t", "1.0", "2018-04-05T17:31:00Z", '"%E2%82%AC"', "x")
    return Target("cloudevents", run, [*written, *batch, binary])


def _told_again(event: cloudevents.CloudEvent) -> Set[tuple[str, str]]:
    """The attributes that are read of what we write; without its type, data may be anything."""
    headers, body = cloudevents.to_http(event)
    headers.pop("content-type", None)
    (again,) = cloudevents.from_http(headers, body)
    return again.attributes.items()


def _content_type(event: cloudevents.CloudEvent) -> tuple[str, str]:
    return "datacontenttype", event.attributes.get("datacontenttype", "")


def _structured(headers: Mapping[str, str], value: bytes) -> bytes:
    members = {name.removeprefix("ce_"): text for name, text in headers.items() if "ce_" in name}
    return msgspec.json.encode({**members, "data": msgspec.Raw(value)})


def _route() -> Target:
    """A record of `telephony.routes`, which is kept for ever."""
    clock, path = SystemClock(), Path("routes.json")

    def run(data: bytes) -> None:
        key, rev, value = (*data.split(b"\0", 2), b"", b"")[:3]
        follower = RouteFollower(RouteTable(), FakeLog(), clock, path)
        record = _received(key, {REV: rev}, None if value == _NULL else value)
        follower._apply(record)
        msgspec.json.encode(list(follower.table))

    agent = Agent(agent="anna", livekit_agent_name="anna", metadata={"language": "en"})
    route = Route(number=_NUMBER, provider="twilio", rev=7, targets=(agent,), fallback="+12125550")
    _, value = route_record(_NUMBER, route, version=Version(1, 7), time=0)
    odd = [joined(_NUMBER, "7", (value or b"").replace(b'"anna"', each[:1000])) for each in nasty()]
    return Target(
        "routes", run, [joined(_NUMBER, "7", value or b""), joined(_NUMBER, "8", _NULL), *odd]
    )


def _received(key: bytes, headers: Mapping[str, bytes], value: bytes | None) -> Record:
    told = [(name, None if text == _NULL else text) for name, text in headers.items()]
    whole = None if key == _NULL else key
    message = ConsumerRecord("topic", 0, 0, 0, 0, whole, value, None, 0, 0, told)  # type: ignore[arg-type]  # Kafka has headers without a value
    return to_record(message)
