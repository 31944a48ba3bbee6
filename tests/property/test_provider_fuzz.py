"""Every provider's verifier and parser, without HTTP: they refuse or they take, and nothing else.

The examples are the payload files of tests/providers, changed and then signed. Through a listening
ingress: tests/providers/test_suite_ingress.py; guided by coverage: `make fuzz`.
"""

from ast import literal_eval
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import BadSignature, WebhookError
from router.events.model import Event
from router.routing.table import RouteTable
from tests.fuzz.chain import take
from tests.fuzz.target import Target
from tests.fuzz.targets import targets
from tests.fuzz.words import MAX_INPUT, dictionary
from tests.providers.case import Raw
from tests.providers.found import Payload, Unrouted, cases, payloads, request_of
from tests.providers.mutations import NASTY, mutated, shifted

_ROUTES = RouteTable()
_HEAD = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=100)
_FORM = "application/x-www-form-urlencoded"

each_provider = pytest.mark.parametrize("provider", sorted(cases()))
each_form = pytest.mark.parametrize(
    "payload", [p for p in payloads() if p.raw.header("Content-Type").startswith(_FORM)], ids=str
)


@each_provider
@given(data=st.data())
@settings(max_examples=4 * settings().max_examples)
def test_what_is_signed_is_taken_or_refused(provider: str, data: st.DataObject) -> None:
    payload = data.draw(st.sampled_from([p for p in payloads() if p.provider == provider]))
    _taken(payload, payload.case.resign(data.draw(mutated(payload.raw))))


@pytest.mark.parametrize("nasty", NASTY, ids=range(len(NASTY)))
def test_json_that_readers_fall_over_is_taken_or_refused(nasty: bytes) -> None:
    for payload in payloads():
        if payload.raw.body:
            _taken(payload, payload.resigned(nasty))
            _taken(payload, payload.resigned(b'{"data":' + nasty + b"}"))


@each_provider
@given(target=_HEAD, values=st.lists(_HEAD, min_size=3, max_size=3), body=st.binary(max_size=200))
def test_what_nobody_signed_is_refused(
    provider: str, target: str, values: list[str], body: bytes
) -> None:
    payload = next(p for p in payloads() if p.provider == provider)
    raw = replace(payload.raw, target=target, body=body)
    for name, value in zip(payload.case.signed_headers, values, strict=False):
        raw = raw.with_header(name, value)
    request = request_of(payload.endpoint, raw, payload.case.received_at)
    with pytest.raises(BadSignature):
        payload.source.verify(request)
    payload.source.diagnose(request)


@each_form
def test_a_form_whose_boundaries_moved_is_refused_or_tells_the_same(payload: Payload) -> None:
    """Without signing it anew: Twilio's signature can't tell `Fro=m+1` from `From=+1`."""
    told = [_without_raw(event) for event in _taken(payload, payload.raw)]
    for raw in shifted(payload.raw):
        found = _taken(payload, raw)
        assert not found or [_without_raw(event) for event in found] == told


@pytest.mark.parametrize("target", targets().values(), ids=lambda target: target.name)
def test_a_target_of_the_fuzzer_takes_its_seeds_and_garbage(target: Target) -> None:
    assert target.seeds
    for seed in (*target.seeds, b"", b"\0", b"\xff" * 9, b"{" * 99, target.seeds[0][:-1]):
        target.run(seed)


def test_the_fuzzer_takes_the_words_and_the_seeds() -> None:
    """Longer words end it at its start, longer seeds are cut."""
    for target in targets().values():
        assert max(map(len, target.seeds)) <= MAX_INPUT, target.name
    for word in dictionary([b"+14155550100", b"CallSid=CA1"]).splitlines():
        quoted = literal_eval("b" + word)
        assert 0 < len(quoted) <= 64
    assert dictionary([b"CallSid=CA1"]) != dictionary([])


def _without_raw(event: Event) -> Event:
    """Nor the SIP headers: strangers choose their names, so any of them may be meant."""
    told = msgspec.structs.replace(event.data, raw={}, sip_headers={})
    return msgspec.structs.replace(event, data=told)


def _taken(payload: Payload, raw: Raw) -> Sequence[Event]:
    """The events of a request, none where it is refused."""
    try:
        return take(payload.source, raw, payload.case.received_at, _ROUTES)
    except (WebhookError, Unrouted):
        return ()
