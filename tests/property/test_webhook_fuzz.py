"""Whatever strangers and providers send: never a 500, never a traceback, and the next call works.

One listening ingress for all examples; Hypothesis chooses bytes, forms, headers and JSON.
"""

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fake_log import FakeLog
from tests.support.ingress import Ingress, Lines, exchange, ingress, logged, status
from tests.support.twilio_requests import form, headers, new_sid, sign


class Fuzzed:
    """A loop that examples run on, with the ingress in it."""

    def __init__(self, runner: asyncio.Runner, node: Ingress, lines: Lines) -> None:
        self.runner, self.node, self.lines = runner, node, lines

    def run(self, work: Callable[[Ingress], Awaitable[int]]) -> int:
        """The status of one request; fails when the log shows a traceback."""

        async def bounded() -> int:
            async with asyncio.timeout(20):
                return await work(self.node)

        found = self.runner.run(bounded())
        assert "Traceback" not in self.lines.text
        return found


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Fuzzed]:
    with (
        tempfile.TemporaryDirectory() as folder,
        logged() as lines,
        asyncio.Runner() as runner,
    ):
        stack = AsyncExitStack()
        node = runner.run(_open(stack, Path(folder)))
        yield Fuzzed(runner, node, lines)
        runner.run(stack.aclose())


async def _open(stack: AsyncExitStack, folder: Path) -> Ingress:
    limits: dict[str, Any] = {"body_timeout": 0.2, "header_timeout": 3.0, "max_body_bytes": 65536}
    return await stack.enter_async_context(ingress(folder, events=FakeLog(), **limits))


TEXT = st.text(max_size=40)
FIELD = st.sampled_from([*form(), "ParentCallSid", "DialCallStatus", "SequenceNumber", "Timestamp"])
VALUE = TEXT | st.sampled_from(
    ["", "+14155550100", "+1" * 9, "sip:x@y", "completed", "9" * 400, "CA" + "0f" * 16, "\0", "[/]"]
)
KIND = st.sampled_from(["voice", "status", "dial?stage=agent", "dial?stage=%00", "fallback"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
LIVEKIT = st.fixed_dictionaries(
    {},
    optional={
        "event": st.sampled_from(["room_started", "participant_joined", "track_published"]) | JSON,
        "id": TEXT | JSON,
        "createdAt": st.integers() | JSON,
        "room": st.dictionaries(st.sampled_from(["name", "sid", "metadata"]), JSON) | JSON,
        "participant": st.dictionaries(
            st.sampled_from(["sid", "identity", "kind", "attributes"]), JSON
        ),
        "track": JSON,
    },
)


@given(raw=st.binary(max_size=300))
def test_raw_bytes(fuzzed: Fuzzed, raw: bytes) -> None:
    async def work(node: Ingress) -> int:
        return status(await exchange(node.port, raw, b"\r\n\r\n"))

    assert fuzzed.run(work) in (0, 400, 404, 405)


@given(
    names=st.lists(st.text(alphabet="abcXYZ-_", min_size=1, max_size=12), max_size=8),
    values=st.lists(st.binary(max_size=60), min_size=8, max_size=8),
    body=st.binary(max_size=80),
)
def test_raw_headers(fuzzed: Fuzzed, names: list[str], values: list[bytes], body: bytes) -> None:
    lines = [b"%s: %s" % (name.encode(), value) for name, value in zip(names, values, strict=False)]
    start = b"POST /webhooks/twilio/voice HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head = start + b"".join(line + b"\r\n" for line in lines)

    async def work(node: Ingress) -> int:
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        return status(await exchange(node.port, head + length + body))

    assert fuzzed.run(work) in (0, 400, 403, 415, 503)  # 503: its body never ends


@given(kind=KIND, fields=st.dictionaries(FIELD | TEXT, VALUE, max_size=12))
def test_signed_forms(fuzzed: Fuzzed, kind: str, fields: dict[str, str]) -> None:
    """Signed by Twilio, but with any fields: what a change at Twilio could look like."""

    async def work(node: Ingress) -> int:
        path = f"/webhooks/twilio/{kind}"
        whole = {name: value for name, value in (form() | fields).items() if name}
        signed = headers(sign(path, whole, base=node.url))
        return (await node.post(path, urlencode(whole).encode(), signed))[0]

    assert fuzzed.run(work) in (200, 204, 400, 403)


@given(body=st.binary(max_size=200), signature=st.binary(max_size=30))
def test_unsigned_forms(fuzzed: Fuzzed, body: bytes, signature: bytes) -> None:
    async def work(node: Ingress) -> int:
        sent = headers(quote_from_bytes(signature))
        return (await node.post("/webhooks/twilio/voice", body, sent))[0]

    assert fuzzed.run(work) == 403


@given(message=LIVEKIT | JSON)
def test_signed_json(fuzzed: Fuzzed, message: Any) -> None:
    async def work(node: Ingress) -> int:
        return (await node.livekit(json.dumps(message).encode()))[0]

    assert fuzzed.run(work) in (200, 400)


@given(body=st.binary(max_size=200))
def test_signed_bytes(fuzzed: Fuzzed, body: bytes) -> None:
    async def work(node: Ingress) -> int:
        return (await node.livekit(body))[0]

    assert fuzzed.run(work) in (200, 400)


def test_calls_still_work(fuzzed: Fuzzed) -> None:
    async def work(node: Ingress) -> int:
        return (await node.twilio(CallSid=new_sid()))[0]

    assert fuzzed.run(work) == 200
