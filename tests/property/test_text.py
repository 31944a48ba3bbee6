"""Whatever text a provider has signed, the log, both databases and an agent's job take it.

The examples are the payload files of tests/providers with odd text put into one of their values,
signed anew, and brought all the way: verify, parse, `plain`, encode, journal, decode, the storage.
"""

import asyncio
import json
import tempfile
import unicodedata
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode
from uuid import uuid4

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from livekit.protocol.agent_dispatch import CreateAgentDispatchRequest

from config import load
from consumers.calls.plan import TELLING, fold
from consumers.dispatch.job import job_metadata
from router.errors import BadPayload
from router.eventlog.base import EventLog
from router.eventlog.open import open_log
from router.events import codec
from router.events.examples import EXAMPLES
from router.events.ids import DEFAULT_ACCOUNT
from router.events.model import Event, EventData
from router.events.text import LINE, plain, read_json
from router.events.types import EventType, topic_of
from router.storage import calls, claims, outbox
from router.storage.engine import Database, open_database
from router.storage.migrate import migrate
from tests.providers.case import Raw
from tests.providers.found import Payload, payloads
from tests.providers.mutations import paths

MULTILINE = frozenset({"text", "reason"})
CARRIERS_OWN = frozenset({"RecordingUrl"})  # no stranger's text: with a space in it, it is none
# Of each kind that the rule replaces; what `text` alone may have; and what it leaves alone.
ODD = "\0\x01\x07\x0b\x1b\x1f\x7f\x80\x85\x9f\u202a\u202e\u2066\u2069\ufdd0\ufffe\U0010ffff"
LINE_ENDS = "\t\n\r\u2028"
FINE = "aZ0+@:;é\u200e\u200d\u0301日\U0001f600"
odd_text = st.text(st.sampled_from(ODD + LINE_ENDS + FINE), min_size=1, max_size=12)


def is_replaced(character: str, *, in_a_line: bool) -> bool:
    """The rule once more, by what Unicode says of a character."""
    if character in "\t\n\r":
        return in_a_line
    code = ord(character)
    kind = unicodedata.category(character)
    return (
        kind in ("Cc", "Cs")
        or (in_a_line and kind in ("Zl", "Zp"))
        or unicodedata.bidirectional(character)
        in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        or code & 0xFFFE == 0xFFFE
        or 0xFDD0 <= code <= 0xFDEF
    )


