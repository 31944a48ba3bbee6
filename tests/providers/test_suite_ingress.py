"""The payload files of every provider, sent to an ingress that listens."""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.observability.log import Budget
from tests.providers.case import Case, Raw
from tests.providers.changes import spoilt
from tests.providers.found import Payload, StillClock, cases, overrides, payloads
from tests.providers.mutations import mutated
from tests.support.fake_log import FakeLog
from tests.support.ingress import Ingress, exchange, ingress, logged, status

_TAKEN = (200, 201, 202, 204)
_REFUSED = (400, 403, 404, 405, 413, 415)


@dataclass(frozen=True, slots=True)
class Listening:
    """An ingress with one provider's settings, and the loop that it runs on."""

    case: Case
    payloads: Sequence[Payload]
    runner: asyncio.Runner
    node: Ingress
    log: FakeLog

    def send(self, raw: Raw) -> int:
        """The status of the answer."""
        sent = raw.with_header("Content-Length", str(len(raw.body)))
        sent = sent.with_header("Connection", "close").with_header("Host", "calls.example.com")
        return status(self.runner.run(exchange(self.node.port, sent.encode())))

    def stored(self) -> set[str]:
        """The ids of all events on the log."""
        every = self.log.records.values()
        return {record.headers["ce_id"] for records in every for record in records}


@contextmanager
def _listening(provider: str, runner: asyncio.Runner) -> Iterator[Listening]:
    case, log, stack = cases()[provider], FakeLog(), AsyncExitStack()
    own = [payload for payload in payloads() if payload.provider == provider]
    clock = StillClock(case.received_at)
    with tempfile.TemporaryDirectory() as folder:
        node = ingress(Path(folder), events=log, settings=overrides(case), clock=clock)
        yield Listening(case, own, runner, runner.run(stack.enter_async_context(node)), log)
        runner.run(stack.aclose())


@pytest.fixture(scope="module", params=sorted(cases()))
def listening(request: pytest.FixtureRequest) -> Iterator[Listening]:
    with asyncio.Runner() as runner, _listening(request.param, runner) as found:
        yield found


def test_every_payload_gets_its_answer_and_its_events_are_stored(listening: Listening) -> None:
    found = {payload.name: listening.send(payload.raw) for payload in listening.payloads}
    assert found == {payload.name: payload.golden["status"] for payload in listening.payloads}
    stored = listening.stored()
    for payload in listening.payloads:
        if not payload.endpoint.storeless:
            assert {event["id"] for event in payload.golden["events"]} <= stored


def test_a_repetition_gets_the_same_answer_and_stores_nothing(listening: Listening) -> None:
    for payload in listening.payloads:
        listening.send(payload.raw)
        before = listening.stored()
        assert listening.send(payload.raw) == payload.golden["status"]
        assert listening.stored() == before


def test_no_log_line_holds_a_secret_or_a_number(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line is written: their budget has no end."""
    monkeypatch.setattr(Budget, "spend", lambda *_: 0)
    hidden = {*listening.case.secrets, *_numbers(listening.payloads)}
    with logged() as lines:
        for payload in listening.payloads:
            for raw in (payload.raw, *spoilt(payload)):
                listening.send(raw)
    assert lines.of("webhook.refused")
    assert not [text for text in hidden if text in lines.text]


@given(data=st.data())
def test_nothing_that_is_signed_makes_a_500(listening: Listening, data: st.DataObject) -> None:
    """What a change at the provider, or a leaked key, could look like."""
    payload = data.draw(st.sampled_from(listening.payloads))
    raw = data.draw(mutated(payload.raw))
    signed = data.draw(st.booleans())
    with logged() as lines:
        found = listening.send(payload.case.resign(raw) if signed else raw)
    assert found in (*_TAKEN, *_REFUSED)
    assert "Traceback" not in lines.text


def _numbers(of: Sequence[Payload]) -> set[str]:
    """Phone numbers of the events, without their plus."""
    ends = ("from_number", "to_number")
    found = {event["data"].get(end, "") for p in of for event in p.golden["events"] for end in ends}
    return {number[1:] for number in found if len(number) > 8}
