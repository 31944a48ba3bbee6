"""Telnyx's signatures: libsodium and Telnyx's SDK on the other side, and what must be refused."""

import time
from base64 import b64decode, b64encode
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from telnyx import Telnyx
from telnyx.lib.webhook_verification import verify_webhook_signature

from router.errors import BadPayload, BadSignature, ConfigError
from router.provider import WebhookRequest
from router.providers.telnyx.signature import SIGNATURE, TIMESTAMP
from tests.support.telnyx_requests import (
    KEY,
    NOW,
    SECOND_KEY,
    dial_path,
    event,
    form,
    headers,
    public_key,
    request,
    source,
)

SECOND = 1_000_000  # µs


def with_header(name: str, value: str) -> WebhookRequest:
    signed = request(event("call.answered"))
    changed = CIMultiDict(signed.headers)
    changed[name] = value
    return replace(signed, headers=changed)


@given(st.binary(max_size=300), st.sampled_from(["", "/texml/voice", dial_path("agent")]))
def test_what_libsodium_signs_is_taken_whatever_the_body_and_the_path(
    body: bytes, path: str
) -> None:
    source().verify(request(body, path))


def test_telnyx_own_sdk_takes_what_the_tests_sign() -> None:
    body, now = event("call.answered"), int(time.time() * SECOND)
    signed = headers(body, at=now)
    verify_webhook_signature(body, signed, public_key())
    client = Telnyx(api_key="KEY", public_key=public_key())
    client.webhooks.unwrap(body.decode(), headers=signed)
    source().verify(request(body, at=now, received_at=now))


@given(st.data())
def test_a_changed_bit_of_the_body_is_refused(data: st.DataObject) -> None:
    body = bytearray(form())
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    changed = replace(request(form(), "/texml/voice"), body=bytes(body))
    with pytest.raises(BadSignature, match="does not match"):
        source().verify(changed)


def test_a_body_that_is_not_utf_8_is_verified_and_then_unreadable() -> None:
    for path in ("", "/texml/voice"):
        verified = source().verify(request(b"CallSid=\xff\xfe", path))
        with pytest.raises(BadPayload):
            source().parse(verified)


@pytest.mark.parametrize("seconds", [-300, 0, 300])
def test_a_clock_that_is_five_minutes_off_is_borne(seconds: int) -> None:
    source().verify(request(form(), received_at=NOW + seconds * SECOND))


@pytest.mark.parametrize("seconds", [-301, 301, 86_400])
def test_an_old_or_early_webhook_is_refused_and_the_clock_is_named(seconds: int) -> None:
    stale = request(form(), received_at=NOW + seconds * SECOND)
    with pytest.raises(BadSignature, match="300 seconds"):
        source().verify(stale)
    hint = source().diagnose(stale)
    assert "clock of this machine" in hint
    assert f"{abs(seconds)} s {'ago' if seconds > 0 else 'in the future'}" in hint


def test_what_can_not_be_proven_is_not_diagnosed() -> None:
    later = NOW + 86_400 * SECOND
    foreign = request(form(), key=SECOND_KEY, received_at=later)
    unsigned = replace(foreign, headers=CIMultiDict[str]())
    for refused in (foreign, unsigned, request(form(), key=SECOND_KEY)):
        with pytest.raises(BadSignature):
            source().verify(refused)
        assert not source().diagnose(refused)
    assert not source().diagnose(request(form()))  # nothing is wrong with it


@pytest.mark.parametrize("name", [SIGNATURE, TIMESTAMP])
@pytest.mark.parametrize(
    "value",
    ["", " ", "0", "-1", "1e9", "१७८००००००००", "\udcff", "=", "AAAA", "A" * 88, "💥", "9" * 4000],
)
def test_an_odd_header_is_refused_and_nothing_else(name: str, value: str) -> None:
    with pytest.raises(BadSignature):
        source().verify(with_header(name, value))
    assert not source().diagnose(with_header(SIGNATURE, value))


def test_one_signature_has_one_spelling() -> None:
    """Base64 of 64 bytes has four spare bits: with them set it would decode to the same."""
    given = headers(event("call.answered"))["Telnyx-Signature-Ed25519"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = given[:-3] + alphabet[alphabet.index(given[-3]) + 1] + "=="
    assert b64decode(other) == b64decode(given)
    with pytest.raises(BadSignature):
        source().verify(with_header(SIGNATURE, other))


def test_two_keys_are_taken_while_they_are_rotated() -> None:
    both, one = source(public_key(), public_key(SECOND_KEY)), source(public_key())
    for key in (KEY, SECOND_KEY):
        both.verify(request(form(), key=key))
    with pytest.raises(BadSignature, match="public_keys"):
        one.verify(request(form(), key=SECOND_KEY))


def test_without_a_key_nothing_is_taken() -> None:
    with pytest.raises(ConfigError):
        source("")


@pytest.mark.parametrize(
    "key",
    [
        "-----BEGIN PUBLIC KEY-----",
        "KEY0123456789ABCDEF",
        bytes(KEY.verify_key).hex(),
        b64encode(bytes(31)).decode(),
        b64encode(bytes(33)).decode(),
        "e" * 43 + "💥",
    ],
)
def test_a_wrong_public_key_is_named_by_its_setting_and_not_repeated(key: str) -> None:
    with pytest.raises(ConfigError, match=r"providers\.telnyx\.public_keys") as found:
        source(public_key(), key)
    assert found.value.key == "providers.telnyx.public_keys"
    assert key not in str(found.value)