def texts_of(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for name, inner in value.items():
                yield from texts_of(name)
                yield from texts_of(inner)
        case list():
            for inner in value:
                yield from texts_of(inner)
        case _:
            pass


def assert_plain(event: Event) -> None:
    lines = [event.id, event.key]
    for name, value in msgspec.structs.asdict(event.data).items():
        if name in (*MULTILINE, "raw"):
            assert not any(is_replaced(c, in_a_line=False) for t in texts_of(value) for c in t)
        elif isinstance(value, str):
            lines.append(value)
    for line in lines:
        assert len(line) <= 4096
        assert not any(is_replaced(c, in_a_line=True) for c in line)


def with_text(raw: Raw, change: Callable[[Sequence[Any]], Any], text: str) -> Raw:
    """The request with `text` at one place, which `change` picks: a value, or behind one."""
    if raw.header("Content-Type").startswith("application/x-www-form-urlencoded"):
        pairs = parse_qsl(raw.body.decode(), keep_blank_values=True)
        others = [i for i, (name, _) in enumerate(pairs) if name not in CARRIERS_OWN]
        index, how = change([(i, how) for i in others for how in ("set", "add")])
        name, value = pairs[index]
        pairs[index] = (name, text if how == "set" else value + text)
        return replace(raw, body=urlencode(pairs).encode())
    message = json.loads(raw.body)
    places = [at for at in paths(message) if isinstance(_at(message, at), str)]
    at, how = change([(at, how) for at in places for how in ("set", "add", "name")])
    parent = _at(message, at[:-1])
    if how == "name":
        if isinstance(parent, dict):
            parent["new" + text] = parent["other" + text] = text
    else:
        parent[at[-1]] = text if how == "set" else parent[at[-1]] + text
    return replace(raw, body=json.dumps(message, ensure_ascii="\ud800" in text).encode())


def _at(value: Any, at: Sequence[Any]) -> Any:
    for step in at:
        value = value[step]
    return value


def events_of(payload: Payload, raw: Raw) -> list[Event] | None:
    """None where it is refused."""
    verified = payload.source.verify(payload.request(payload.case.resign(raw)))
    try:
        return [plain(event) for event in payload.source.parse(verified)]
    except BadPayload:
        return None


@dataclass(frozen=True, slots=True)
class Stores:
    """A journal and a database, on a loop of their own."""

    runner: asyncio.Runner
    log: EventLog
    db: Database

    def run(self, work: Awaitable[None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(30):
                await work

        self.runner.run(bounded())


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
)
def stores(request: pytest.FixtureRequest) -> Iterator[Stores]:
    url = ""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").create_database("text")
    stack = AsyncExitStack()
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        config = load(overrides={"data_dir": folder, "database": {"url": url}})
        Path(folder).chmod(0o700)

        async def opened() -> Stores:
            await migrate(config)
            log = await stack.enter_async_context(open_log(config))
            return Stores(runner, log, await stack.enter_async_context(open_database(config)))

        yield runner.run(opened())
        runner.run(stack.aclose())


async def _kept(stores: Stores, event: Event) -> None:
    event = msgspec.structs.replace(event, id=str(uuid4()))  # other examples have the same one
    headers, value = codec.encode(event)
    await stores.log.append(topic_of(event.type), event.key, value, headers)
    assert codec.decode(event.key, headers, value) == event
    await outbox.post(stores.db, [outbox.Draft(topic_of(event.type), event.key, value, headers)])
    if not event.call_id:
        return
    await calls.record(stores.db, [event], fold, telling=TELLING)
    assert event in await calls.events(stores.db, event.call_id)
    await calls.get(stores.db, DEFAULT_ACCOUNT, event.call_id)
    if event.type is EventType.CALL_INITIATED:
        claim = await claims.claim(
            stores.db,
            event.call_id,
            owner="test",
            lease=0.0,
            agent="anna",
            livekit_agent_name="anna",
            initiated=value,
        )
        assert claim is not None
        metadata = msgspec.json.encode(job_metadata(claim, event, 1)).decode()
        assert CreateAgentDispatchRequest(metadata=metadata).SerializeToString()


@pytest.mark.parametrize("provider", sorted({p.provider for p in payloads()}))
@given(data=st.data(), text=odd_text)
@settings(max_examples=50)  # each is a dozen transactions
def test_every_odd_text_is_kept_everywhere(
    stores: Stores, provider: str, data: st.DataObject, text: str
) -> None:
    own = [p for p in payloads() if p.provider == provider and p.raw.body and p.is_readable]
    payload = data.draw(st.sampled_from(own), "payload")
    place: list[Any] = []

    def change(places: Sequence[Any]) -> Any:
        if not place:
            place.append(data.draw(st.sampled_from(places), "place"))
        return place[0]

    found = events_of(payload, with_text(payload.raw, change, text))
    if found is None:  # then not because it is odd: what it is replaced by is refused there too
        replaced = "".join("\ufffd" if is_replaced(c, in_a_line=True) else c for c in text)
        assert events_of(payload, with_text(payload.raw, change, replaced)) is None
        return
    for event in found:
        assert_plain(event)
        stores.run(_kept(stores, event))


@given(
    before=st.text(max_size=30) | odd_text,
    line=st.text(max_size=30) | odd_text | st.text(min_size=LINE, max_size=LINE + 3),
    name=st.sampled_from(["from_number", "room", "status", "speaker", "text", "reason"]),
)
@example(before="\ud83d", line="a\ud800b", name="reason")
def test_the_rule_is_one_for_one_and_changes_nothing_else(
    before: str, line: str, name: str
) -> None:
    event = msgspec.structs.replace(
        EXAMPLES[EventType.CALL_INITIATED],
        data=msgspec.structs.replace(
            EventData(raw={before: [before, {"x": line}]}), **{name: line}
        ),
    )
    found = plain(event)
    assert_plain(found)
    assert plain(found) == found
    told = getattr(found.data, name)
    in_a_line = name not in MULTILINE
    if in_a_line and len(line) > LINE:
        assert len(told) == LINE
        assert told.endswith("…")
    else:
        assert len(told) == len(line)
        for now, then in zip(told, line, strict=True):
            odd = is_replaced(then, in_a_line=in_a_line)
            assert now == ("?" if "\ud800" <= then <= "\udfff" else "\ufffd" if odd else then)


def test_a_sip_uri_with_a_nul_reaches_nobody() -> None:
    """The case of the issue: `From=sip:a\\0b@x`."""
    payload = next(p for p in payloads() if str(p) == "twilio/voice-incoming")
    form = dict(parse_qsl(payload.raw.body.decode())) | {"From": "sip:a\0b@x"}
    found = events_of(payload, replace(payload.raw, body=urlencode(form).encode()))
    assert found is not None
    assert found[0].data.from_number == "sip:a\ufffdb@x"
    assert found[0].data.raw["From"] == "sip:a\ufffdb@x"


def test_names_that_differ_in_odd_characters_alone_are_both_kept() -> None:
    event = msgspec.structs.replace(
        EXAMPLES[EventType.CALL_ENDED], data=EventData(raw={"a\0": 1, "a\1": 2, "a\ufffd": 3})
    )
    assert sorted(plain(event).data.raw.values()) == [1, 2, 3]


def test_an_event_without_odd_text_is_the_very_same() -> None:
    for event in EXAMPLES.values():
        assert plain(event) is event


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"a":"\\ud800","b":1}', {"a": "?", "b": 1}),
        (b'{"a":"\xff","b":1}', {"a": "\ufffd", "b": 1}),
        (b'{"a":"x\0y\ny"}', {"a": "x\0y\ny"}),
        (b'{"a":[NaN,-Infinity,1e999]}', {"a": [None, None, None]}),
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b'{"a":"\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        (b'{"a":"\\ud83d\\ude00","b":"\\udfff"}', {"a": "\U0001f600", "b": "?"}),
    ],
)
def test_json_is_read_whatever_is_odd_about_its_text(body: bytes, found: Any) -> None:
    assert read_json(body) == found


@pytest.mark.parametrize("body", [b"", b"{", b'{"a":1}x', b"\xff\xfe", b"{'a':1}"])
def test_what_is_no_json_is_none(body: bytes) -> None:
    with pytest.raises(ValueError):
        read_json(body)
