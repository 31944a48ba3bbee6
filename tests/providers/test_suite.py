"""What must be true of every provider, found by its folder and its byte-exact payload files.

Here the sources alone, which are pure; tests/providers/test_suite_ingress.py sends the same files
to a listening ingress. What a provider promises beyond this is tested in its own folder.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
import pytest

from config import ConfigProblem, load
from router.errors import BadPayload, BadSignature, ConfigError
from router.events.model import Event, EventData
from router.events.types import CALLS_TOPIC, EventType, topic_of
from router.provider import WebhookSource
from router.providers import providers
from tests.providers.case import Raw
from tests.providers.changes import (
    exchanged,
    flips,
    less,
    resized,
    spoilt,
    text,
    unsigned,
    with_field,
)
from tests.providers.found import (
    Payload,
    Unrouted,
    builtins,
    cases,
    endpoint_of,
    files,
    overrides,
    payloads,
    request_of,
    secrets_in,
    source_of,
)

every = pytest.mark.parametrize("payload", payloads(), ids=str)
readable = pytest.mark.parametrize("payload", [p for p in payloads() if p.is_readable], ids=str)
signed = pytest.mark.parametrize("payload", [p for p in payloads() if p.signs_body()], ids=str)
timed = pytest.mark.parametrize("payload", [p for p in payloads() if p.case.tolerance], ids=str)
of_two = pytest.mark.parametrize("payload", [p for p in payloads() if p.parties()], ids=str)
each_provider = pytest.mark.parametrize("provider", [provider.name for provider in providers()])

_EXCUSED = 50  # one byte in so many may be the case of a hex digit in an escape
_LATER = 3600.0  # seconds


@each_provider
def test_a_provider_has_a_case_and_payloads(provider: str) -> None:
    assert provider in cases(), f"tests/providers/{provider}/case.py is missing"
    assert files(provider), f"tests/providers/{provider}/payloads has no *.http"


@each_provider
def test_each_webhook_has_a_payload(provider: str) -> None:
    own = [p for p in payloads() if p.provider == provider]
    # A tenant's connection has the same webhooks at paths of its own (tests/unit/test_tenants.py).
    promised = {
        (each, method)
        for each in own[0].source.endpoints
        for method in each.methods
        if "{connection}" not in each.path
    }
    assert {(p.endpoint, p.raw.method) for p in own} == promised


@each_provider
def test_every_secret_of_the_settings_is_looked_for(provider: str) -> None:
    """By the tests that look for `secrets` where there must be none."""
    case = cases()[provider]
    assert set(secrets_in(load(overrides=overrides(case)))) <= set(case.secrets)


@every
def test_what_is_signed_is_taken_and_becomes_exactly_these_events(payload: Payload) -> None:
    golden = payload.golden
    verified = payload.source.verify(payload.request())
    if not payload.is_readable:
        with pytest.raises(BadPayload):
            payload.source.parse(verified)
        return
    found = builtins(payload.source.parse(verified))
    assert found == golden["events"]
    for end in golden.keys() & {"from", "to"}:
        assert {event["data"].get(f"{end}_number") for event in found} == {golden[end]}


@signed
def test_a_changed_byte_of_the_body_is_refused(payload: Payload) -> None:
    body = payload.raw.body
    changed = (replace(payload.raw, body=flipped) for flipped in flips(body, bits=1))
    taken = _taken_as_the_same(payload, changed)
    assert {unquote_to_bytes(raw.body) for raw in taken} <= {unquote_to_bytes(body)}
    assert len(taken) <= len(body) // _EXCUSED


@readable
def test_a_changed_byte_of_the_target_is_refused(payload: Payload) -> None:
    path, mark, query = payload.raw.target.partition("?")
    signed, rest = (path + mark + query, "") if payload.signs_body() else (path, mark + query)
    others = (*flips(signed.encode()), *resized(signed.encode()))
    changed = (replace(payload.raw, target=text(other) + rest) for other in others)
    assert not _taken_as_the_same(payload, changed, BadPayload)


@every
def test_a_changed_byte_of_a_signed_header_is_refused(payload: Payload) -> None:
    for name in payload.signatures():
        value = payload.raw.header(name).encode()
        others = (*flips(value, bits=1), *resized(value))
        changed = (payload.raw.with_header(name, text(each)) for each in others)
        assert not _taken_as_the_same(payload, changed)


@signed
def test_a_body_that_is_cut_off_or_longer_is_refused(payload: Payload) -> None:
    body = payload.raw.body
    for other in {*resized(body), body[: len(body) // 2], b""} - {body}:
        with pytest.raises(BadSignature):
            payload.events(replace(payload.raw, body=other))


@every
def test_without_a_signature_it_is_refused(payload: Payload) -> None:
    for name in payload.signatures():
        others = [pair for pair in payload.raw.headers if pair[0].lower() != name.lower()]
        for headers in (others, [*others, (name, "")]):
            with pytest.raises(BadSignature):
                payload.events(replace(payload.raw, headers=headers))


@every
def test_with_the_defaults_which_hold_no_secret_nobody_is_let_in(payload: Payload) -> None:
    source = source_of(payload.provider, payload.case, {})
    for raw in (payload.raw, unsigned(payload)):
        assert not _takes(source, payload, raw)


@timed
def test_an_old_or_early_timestamp_is_refused(payload: Payload) -> None:
    tolerance = payload.case.tolerance or 0.0
    for sign in (-1, 1):
        payload.source.verify(payload.request(later=sign * (tolerance - 1)))
        with pytest.raises(BadSignature):
            payload.source.verify(payload.request(later=sign * (tolerance + 2)))


@every
def test_two_secrets_are_taken_while_they_are_rotated_and_one_afterwards(payload: Payload) -> None:
    newest, second = payload.case.resign(payload.raw), payload.case.sign_with_second(payload.raw)
    assert newest != second
    assert _takes(payload.source, payload, newest)
    assert _takes(payload.source, payload, second)
    assert any(
        _takes(source, payload, newest) and not _takes(source, payload, second)
        for source in _with_less(payload)
    )


@readable
def test_a_repetition_has_the_same_ids_whenever_it_comes(payload: Payload) -> None:
    """At any time where no `tolerance` is told."""
    ids = [event.id for event in payload.events()]
    assert len(set(ids)) == len(ids)
    source, latest = payload.source, (payload.case.tolerance or _LATER) - 1
    first, last = (source.verify(payload.request(later=later)) for later in (0.0, latest))
    long_after = replace(first, request=payload.request(later=_LATER))
    for verified in (first, last, long_after):
        assert [event.id for event in source.parse(verified)] == ids


@each_provider
def test_an_event_that_nobody_heard_of_is_kept(provider: str) -> None:
    case = cases()[provider]
    assert case.unknown is not None, f"tests/providers/{provider}/case.py says no `unknown`"
    changed = 0
    for payload in payloads():
        if payload.provider != provider or not payload.is_readable:
            continue
        raw = case.unknown(payload.raw)
        if raw != payload.raw:
            changed += 1
            for event in payload.events(case.resign(raw)):
                assert event.type is EventType.PROVIDER_UNKNOWN, payload
                assert event.data.raw, payload
    assert changed


@readable
def test_a_field_that_nobody_heard_of_changes_nothing(payload: Payload) -> None:
    """Providers add fields without notice. What is kept of them is in `data.raw`."""
    raw = payload.case.resign(with_field(payload.raw))
    for event, before in zip(payload.events(raw), payload.events(), strict=True):
        assert event.type is before.type
        assert _without_raw(event) == _without_raw(before)


@of_two
def test_exchanged_parties_are_exchanged_in_the_events(payload: Payload) -> None:
    caller, called = payload.parties().pop()
    after = payload.events(payload.case.resign(exchanged(payload.raw, caller[1:], called[1:])))
    assert len(after) == len(payload.golden["events"])
    assert {(event.data.from_number, event.data.to_number) for event in after} == {(called, caller)}


@each_provider
def test_some_payload_tells_who_called_whom(provider: str) -> None:
    """So that the test above has its subject, and its author has said which is which."""
    of_both = [p for p in payloads() if p.provider == provider and p.parties()]
    assert any({"from", "to"} <= p.golden.keys() for p in of_both)


@every
def test_no_secret_is_in_a_repr_an_error_or_an_event(payload: Payload) -> None:
    request = payload.request()
    verified = payload.source.verify(request)
    shown = [repr(payload.source), repr(request), repr(verified), str(payload.golden["events"])]
    for raw in spoilt(payload):
        with suppress(Unrouted):
            shown += [payload.source.diagnose(payload.request(raw))]
            try:
                shown += [str(builtins(payload.events(raw)))]
            except (BadSignature, BadPayload) as error:
                shown += [repr(error), repr(error.__cause__)]
    assert not [secret for secret in payload.case.secrets for text in shown if secret in text]


def test_events_of_one_call_are_in_order_with_each_other() -> None:
    """In one topic and with one key: what Kafka keeps in order."""
    keys = defaultdict(set)
    for payload in payloads():
        for event in payload.events() if payload.is_readable else ():
            assert event.key
            if topic_of(event.type) == CALLS_TOPIC and event.call_id:
                assert event.key == event.call_id
            if event.data.provider_call_id:
                keys[payload.provider, event.data.provider_call_id].add(event.key)
    assert not {call: found for call, found in keys.items() if len(found) > 1}


def _without_raw(event: Event) -> EventData:
    return msgspec.structs.replace(event.data, raw={})


def _taken_as_the_same(
    payload: Payload, changed: Iterable[Raw], *refusals: type[Exception]
) -> list[Raw]:
    """Those that are taken, because they say the very same; one that says something else fails."""
    found = []
    for raw in changed:
        with suppress(BadSignature, Unrouted, *refusals):
            assert _told(payload, raw) == payload.golden["events"], raw
            found.append(raw)
    return found


def _told(payload: Payload, raw: Raw) -> Any:
    """The events, none where they can't be read, as those of the payload itself."""
    try:
        return builtins(payload.events(raw))
    except BadPayload:
        if payload.is_readable:
            raise
        return []


def _takes(source: WebhookSource, payload: Payload, raw: Raw) -> bool:
    endpoint = endpoint_of(source, raw)
    try:
        source.verify(request_of(endpoint, raw, payload.case.received_at))
    except BadSignature:
        return False
    return True


def _with_less(payload: Payload) -> Iterator[WebhookSource]:
    """Sources whose settings lack one thing: the second secret is one of them."""
    for settings in less(overrides(payload.case)):
        with suppress(ConfigProblem, ConfigError):
            yield source_of(payload.provider, payload.case, settings)
